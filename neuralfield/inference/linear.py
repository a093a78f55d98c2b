"""The exact posterior of codes, in closed form: decoders linear in the code, Gaussian noise, a mixture of Gaussians as prior."""

from typing import ClassVar

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from neuralfield.decoders.decoder import Decoder
from neuralfield.errors import UsageError
from neuralfield.inference.posterior import Posterior
from neuralfield.inference.quadratic import refuse_others
from neuralfield.inference.solver import Solver, points_per_seen
from neuralfield.latents.priors import Components
from neuralfield.latents.source import FixedCodes
from neuralfield.likelihoods import Gaussian
from neuralfield.measurements import Points
from neuralfield.objective import MAP, Objective
from neuralfield.types import Estimate, Latent, Observations

KEPT = 32
"""Components of a posterior that are kept for sampling; the estimate itself is the mean over all."""
AT_ONCE = 2**23
"""Numbers of a Jacobian that are held at once: 64 MiB."""


class Linear(Solver):
    """With x = m + A z + e, e ~ N(0, s^2) and z ~ sum_k w_k N(c_k, S_k): given x, z is again such a mixture.

    A component has the covariance H^-1 = (A' W A / s^2 + S_k^-1)^-1; their means and weights follow from
    A' W (x - m - A c_k) / s^2 alone, so that the cost does not grow with points times components. The estimate is the posterior's
    mean, whose field is the mean of all fields: it has the least expected squared error.
    """

    exact: ClassVar[bool] = True
    gives_posterior: ClassVar[bool] = True

    def check(self, objective: Objective, decoder: Decoder) -> None:
        _refuse_others(objective, decoder)

    def solve(self, objective: Objective, decoder: Decoder, observations: Observations, start: Latent) -> Estimate:
        noise, components = _refuse_others(objective, decoder)
        if not torch.equal(observations.told, observations.weight):
            raise UsageError('solver "linear" knows values alone, and of some points a bound is known; choose "levenberg"')
        log_weights, centres, covariance = (
            part.double() for part in (components.log_weights, components.means, components.covariance)
        )
        precision = torch.linalg.inv(covariance)
        parts = [
            _posterior(decoder, observations.rows(rows), noise, log_weights, centres, precision, start.mean.shape[1])
            for rows in torch.arange(len(observations)).split(_rows_at_once(observations, precision))
        ]
        means = torch.cat([mean for mean, _ in parts]).to(start.mean)
        with torch.no_grad():
            loss = objective(FixedCodes(means), decoder, observations)
        steps = torch.ones(len(observations), dtype=torch.long)
        shared = len(observations) if len(observations.coords) == 1 else 1
        # one pass for every code dimension and the mean, shared where the points are, and one to report
        evaluations = ((means.shape[1] + 1) / shared + 1) * points_per_seen(decoder, observations).cpu()
        reasons = ("exact",) * len(observations)
        posterior = Posterior.joined([posterior for _, posterior in parts])
        return Estimate(Latent(means), loss, steps.bool(), steps, evaluations, reasons, posterior)


