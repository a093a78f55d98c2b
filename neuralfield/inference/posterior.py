"""What is known of codes after something was seen of their signals."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from neuralfield.decoders.decoder import Decoder
from neuralfield.inference.solver import Solver
from neuralfield.objective import MAP
from neuralfield.types import Observations


@dataclass(frozen=True)
class Posterior:
    """For each signal a mixture of Gaussians; `factor` holds the lower Cholesky factors of their covariances.

    G is K, or 1 where the components share one covariance. Draws that others have made are components of covariance 0.
    """

    log_weights: Float[Tensor, "B K"]
    means: Float[Tensor, "B K D"]
    factor: Float[Tensor, "B G D D"]

    def __len__(self) -> int:
        return len(self.means)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "S B D"]:
        """`count` codes for every signal. Each component has its share of them, up to one (systematic sampling)."""
        which = _shared_out(self.log_weights, count, generator).to(self.means.device)
        rows = torch.arange(len(self), device=self.means.device)[:, None]
        centres = self.means[rows, which]
        noise = torch.randn(centres.shape, generator=generator).to(centres)
        factor = self.factor if self.factor.shape[1] == 1 else self.factor[rows, which]
        return (centres + einsum(factor.expand(-1, count, -1, -1), noise, "b s d e, b s e -> b s d")).transpose(0, 1)

    @property
    def mean(self) -> Float[Tensor, "B D"]:
        """Of the whole mixture."""
        return einsum(self.log_weights.softmax(1), self.means, "b k, b k d -> b d")

    def covariance(self) -> Float[Tensor, "B D D"]:
        """Within the components, averaged over them."""
        share = self.log_weights.softmax(1)[:, : self.factor.shape[1]]
        share = share / share.sum(1, keepdim=True)
        return einsum(share, self.factor, self.factor, "b k, b k d e, b k f e -> b d f")

    def flattened(self, power: float) -> Self:
        """With the weights of its components raised to a power: below 1 they are more alike."""
        return replace(self, log_weights=torch.log_softmax(power * self.log_weights, 1))

    def rows(self, which: slice | Tensor) -> Self:
        """Those of some signals."""
        return type(self)(self.log_weights[which], self.means[which], self.factor[which])

    def cpu(self) -> Self:
        """The same on the CPU."""
        return type(self)(self.log_weights.cpu(), self.means.cpu(), self.factor.cpu())

    @classmethod
    def joined(cls, parts: Sequence["Posterior"]) -> "Posterior":
        """Several batches as one."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("log_weights", "means", "factor")))

    @classmethod
    def of_draws(cls, codes: Float[Tensor, "S B D"]) -> "Posterior":
        """Equally likely codes that were drawn by other means."""
        means = codes.transpose(0, 1)
        b, count, d = means.shape
        return cls(means.new_full((b, count), -float(torch.tensor(count).log())), means, means.new_zeros(b, 1, d, d))


def _shared_out(log_weights: Float[Tensor, "B K"], count: int, generator: torch.Generator | None) -> Int[Tensor, "B S"]:
    """Components for `count` draws, in random order: component k gets its share of them rounded up or down."""
    edges = log_weights.cpu().double().softmax(1).cumsum(1)
    offset = torch.rand(len(edges), 1, generator=generator, dtype=torch.float64)
    which = torch.searchsorted(edges, (torch.arange(count) + offset) / count).clamp(max=edges.shape[1] - 1)
    return which.gather(1, torch.rand(which.shape, generator=generator).argsort(1))


class Approximation(ABC):
    """How draws from the posterior are made, from Laplace's Gaussians around the optima that a search has found."""

    @abstractmethod
    def __call__(
        self,
        objective: MAP,
        decoder: Decoder,
        observations: Observations,
        found: Posterior,
        solver: Solver,
        count: int,
        seed: int = 0,
    ) -> tuple[Posterior, Float[Tensor, " B"]]:
        """(a posterior from which `count` codes can be drawn, evaluations that it took for each signal).

        What is drawn for a signal depends on the seed and its number in the set alone.
        """
