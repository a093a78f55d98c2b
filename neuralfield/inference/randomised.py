"""Randomise-then-optimise: perturb what was seen and the prior as they might have been, and solve again (Bardsley et al. 2014)."""

from dataclasses import replace

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from neuralfield.decoders.decoder import Decoder
from neuralfield.errors import UsageError
from neuralfield.inference.posterior import Approximation, Posterior
from neuralfield.inference.solver import Solver
from neuralfield.likelihoods import Gaussian
from neuralfield.objective import MAP
from neuralfield.seeds import generator
from neuralfield.types import Latent, Observations

RANDOMISING = 1007  # the seeds' second number; others draw other things


class Randomised(Approximation):
    """Each draw is the optimum of a perturbed problem, from the optimum that its share of the posterior's weight belongs to.

    It is exact where the decoder is linear in the code and the prior one Gaussian.
    """

    @torch.no_grad()
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
        if solver.exact:
            return found, torch.zeros(len(observations))
        if not isinstance(objective.likelihood, Gaussian):
            raise UsageError(
                f'inference.posterior "randomised" needs a Gaussian likelihood, not {type(objective.likelihood).__name__}; '
                "say --set inference.posterior=laplace"
            )
        randoms = [generator(seed, RANDOMISING, number) for number in observations.index.tolist()]
        centres = Posterior(found.log_weights, found.means, torch.zeros_like(found.factor[:, :1]))
        at = torch.cat([centres.rows(slice(b, b + 1)).sample(count, random) for b, random in enumerate(randoms)], 1)
        std = objective.likelihood.std * objective.temperature**0.5
        perturbed = MAP(objective.measurement, objective.likelihood, objective.prior, temperature=objective.temperature)
        draws, work, known = [], torch.zeros(len(observations)), observations.weight.cpu() > 0
        for z in at:
            errors = torch.stack(
                [_errors(seen, observations.values.shape[-1], random) for seen, random in zip(known, randoms, strict=True)]
            )
            shift = _drawn_by_prior(objective, z, randoms)
            # a point that stands for several has been seen several times: its mean errs by less
            scale = std / observations.weight.clamp(min=1e-12).sqrt()[..., None]
            values = observations.values + scale * errors.to(z)
            numbered = replace(observations, index=torch.arange(len(z)).to(z.device), values=values)
            perturbed.shift = shift.to(z)
            estimate = solver.solve(perturbed, decoder, numbered, Latent(z))
            draws.append(estimate.latent.mean)
            work += estimate.evaluations
        return Posterior.of_draws(torch.stack(draws)), work


def _errors(seen: Bool[Tensor, " N"], value_dim: int, random: torch.Generator) -> Float[Tensor, "N V"]:
    """Standard normal where something was seen, as many numbers as that takes: what is hidden has no influence on a draw."""
    errors = torch.zeros(len(seen), value_dim)
    errors[seen] = torch.randn(int(seen.sum()), value_dim, generator=random)
    return errors


def _drawn_by_prior(objective: MAP, z: Float[Tensor, "B D"], randoms: list[torch.Generator]) -> Float[Tensor, "B D"]:
    """Of covariance P^-1, P the prior's curvature; 0 along directions of which the prior says nothing."""
    values, vectors = torch.linalg.eigh(objective.prior.curvature(Latent(z)).double().expand(len(z), -1, -1))
    std = torch.where(values > 1e-12 * values.amax(1, keepdim=True).clamp(min=1e-300), values, torch.inf).rsqrt()
    away = torch.stack([torch.randn(z.shape[1], generator=random) for random in randoms]).to(std)
    return einsum(vectors, std * away, "b d e, b e -> b d")
