"""Signals completed from what was seen of them, and how well: what `nf infer` and `nf eval` show."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuralfield.errors import UsageError
from neuralfield.inference.solver import Solver
from neuralfield.run import Run, concatenate, fitting, load_signals
from neuralfield.seeds import generator
from neuralfield.signals.masks import Visibility
from neuralfield.signals.signals import Signals
from neuralfield.types import Estimate, Observations

DRAWN_AT_ONCE = 2**23
"""Values that are drawn and sorted at once: 64 MiB in float64, of which their scores need several copies."""
DRAWING = 1005  # the seed's second number; masks draw from others


@dataclass(frozen=True)
class Completion:
    """`scores` maps "observed" and, where something was hidden, "hidden" to scores, one value per signal [n].

    `samples` and `seed` are those that its bands were scored with.
    """

    estimate: Estimate
    scores: dict[str, dict[str, Tensor]]
    samples: int = 0
    seed: int = 0

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
    samples: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> Completion:
    """Search the codes of signals (a data set, or the test split of a source) from what masks leave; score both sides.

    `samples` completions are drawn of each signal, by default as many as the recipe says, and its bands are scored too.
    """
    signals = load_signals(run, signals, split="test") if isinstance(signals, str) else fitting(signals, run)
    visibility, solver = visibility or Visibility(), solver or run.solver()
    samples = _samples(run, solver, samples)
    estimates, collected = [], []
    for observed, hidden in views(run, signals, visibility):
        estimate = run.infer(observed, solver)
        sides = {"observed": observed, "hidden": hidden} if visibility.masks else {"observed": observed}
        each = max(1, DRAWN_AT_ONCE // (max(1, samples) * observed.values[0].numel()))
        for rows in torch.arange(len(observed)).split(each):
            part = {side: view.rows(rows) for side, view in sides.items()}
            drawn = draw(run, estimate, rows, part["observed"], samples, seed) if samples else None
            field = run.field(estimate.latent.mean[rows])
            collected.append({side: run.domain.score(field, view.to(run.device), drawn) for side, view in part.items()})
        estimates.append(estimate)
        progress(sum(len(e.latent) for e in estimates) / len(signals))
    return Completion(concatenate(estimates), _joined(collected), samples, seed)


@torch.no_grad()
def draw(
    run: Run, estimate: Estimate, rows: Int[Tensor, " B"], places: Observations, count: int, seed: int = 0
) -> Float[Tensor, "S B N V"]:
    """Values at `places` of some rows of an estimate, as they might be seen: codes from the posterior, then noise, `count` times.

    In one draw the noise has the same quantile at every point: each point's values are distributed as they should be, and bands
    are as smooth as the fields. What is drawn for a signal depends on the seed and its number in the set alone.
    """
    codes, levels = [], []
    for row, number in zip(rows.tolist(), places.index.tolist(), strict=True):
        random = generator(seed, DRAWING, number)
        codes.append(estimate.posterior.rows(slice(row, row + 1)).sample(count, random))
        levels.append((torch.randperm(count, generator=random) + 0.5) / count)
    values = torch.stack([run.field(z)(places.coords) for z in torch.cat(codes, 1)])
    return run.model.objective.likelihood.quantile(values, torch.stack(levels, 1)[..., None, None].to(values))


def _samples(run: Run, solver: Solver, samples: int | None) -> int:
    """How many to draw; where nobody asks for any, only a solver that gives posteriors draws them."""
    if samples == 1:
        raise UsageError("one sample makes no band; ask for 2 or more, or for 0")
    if samples and not solver.gives_posterior:
        raise UsageError(
            f"solver {type(solver).__name__} gives one answer and no posterior to draw samples from; leave out the samples, "
            "or take a solver that does"
        )
    if samples is None:
        return run.recipe.inference.samples if solver.gives_posterior else 0
    return samples


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
