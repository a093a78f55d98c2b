"""Bands as wide as they should be: temperature, trust in the evidence and noise level, fitted to signals that no fit has seen."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from neuralfield.completion import at_once, draws_of, views
from neuralfield.domains.ensembles import LEVEL, band_scores
from neuralfield.errors import NeuralfieldWarning, UsageError
from neuralfield.inference.thinning import thinned
from neuralfield.run import Run, fitting
from neuralfield.signals.masks import Visibility
from neuralfield.signals.signals import Signals
from neuralfield.types import Estimate, Observations

TEMPERATURES = (1 / 64, 1 / 16, 1 / 4, 1.0, 4.0, 16.0, 64.0)
"""Tried first; then the two between the best and its neighbours."""
POWERS = (1.0, 0.5, 0.25)
"""Of the weights of optima."""
LEAST_NOISE, MOST_NOISE = 1e-3, 10.0
"""Standard deviations between which the noise level is looked for, in the units inside."""
MISSED = 0.03
"""Of coverage that is wanted, what may be missing or too much without a word."""
CLOSE = 1.01
"""Ratio of two noise levels that are not told apart."""


@dataclass(frozen=True)
class Calibrated:
    """What was found, and the scores of means and bands on the signals that it was fitted to, over what was hidden of them.

    All but shares are in the units inside: of curves standard deviations of the set.
    """

    temperature: float
    evidence: float
    noise: float
    rmse: float
    crps: float
    width90: float
    coverage90: float
    signals: int


@dataclass(frozen=True)
class Guesses:
    """Draws of fields [S, M], the quantiles of their noise [S, M] and the true values [M], with weights [M] that sum to 1."""

    fields: Float[Tensor, "S M"]
    levels: Float[Tensor, "S M"]
    values: Float[Tensor, " M"]
    weight: Float[Tensor, " M"]


def calibrate(
    run: Run,
    signals: Signals,
    visibility: Visibility | None = None,
    samples: int = 32,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> Calibrated:
    """Fit the run's `Calibration` to `signals`, of which masks hide something; the run then draws with it.

    Of TEMPERATURES and POWERS of the evidence those are taken whose mean completions err least, with the noise level at which the
    bands hold 90 % of the hidden values. They belong to this kind of mask: where more is hidden, points say other things of each
    other.
    """
    if samples < 2:
        raise UsageError(f"bands need at least 2 samples, got {samples}")
    if not run.solver().searches:
        raise UsageError(
            f'a calibration is of searches, and solver "{run.recipe.inference.kind}" makes none; say --solver lbfgs, or '
            "--set inference.kind=lbfgs"
        )
    if not len(signals):
        raise UsageError("there are no signals to calibrate with")
    signals, visibility = fitting(signals, run), visibility or Visibility()
    before = {name: float(value) for name, value in run.calibration.state_dict().items()}
    found: dict[float, Calibrated] = {}

    def best() -> Calibrated:
        return min(found.values(), key=lambda calibrated: calibrated.rmse)

    try:
        for temperature in TEMPERATURES:
            found[temperature] = _at(run, signals, visibility, temperature, samples, seed)
            progress(len(found) / (len(TEMPERATURES) + 2))
        middle = best().temperature
        for temperature in (middle / 2, middle * 2):
            found[temperature] = _at(run, signals, visibility, temperature, samples, seed)
            progress(len(found) / (len(TEMPERATURES) + 2))
    except BaseException:
        _set(run, before)
        raise
    chosen = best()
    _set(run, {name: getattr(chosen, name) for name in before})
    if abs(chosen.coverage90 - LEVEL) > MISSED:
        warnings.warn(
            f"bands hold {chosen.coverage90:.0%} of what was hidden, and no noise level makes that {LEVEL:.0%}",
            NeuralfieldWarning,
            stacklevel=2,
        )
    run.facts["calibration"] = asdict(chosen) | {"masks": str(visibility)}
    return chosen


def _set(run: Run, numbers: dict[str, float]) -> None:
    for name, number in numbers.items():
        run.calibration.get_buffer(name).fill_(number)


def _at(run: Run, signals: Signals, visibility: Visibility, temperature: float, samples: int, seed: int) -> Calibrated:
    """The best power of the evidence at a temperature, by one search."""
    _set(run, {"temperature": temperature, "evidence": 1.0})
    solver, found = run.solver(), []
    for observed, hidden in views(run, signals, visibility):
        judged = thinned(hidden if visibility.masks else observed, run.recipe.inference.points)
        found.append((run.infer(observed, solver, samples, seed), judged))
    # weights of exact posteriors are right, and draws have none
    weighed = not solver.exact and run.recipe.inference.posterior == "laplace"
    several = weighed and any(p.log_weights.shape[1] > 1 for estimate, _ in found if (p := estimate.posterior) is not None)
    calibrated = []
    for power in POWERS if several else POWERS[:1]:
        guesses = _guesses(run, [(_flattened(estimate, power), side) for estimate, side in found], samples, seed)
        noise, scores = _fitted(run, guesses)
        rmse = float(((guesses.fields.mean(0) - guesses.values).square() * guesses.weight).sum().sqrt())
        calibrated.append(Calibrated(temperature, power, noise, rmse, **scores, signals=len(signals)))
    return min(calibrated, key=lambda calibrated: calibrated.rmse)


def _flattened(estimate: Estimate, power: float) -> Estimate:
    return estimate if estimate.posterior is None else replace(estimate, posterior=estimate.posterior.flattened(power))


def _guesses(run: Run, found: list[tuple[Estimate, Observations]], samples: int, seed: int) -> Guesses:
    parts = []
    for estimate, side in found:
        for rows in torch.arange(len(side)).split(at_once(samples, side)):
            draws, truth = draws_of(estimate, rows, samples, seed, side.index[rows]), side.rows(rows)
            told = truth.told
            known = (told > 0)[..., None].expand_as(truth.values)
            fields = draws.fields(run, truth.coords).cpu()
            levels = draws.levels[..., None, None].expand_as(fields)
            weight = (told / told.sum(1, keepdim=True).clamp(min=1e-12))[..., None].expand_as(truth.values)
            parts.append((fields[:, known], levels[:, known], truth.values[known], weight[known]))
    fields, levels, values, weight = (torch.cat(part, -1) for part in zip(*parts, strict=True))
    if not len(values):
        raise UsageError("nothing of these signals is hidden and known, so there is nothing to calibrate with")
    return Guesses(fields, levels, values, weight / weight.sum())


def _fitted(run: Run, guesses: Guesses) -> tuple[float, dict[str, float]]:
    """(the noise level whose bands hold LEVEL of the values, their scores), by bisection: more noise, wider bands.

    0 stands for a likelihood without a noise level of its own.
    """
    likelihood = copy.deepcopy(run.model.objective.likelihood).to("cpu")

    def scores(noise: float) -> dict[str, float]:
        drawn = likelihood.with_noise(noise).quantile(guesses.fields[:, None, :, None], guesses.levels[:, None, :, None])
        return {
            name: float(value) for name, value in band_scores(drawn, guesses.values[None, :, None], guesses.weight[None]).items()
        }

    if likelihood.with_noise(MOST_NOISE) is likelihood:
        return 0.0, scores(MOST_NOISE)
    low, high = LEAST_NOISE, MOST_NOISE
    while high / low > CLOSE:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if scores(middle)["coverage90"] < LEVEL else (low, middle)
    return high, scores(high)
