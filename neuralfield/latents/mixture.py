"""What codes look like, as a mixture of Gaussians with full covariances (fitted by scikit-learn's EM)."""

import warnings
from typing import Self

import torch
from einops import einsum
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from neuralfield.latents.priors import LOG_2PI, Components, Known, Prior, covariance_of
from neuralfield.types import Latent

CODES_PER_COMPONENT = 100
"""Fewer than these say too little of a covariance: small banks get fewer components."""
LEAST_SHARE = 0.02
"""Of the average variance, what is added to every direction of a component."""


class Mixture(Prior):
    """sum_k w_k N(m_k, S_k) with at most `components` of them."""

    log_weights: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, code_dim: int, components: int = 50) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"prior.components must be at least 1, got {components}")
        self.code_dim, self.most = code_dim, components
        self.register_buffer("log_weights", torch.zeros(1))
        self.register_buffer("means", torch.zeros(1, code_dim))
        self.register_buffer("factors", torch.eye(code_dim)[None])  # lower Cholesky factors of the covariances

    def cost(self, latent: Latent) -> Float[Tensor, " B"]:
        return -torch.logsumexp(self._log_densities(latent.mean), 1)

    def _log_densities(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """log w_k N(z; m_k, S_k)."""
        inverse = torch.linalg.solve_triangular(self.factors, torch.eye(self.code_dim).to(self.factors), upper=False)
        whitened = einsum(inverse, z[:, None] - self.means, "k d e, b k e -> b k d")
        room = self.factors.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * self.code_dim * LOG_2PI
        return self.log_weights - room - 0.5 * whitened.square().sum(-1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        which = torch.multinomial(self.log_weights.exp().cpu(), n, replacement=True, generator=generator).to(self.means.device)
        noise = torch.randn(n, self.code_dim, generator=generator).to(self.means)
        return self.means[which] + einsum(self.factors[which], noise, "n d e, n e -> n d")

    def fit(self, codes: Float[Tensor, "n D"], known: Known | None = None) -> Self:
        whole = covariance_of(codes, known)
        count = max(1, min(self.most, len(codes) // CODES_PER_COMPONENT))
        spread = torch.zeros_like(whole) if known is None else known.spread.double()
        if count == 1:
            weights, means, covariances = torch.ones(1), codes.mean(0, keepdim=True), whole[None]
        else:
            least = LEAST_SHARE * float(whole.diagonal().mean())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a mixture that still moves a little describes codes as well
                found = GaussianMixture(count, reg_covar=least, max_iter=50, random_state=0).fit(codes.double().cpu().numpy())
            weights, means, covariances = (torch.from_numpy(a) for a in (found.weights_, found.means_, found.covariances_))
            covariances = covariances.to(spread) + spread
        self.log_weights = weights.log().to(codes)
        self.means = means.to(codes)
        self.factors = torch.linalg.cholesky(covariances).to(codes).contiguous()
        return self

    def components(self) -> Components:
        return Components(self.log_weights, self.means, self.factors @ self.factors.mT)
