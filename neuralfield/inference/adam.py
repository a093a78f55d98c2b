"""Adam on the codes, all signals of a batch at once."""

import math
from typing import Literal

import torch
from torch import Tensor

from neuralfield.decoders.decoder import Decoder
from neuralfield.inference.solver import Solver, frozen, points_per_seen
from neuralfield.latents.source import FixedCodes
from neuralfield.objective import Objective
from neuralfield.types import Estimate, Latent, Loss, Observations

SETTLING = 0.1
"""A signal has converged if its objective fell by less than `tolerance` over this last share of the steps."""


class Adam(Solver):
    """`steps` steps whose rate falls from `rate` to 0 along a half cosine; each signal keeps the best code it has passed.

    With `decay` "halfway" the rate falls to a tenth after half of the steps. `tolerance` is in nats per observed value. `memory` is
    Adam's second beta: .95 forgets the first, largest gradients in time. Adam works element by element, so a signal's path does not
    depend on its batch.
    """

    def __init__(
        self,
        steps: int = 100,
        rate: float = 0.1,
        tolerance: float = 1e-3,
        decay: Literal["cosine", "halfway"] = "cosine",
        memory: float = 0.95,
    ) -> None:
        if steps < 1 or not rate > 0:
            raise ValueError(f"inference.steps must be at least 1 and inference.rate positive, got {steps} and {rate}")
        self.steps, self.rate, self.tolerance, self.decay, self.memory = steps, rate, tolerance, decay, memory

    def solve(self, objective: Objective, decoder: Decoder, observations: Observations, start: Latent) -> Estimate:
        codes = FixedCodes(start.mean)
        optimiser = torch.optim.Adam(codes.parameters(), betas=(0.9, self.memory))
        best, lowest = start.mean.detach().clone(), torch.full((len(start),), torch.inf, device=start.mean.device)
        settled = lowest
        with frozen(decoder), torch.enable_grad():
            for step in range(self.steps):
                optimiser.param_groups[0]["lr"] = self.rate * self._share(step / self.steps)
                total = objective(codes, decoder, observations).total
                best, lowest = _better(codes.z, total, best, lowest)
                if step <= (1 - SETTLING) * self.steps:
                    settled = lowest
                optimiser.zero_grad()
                total.sum().backward()
                optimiser.step()
        with torch.no_grad():
            best, lowest = _better(codes.z, objective(codes, decoder, observations).total, best, lowest)
            loss = objective(FixedCodes(best), decoder, observations)
        return self._estimate(best, loss, settled - lowest, points_per_seen(decoder, observations, objective.points))

    def _share(self, passed: float) -> float:
        """Of the rate, after a share of the steps."""
        if self.decay == "halfway":
            return 1.0 if passed < 0.5 else 0.1
        return 0.5 * (1 + math.cos(math.pi * passed))

    def _estimate(self, best: Tensor, loss: Loss, fell: Tensor, share: Tensor) -> Estimate:
        converged = fell < self.tolerance
        reasons = tuple(
            "converged"
            if settled
            else f"still falling, by {by:.2g} nats per value over the last {SETTLING:.0%} of {self.steps} steps"
            for settled, by in zip(converged.tolist(), fell.tolist(), strict=True)
        )
        steps = torch.full((len(best),), self.steps)
        # forward 1 + backward 2 a step, and the two forward passes that compare and report
        return Estimate(Latent(best), loss, converged, steps, (3.0 * steps + 2) * share.cpu(), reasons)


def adam_deepsdf(steps: int = 800, rate: float = 5e-3, tolerance: float = 1e-3) -> Adam:
    """DeepSDF's own schedule (its reconstruct.py): the yardstick. Its code starts near 0: take it with inference.start = "mean"."""
    return Adam(steps, rate, tolerance, decay="halfway", memory=0.999)


def _better(z: Tensor, total: Tensor, best: Tensor, lowest: Tensor) -> tuple[Tensor, Tensor]:
    """Per signal the lower of two objectives and its code; an objective that is not a number never wins."""
    wins = total.detach() < lowest
    return torch.where(wins.reshape(-1, *[1] * (z.ndim - 1)), z.detach(), best), torch.where(wins, total.detach(), lowest)
