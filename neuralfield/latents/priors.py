"""What codes look like before anything is seen. Costs are negative log densities, in nats, once per signal."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import hessian, vmap

from neuralfield.latents.basis import SpectralBasis
from neuralfield.types import Latent

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Components:
    """A prior as sum_k weight_k N(mean_k, covariance_k): what solvers in closed form need of it.

    G is K, or 1 where all components share one covariance.
    """

    log_weights: Float[Tensor, " K"]
    means: Float[Tensor, "K D"]
    covariance: Float[Tensor, "G D D"]


@dataclass(frozen=True)
class Known:
    """Of the codes of a bank: their `covariance`, and `spread`, the average of their posterior covariances.

    What is not known of each code is missing from the scatter of the codes, but is part of their covariance.
    """

    covariance: Float[Tensor, "D D"]
    spread: Float[Tensor, "D D"]


class Prior(nn.Module, ABC):
    """p(z). What `fit` and `adopt` learn is kept in buffers, and so in the run folder."""

    bounded: ClassVar[bool] = False
    """Whether codes beyond some bound have no probability. The objective then takes them for the nearest that have (`within`), and
    what knows no bounds, Gauss-Newton solvers and posteriors, refuses."""

    @abstractmethod
    def cost(self, latent: Latent) -> Float[Tensor, " B"]:
        """-log p(z), in nats."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        """`n` codes drawn from the prior."""

    @abstractmethod
    def fit(self, codes: Float[Tensor, "n D"], known: Known | None = None) -> Self:
        """Learn from the codes of a fitted bank what codes look like, and from what else is `known` of them."""

    def divergence(self, latent: Latent) -> Float[Tensor, " B"]:
        """KL(N(mean, exp(log_std)^2) || p), in nats, for priors that are one Gaussian; the others refuse.

        Under N(0, 1) it is -1/2 sum(1 + log s^2 - m^2 - s^2) (Kingma and Welling 2014, appendix B).
        """
        components = self.components()
        if len(components.means) > 1 or latent.log_std is None:
            raise NotImplementedError(f"{type(self).__name__} is a mixture of Gaussians, or nothing is known of the codes' spreads")
        precision = torch.linalg.inv(components.covariance[0])
        apart = latent.mean - components.means
        squares = einsum(apart, precision, apart, "b d, d e, b e -> b") + (2 * latent.log_std).exp() @ precision.diagonal()
        return 0.5 * (squares - apart.shape[1] - torch.logdet(precision)) - latent.log_std.sum(1)

    def curvature(self, latent: Latent) -> Float[Tensor, "b D D"]:
        """Curvature of the cost, positive semi-definite: of a mixture, that of the quadratic bound that EM minimises.

        b is B, or 1 where it is the same for all codes.
        """
        try:
            components = self.components()
        except NotImplementedError:
            exact = vmap(hessian(lambda z: self.cost(Latent(z[None]))[0]))(latent.mean.detach()).double()
            values, vectors = torch.linalg.eigh(exact.nan_to_num(0.0, 0.0, 0.0))
            return vectors * values.clamp(min=0)[:, None] @ vectors.mT
        precision = torch.linalg.inv(components.covariance.double())
        if len(precision) == 1:
            return precision
        # log densities of each component, up to a constant
        apart = latent.mean.double()[:, None] - components.means.double()
        squares = einsum(apart, precision, apart, "b k d, k d e, b k e -> b k")
        logits = components.log_weights.double() + 0.5 * (torch.logdet(precision) - squares)
        return einsum(logits.softmax(1), precision, "b k, k d e -> b d e")

    def within(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The nearest codes that have a probability: of most priors the codes themselves."""
        return z

    def adopt(self, basis: SpectralBasis) -> bool:
        """Begin as that of the linear model whose coefficients the first codes are, and say so; most priors stay as they are."""
        return False

    def components(self) -> Components:
        """The prior as a mixture of Gaussians, for kinds that are one; the others refuse."""
        raise NotImplementedError(f"{type(self).__name__} is not a mixture of Gaussians")


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

    def divergence(self, latent: Latent) -> Float[Tensor, " B"]:
        # the sum of the interface, without matrices
        assert latent.log_std is not None
        log_share = latent.log_std - self.std.log()
        squares = (latent.mean / self.std).square() + (2 * log_share).exp()
        return 0.5 * (squares - 1).sum(1) - log_share.sum(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        return torch.randn(n, self.code_dim, generator=generator).to(self.std) * self.std

    def fit(self, codes: Float[Tensor, "n D"], known: Known | None = None) -> Self:
        # around 0: what the mean is off counts as spread
        variance = codes.square().mean()
        if known is not None:
            variance = codes.mean(0).square().mean() + known.covariance.diagonal().mean()
        self.std = variance.sqrt().clamp(min=1e-6)
        return self

    def components(self) -> Components:
        covariance = self.std.square() * torch.eye(self.code_dim, dtype=self.std.dtype, device=self.std.device)
        return Components(covariance.new_zeros(1), covariance.new_zeros(1, self.code_dim), covariance[None])


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
        return self.mean + torch.randn(n, len(self.mean), generator=generator).to(self.mean) @ self.factor.T

    def fit(self, codes: Float[Tensor, "n D"], known: Known | None = None) -> Self:
        self.mean = codes.mean(0)
        factor = torch.linalg.cholesky(covariance_of(codes, known))
        self.factor = factor.to(codes.dtype).contiguous()  # the layout that it has when it is loaded: sums run in the same order
        return self

    def adopt(self, basis: SpectralBasis) -> bool:
        """N(0, variance); dimensions of the code beyond the basis keep a hundredth of its mean standard deviation."""
        self.mean = torch.zeros_like(self.mean)
        std = torch.full_like(self.mean, 0.01 * float(basis.variance.mean().sqrt()))
        std[: basis.rank] = basis.variance.sqrt()
        self.factor = torch.diag(std)
        return True

    def components(self) -> Components:
        return Components(torch.zeros_like(self.mean[:1]), self.mean[None], (self.factor @ self.factor.T)[None])


def covariance_of(codes: Float[Tensor, "n D"], known: Known | None) -> Float[Tensor, "D D"]:
    """Covariance in float64, invertible: what is known of it, else that of the codes joined by a tenth of D pseudo-observations of
    their average variance.
    """
    n, d = codes.shape
    eye = torch.eye(d, dtype=torch.float64, device=codes.device)
    if known is not None:
        return known.covariance.double() + 1e-9 * known.covariance.diagonal().mean().double() * eye  # what rounding may take away
    centred = (codes - codes.mean(0)).double()
    scatter = centred.T @ centred / n
    average = scatter.diagonal().mean().clamp(min=1e-12) * eye
    return (n * scatter + d * 0.1 * average) / (n + 0.1 * d)