def _rows_at_once(observations: Observations, precision: Float[Tensor, "G D D"]) -> int:
    shared = len(observations.coords) == 1
    each = 0 if shared else observations.values[0].numel() * (precision.shape[-1] + 1)
    if len(precision) > 1:
        each += 2 * precision.numel()
    return max(1, AT_ONCE // each) if each else len(observations)


@torch.no_grad()
def _posterior(
    decoder: Decoder,
    observations: Observations,
    noise: float,
    log_weights: Float[Tensor, " K"],
    centres: Float[Tensor, "K D"],
    precision: Float[Tensor, "G D D"],
    code_dim: int,
) -> tuple[Float[Tensor, "B D"], Posterior]:
    mean, jacobian = _affine(decoder, observations.coords, code_dim)
    weight = observations.weight.double().repeat_interleave(observations.values.shape[-1], 1) / noise
    residual = observations.values.double().flatten(1) - mean
    square = _square(jacobian, weight)  # A' W A / s^2
    cross = einsum(jacobian.expand(len(weight), -1, -1), weight * residual, "b n d, b n -> b d")
    factor = torch.linalg.cholesky(square[:, None] + precision)
    covariance = torch.cholesky_inverse(factor).expand(len(weight), -1, -1, -1)
    along = einsum(square.expand(len(weight), -1, -1), centres, "b d e, k e -> b k d")
    pull = cross[:, None] - along
    step = pull @ covariance[:, 0] if len(precision) == 1 else einsum(pull, covariance, "b k d, b k d e -> b k e")
    # |x - m - A c|^2 / s^2 without the part that all components have in common, less what the step gains
    misfit = einsum(along - 2 * cross[:, None], centres, "b k d, k d -> b k")
    room = torch.logdet(precision) - 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # the same for all that share a covariance
    log_weights = torch.log_softmax(log_weights - 0.5 * (misfit - (pull * step).sum(-1) - room), 1)
    means = centres + step
    best = log_weights.topk(min(KEPT, log_weights.shape[1]), 1).indices
    kept = torch.log_softmax(log_weights.gather(1, best), 1)
    rows = torch.arange(len(best), device=best.device)[:, None]
    spread = covariance if len(precision) == 1 else covariance[rows, best]
    posterior = Posterior(kept.float(), means[rows, best].float(), torch.linalg.cholesky(spread).float())
    return einsum(log_weights.exp(), means, "b k, b k d -> b d"), posterior


def _square(jacobian: Float[Tensor, "G M D"], weight: Float[Tensor, "B M"]) -> Float[Tensor, "b D D"]:
    """A' W A of every signal, or of all in one where all are seen alike."""
    if len(jacobian) == 1 and bool((weight == weight[:1]).all()):
        weight = weight[:1]
    if len(jacobian) > 1:
        return einsum(jacobian * weight[..., None], jacobian, "b n d, b n e -> b d e")
    # one at a time: the weighted copy of a shared Jacobian for all signals would not fit
    return torch.stack([(jacobian[0] * w[:, None]).T @ jacobian[0] for w in weight])


def _affine(decoder: Decoder, coords: Float[Tensor, "G N C"], code_dim: int) -> tuple[Float[Tensor, "G M"], Float[Tensor, "G M D"]]:
    """Of values(z) = m + A z at the points, M = N V values each: (m, A), from the codes 0 and the unit codes."""
    codes = torch.cat([torch.zeros(1, code_dim), torch.eye(code_dim)]).to(coords)
    flat = rearrange(coords, "g n c -> 1 (g n) c")
    values = rearrange(decoder(codes, flat), "d (g n) v -> g (n v) d", g=len(coords)).double()
    return values[..., 0], values[..., 1:] - values[..., :1]


def _refuse_others(objective: Objective, decoder: Decoder) -> tuple[float, Components]:
    """(noise variance, tempered, and the prior's components), or one line that says what does not fit."""
    if not decoder.linear_in_code:
        raise UsageError(
            f'solver "linear" needs a decoder that is linear in the code, not {type(decoder).__name__}; '
            "say --set inference.kind=adam"
        )
    if not isinstance(objective, MAP) or not isinstance(objective.measurement, Points):
        raise UsageError('solver "linear" needs the objective "map" and the measurement "points"; say --set inference.kind=adam')
    refuse_others(objective, 'solver "linear"')
    if not isinstance(objective.likelihood, Gaussian):
        raise UsageError(
            f'solver "linear" needs a Gaussian likelihood, not {type(objective.likelihood).__name__}; say --set inference.kind=adam'
        )
    try:
        return objective.temperature * float(objective.likelihood.std) ** 2, objective.prior.components()
    except NotImplementedError as error:
        raise UsageError(f'solver "linear" needs a prior of Gaussians: {error}; say --set inference.kind=adam') from None
