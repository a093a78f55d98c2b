"""Searches from several starts: the best is the answer, all of them make the posterior."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from neuralfield.decoders.decoder import Decoder
from neuralfield.inference.laplace import around, mixture
from neuralfield.inference.posterior import Posterior
from neuralfield.inference.solver import Solver
from neuralfield.inference.thinning import thinned
from neuralfield.objective import MAP, Objective
from neuralfield.types import Estimate, Latent, Loss, Observations


def search(
    solver: Solver,
    objective: Objective,
    decoder: Decoder,
    observations: Observations,
    starts: Float[Tensor, "S B D"],
    with_posterior: bool = False,
) -> Estimate:
    """Solve from every start. The estimate is the lowest objective's; its `evaluations` are those of all.

    `with_posterior` asks for Laplace's approximation, also of solvers that do not make it by themselves.
    """
    found = [solved(solver, objective, decoder, observations, Latent(z), with_posterior) for z in starts]
    return found[0] if len(found) == 1 else _best(found)


def solved(
    solver: Solver, objective: Objective, decoder: Decoder, observations: Observations, start: Latent, with_posterior: bool = False
) -> Estimate:
    """What the solver finds from one start; with Laplace's approximation around it, where a posterior is wanted and it has none.

    A search may leave what the prior allows: found are the codes that the objective takes them for.
    """
    estimate = solver.solve(objective, decoder, observations, objective.within(start))
    estimate = replace(estimate, latent=objective.within(estimate.latent))
    if not isinstance(objective, MAP) or not with_posterior:
        return estimate
    posterior, work = around(objective, decoder, observations, estimate)
    return replace(estimate, posterior=posterior, evaluations=estimate.evaluations + work)


def coarse_search(
    solver: Solver, objective: Objective, decoder: Decoder, observations: Observations, starts: Float[Tensor, "S B D"], points: int
) -> tuple[Float[Tensor, "S B D"], Float[Tensor, " B"]]:
    """(where searches end that look at `points` of each signal's points, evaluations over all points that they took)."""
    part = thinned(observations, points)
    found = [solver.solve(objective, decoder, part, Latent(z)) for z in starts]
    seen = [(each.weight > 0).sum(1).clamp(min=1).cpu() for each in (part, observations)]
    share = seen[0] / seen[1]
    work = torch.stack([estimate.evaluations for estimate in found]).sum(0)
    return torch.stack([estimate.latent.mean for estimate in found]), share * work


def _best(found: list[Estimate]) -> Estimate:
    costs = torch.stack([estimate.loss.data + estimate.loss.prior for estimate in found])
    best = costs.nan_to_num(nan=torch.inf).argmin(0)

    def chosen(each: list[Tensor]) -> Tensor:
        stacked = torch.stack(each)
        return stacked[best.to(stacked.device), torch.arange(stacked.shape[1], device=stacked.device)]

    data, prior = (chosen([getattr(estimate.loss, name) for estimate in found]) for name in ("data", "prior"))
    posteriors: list[Posterior] = [estimate.posterior for estimate in found if estimate.posterior is not None]
    return Estimate(
        Latent(chosen([estimate.latent.mean for estimate in found])),
        Loss(data, prior, found[0].loss.observed, found[0].loss.batch),
        chosen([estimate.converged for estimate in found]),
        chosen([estimate.steps for estimate in found]),
        torch.stack([estimate.evaluations for estimate in found]).sum(0),
        tuple(found[k].reasons[b] for b, k in enumerate(best.tolist())),
        mixture(costs, posteriors) if posteriors else None,
    )
