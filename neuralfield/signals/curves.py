"""Curves x(t) with one or more channels held in memory, on one shared grid of times or each at times of its own."""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuralfield.devices import sent
from neuralfield.domains.function import Function
from neuralfield.errors import NeuralfieldError, NeuralfieldWarning
from neuralfield.seeds import uniform
from neuralfield.signals.samples import Samples
from neuralfield.signals.signals import Signals
from neuralfield.types import Observations

DENSE = 0.5
"""Above this share of observed points, averaged over curves, all times of a set are one grid that its curves share."""
LARGEST = 2**28
"""Values held, padding included: 2 GiB in float64, and as much again in what is made of them."""
BEYOND = 0.01
"""Of the range of times: so far a model of random times serves as well as at its ends."""


class Curves(Signals):
    """`times` [T], shared by all, or [n, T]; `values` [n, T, V], NaN where not observed. Both float64, in the user's units.

    Made by `from_arrays` and `from_list`, which check what they are given. Times of a curve's own are packed: its observed points
    come first, in order, and then padding, where times are the last one again (NaN for a curve with none) and values are NaN.
    `arguments` are those of the domain: times and values are handed out in its units.
    """

    domain = "function"
    ids: list[str]
    held: ClassVar[tuple[str, ...]] = ("_coords", "_weight", "_normalised")

    def __init__(
        self,
        times: Float[Tensor, "*n T"],
        values: Float[Tensor, "n T V"],
        ids: list[str],
        labels: Int[Tensor, " n"] | None,
        arguments: dict[str, Any],
    ) -> None:
        self.times, self.values, self.ids, self.labels = times, values, ids, labels
        self._arguments = arguments
        domain = Function(**arguments)
        known = values[..., 0].isfinite()
        coords = domain.coords_of(times if times.ndim == 2 else times[None])
        self._coords, self._weight = coords.nan_to_num(0.0), known.float()
        self._normalised = domain.normalised(values).nan_to_num(0.0)

    @classmethod
    def from_arrays(
        cls,
        t: np.ndarray,
        x: np.ndarray,
        ids: list[str] | None = None,
        labels: np.ndarray | None = None,
        names: list[str] | None = None,
        over: tuple[float, float] | None = None,
    ) -> Self:
        """From times `t` [T] or [n, T] and values `x` [n, T] or [n, T, V], NaN where not observed.

        A point of which any channel is NaN is not observed. Times may come in any order: they are sorted. Where one occurs twice in
        a curve, its values are averaged. `names` are those of the channels; `over` is the range of times where that is wider
        than what was observed.
        """
        return cls.from_samples(Samples.from_arrays(np.asarray(t), np.asarray(x), ids, names), labels, over)

    @classmethod
    def from_list(
        cls,
        curves: Sequence[tuple[Any, Any]],
        ids: list[str] | None = None,
        labels: np.ndarray | None = None,
        names: list[str] | None = None,
        over: tuple[float, float] | None = None,
    ) -> Self:
        """From a list of (times [T_i], values [T_i] or [T_i, V]), of any lengths; the rest is as in `from_arrays`."""
        return cls.from_samples(Samples.from_list(curves, ids, names), labels, over)

    @classmethod
    def from_samples(cls, samples: Samples, labels: np.ndarray | None = None, over: tuple[float, float] | None = None) -> Self:
        """From observed points in any order."""
        if labels is not None and len(labels) != len(samples.ids):
            raise NeuralfieldError(f"{len(samples.ids)} curves came with {len(labels)} labels; give one for each")
        samples = samples.cleaned()
        times, values = _laid_out(samples)
        grid = times.tolist() if times.ndim == 1 else None
        arguments = {**_range(samples, over), **_standard(samples.values), "times": grid, "names": samples.names}
        labelled = None if labels is None else torch.from_numpy(np.asarray(labels).astype(np.int64))
        return cls(torch.from_numpy(times), torch.from_numpy(values), samples.ids, labelled, arguments)

    @property
    def domain_arguments(self) -> dict[str, Any]:
        return dict(self._arguments)

    def batch(self, index: Int[Tensor, " B"], points: int | None = None, generator: torch.Generator | None = None) -> Observations:
        shared, index = self.times.ndim == 1, sent(index, self._coords.device)
        coords = self._coords if shared else self._coords[index]
        whole = Observations(index, coords, self._normalised[index], self._weight[index])
        count = self.values.shape[1]
        if points is None or points >= count:
            return whole
        if shared:
            return whole.points(torch.randperm(count, generator=generator)[:points])
        return _drawn(whole, points, generator)

    def select(self, index: Int[Tensor, " m"]) -> "Curves":
        labels = None if self.labels is None else self.labels[index]
        times = self.times if self.times.ndim == 1 else self.times[index]
        return Curves(times, self.values[index], [self.ids[i] for i in index.tolist()], labels, self._arguments)

    def like(self, arguments: dict[str, Any]) -> "Curves":
        """These curves in the units of a run; times beyond those that it was fitted to are kept, with a warning."""
        channels = len(arguments["scale"])
        if self.values.shape[2] != channels:
            raise NeuralfieldError(
                f"the run was fitted to curves of {channels} channels, but the data have {self.values.shape[2]}; "
                "give the same ones, in the same order"
            )
        units = {key: arguments[key] for key in ("start", "end", "centre", "scale")} | {"log": arguments.get("log", False)}
        values, names = self._ordered(arguments.get("names"))
        if values is self.values and all(self._arguments.get(key, False) == value for key, value in units.items()):
            return self
        if units["log"]:
            self._refuse_no_logarithm()
        self._warn_beyond(units["start"], units["end"])
        if not units["log"]:  # the domain's default
            del units["log"]
        arguments = {key: value for key, value in self._arguments.items() if key != "log"} | units | {"names": names}
        return Curves(self.times, values, self.ids, self.labels, arguments)

    def logarithmic(self) -> "Curves":
        """The same curves for a model of their logarithms; all values must be positive. They stay in the user's units."""
        self._refuse_no_logarithm()
        known = self.values[self._weight > 0].log().numpy()
        return Curves(self.times, self.values, self.ids, self.labels, self._arguments | _standard(known) | {"log": True})

    def _refuse_no_logarithm(self) -> None:
        bad = (self.values <= 0).any(2)  # what was not observed is NaN, which is not
        if bad.any():
            i, place = (int(k) for k in bad.nonzero()[0])
            at = self.times[place] if self.times.ndim == 1 else self.times[i, place]
            raise NeuralfieldError(
                f"{int(bad.sum())} values have no logarithm, because they are not positive; the first is "
                f"{self.values[i, place].min():.10g} in curve {self.ids[i]} at time {at:.10g}; leave out signals.log"
            )

    def facts(self) -> dict[str, Any]:
        """The range of times, how many points a curve has, the channels and the range of each, in the user's units."""
        known = self._weight > 0
        times, values, counts = self.times.expand(known.shape)[known], self.values[known], known.sum(1)
        # seven digits: values often come from float32
        ranges = [[float(f"{bound:.7g}") for bound in bounds] for bounds in _bounds(values)]
        names = self._arguments["names"] or [str(v) for v in range(len(ranges))]
        shared = self.times.ndim == 1
        return {
            "times": _bounds(times[:, None])[0],
            "grid": f"{self.values.shape[1]} times shared by all" if shared else "each curve has times of its own",
            "points": {"min": int(counts.min()), "median": float(counts.double().quantile(0.5)), "max": int(counts.max())},
            "channels": self._arguments["names"] or len(ranges),
            "values": ranges[0] if len(ranges) == 1 else dict(zip(names, ranges, strict=True)),
        } | ({"known": known.float().mean().item()} if shared else {})

    def __repr__(self) -> str:
        facts = self.facts()
        points, times = facts["points"], " to ".join(f"{t:.10g}" for t in facts["times"])
        return (
            f"Curves({len(self)} signals of domain function: {points['min']} to {points['max']} points each, "
            f"times {times}, channels {facts['channels']})"
        )

    def _ordered(self, names: list[str] | None) -> tuple[Tensor, list[str] | None]:
        """(values, names) with the channels in the order of `names`, where both name the same ones."""
        own = self._arguments["names"]
        if names and own and names != own and sorted(names) == sorted(own):
            return self.values[..., [own.index(name) for name in names]], names
        if names and own and len(own) > 1 and names != own:
            warnings.warn(
                f"the run was fitted to channels {', '.join(names)}, but the data have {', '.join(own)}: taken in this order",
                NeuralfieldWarning,
                stacklevel=4,
            )
        return self.values, own

    def _warn_beyond(self, start: float, end: float) -> None:
        observed = self.times.expand(self._weight.shape)[self._weight > 0]
        slack = BEYOND * (end - start)
        if len(observed) and (observed.min() < start - slack or observed.max() > end + slack):
            warnings.warn(
                f"times of the data reach from {observed.min():.10g} to {observed.max():.10g}, but the run was fitted to times "
                f"from {start:.10g} to {end:.10g}: values outside are extrapolated, and soon mean nothing",
                NeuralfieldWarning,
                stacklevel=3,
            )


