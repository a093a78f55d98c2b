"""Who moves when: codes and decoder together, in turns, or codes inside the decoder's step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from neuralfield.inference.solver import frozen
from neuralfield.recipe import Model
from neuralfield.types import Loss, Observations


@dataclass
class Optimisers:
    """One for the codes (or the encoder), one for the decoder."""

    latents: torch.optim.Optimizer
    decoder: torch.optim.Optimizer

    def rates(self, latents: float, decoder: float) -> None:
        """Set both learning rates."""
        for optimiser, rate in ((self.latents, latents), (self.decoder, decoder)):
            for group in optimiser.param_groups:
                group["lr"] = rate


class Schedule(ABC):
    """Makes the steps of training. `epochs` is its own length, None where the recipe's [training] decides."""

    epochs: int | None = None

    @abstractmethod
    def step(
        self, model: Model, optimisers: Optimisers, observations: Observations, epoch: int, generator: torch.Generator
    ) -> Loss:
        """One step on one batch; returns what the batch cost before it."""


def descend(
    model: Model,
    optimisers: Optimisers,
    observations: Observations,
    generator: torch.Generator,
    moves: tuple[str, ...] = ("latents", "decoder"),
) -> Loss:
    """One gradient step of those that move; no gradient is computed for the others."""
    still = [part for name, part in (("latents", model.source), ("decoder", model.decoder)) if name not in moves]
    with frozen(torch.nn.ModuleList(still)):
        loss = model.objective(model.source, model.decoder, observations, generator)
        (loss.total.mean() + loss.batch).backward()
    for p in model.source.parameters():
        if p.grad is not None and p.grad.is_sparse:
            p.grad *= len(observations)  # a code's own objective, whatever the batch: sums for codes, means for weights
    for name in moves:
        optimiser: torch.optim.Optimizer = getattr(optimisers, name)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return loss
