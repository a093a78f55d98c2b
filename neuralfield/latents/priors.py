"""What codes look like before anything is seen. Costs are negative log densities, in nats, once per signal."""

import math
from abc import ABC, abstractmethod
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuralfield.types import Latent

LOG_2PI = math.log(2 * math.pi)


class Prior(nn.Module, ABC):
    """p(z). What `fit` learns is kept in buffers, and so in the run folder."""

    @abstractmethod
    def cost(self, latent: Latent) -> Float[Tensor, " B"]:
        """-log p(z), in nats."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        """`n` codes drawn from the prior."""

    @abstractmethod
    def fit(self, codes: Float[Tensor, "n D"]) -> Self:
        """Learn from the codes of a fitted bank what codes look like."""


class Isotropic(Prior):
    """N(0, std^2 I): the usual |z|^2 / (2 std^2) with its normalising constant."""

    std: Tensor

    def __init__(self, code_dim: int, std: float = 1.0) -> None:
        super().__init__()
        if not std > 0:
            raise ValueError(f"prior.std must be positive, got {std}")
        self.code_dim = code_dim
        self.register_buffer("std", torch.tensor(std))

    def cost(self, latent: Latent) -> Float[Tensor, " B"]:
        return 0.5 * (latent.mean / self.std).square().sum(1) + self.code_dim * (self.std.log() + 0.5 * LOG_2PI)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        return torch.randn(n, self.code_dim, generator=generator) * self.std

    def fit(self, codes: Float[Tensor, "n D"]) -> Self:
        self.std = codes.square().mean().sqrt().clamp(min=1e-6)
        return self


class Gaussian(Prior):
    """N(mean, covariance) with a full covariance, fitted to the codes of the bank."""

    mean: Tensor
    factor: Tensor

    def __init__(self, code_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(code_dim))
        self.register_buffer("factor", torch.eye(code_dim))  # lower Cholesky factor of the covariance

    def cost(self, latent: Latent) -> Float[Tensor, " B"]:
        whitened = torch.linalg.solve_triangular(self.factor, (latent.mean - self.mean).T, upper=False)
        return 0.5 * whitened.square().sum(0) + self.factor.diagonal().log().sum() + 0.5 * len(self.mean) * LOG_2PI

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        return self.mean + torch.randn(n, len(self.mean), generator=generator) @ self.factor.T

    def fit(self, codes: Float[Tensor, "n D"]) -> Self:
        n, d = codes.shape
        self.mean = codes.mean(0)
        centred = (codes - self.mean).double()
        spread = centred.T @ centred / n
        # a tenth of D pseudo-observations of the average variance keep it invertible where signals are few or codes are degenerate
        average = spread.diagonal().mean().clamp(min=1e-12) * torch.eye(d, dtype=spread.dtype, device=spread.device)
        factor = torch.linalg.cholesky((n * spread + d * 0.1 * average) / (n + 0.1 * d))
        self.factor = factor.to(codes.dtype).contiguous()  # the layout that it has when it is loaded: sums run in the same order
        return self