def _bounds(values: Float[Tensor, "M V"]) -> list[list[float]]:
    """[lowest, highest] of every column; of nothing, [0, 0]."""
    if not len(values):
        return [[0.0, 0.0]] * values.shape[1]
    return torch.stack([values.amin(0), values.amax(0)], 1).tolist()


def _drawn(whole: Observations, points: int, generator: torch.Generator | None) -> Observations:
    """Every signal's own draw among its known points; those drawn stand for all of them. Where there are fewer, all are taken."""
    known = whole.weight > 0
    order = uniform(generator, whole.index, known.shape[1]).masked_fill(~known, 2.0)  # those not known come last
    which = order.argsort(stable=True, dim=1)[:, :points]  # the same on every device
    count = known.sum(1, keepdim=True)
    weight = whole.weight.gather(1, which) * (count / count.clamp(1, points))
    coords, values = (part.gather(1, which[..., None].expand(-1, -1, part.shape[2])) for part in (whole.coords, whole.values))
    return Observations(whole.index, coords, values, weight)


def _laid_out(samples: Samples) -> tuple[Float[np.ndarray, "*n T"], Float[np.ndarray, "n T V"]]:
    """(times, values) of cleaned samples: on the grid of all their times where that is dense, else packed."""
    n, channels = len(samples.ids), samples.values.shape[1]
    counts = np.bincount(samples.curve, minlength=n)
    grid, place = np.unique(samples.times, return_inverse=True)
    times: np.ndarray = grid
    if len(samples.times) <= DENSE * len(grid) * np.count_nonzero(counts):
        place = np.arange(len(samples.times)) - np.repeat(np.cumsum(counts) - counts, counts)
        width = counts.max()
        _refuse_padding(samples, counts, channels)
        ends = np.minimum(np.arange(width), counts[:, None] - 1) + (np.cumsum(counts) - counts)[:, None]
        times = np.where(counts[:, None] > 0, samples.times[np.clip(ends, 0, len(samples.times) - 1)], np.nan)
    values = np.full((n, times.shape[-1], channels), np.nan)
    values[samples.curve, place] = samples.values
    return times, values


def _refuse_padding(samples: Samples, counts: Int[np.ndarray, " n"], channels: int) -> None:
    """Curves are padded to the longest; one that is far longer than the others would fill the memory with padding."""
    if counts.max() * len(counts) * channels > LARGEST:
        longest = int(counts.argmax())
        raise NeuralfieldError(
            f"curve {samples.ids[longest]} has {counts[longest]} points, and {len(counts)} curves padded to that length do not fit "
            f"in memory; thin it out (a curve has {np.median(counts):g} points in the median), or split it"
        )


def _range(samples: Samples, over: tuple[float, float] | None) -> dict[str, float]:
    """Where times start and end; curves of one time get a range of 1."""
    start, end = float(samples.times.min()), float(samples.times.max())
    if over is not None:
        start, end = min(start, over[0]), max(end, over[1])
    return {"start": start, "end": end if end > start else start + 1}


def _standard(values: Float[np.ndarray, "M V"]) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel; 1 where it is constant, up to the rounding of its mean."""
    centre, scale = values.mean(0), values.std(0)
    scale = np.where(scale > 1e-12 * np.abs(centre), scale, 1.0)
    return {"centre": centre.tolist(), "scale": scale.tolist()}
