"""What is known of codes after something was seen of their signals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor


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
        """`count` codes for every signal."""
        which = torch.multinomial(self.log_weights.exp().cpu(), count, replacement=True, generator=generator).to(self.means.device)
        rows = torch.arange(len(self), device=self.means.device)[:, None]
        centres = self.means[rows, which]
        noise = torch.randn(centres.shape, generator=generator).to(centres)
        if self.factor.shape[1] == 1:
            return (centres + noise @ self.factor[:, 0].mT).transpose(0, 1)
        return (centres + einsum(self.factor[rows, which], noise, "b s d e, b s e -> b s d")).transpose(0, 1)

    @property
    def mean(self) -> Float[Tensor, "B D"]:
        """Of the whole mixture."""
        return einsum(self.log_weights.softmax(1), self.means, "b k, b k d -> b d")

    def covariance(self) -> Float[Tensor, "B D D"]:
        """Of each component, averaged over them."""
        share = self.log_weights.softmax(1)
        if self.factor.shape[1] == 1:
            share = torch.ones_like(share[:, :1])
        return einsum(share, self.factor, self.factor, "b k, b k d e, b k f e -> b d f")

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
