"""Laplace's approximation: around each optimum the Gaussian that has the objective's own curvature."""

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from neuralfield.decoders.decoder import Decoder
from neuralfield.inference.posterior import Approximation, Posterior
from neuralfield.inference.quadratic import evaluations, factor_of, quadratic
from neuralfield.inference.solver import Solver
from neuralfield.objective import MAP
from neuralfield.types import Estimate, Observations

WORST = 1e30
"""Nats of an optimum whose cost is no number."""
SAME = 0.05
"""Optima whose codes are nearer than this (squared, in posterior standard deviations, a dimension) are one."""


class Laplace(Approximation):
    """The mixture of Gaussians around the optima of all starts, as it is."""

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
        return found, torch.zeros(len(observations))


@torch.no_grad()
def around(
    objective: MAP, decoder: Decoder, observations: Observations, estimate: Estimate
) -> tuple[Posterior, Float[Tensor, " B"]]:
    """(the Gaussian around each estimate, evaluations that it took); a solver that knows its own has made it already."""
    if estimate.posterior is not None:
        return estimate.posterior, torch.zeros(len(observations))
    z = estimate.latent.mean
    curvature = quadratic(objective, decoder, observations, z).curvature
    return gaussian(z, curvature), evaluations(objective, decoder, observations, z.shape[1])


def gaussian(z: Float[Tensor, "B D"], curvature: Float[Tensor, "B D D"]) -> Posterior:
    """The Gaussian around each code that has this curvature, in nats."""
    covariance = torch.cholesky_inverse(factor_of(curvature))
    return Posterior(torch.zeros_like(z[:, :1]), z[:, None], factor_of(covariance).to(z)[:, None])


def mixture(costs: Float[Tensor, "S B"], parts: list[Posterior]) -> Posterior:
    """Gaussians around the optima of several starts, weighted by their evidence: exp(-cost) sqrt(det 2 pi covariance).

    `costs` are in nats. An optimum that several starts have found counts once, and one whose cost is no number never.
    """
    costs = costs.nan_to_num(nan=WORST, posinf=WORST)
    means = torch.cat([part.means for part in parts], 1)
    factors = torch.cat([part.factor.expand(-1, part.means.shape[1], -1, -1) for part in parts], 1)
    shares = torch.cat([part.log_weights - cost[:, None].to(part.means) for part, cost in zip(parts, costs, strict=True)], 1)
    room = factors.diagonal(dim1=2, dim2=3).log().sum(-1)
    inverse = torch.linalg.solve_triangular(factors, torch.eye(means.shape[-1]).to(factors), upper=False)
    apart = einsum(inverse, means[:, :, None] - means[:, None], "b k d e, b k j e -> b k j d").square().mean(-1)
    times = (apart < SAME).sum(2)
    return Posterior(torch.log_softmax(room + shares - times.log(), 1), means, factors)
