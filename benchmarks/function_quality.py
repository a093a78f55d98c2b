"""How good, how fast: curves. Our default against the function autodecoder, and against the usual statistics on real curves.

    python benchmarks/function_quality.py                 about five minutes, one CPU thread
    python benchmarks/function_quality.py --limit 30      fewer test curves

Prints (1) on the family `sines`: error on a dense grid against CPU seconds, alternating and joint updates and our default, in one
run; the two schedules on digits; (2) three observed points of a sine; (3) six real data sets, hidden points by root mean square
error, CRPS and coverage of 90 % bands; and writes the same to benchmarks/results/function_quality.md.
"""

import time
import warnings
from collections.abc import Callable

import baselines
import click
import numpy as np
import torch
from baselines import Curves, Prediction, Scores
from machine import RESULTS, data_folder, machine

import neuralfield as nf

SETS = ("gunpoint", "arrowhead", "italypowerdemand", "pickupgesturewiimotez", "berkeley_growth", "cd4_sparse")
MASKS = {"second half": "first:0.5", "random 50 %": "random:0.5"}
ROUNDS = 8
EPOCHS = ROUNDS * 40


@click.command()
@click.option("--limit", default=150, help="Test curves of every real data set.")
@click.option("--few", default=200, help="Test sines of which three points are seen.")
def main(limit: int, few: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a Gaussian process at a bound of its parameters says so on every curve
    fits, default = table_of_fits()
    report = "\n".join(
        [
            "# Curves: quality and CPU seconds",
            "",
            f"{machine()}, one thread, `python benchmarks/function_quality.py`.",
            "",
            "## The function autodecoder",
            "",
            "500 sines, 30 random points each; error of the codes' curves on 200 even points that were never shown. CPU seconds",
            f"include initialisation, polish, and preparing inference. Alternating is {ROUNDS} rounds of 20 + 20 epochs.",
            "",
            *fits,
            "",
            "The same two schedules on images (500 embedded digits, `image-modulated`, 100 epochs, random codes, no polish):",
            "",
            *table_of_images(),
            "",
            f"## Three observed points of a sine ({few} test curves)",
            "",
            *table_of_few(default, few),
            "",
            "## Real curves",
            "",
            f"At most {limit} test curves, never in the training set; errors in standard deviations of the set, over hidden",
            "points, mean over curves; cd4 as logarithms. PCA conditional Gaussian: rank by cross-validation on such masks.",
            "Gaussian process: one per curve, scikit-learn, RBF + white noise. In brackets: CRPS (smaller is better), coverage of",
            "90 % bands.",
            "",
            *(line for what, mask in MASKS.items() for line in [f"{what} hidden:", "", *table_of_sets(mask, limit), ""]),
        ]
    )
    click.echo(report)
    (RESULTS / "function_quality.md").write_text(report.rstrip() + "\n")


def table_of_fits() -> tuple[list[str], nf.Run]:
    """Dense error and CPU seconds of the three recipes."""
    rows = {
        "`functions-alternating`": ("functions-alternating", [f"schedule.rounds={ROUNDS}"]),
        "`functions-joint`": ("functions-joint", [f"training.epochs={EPOCHS}"]),
        "`function` (default)": ("function", []),
    }
    runs, seconds = {}, {}
    for name, (recipe, settings) in rows.items():
        began = time.process_time()
        runs[name] = nf.fit(recipe=recipe, settings=settings)
        seconds[name] = time.process_time() - began
        click.echo(f"{name}: {seconds[name]:.1f} CPU s", err=True)
    joint = seconds["`functions-joint`"]
    lines = ["| recipe | dense MSE | CPU s | joint / this |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {dense_error(run):.2g} | {seconds[name]:.1f} | {joint / seconds[name]:.1f} |" for name, run in runs.items()
    ]
    return lines, runs["`function` (default)"]


@torch.no_grad()
def dense_error(run: nf.Run) -> float:
    """Mean squared error of the bank's curves at 200 even times, in the curves' units."""
    truth = nf.load("sines", points=200, even=True)
    times = torch.tensor(truth.domain_arguments["times"])
    values = nf.Function(**truth.domain_arguments).values_of(truth.truth(torch.arange(len(truth))).values)
    return (run.domain.values_at(run.field(run.codes), times) - values).square().mean().item()


def table_of_images() -> list[str]:
    """Train PSNR of both schedules on digits: schedules know nothing of domains."""
    common = ["latents.init=normal", "latents.std=0.1", "training.epochs=100", "training.polish=0"]
    alternating = ["schedule.kind=alternating", "schedule.latent_epochs=2", "schedule.decoder_epochs=2"]
    schedules = {"alternating, 25 rounds of 2 + 2": alternating, "joint": []}
    lines = ["| schedule | train PSNR, dB | CPU s |", "|---|---|---|"]
    for name, settings in schedules.items():
        began = time.process_time()
        run = nf.fit("mnist-mini", recipe="image-modulated", limit=500, settings=[*common, *settings])
        lines.append(f"| {name} | {run.facts['scores']['train']['psnr']:.2f} | {time.process_time() - began:.0f} |")
    return lines


def table_of_few(run: nf.Run, count: int) -> list[str]:
    """Three points of a sine, the others hidden."""
    test = nf.load("sines", split="test", count=count, points=100)
    mask = nf.Visibility(observe=["random:0.03"])
    ours = scores(run, test, mask)
    grid = Curves.of(test.like(run.recipe.domain.arguments), mask, run.domain)
    process = grid.scores(baselines.gaussian_process(grid))
    lines = ["| | nrmse | CRPS (coverage) | relative to the Gaussian process |", "|---|---|---|---|"]
    for name, found in (("`function` (default)", ours), ("Gaussian process per curve", process)):
        lines.append(f"| {name} | {found.nrmse:.3f} | {found.band()} | {found.nrmse / process.nrmse:.2f} |")
    return lines


def table_of_sets(mask: str, limit: int) -> list[str]:
    """One row for each data set, one column for each method."""
    columns = [
        "`function` (default)",
        "mean curve",
        "PCA conditional",
        "Gaussian process",
        "linear interpolation",
        "ours / best other",
    ]
    lines = ["| set | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name in SETS:
        train, test = (real(name, split, limit) for split in ("train", "test"))
        run = nf.fit(train, recipe="function")
        visibility = nf.Visibility(observe=[mask])
        seen, known = (
            Curves.of(part.like(run.recipe.domain.arguments), view, run.domain)
            for part, view in ((test, visibility), (train, nf.Visibility()))
        )
        methods: list[Callable[[], Prediction] | None] = [
            lambda seen=seen, known=known: baselines.mean_curve(known, seen),
            (lambda seen=seen, known=known: baselines.conditional(known, seen, mask)) if known.shared else None,
            lambda seen=seen: baselines.gaussian_process(seen),
            lambda seen=seen: baselines.interpolation(seen),
        ]
        ours = scores(run, test, visibility)
        others = [seen.scores(method()) if method else None for method in methods]
        ratio = ours.nrmse / min(other.nrmse for other in others if other)
        cells = [f"{found.nrmse:.4f} ({found.band()})" if found else "no shared grid" for found in (ours, *others)]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {ratio:.3f} |")
        click.echo(lines[-1], err=True)
    return lines


def scores(run: nf.Run, test: nf.Signals, visibility: nf.Visibility) -> Scores:
    """Those of a run; its CRPS is in the user's units, and is divided by the set's standard deviation."""
    hidden = nf.complete(run, test, visibility).means()["hidden"]
    return Scores(hidden["nrmse"], hidden["crps"] / float(run.domain.scale[0]), hidden["coverage90"])


def real(name: str, split: str, limit: int) -> nf.Curves:
    """A real data set; of the test curves those that keep something to hide."""
    with np.load(data_folder() / "functions_1d" / f"{name}.npz") as file:
        t, x = file["t"], file[f"x_{split}"].astype(float)
    if split == "test":
        x = x[np.isfinite(x).sum(1) >= 2][:limit]
    return nf.Curves.from_arrays(t, np.log(x) if name == "cd4_sparse" else x)


if __name__ == "__main__":
    main()
