"""Signals completed from what was seen of them, and how well: what `nf infer` and `nf eval` show."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuralfield.domains.domain import Domain
from neuralfield.errors import UsageError
from neuralfield.inference.solver import Solver
from neuralfield.inference.thinning import glanced_at
from neuralfield.registry import resolve
from neuralfield.run import Run, concatenate, fitting, load_signals
from neuralfield.seeds import generator
from neuralfield.signals.masks import Visibility
from neuralfield.signals.signals import Signals
from neuralfield.types import Estimate, Field, Observations

DRAWN_AT_ONCE = 2**21
"""Values that are drawn and sorted at once: 16 MiB in float64, of which their scores need several copies."""
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

    def draws(self, rows: Int[Tensor, " B"]) -> "Draws | None":
        """Those of some signals, where there are any."""
        return draws_of(self.estimate, rows, self.samples, self.seed) if self.samples else None


@dataclass(frozen=True)
class Draws:
    """Codes [S, B, D] from the posteriors of some signals, and the quantile [S, B] at which each draw's noise lies.

    In one draw the noise has the same quantile at every point: each point's values are distributed as they should be, and bands
    are as smooth as the fields.
    """

    codes: Float[Tensor, "S B D"]
    levels: Float[Tensor, "S B"]

    @torch.no_grad()
    def fields(self, run: Run, coords: Float[Tensor, "G N C"]) -> Float[Tensor, "S B N V"]:
        """Values of the fields themselves."""
        return torch.stack([run.field(z)(coords) for z in self.codes])

    def values(self, run: Run, coords: Float[Tensor, "G N C"]) -> Float[Tensor, "S B N V"]:
        """Values as they might be seen, with noise."""
        fields = self.fields(run, coords)
        return run.calibration.predictive(run.model.objective.likelihood).quantile(fields, self.levels[..., None, None].to(fields))


def completed(run: Run, estimate: Estimate, rows: Int[Tensor, " B"], draws: Draws | None) -> Field:
    """The completion of some signals: the mean over draws where there are any, else the field of their codes.

    An exact posterior of a decoder linear in the code needs no draws for its mean.
    """
    exact = run.decoder.linear_in_code and all(estimate.reasons[row] == "exact" for row in rows.tolist())
    if draws is None or exact:
        return run.field(estimate.latent.mean[rows])
    return run.mean_field(draws.codes)


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

    `samples` completions are drawn of each signal, by default as many as the recipe says: their mean is the completion that is
    scored, and their bands are scored too.
    """
    signals = load_signals(run, signals, split="test") if isinstance(signals, str) else fitting(signals, run)
    visibility, solver = visibility or Visibility(), solver or run.solver()
    samples = run.recipe.inference.samples if samples is None else samples
    if samples == 1 or samples < 0:
        raise UsageError(f"{samples} samples make no band; ask for 2 or more, or for 0")
    # of shapes, where these ones were sampled, which need not be where those of the bank were
    own: Domain = resolve("domains", signals.domain)(**signals.domain_arguments)
    estimates, collected = [], []
    for observed, hidden in views(run, signals, visibility):
        estimate = run.infer(observed, solver, samples, seed)
        sides = {"observed": observed, "hidden": hidden} if visibility.masks else {"observed": observed}
        glances = {side: glanced_at(view, run.domain) for side, view in sides.items()}
        for rows in torch.arange(len(observed)).split(at_once(samples, glances["observed"])):
            draws = draws_of(estimate, rows, samples, seed, observed.index[rows]) if samples else None
            field = completed(run, estimate, rows, draws)
            # means of draws are blurred: surfaces are those of the best code
            slow = own.compare(run.field(estimate.latent.mean[rows]), {side: view.rows(rows) for side, view in sides.items()})
            part = {side: view.rows(rows).to(run.device) for side, view in glances.items()}
            collected.append(
                {
                    side: run.domain.score(field, view, None if draws is None else draws.values(run, view.coords))
                    | slow.get(side, {})
                    for side, view in part.items()
                }
            )
        estimates.append(estimate)
        progress(sum(len(e.latent) for e in estimates) / len(signals))
    return Completion(concatenate(estimates), _joined(collected), samples, seed)


def at_once(samples: int, observations: Observations) -> int:
    """Signals whose draws are looked at together."""
    return max(1, DRAWN_AT_ONCE // (max(1, samples) * observations.values[0].numel()))


def draws_of(
    estimate: Estimate, rows: Int[Tensor, " B"], count: int, seed: int = 0, numbers: Int[Tensor, " B"] | None = None
) -> Draws:
    """`count` draws for some rows of an estimate.

    What is drawn for a signal depends on the seed and its number in the set alone; `numbers` are the rows by default.
    """
    if estimate.posterior is None:
        raise UsageError(
            "this estimate has no posterior to draw from; say how many draws are wanted when it is made, as in "
            f"run.infer(observations, samples={count}), with the objective map"
        )
    codes, levels = [], []
    for row, number in zip(rows.tolist(), (rows if numbers is None else numbers).tolist(), strict=True):
        random = generator(seed, DRAWING, number)
        codes.append(estimate.posterior.rows(slice(row, row + 1)).sample(count, random))
        levels.append((torch.randperm(count, generator=random) + 0.5) / count)
    return Draws(torch.cat(codes, 1), torch.stack(levels, 1))


def views(run: Run, signals: Signals, visibility: Visibility) -> Iterator[tuple[Observations, Observations]]:
    """(observed, hidden), batch by batch."""
    for batch in signals.batches(run.recipe.inference.batch):
        yield visibility.split(batch, run.domain)


def _joined(collected: list[dict[str, dict[str, Tensor]]]) -> dict[str, dict[str, Tensor]]:
    """NaN where a score was not taken of a batch."""
    joined: dict[str, dict[str, Tensor]] = {}
    for side in dict.fromkeys(side for batch in collected for side in batch):
        batches = [batch[side] for batch in collected]
        names = dict.fromkeys(name for scores in batches for name in scores)
        blank = [next(iter(scores.values())).cpu() * torch.nan for scores in batches]
        joined[side] = {
            name: torch.cat([scores[name].cpu() if name in scores else empty for scores, empty in zip(batches, blank, strict=True)])
            for name in names
        }
    return joined
