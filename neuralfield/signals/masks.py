"""What is seen of a signal and what is hidden: `center:12`, `half:left`, `random:0.1`, `first:0.5`, `file:MASK`, `depth:30,20`."""

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor

from neuralfield.domains.domain import Domain
from neuralfield.errors import NeuralfieldError, NeuralfieldWarning, UsageError
from neuralfield.registry import resolve
from neuralfield.seeds import generator
from neuralfield.types import AT_LEAST, EQUAL, Observations


class Mask(ABC):
    """A region of points; constructed from what stands behind the colon, and a seed and a place for those that draw."""

    def __init__(self, argument: str, seed: int = 0, place: int = 0) -> None:
        self.argument, self.seed, self.place = argument, seed, place

    @abstractmethod
    def __call__(self, observations: Observations, domain: Domain) -> Bool[Tensor, "B N"]:
        """Which points lie in the region."""

    def bounded(self, observations: Observations, domain: Domain) -> Bool[Tensor, "B N"]:
        """Of which points of the region only a lower bound of the value is seen, 0; for most masks of none."""
        return torch.zeros_like(observations.weight, dtype=torch.bool)

    def number(self, example: str) -> float:
        """The argument as a number."""
        try:
            return float(self.argument)
        except ValueError:
            raise UsageError(f'a mask like {example} needs a number behind the colon, got "{self.argument}"') from None

    def share(self, example: str) -> float:
        """The argument as a share of the points."""
        share = self.number(example)
        if not 0 < share <= 1:
            raise UsageError(f"mask {example.partition(':')[0]}:{self.argument} needs a share above 0 and at most 1")
        return share


class Center(Mask):
    """`center:12`: the central 12 samples along every axis of the signals' own grid.

    Where an odd number cannot lie centrally among an even one (or the reverse) it is one more, the same on both sides.
    """

    def __call__(self, observations: Observations, domain: Domain) -> Bool[Tensor, "B N"]:
        size = self.number("center:12")
        if domain.shape is None:
            raise UsageError(f'mask "center:{self.argument}" counts samples of a grid, and this domain has no grid of its own')
        if not 0 < size <= max(domain.shape):
            raise UsageError(f"mask center:{self.argument} must lie between 1 and the grid's longer side, {max(domain.shape)}")
        # a sample's distance from the centre, in halves of a sample: whole numbers, so that both sides are alike
        distances = [(2 * place + 1 - n).abs() for place, n in zip(places(observations, domain), domain.shape, strict=True)]
        return (torch.stack(distances) <= size).all(0).expand(observations.weight.shape)


class Half(Mask):
    """`half:left` (image), `half:x` (where x < 0), `half:-x` (where x > 0)."""

    def __call__(self, observations: Observations, domain: Domain) -> Bool[Tensor, "B N"]:
        axis, sign = domain.axis(self.argument)
        return (observations.coords[..., axis] * sign > 0).expand(observations.weight.shape)


class Random(Mask):
    """`random:0.1`: a tenth of the known points, drawn for each signal on its own, whatever batch it is in."""

    def __call__(self, observations: Observations, domain: Domain) -> Bool[Tensor, "B N"]:
        share, known = self.share("random:0.1"), observations.weight.cpu() > 0
        region = torch.zeros_like(known)
        for row, i in enumerate(observations.index.tolist()):
            where = known[row].nonzero()[:, 0]
            order = torch.randperm(len(where), generator=generator(self.seed, self.place, i))
            region[row, where] = order < max(1, round(share * len(where)))
        return region.to(observations.weight.device)


class First(Mask):
    """`first:0.5`: the first half of a signal's own known points, in order of their first coordinate (for curves: of time)."""

    def __call__(self, observations: Observations, domain: Domain) -> Bool[Tensor, "B N"]:
        share, known = self.share("first:0.5"), observations.weight > 0
        along = observations.coords[..., 0].expand(known.shape).masked_fill(~known, torch.inf)
        place = along.argsort(dim=1, stable=True).argsort(dim=1)
        count = (share * known.sum(1, keepdim=True).double()).round().clamp(min=1)
        return known & (place < count)


