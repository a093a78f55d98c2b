"""Signals completed from what was seen of them, and how well: what `nf infer` and `nf eval` show."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from neuralfield.inference.solver import Solver
from neuralfield.run import Run, check_fit, concatenate, load_signals
from neuralfield.signals.masks import Visibility
from neuralfield.signals.signals import Signals
from neuralfield.types import Estimate, Observations


@dataclass(frozen=True)
class Completion:
    """`scores` maps "observed" and, where something was hidden, "hidden" to scores, one value per signal [n]."""

    estimate: Estimate
    scores: dict[str, dict[str, Tensor]]

    def means(self) -> dict[str, dict[str, float]]:
        """Scores averaged over those signals that have one."""
        return {
            side: {name: values.nanmean().item() for name, values in scores.items() if not values.isnan().all()}
            for side, scores in self.scores.items()
        }


def complete(
    run: Run,
    signals: Signals | str,
    visibility: Visibility | None = None,
    solver: Solver | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Completion:
    """Search the codes of signals (a data set, or the test split of a source) from what masks leave; score both sides."""
    signals = load_signals(run, signals, split="test") if isinstance(signals, str) else signals
    visibility = visibility or Visibility()
    check_fit(signals, run)
    estimates, collected = [], []
    for observed, hidden in views(run, signals, visibility):
        estimate = run.infer(observed, solver)
        field = run.field(estimate.latent)
        sides = {"observed": observed, "hidden": hidden} if visibility.masks else {"observed": observed}
        collected.append({side: run.domain.score(field, part.to(run.device)) for side, part in sides.items()})
        estimates.append(estimate)
        progress(sum(len(e.latent) for e in estimates) / len(signals))
    return Completion(concatenate(estimates), _joined(collected))


def views(run: Run, signals: Signals, visibility: Visibility) -> Iterator[tuple[Observations, Observations]]:
    """(observed, hidden), batch by batch."""
    for batch in signals.batches(run.recipe.inference.batch):
        yield batch.split(visibility(batch, run.domain))


def _joined(collected: list[dict[str, dict[str, Tensor]]]) -> dict[str, dict[str, Tensor]]:
    sides = {side: scores for batch in collected for side, scores in batch.items()}
    return {
        side: {name: torch.cat([batch[side][name].cpu() for batch in collected if side in batch]) for name in scores}
        for side, scores in sides.items()
    }
