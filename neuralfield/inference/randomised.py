"""Randomise-then-optimise: perturb what was seen and the prior as they might have been, and solve again (Bardsley et al. 2014)."""

import torch
from jaxtyping import Float
from torch import Tensor

from neuralfield.decoders.decoder import Decoder
from neuralfield.errors import UsageError
from neuralfield.inference.posterior import Approximation, Posterior
from neuralfield.inference.solver import Solver
from neuralfield.likelihoods import Gaussian
from neuralfield.objective import MAP
from neuralfield.seeds import generator
from neuralfield.types import Latent, Observations

RANDOMISING = 1007  # the first number of the seeds; others draw other things


class Randomised(Approximation):
    """Each draw is the optimum of a perturbed problem, from the optimum that its share of the posterior's weight belongs to.

    It is exact where the decoder is linear in the code and the prior one Gaussian.
    """

    @torch.no_grad()
    def __call__(
        self, objective: MAP, decoder: Decoder, observations: Observations, found: Posterior, solver: Solver, count: int
    ) -> tuple[Posterior, Float[Tensor, " B"]]:
        if not isinstance(objective.likelihood, Gaussian):
            raise UsageError(
                f'inference.posterior "randomised" needs a Gaussian likelihood, not {type(objective.likelihood).__name__}; '
                "say --set inference.posterior=laplace"
            )
        randoms = [generator(RANDOMISING, number) for number in observations.index.tolist()]
        centres = Posterior(found.log_weights, found.means, torch.zeros_like(found.factor[:, :1]))
        at = torch.cat([centres.rows(slice(b, b + 1)).sample(count, random) for b, random in enumerate(randoms)], 1)
        std = objective.likelihood.std * objective.temperature**0.5
        perturbed = MAP(objective.measurement, objective.likelihood, objective.prior, temperature=objective.temperature)
        draws, work = [], torch.zeros(len(observations))
        for z in at:
            errors = torch.stack([torch.randn(observations.values.shape[1:], generator=random) for random in randoms]).to(z)
            precision = objective.prior.curvature(Latent(z)).expand(len(z), -1, -1)
            away = torch.stack([torch.randn(z.shape[1], generator=random) for random in randoms]).to(precision)
            # of covariance P^-1: with P = L L', L^-T times white noise
            shift = torch.linalg.solve_triangular(torch.linalg.cholesky(precision).mT, away[..., None], upper=True)[..., 0]
            # a point that stands for several has been seen several times: its mean errs by less
            scale = std / observations.weight.clamp(min=1e-12).sqrt()[..., None]
            values = observations.values + scale * errors
            numbered = Observations(torch.arange(len(z)).to(z.device), observations.coords, values, observations.weight)
            perturbed.shift = shift.to(z)
            estimate = solver.solve(perturbed, decoder, numbered, Latent(z))
            draws.append(estimate.latent.mean)
            work += estimate.evaluations
        return Posterior.of_draws(torch.stack(draws)), work