class File(Mask):
    """`file:mask.png` or `file:mask.npy`: 1 (or white) marks the region, on the signals' own grid.

    Points that lie between samples of the grid belong to the nearest one.
    """

    def __call__(self, observations: Observations, domain: Domain) -> Bool[Tensor, "B N"]:
        region = read_mask(Path(self.argument))
        if domain.shape is None:
            raise UsageError(f"mask {self.argument} marks samples of a grid, and this domain has no grid of its own")
        if region.shape != tuple(domain.shape):
            sizes = " x ".join(map(str, region.shape)), " x ".join(map(str, domain.shape))
            raise NeuralfieldError(f"mask {self.argument} is {sizes[0]}, but the signals (after padding) are {sizes[1]}")
        if not region.any():
            raise NeuralfieldError(f"mask {self.argument} marks nothing; 1, or white, marks the region")
        marked = torch.from_numpy(region).to(observations.weight.device)
        return marked[tuple(places(observations, domain))].expand(observations.weight.shape)


class Visibility:
    """All `--observe` and `--hide` of a command: seen is the union of what is observed, less all that is hidden."""

    def __init__(self, observe: Sequence[str] | str = (), hide: Sequence[str] | str = (), seed: int = 0) -> None:
        sides = [[side] if isinstance(side, str) else list(side) for side in (observe, hide)]
        self._asked = dict(zip(("observe", "hide"), sides, strict=True))
        # each mask has a place, so that two that draw do not draw the same
        place = itertools.count()
        self.observe, self.hide = ([_mask(what, seed, next(place)) for what in side] for side in sides)
        self.masks = [*self.observe, *self.hide]

    def __str__(self) -> str:
        """As on the command line."""
        return " ".join(f"--{side} {what}" for side, asked in self._asked.items() for what in asked)

    def __call__(self, observations: Observations, domain: Domain) -> Bool[Tensor, "B N"]:
        """True where a point is seen. Where nothing would be left of any signal that is refused; of some, there is a warning."""
        seen = self.seen(observations, domain)
        known = observations.weight > 0
        blind = known.any(1) & ~(seen & known).any(1)
        if blind.any():
            which = observations.index[blind].tolist()
            what = f"the masks hide everything of {len(which)} signals (the first is number {which[0]})"
            if blind.sum() == known.any(1).sum():
                raise NeuralfieldError(f"{what}; leave some points to see")
            warnings.warn(
                f"{what}, of which nothing can be told but what the others have in common", NeuralfieldWarning, stacklevel=2
            )
        return seen

    def seen(self, observations: Observations, domain: Domain) -> Bool[Tensor, "B N"]:
        """The same, whatever is left."""
        everything = torch.ones_like(observations.weight, dtype=torch.bool)
        seen = torch.stack([m(observations, domain) for m in self.observe]).any(0) if self.observe else everything
        for mask in self.hide:
            seen = seen & ~mask(observations, domain)
        return seen

    def split(self, observations: Observations, domain: Domain) -> tuple[Observations, Observations]:
        """(observed, hidden). Where all that sees a point sees a bound alone, the value observed there is the bound."""
        observed, hidden = observations.split(self(observations, domain))
        bounds = [mask.bounded(observations, domain) for mask in self.observe]
        if not any(bool(bound.any()) for bound in bounds):
            return observed, hidden
        told = [mask(observations, domain) & ~bound for mask, bound in zip(self.observe, bounds, strict=True)]
        free = torch.stack(bounds).any(0) & ~torch.stack(told).any(0) & (observed.weight > 0)
        values = observed.values.masked_fill(free[..., None], 0.0)
        before = EQUAL if observed.relation is None else observed.relation
        return replace(observed, values=values, relation=torch.where(free, AT_LEAST, before)), hidden


def places(observations: Observations, domain: Domain) -> list[Int[Tensor, "G N"]]:
    """Of every point the nearest sample along each axis of the signals' own grid, slowest axis first as in `domain.shape`."""
    found = []
    for axis in reversed(range(domain.coord_dim)):
        samples = domain.grid()[0, :, axis].unique().to(observations.coords)  # sorted
        found.append(torch.bucketize(observations.coords[..., axis].contiguous(), (samples[1:] + samples[:-1]) / 2))
    return found


def read_mask(path: Path) -> np.ndarray:
    """A picture or a .npy array as a boolean array; white, or 1, is True."""
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False)) > 0
        picture = np.asarray(Image.open(path).convert("L"))
        return picture > (127 if picture.max() > 1 else 0)
    except (OSError, ValueError, EOFError) as error:
        raise NeuralfieldError(f"mask {path} cannot be read ({error}); it must be a picture or a .npy array") from None


def _mask(what: str, seed: int, place: int) -> Mask:
    kind, _, argument = what.partition(":")
    mask: Mask = resolve("masks", kind)(argument, seed, place)
    return mask
