"""What an epoch goes over: signals, or single samples of them."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from neuralfield.devices import sent
from neuralfield.recipe import Training
from neuralfield.signals.signals import Signals
from neuralfield.types import Observations


class Batches(ABC):
    """`count` items, of which every epoch takes each once, in an order of its own."""

    count: int

    @abstractmethod
    def batch(self, items: Int[Tensor, " b"], generator: torch.Generator) -> Observations:
        """The observations of some items."""


class BySignals(Batches):
    """Signals, each with all its points or with `points` of them."""

    def __init__(self, signals: Signals, points: int | None) -> None:
        self.signals, self.points, self.count = signals, points, len(signals)

    def batch(self, items: Int[Tensor, " b"], generator: torch.Generator) -> Observations:
        return self.signals.batch(items, self.points, generator)


class BySamples(Batches):
    """Pairs of a signal and one of its points, as published function autodecoders shuffle them.

    A pair stands for all points of its signal, so that the prior counts once per signal and not once per pair.
    """

    AT_ONCE: ClassVar[int] = 1024

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        known, counts = [], []
        for batch in signals.batches(self.AT_ONCE):
            pairs = torch.nonzero(batch.weight > 0)
            known.append(torch.stack([batch.index[pairs[:, 0]], pairs[:, 1]], 1).cpu())
            counts.append(batch.weight.sum(1).cpu())
        self.pairs, self.known = torch.cat(known), torch.cat(counts)
        self.count = len(self.pairs)

    def batch(self, items: Int[Tensor, " b"], generator: torch.Generator) -> Observations:
        signal, point = self.pairs[items].T
        needed, row = signal.unique(return_inverse=True)
        whole = self.signals.batch(needed)
        device, weight = whole.weight.device, self.known[signal]
        signal, point, row, weight = (sent(each, device) for each in (signal, point, row, weight))
        coords = whole.coords[0, point] if len(whole.coords) == 1 else whole.coords[row, point]
        return replace(
            whole, index=signal, coords=coords[:, None], values=whole.values[row, point][:, None], weight=weight[:, None]
        )


def batches_of(signals: Signals, settings: Training) -> Batches:
    """As the recipe's `training.draw` says."""
    return BySamples(signals) if settings.draw == "samples" else BySignals(signals, settings.points)
