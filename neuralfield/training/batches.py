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
from neuralfield.training.ranks import Ranks
from neuralfield.types import Observations


class Batches(ABC):
    """`count` items, of which every epoch takes each once, in an order of its own."""

    count: int

    @abstractmethod
    def batch(self, items: Int[Tensor, " b"], generator: torch.Generator) -> Observations:
        """The observations of some items."""

    def order(self, size: int, generator: torch.Generator) -> Int[Tensor, " n"]:
        """An order of all items, of which an epoch takes `size` after `size`."""
        return torch.randperm(self.count, generator=generator)

    def owned(self, items: Int[Tensor, " b"], ranks: Ranks) -> Int[Tensor, " c"]:
        """Those items whose signals the rank owns."""
        return items[ranks.owns(items, self.count)]

    def part(self, items: Int[Tensor, " b"], generator: torch.Generator, ranks: Ranks) -> Observations:
        """What the rank sees of a batch: its own items, in the batch's order. There may be none."""
        if ranks.world == 1:
            return self.batch(items, generator)
        own = self.owned(items, ranks)
        return self.batch(own, generator) if len(own) else self.batch(items[:1], generator).rows(slice(0))


class BySignals(Batches):
    """Signals, each with all its points or with `points` of them."""

    def __init__(self, signals: Signals, points: int | None) -> None:
        self.signals, self.points, self.count = signals, points, len(signals)

    def batch(self, items: Int[Tensor, " b"], generator: torch.Generator) -> Observations:
        return self.signals.batch(items, self.points, generator)

    def order(self, size: int, generator: torch.Generator) -> Int[Tensor, " n"]:
        return balanced(self.count, size, generator)


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

    def owned(self, items: Int[Tensor, " b"], ranks: Ranks) -> Int[Tensor, " c"]:
        return items[ranks.owns(self.pairs[items, 0], len(self.signals))]

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


def balanced(count: int, size: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """A random order of `count` signals of which every `size` in a row are spread evenly over their numbers.

    Each full batch holds one signal of each of the classes [floor(k count / size), floor((k + 1) count / size)), in the order of k:
    any of it that was not taken yet. The last batch holds what is left: one signal of each class with one member more. So a rank
    that owns whole classes has the same share of every full batch.
    """
    edges = torch.arange(size + 1) * count // size
    places = torch.arange(-(-count // size))
    exists = places < edges.diff()[:, None]  # [size, places]: classes differ by one member at most
    keys = torch.rand(exists.shape, generator=generator, dtype=torch.float64).masked_fill_(~exists, 2.0)
    return (edges[:-1, None] + keys.argsort(1)).T[exists.T]


def batches_of(signals: Signals, settings: Training) -> Batches:
    """As the recipe's `training.draw` says."""
    return BySamples(signals) if settings.draw == "samples" else BySignals(signals, settings.points)
