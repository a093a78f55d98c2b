"""Runs side by side: one table of what each is worth, and their reconstructions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from neuralfield.completion import views
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.explore import measures
from neuralfield.explore.neighbours import training_signals
from neuralfield.run import Run, fitting, load_signals
from neuralfield.signals.masks import Visibility
from neuralfield.signals.signals import Signals

LIMIT = 256
"""New signals where nobody asks for another number."""
SHOWN, SOLIDS = 12, 4
"""Signals in a row of pictures; solids take a second each to draw."""
SHORT = 40
"""Characters of a value that an error shows."""

TITLES = {
    "latents": "latents",
    "decoder": "decoder",
    "objective": "objective",
    "code_dim": "numbers in a code",
    "fit_seconds": "seconds of the fit",
    "train": "training signals, {headline}",
    "new": "new signals, {headline}",
    "new_encode": "- encoded alone",
    "new_search": "- encoded, then searched",
    "seconds_per_signal": "CPU seconds a new signal",
    "seconds_encode": "- encoded alone",
    "seconds_search": "- encoded, then searched",
    "evaluations": "evaluations a new signal",
    "converged": "share of searches that converged",
    "knn_bank": "labels by 5 nearest codes, left out in turn",
    "knn_new": "labels of new signals by 5 nearest codes",
    "midpoints_linear": "straight midpoints from training signals",
    "midpoints_density": "midpoints by density from training signals",
    "midpoints_from_code": "- from the signal of the nearest code",
    "samples_from_training": "samples from training signals",
    "prior_from_training": "- samples of the fit's prior",
    "new_from_samples": "new signals from samples",
}
"""What each number of a run is, in the order of the table; what masks hide comes after `converged`."""


@dataclass(frozen=True)
class Comparison:
    """`runs` has one entry for each run: its name and its numbers. `real` are distances of what is real, to judge theirs by.

    Distances are mean squared differences of values, in the units inside.
    """

    runs: list[dict[str, Any]]
    real: dict[str, Any]
    headline: str
    signals: int
    pictures: list[tuple[str, UInt8[np.ndarray, "_ height width 3"]]]

    def facts(self) -> dict[str, Any]:
        """What --json prints."""
        return {"runs": self.runs, "real": self.real, "headline": self.headline, "signals": self.signals}

    def lines(self) -> list[str]:
        """A table in Markdown: a row for each number that any run has, a column for each run."""
        names = [run["name"] for run in self.runs]
        lines = [f"| {self.signals} new signals | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        for key, title in self._titles().items():
            cells = [_cell(run.get(key)) for run in self.runs]
            if any(cells):
                lines.append(f"| {title} | {' | '.join(cells)} |")
        told = "; ".join(f"{REAL[name]} {value:.4g}" for name, value in self.real.items())
        return [*lines, "", f"To judge distances by, of what is real: {told}."]

    def _titles(self) -> dict[str, str]:
        hidden = {key: f"{key}, {{headline}}" for run in self.runs for key in run if key.startswith("hidden ")}
        titles: dict[str, str] = {}
        for key, title in TITLES.items():
            titles |= {key: title} | (hidden if key == "converged" else {})
        return {key: title.replace("{headline}", self.headline) for key, title in titles.items()}


REAL = {
    "new_from_training": "new signals from training signals",
    "new_from_as_many": f"from {measures.SAMPLES} of them at most",
}


def compare(
    runs: Sequence[Run],
    data: Signals | str | None = None,
    split: str = "test",
    limit: int | None = LIMIT,
    hide: Sequence[str] = (),
    seed: int = 0,
    stage: Callable[[str], None] = lambda name: None,
) -> Comparison:
    """What runs of the same training signals are worth, each by its own inference: new signals, parts hidden from it, the labels
    of near codes, what lies between codes and what is drawn from their density, seconds.

    `data` are new signals, or their source; by default the `split` of what the first run was fitted to. Each mask of `hide` is
    looked at by itself. Runs of different domains, grids or training signals are refused.
    """
    if not runs:
        raise UsageError("name at least one run")
    names = _names(runs)
    refuse_unlike(runs, names)
    first = runs[0]
    signals = data if isinstance(data, Signals) else load_signals(first, data, split=split, limit=limit)
    if isinstance(data, Signals) and limit is not None:
        signals = signals.select(torch.arange(len(signals))[:limit])
    training = training_signals(first)
    for what in hide:  # a word that is none ends it before the first search
        Visibility((), (what,), seed)(signals.truth(torch.arange(1)), first.domain)
    told, subjects = [], []
    for run, name in zip(runs, names, strict=True):
        stage(name)
        subject, found = measures.subject(run, training, fitting(signals, run), seed)
        numbers = measures.identity(run) | found | measures.encoded(subject) | measures.masks(subject, hide)
        for measure in (measures.neighbours, measures.midpoints, measures.samples):
            numbers |= measure(subject)
        told.append({"name": name, "run": str(run.path) if run.path else None, **numbers})
        subjects.append(subject)
    pictures = _pictures(dict(zip(names, subjects, strict=True)), hide, seed)
    return Comparison(told, measures.reality(subjects[0]), first.domain.headline, len(signals), pictures)


def refuse_unlike(runs: Sequence[Run], names: Sequence[str]) -> None:
    """Runs can be compared where they were fitted to the same signals; else one line says which differ, and in what."""
    first = runs[0]
    for run, name in zip(runs[1:], names[1:], strict=True):
        both = f"{names[0]} and {name} cannot be compared"
        kinds = [each.recipe.domain.kind for each in (first, run)]
        if kinds[0] != kinds[1]:
            raise NeuralfieldError(f'{both}: one is of domain "{kinds[0]}", the other of "{kinds[1]}"')
        _refuse_different(both, "signals of", first.recipe.domain.arguments, run.recipe.domain.arguments)
        sources = [each.recipe.signals.model_dump() if each.recipe.signals else {} for each in (first, run)]
        _refuse_different(both, "data of", *sources)
        if len(first.ids) != len(run.ids) or any(a != b for a, b in zip(first.ids, run.ids, strict=True)):
            counts = f"{len(first.ids)} and {len(run.ids)} signals" if len(first.ids) != len(run.ids) else "signals of other ids"
            raise NeuralfieldError(f"{both}: their banks hold {counts}; fit both to the same signals")


def _refuse_different(both: str, what: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    for key in {**one, **other}:
        values = [str(each.get(key)) for each in (one, other)]
        if values[0] != values[1]:
            shown = f" {values[0]} and {values[1]}" if max(map(len, values)) <= SHORT else "s that differ"
            raise NeuralfieldError(f"{both}: they were fitted to {what} {key}{shown}; fit both to the same signals")


def _names(runs: Sequence[Run]) -> list[str]:
    """Names of the runs' folders, numbered where two are alike."""
    plain = [run.path.name if run.path else "run" for run in runs]
    return [name if plain.count(name) == 1 else f"{name} ({plain[: i + 1].count(name)})" for i, name in enumerate(plain)]


def _pictures(subjects: dict[str, measures.Subject], hide: Sequence[str], seed: int) -> list[tuple[str, Any]]:
    """The data and every run's reconstructions, then what each mask leaves and every run's completions."""
    first = next(iter(subjects.values()))
    run, new = first.run, first.new
    rows = torch.arange(min(SOLIDS if run.domain.solid else SHOWN, len(new)))
    shown = [("data", run.domain.draw(new.truth(rows)))]
    for name, of in subjects.items():
        shown.append((name, of.run.domain.render(of.run.field(of.found.estimate.latent.mean[rows]))))
    for what in hide:
        observed, _ = next(views(run, new.select(rows), Visibility((), (what,), seed)))
        shown.append((f"without {what}", run.domain.draw(observed)))
        for name, of in subjects.items():
            shown.append((name, of.run.domain.render(of.run.field(of.run.infer(observed).latent.mean))))
    return shown


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
