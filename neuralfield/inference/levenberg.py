"""Levenberg-Marquardt on the exact Jacobian, for any decoder, likelihood and prior: a handful of steps, every signal on its own."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuralfield.decoders.decoder import Decoder
from neuralfield.inference.laplace import gaussian
from neuralfield.inference.quadratic import Quadratic, evaluations, quadratic, refuse_others, secant
from neuralfield.inference.solver import Solver, negligible, points_per_seen, reasons_of
from neuralfield.objective import MAP, Objective
from neuralfield.types import Estimate, Latent, Loss, Observations

LEAST_DAMPING, MOST_DAMPING = 1e-9, 1e9
LEAST_RATIO = 1e-3
"""Of the promised fall, what a step must bring to be taken."""


class Levenberg(Solver):
    """Damped Gauss-Newton: d = -(H + damping diag H)^-1 g, taken where it lowers the objective.

    H comes from the exact Jacobian in the first `jacobians` steps; from then on BFGS updates bring in what Gauss-Newton leaves out,
    the decoder's own curvature, and need gradients alone. Damping follows the ratio of the fall to the one that the quadratic model
    promised (Nielsen 1999). A signal has converged, and leaves the batch, when an undamped step promises less than `tolerance` nats
    per observed value. The estimate's posterior is Laplace's: the Gaussian around the optimum whose precision is H.
    """

    gives_posterior: ClassVar[bool] = True

    def __init__(self, steps: int = 30, tolerance: float = 1e-4, damping: float = 0.1, jacobians: int = 4) -> None:
        if steps < 1 or jacobians < 1 or not (tolerance > 0 and damping > 0):
            raise ValueError(
                "inference.steps and jacobians must be at least 1, tolerance and damping positive, "
                f"got {steps}, {jacobians}, {tolerance} and {damping}"
            )
        self.steps, self.tolerance, self.damping, self.jacobians = steps, tolerance, damping, jacobians

    def check(self, objective: Objective, decoder: Decoder) -> None:
        _only_map(objective)

    @torch.no_grad()
    def solve(self, objective: Objective, decoder: Decoder, observations: Observations, start: Latent) -> Estimate:
        objective, z = _only_map(objective), start.mean.clone()
        at = quadratic(objective, decoder, observations, z)
        damping, growth = (torch.full_like(at.data, value) for value in (self.damping, 2.0))
        tried = torch.zeros(len(z), dtype=torch.long, device=z.device)
        work = evaluations(objective, decoder, observations, z.shape[1]).to(z)
        gradient = 3 * points_per_seen(decoder, observations, objective.points).to(z)
        for number in range(self.steps):
            active = (~self._settled(at, observations) & (damping < MOST_DAMPING)).nonzero()[:, 0]
            if not len(active):
                break
            now, part = at.rows(active), observations.rows(active)
            step = now.step(damping[active])
            there = z[active] + step.to(z)
            exact = number < self.jacobians or decoder.linear_in_code
            trial = quadratic(objective, decoder, part, there) if exact else secant(objective, decoder, part, there, now, step)
            work[active] += evaluations(objective, decoder, part, z.shape[1]).to(z) if exact else gradient[active]
            ratio = ((now.cost - trial.cost) / now.fall(step)).nan_to_num(-1.0, -1.0, -1.0)
            better = ratio > LEAST_RATIO
            z[active] = torch.where(better[:, None], there, z[active])
            at.move(active, trial, better, learned=not exact)
            shrink = (1 - (2 * ratio - 1) ** 3).clamp(min=1 / 3)
            damping[active] = (damping[active] * torch.where(better, shrink, growth[active])).clamp(min=LEAST_DAMPING)
            growth[active] = torch.where(better, 2.0, 2 * growth[active])
            tried[active] += 1
        return self._estimate(z, at, tried.cpu(), observations, work.cpu())

    def _settled(self, at: Quadratic, observations: Observations) -> Bool[Tensor, " B"]:
        return at.fall(at.step()) <= negligible(at.cost, observations, self.tolerance)

    def _estimate(self, z: Tensor, at: Quadratic, tried: Tensor, observations: Observations, work: Float[Tensor, " B"]) -> Estimate:
        converged = self._settled(at, observations).cpu()
        reasons = reasons_of(converged, tried, self.steps)
        loss = Loss(at.data.to(z), at.prior.to(z), observations.observed, torch.zeros((), device=z.device))
        return Estimate(Latent(z), loss, converged, tried, work, reasons, gaussian(z, at.curvature))


def _only_map(objective: Objective) -> MAP:
    return refuse_others(objective, 'solver "levenberg"')
