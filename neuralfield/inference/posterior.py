"""What is known of codes after something was seen of their signals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Posterior:
    """For each signal a mixture of Gaussians with one covariance, `factor` its lower Cholesky factor."""

    log_weights: Float[Tensor, "B K"]
    means: Float[Tensor, "B K D"]
    factor: Float[Tensor, "B D D"]

    def __len__(self) -> int:
        return len(self.means)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "S B D"]:
        """`count` codes for every signal."""
        which = torch.multinomial(self.log_weights.exp().cpu(), count, replacement=True, generator=generator).to(self.means.device)
        centres = self.means[torch.arange(len(self), device=self.means.device)[:, None], which]
        noise = torch.randn(centres.shape, generator=generator).to(centres)
        return (centres + noise @ self.factor.mT).transpose(0, 1)

    def covariance(self) -> Float[Tensor, "B D D"]:
        """Of each component."""
        return self.factor @ self.factor.mT

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
