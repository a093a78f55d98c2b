"""Who moves when: codes and decoder together, in turns, or codes inside the decoder's step."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from neuralfield.inference.solver import frozen
from neuralfield.recipe import Model
from neuralfield.training.ranks import ALONE, Ranks
from neuralfield.types import Loss, Observations

TOGETHER = 2**12
"""Points that go through a decoder at once on a CPU: 2 MiB a layer of 128 units."""


@runtime_checkable
class Replays(Protocol):
    """What makes the same step again faster than by calling it (`training/graphs.py`)."""

    def step(
        self,
        work: Callable[..., Loss],
        model: Model,
        optimisers: "Optimisers",
        observations: Observations,
        generator: torch.Generator,
        moves: tuple[str, ...],
    ) -> Loss:
        """What work(model, optimisers, observations, generator, moves) does and returns."""


@dataclass
class Optimisers:
    """One for the codes (or the encoder), one for the decoder; and what replays their steps, where anything does."""

    latents: torch.optim.Optimizer
    decoder: torch.optim.Optimizer
    ranks: Ranks = ALONE
    replays: Replays | None = None

    def rates(self, latents: float, decoder: float) -> None:
        """Set both learning rates: in place where they are tensors, which a captured step reads."""
        for optimiser, rate in ((self.latents, latents), (self.decoder, decoder)):
            for group in optimiser.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
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
    if optimisers.replays is not None:
        return optimisers.replays.step(_descended, model, optimisers, observations, generator, moves)
    return _descended(model, optimisers, observations, generator, moves)


def _descended(
    model: Model, optimisers: Optimisers, observations: Observations, generator: torch.Generator, moves: tuple[str, ...]
) -> Loss:
    still = [part for name, part in (("latents", model.source), ("decoder", model.decoder)) if name not in moves]
    parts, found = _parts(model, observations) if len(observations) else [], []
    state = generator.get_state()
    with frozen(torch.nn.ModuleList(still)):
        for part in parts:
            generator.set_state(state)  # what a signal draws does not depend on the part that it is in
            loss = model.objective(model.source, model.decoder, part, generator)
            ((loss.total.sum() + len(part) * loss.batch) / len(observations)).backward()
            found.append(loss)
    for p in model.source.parameters():
        if p.grad is not None and p.grad.is_sparse:
            # a code's own objective, whatever the batch: sums for codes, means for weights
            p.grad._values().mul_(len(observations))
    if optimisers.ranks.world > 1:
        _share(model, optimisers.ranks, len(observations), moves)
    for name in moves:
        optimiser: torch.optim.Optimizer = getattr(optimisers, name)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return _joined(found)


def _share(model: Model, ranks: Ranks, count: int, moves: tuple[str, ...]) -> None:
    """Gradients of the weights become those of all ranks' signals. A rank without any in the batch has none of its own."""
    for p in model.source.parameters() if "latents" in moves else ():
        if p.grad is None:  # no row moves, but the optimiser is to count on every rank
            p.grad = torch.sparse_coo_tensor(
                torch.zeros(1, 0, dtype=torch.long), p.new_zeros(0, *p.shape[1:]), p.shape, device=p.device
            )
    weights = [p for p in model.decoder.parameters() if p.requires_grad] if "decoder" in moves else []
    for p in weights:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    ranks.average([p.grad for p in weights if p.grad is not None], count)


def _parts(model: Model, observations: Observations) -> list[Observations]:
    """Signals whose activations stay in a CPU's cache while they go forward and back."""
    count, points = observations.weight.shape
    whole = observations.weight.is_cuda or model.decoder.maps or not model.decoder.pointwise or not model.objective.separable
    if whole or count * points <= TOGETHER:
        return [observations]
    each = max(1, TOGETHER // points)
    return [observations.rows(slice(first, first + each)) for first in range(0, count, each)]


def _joined(found: list[Loss]) -> Loss:
    """What the parts of a batch cost, as one; nothing, where there are none."""
    if not found:
        return Loss(torch.zeros(0), torch.zeros(0), torch.zeros(0), torch.zeros(()))
    if len(found) == 1:
        return found[0]
    data, prior, observed = (torch.cat([getattr(loss, name).detach() for loss in found]) for name in ("data", "prior", "observed"))
    shares = [len(loss.data) / len(data) for loss in found]

    def weighed(each: list[Tensor]) -> Tensor:
        return torch.stack([share * number.detach() for share, number in zip(shares, each, strict=True)]).sum(0)

    terms = {name: weighed([loss.terms[name] for loss in found]) for name in found[0].terms}
    return Loss(data, prior, observed, weighed([loss.batch for loss in found]), terms)
