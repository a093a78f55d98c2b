"""DeepSDF's penalty on codes, as the prior that it is."""

import math
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from neuralfield.latents.priors import Known, Prior
from neuralfield.types import Latent

LEAST = 1e-2
"""Of a typical code's length, what the curvature takes shorter ones for: it has no bound at 0."""


class Norm(Prior):
    """p(z) ~ exp(-weight |z|), with the norm itself and not its square (Park et al. 2019; their code, not their paper).

    Its constant is -log p(0) = log(2 pi^(D/2) Gamma(D) / (Gamma(D/2) weight^D)).
    """

    weight: Tensor

    def __init__(self, code_dim: int, weight: float = 1.0) -> None:
        super().__init__()
        if not weight > 0:
            raise ValueError(f"prior.weight must be positive, got {weight}")
        self.code_dim = code_dim
        self.register_buffer("weight", torch.tensor(float(weight)))

    def cost(self, latent: Latent) -> Float[Tensor, " B"]:
        d = self.code_dim
        volume = math.log(2) + 0.5 * d * math.log(math.pi) + math.lgamma(d) - math.lgamma(0.5 * d)
        return self.weight * vector_norm(latent.mean, dim=1) + volume - d * self.weight.log()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        # lengths are Gamma(D) / weight: sums of D exponential ones
        length = -torch.rand(n, self.code_dim, generator=generator, dtype=torch.float64).neg().log1p().sum(1)
        direction = torch.randn(n, self.code_dim, generator=generator).to(self.weight)
        return direction / vector_norm(direction, dim=1, keepdim=True) * (length[:, None].to(self.weight) / self.weight)

    def fit(self, codes: Float[Tensor, "n D"], known: Known | None = None) -> Self:
        # E |z|^2 = D (D + 1) / weight^2
        square = codes.square().sum(1).mean()
        if known is not None:
            square = codes.mean(0).square().sum() + known.covariance.diagonal().sum()
        self.weight = (self.code_dim * (self.code_dim + 1) / square.clamp(min=1e-12)).sqrt()
        return self

    def curvature(self, latent: Latent) -> Float[Tensor, "b D D"]:
        """That of the parabola above the cost that touches it here: weight / |z| in every direction."""
        length = vector_norm(latent.mean, dim=1).clamp(min=float(LEAST * self.code_dim / self.weight))
        eye = torch.eye(self.code_dim, dtype=torch.float64, device=latent.mean.device)
        return (self.weight / length).double()[:, None, None] * eye
