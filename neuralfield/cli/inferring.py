"""What `nf infer` and `nf eval` have in common: from options to completions and what is said of them."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuralfield.cli import options
from neuralfield.completion import Completion, complete
from neuralfield.recipe import split_settings
from neuralfield.run import Run, choose_device, load_signals, read_recipe
from neuralfield.signals.masks import Visibility
from neuralfield.signals.signals import Signals

REASONS = 10
"""Why searches ended: the most frequent reasons that are told."""


@dataclass(frozen=True)
class Inferred:
    """Signals, what was seen of them, and what came out."""

    run: Run
    run_path: Path
    signals: Signals
    visibility: Visibility
    completion: Completion
    seconds: float

    def facts(self) -> dict[str, Any]:
        """What --json prints."""
        estimate = self.completion.estimate
        scores: dict[str, dict[str, float]] = {"observed": {}, "hidden": {}} | self.completion.means()
        return {
            "run": str(self.run_path),
            "signals": len(self.signals),
            "solver": self.run.recipe.inference.kind,
            "converged": estimate.converged.float().mean().item(),
            "evaluations": estimate.evaluations.mean().item(),
            "steps": estimate.steps.float().mean().item(),
            "reasons": dict(Counter(estimate.reasons).most_common(REASONS)),
            "seconds": self.seconds,
            "scores": scores,
            "coverage90": (scores["hidden"] or scores["observed"]).get("coverage90"),
        }

    def lines(self) -> list[str]:
        """The same for people."""
        facts = self.facts()
        lines = [
            f"{facts['signals']} signals by {facts['solver']} in {facts['seconds']:.1f} s: {facts['converged']:.0%} converged, "
            f"{facts['evaluations']:.0f} evaluations per observed point"
        ]
        sides = [(side, scores) for side, scores in facts["scores"].items() if scores]
        return lines + [f"{side:<12} " + ", ".join(f"{k} {v:.4g}" for k, v in scores.items()) for side, scores in sides]


def infer_from_options(
    run_path: Path,
    source: str | None,
    split: str | None,
    limit: int | None,
    skip_bad: bool,
    observe: tuple[str, ...],
    hide: tuple[str, ...],
    solver: str | None,
    samples: int | None,
    seed: int,
    settings: tuple[str, ...],
    device: str,
) -> Inferred:
    """Load the run and the signals, hide what is to be hidden, and search."""
    from neuralfield.cli.progress import Bar

    run, signals = opened(run_path, source, split, limit, skip_bad, solver, settings, device)
    visibility = Visibility(observe, hide, seed)
    began, bar = time.perf_counter(), Bar()
    bar.stage("searching codes")
    try:
        completion = complete(run, signals, visibility, samples=samples, seed=seed, progress=bar.share)
    finally:
        bar.stop()
    return Inferred(run, run_path, signals, visibility, completion, time.perf_counter() - began)


def opened(
    run_path: Path,
    source: str | None,
    split: str | None,
    limit: int | None,
    skip_bad: bool,
    solver: str | None,
    settings: tuple[str, ...],
    device: str = "auto",
) -> tuple[Run, Signals]:
    """The run, as settings have it search, and the signals that it is asked about."""
    options.warnings_as_lines()
    signals_settings, settings = split_settings("signals", settings)
    if solver is not None and solver != read_recipe(run_path)[0].inference.kind:
        settings = (f"inference.kind={solver}", *(["inference.start=encoder"] if solver == "encode" else []), *settings)
    run = Run.load(run_path, settings).to(choose_device(device))
    chosen = {**signals_settings, **({"skip_bad": True} if skip_bad else {})}
    return run, load_signals(run, source, split=split or "test", limit=limit, **chosen)
