"""Finding the codes of signals with the decoder frozen: the interface."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from neuralfield.decoders.decoder import Decoder
from neuralfield.errors import UsageError
from neuralfield.objective import Objective
from neuralfield.types import Estimate, Latent, Observations

ROUNDING = 1e-6
"""Share of the cost that sums in float32 do not resolve: a model that promises less has nothing left to give."""


class Solver(ABC):
    """Minimises the objective over the codes of a batch, every signal on its own."""

    differentiable: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    """Whether estimates and posteriors are those of a formula: nothing is searched, and one start is as good as many."""
    searches: ClassVar[bool] = True
    """Whether codes depend on the objective; else they are what the start says."""
    gives_posterior: ClassVar[bool] = False
    """Whether estimates come with a `Posterior`, from which completions can be drawn."""

    def check(self, objective: Objective, decoder: Decoder) -> None:
        """Refuse in one line a model that it cannot solve, before anything is trained; most take any that has a likelihood."""
        if not (objective.searchable or self.exact):
            raise UsageError(
                f"{type(objective).__name__} has no likelihood, so solver {type(self).__name__} has nothing to search by; "
                "say --set inference.kind=encode"
            )

    def prepare(self, objective: Objective, decoder: Decoder, codes: Float[Tensor, "n D"], coords: Float[Tensor, "1 N C"]) -> None:
        """Look at a fitted decoder, its codes and the points of its domain before signals are solved; most have no need."""
        return None

    @abstractmethod
    def solve(self, objective: Objective, decoder: Decoder, observations: Observations, start: Latent) -> Estimate:
        """The best codes found from `start`, with what they cost and whether they had settled."""


def points_per_seen(decoder: Decoder, observations: Observations, points: int = 1) -> Float[Tensor, " B"]:
    """Points that a pass evaluates / points that were seen: what a forward pass costs in `evaluations`.

    `points` of the field are measured at each place.
    A decoder that makes its whole map for any point does no extra work for hidden ones.
    """
    seen = (observations.weight > 0).sum(1).clamp(min=1)
    return points * observations.weight.shape[1] / seen if decoder.pointwise else torch.ones_like(seen, dtype=torch.float32)


def negligible(cost: Float[Tensor, " B"], observations: Observations, tolerance: float) -> Float[Tensor, " B"]:
    """Nats of which it is not worth to fall by so many: `tolerance` for each observed value, or what sums do not resolve."""
    return (tolerance * observations.observed.double()).maximum(ROUNDING * cost.abs())


def reasons_of(converged: Bool[Tensor, " B"], tried: Int[Tensor, " B"], most: int) -> tuple[str, ...]:
    """Why each search ended, of solvers that try steps until a model promises nothing more."""
    return tuple(
        "converged" if settled else f"{'cut short' if steps == most else 'no step lowers the objective'} after {steps} steps"
        for settled, steps in zip(converged.tolist(), tried.tolist(), strict=True)
    )


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for the module's parameters inside: nothing is computed only to be thrown away."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)
