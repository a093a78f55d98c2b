"""Codes in a ball, all alike: GLO's."""

import math
from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from neuralfield.latents.priors import Known, Prior
from neuralfield.types import Latent

ROUNDING = 1e-6
"""Of the radius, by how much a code may be longer that was shortened to it in float32."""


class Ball(Prior):
    """Uniform in the ball |z| <= `radius` (Bojanowski et al. 2018 have the unit ball): nothing beyond it has any probability.

    -log p(z) is the logarithm of the ball's volume, pi^(D/2) radius^D / Gamma(D/2 + 1), and infinite outside. The objective
    projects codes on the ball (`within`), so that every search ends in it.
    """

    bounded: ClassVar[bool] = True
    radius: Tensor

    def __init__(self, code_dim: int, radius: float = 1.0) -> None:
        super().__init__()
        if not radius > 0:
            raise ValueError(f"prior.radius must be positive, got {radius}")
        self.code_dim = code_dim
        self.register_buffer("radius", torch.tensor(float(radius)))

    def cost(self, latent: Latent) -> Float[Tensor, " B"]:
        d = self.code_dim
        volume = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1) + d * self.radius.log()
        inside = vector_norm(latent.mean, dim=1) <= self.radius * (1 + ROUNDING)
        # 0 z, so that the codes have a gradient, which is 0
        return torch.where(inside, volume + 0 * latent.mean.sum(1), torch.inf)

    def within(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        length = vector_norm(z, dim=1, keepdim=True)
        return torch.where(length > self.radius, z * (self.radius / length.clamp(min=self.radius)), z)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        direction = torch.randn(n, self.code_dim, generator=generator).to(self.radius)
        # of a ball, a share r^D lies within the radius r
        length = torch.rand(n, 1, generator=generator).to(self.radius) ** (1 / self.code_dim)
        return direction / vector_norm(direction, dim=1, keepdim=True) * (length * self.radius)

    def fit(self, codes: Float[Tensor, "n D"], known: Known | None = None) -> Self:
        """The smallest ball around 0 that holds the codes."""
        self.radius = vector_norm(codes, dim=1).max().clamp(min=1e-12)
        return self

    def curvature(self, latent: Latent) -> Float[Tensor, "b D D"]:
        return torch.zeros(1, self.code_dim, self.code_dim, dtype=torch.float64, device=latent.mean.device)
