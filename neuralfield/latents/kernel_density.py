"""What codes look like, by the codes themselves: a Gaussian around every code of the bank."""

import math
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from neuralfield.latents.priors import LOG_2PI, Components, Known, Prior, covariance_of
from neuralfield.types import Latent

CENTRES = 1024
"""Codes of the bank that carry a Gaussian at most, evenly spread."""
BANDWIDTHS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.42, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1)


class KernelDensity(Prior):
    """A Gaussian around each code in the `leading` principal directions of the bank, one for all of them in the others.

    Its bandwidth h is the one that makes each code likeliest under the others. Centres are drawn in by sqrt(1 - h^2) towards the
    mean, so that the whole keeps the covariance of the codes (Jones 1991); with h = 1 it is the `gaussian` prior. Directions of
    small variance hold what is particular to a signal, and neighbours in all of them are too far apart to learn from.
    """

    log_weights: Tensor
    means: Tensor
    factor: Tensor

    def __init__(self, code_dim: int, leading: int = 8) -> None:
        super().__init__()
        self.code_dim, self.leading = code_dim, leading
        self.register_buffer("log_weights", torch.zeros(1))
        self.register_buffer("means", torch.zeros(1, code_dim))
        self.register_buffer("factor", torch.eye(code_dim))  # lower Cholesky factor of a component's covariance

    def cost(self, latent: Latent) -> Float[Tensor, " B"]:
        apart = latent.mean[:, None] - self.means
        whitened = torch.linalg.solve_triangular(self.factor, apart.flatten(0, 1).T, upper=False)
        squares = whitened.square().sum(0).reshape(len(latent), -1)
        normaliser = self.factor.diagonal().log().sum() + 0.5 * self.code_dim * LOG_2PI
        return normaliser - torch.logsumexp(self.log_weights - 0.5 * squares, 1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        which = torch.multinomial(self.log_weights.exp().cpu(), n, replacement=True, generator=generator)
        noise = torch.randn(n, self.code_dim, generator=generator).to(self.means)
        return self.means[which.to(self.means.device)] + noise @ self.factor.T

    def fit(self, codes: Float[Tensor, "n D"], known: Known | None = None) -> Self:
        whole = covariance_of(codes, known)
        values, vectors = torch.linalg.eigh(whole)
        leading = vectors[:, -min(self.leading, codes.shape[1]) :] * values[-min(self.leading, codes.shape[1]) :].rsqrt()
        some = codes[torch.linspace(0, len(codes) - 1, min(CENTRES, len(codes))).long().to(codes.device)].double()
        mean = codes.double().mean(0)
        whitened = (some - mean) @ leading
        unknown = torch.zeros_like(whole) if known is None else known.spread.double()
        h = _bandwidth(whitened, leading.T @ unknown @ leading)
        back = whole @ leading  # from whitened leading coordinates to codes
        self.means = (mean + math.sqrt(1 - h**2) * whitened @ back.T).to(codes)
        # what the centres' scatter takes from the whole is left out of each component
        covariance = whole - (1 - h**2) * back @ (torch.eye(leading.shape[1]).to(whole) - leading.T @ unknown @ leading) @ back.T
        self.factor = torch.linalg.cholesky(covariance).to(codes.dtype).contiguous()
        self.log_weights = torch.full_like(self.means[:, 0], -math.log(len(self.means)))
        return self

    def components(self) -> Components:
        return Components(self.log_weights, self.means, (self.factor @ self.factor.T)[None])


def _bandwidth(codes: Float[Tensor, "n L"], unknown: Float[Tensor, "L L"]) -> float:
    """Of BANDWIDTHS, the one under which whitened codes are likeliest, each given all others; `unknown` is their own spread."""
    if len(codes) < 3:
        return 1.0
    eye = torch.eye(codes.shape[1]).to(codes)

    def likelihood(h: float) -> float:
        factor = torch.linalg.cholesky(h**2 * eye + (1 - h**2) * unknown)
        y = torch.linalg.solve_triangular(factor, codes.T, upper=False).T
        squares = torch.cdist(y, math.sqrt(1 - h**2) * y).square().fill_diagonal_(torch.inf)
        return float((torch.logsumexp(-0.5 * squares, 1) - factor.diagonal().log().sum()).mean())

    return max(BANDWIDTHS, key=likelihood)
