"""Curves seen a few times each, at times of their own: learn from some, forecast the second half of others, with a band.

Run with: python examples/complete_curves.py
"""

import csv
from pathlib import Path

import numpy as np
import torch

import neuralfield as nf

OUT = Path("examples_output")
OUT.mkdir(exist_ok=True)


def growth(count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ages, heights in cm) of made-up children: 6 to 14 visits each, between the ages of 1 and 18, measured to about half a cm."""
    rng, children = np.random.default_rng(seed), []
    for _ in range(count):
        age = np.sort(rng.uniform(1, 18, rng.integers(6, 15)))
        final, spurt = rng.normal(172, 7), rng.normal(12.5, 1)
        height = final * (0.45 + 0.4 * (1 - np.exp(-age / 6)) + 0.15 / (1 + np.exp(spurt - age)))
        children.append((age, height + rng.normal(0, 0.5, len(age))))
    return children


# 1. Fit. Curves of any lengths, in your own units. From a file: nf.load("csv:growth.csv").
train = nf.Curves.from_list(growth(200, seed=0), names=["height"])
run = nf.fit(train, domain="function")
print(f"fitted {len(run.ids)} curves: {run.facts['scores']['train']['rmse']:.2f} cm from what was measured")

# 2. Forecast: of new children only the first half of the visits is seen. The other visits are there to score the forecasts.
test = nf.Curves.from_list(growth(50, seed=1), ids=[f"child-{i}" for i in range(50)], names=["height"])
completion = nf.complete(run, test, nf.Visibility(observe=["first:0.5"]), samples=200)
hidden = completion.means()["hidden"]
print(f"later visits: {hidden['rmse']:.1f} cm off (root mean square), CRPS {hidden['crps']:.1f} cm")
print(f"90 % bands are {hidden['width90']:.1f} cm wide and hold {hidden['coverage90']:.0%} of the later visits")

# 3. Ask the curves anywhere: here at every birthday. Curves drawn from what is known of a code make the band of the curve itself;
# the bands that are scored above, and those of `nf infer`, add the noise of single measurements.
ages = np.arange(1, 19)
with torch.no_grad():
    heights = run.domain.values_at(run.field(completion.estimate.latent), ages)[..., 0]  # [50, 18], cm
    drawn = [run.domain.values_at(run.field(z), ages)[..., 0] for z in completion.estimate.posterior.sample(200)]
lower, upper = torch.stack(drawn).quantile(torch.tensor([0.05, 0.95], dtype=torch.float64), 0)

with (OUT / "forecasts.csv").open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["id", "age", "height", "lower", "upper"])
    for i, name in enumerate(test.ids):
        for age, *values in zip(ages, heights[i], lower[i], upper[i], strict=True):
            table.writerow([name, age, *(f"{value:.1f}" for value in values)])
print(f"wrote {OUT / 'forecasts.csv'}")
