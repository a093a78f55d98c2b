"""Observed points of curves, one row each, before it is decided how to hold them: checked, sorted, free of duplicates."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int

from neuralfield.errors import NeuralfieldError, NeuralfieldWarning


@dataclass(frozen=True)
class Samples:
    """Point m belongs to curve `curve[m]`, and is `values[m]` at `times[m]`; NaN where a channel was not observed."""

    curve: Int[np.ndarray, " M"]
    times: Float[np.ndarray, " M"]
    values: Float[np.ndarray, "M V"]
    ids: list[str]
    names: list[str] | None = None

    @classmethod
    def from_arrays(cls, t: np.ndarray, x: np.ndarray, ids: list[str] | None, names: list[str] | None) -> Self:
        """From `t` [T] or [n, T] and `x` [n, T] or [n, T, V]."""
        t, x = _numbers(t, "times"), _numbers(x, "values")
        if x.ndim not in (2, 3) or t.shape not in (x.shape[:2], x.shape[1:2]):
            shapes = f"times {list(t.shape)} and values {list(x.shape)}"
            raise NeuralfieldError(f"curves need times [T] or [n, T] and values [n, T] or [n, T, V], got {shapes}")
        n, length, channels = *x.shape[:2], x.shape[2] if x.ndim == 3 else 1
        times = np.broadcast_to(t, (n, length)).ravel()
        return cls(np.repeat(np.arange(n), length), times, x.reshape(n * length, channels), _ids(ids, n), names)

    @classmethod
    def from_list(cls, curves: Sequence[tuple[Any, Any]], ids: list[str] | None, names: list[str] | None) -> Self:
        """From (times [T_i], values [T_i] or [T_i, V]) of every curve."""
        ids = _ids(ids, len(curves))
        parts = [_pair(t, x, name) for (t, x), name in zip(curves, ids, strict=True)]
        with_points = [(name, x.shape[1]) for (t, x), name in zip(parts, ids, strict=True) if len(t)]
        for name, channels in with_points:
            if channels != with_points[0][1]:
                first = "curve {} has {}".format(*with_points[0])
                raise NeuralfieldError(f"curves mix numbers of channels: {first}, curve {name} has {channels}")
        curve = np.repeat(np.arange(len(parts)), [len(t) for t, _ in parts])
        times = np.concatenate([t for t, _ in parts]) if parts else np.zeros(0)
        values = np.concatenate([x for t, x in parts if len(t)]) if with_points else np.zeros((0, 1))
        return cls(curve, times, values, ids, names)

    def cleaned(self) -> "Samples":
        """The observed points alone, sorted by curve and time, each time once in a curve."""
        if not self.ids:
            raise NeuralfieldError("there are no curves")
        channels = self.values.shape[1]
        if not channels or (self.names is not None and len(self.names) != channels):
            raise NeuralfieldError(f"curves of {channels} channels came with {len(self.names or [])} names; give one for each")
        return self._observed()._sorted()._averaged()._with_some()

    def _observed(self) -> "Samples":
        """Without points of which a channel is not known; what is infinite, or known at no time, is refused."""
        self._refuse(np.isinf(self.values).any(1), "an infinite value")
        self._refuse(np.isinf(self.times), "an infinite time")
        missing = np.isnan(self.values)
        known = ~missing.any(1)
        self._refuse(known & np.isnan(self.times), "a value at a time that is not a number")
        partly = ~known & ~missing.all(1)
        if partly.any():
            self._warn(
                f"{partly.sum()} points lack some of their channels (the first is {self._at(partly)}): they count as not observed"
            )
        return self._rows(known)

    def _sorted(self) -> "Samples":
        return self._rows(np.lexsort((self.times, self.curve)))

    def _averaged(self) -> "Samples":
        """Of sorted samples: one for each time of a curve, with the mean of its values."""
        new = np.ones(len(self.times), bool)
        new[1:] = (np.diff(self.curve) != 0) | (np.diff(self.times) != 0)
        if new.all():
            return self
        self._warn(f"{(~new).sum()} times occur again in their curve (the first is {self._at(~new)}): their values are averaged")
        first = np.flatnonzero(new)
        counts = np.diff(first, append=len(new))
        return replace(self._rows(first), values=np.add.reduceat(self.values, first) / counts[:, None])

    def _with_some(self) -> "Samples":
        """The same, with a warning where curves have no point."""
        empty = np.flatnonzero(np.bincount(self.curve, minlength=len(self.ids)) == 0)
        if len(empty) == len(self.ids):
            raise NeuralfieldError(f"none of the {len(self.ids)} curves has an observed point; NaN means not observed")
        if len(empty):
            self._warn(
                f"{len(empty)} of {len(self.ids)} curves {'has' if len(empty) == 1 else 'have'} no observed point "
                f'(the first is "{self.ids[empty[0]]}"): they get the prior'
            )
        return self

    def _rows(self, which: np.ndarray) -> "Samples":
        return replace(self, curve=self.curve[which], times=self.times[which], values=self.values[which])

    def _at(self, which: np.ndarray) -> str:
        """The first of some points, for people."""
        m = int(np.flatnonzero(which)[0])
        return f"at time {self.times[m]:.10g} of curve {self.ids[self.curve[m]]}"

    def _refuse(self, bad: np.ndarray, what: str) -> None:
        if bad.any():
            count = len(np.unique(self.curve[bad]))
            raise NeuralfieldError(
                f"there is {what} {self._at(bad)} ({count} of {len(self.ids)} curves have such points); mend or leave them out"
            )

    @staticmethod
    def _warn(message: str) -> None:
        warnings.warn(message, NeuralfieldWarning, stacklevel=2)


def _numbers(array: Any, what: str) -> Float[np.ndarray, "..."]:
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise NeuralfieldError(f"{what} of curves must be numbers, got {array.dtype}")
    return array.astype(np.float64)


def _pair(t: Any, x: Any, name: str) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, "T V"]]:
    t, x = _numbers(t, "times"), _numbers(x, "values")
    if t.ndim != 1 or x.ndim not in (1, 2) or len(t) != len(x):
        raise NeuralfieldError(
            f"curve {name} needs times [T] and values [T] or [T, V], got times {list(t.shape)} and values {list(x.shape)}"
        )
    return t, x.reshape(len(t), -1) if len(t) else np.zeros((0, 1))


def _ids(ids: list[str] | None, count: int) -> list[str]:
    if ids is None:
        return [str(i) for i in range(count)]
    if len(ids) != count:
        raise NeuralfieldError(f"{count} curves came with {len(ids)} ids; give one for each")
    return list(ids)
