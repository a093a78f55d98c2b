"""Shapes: signed distances at points of their own, in memory or mapped from files."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuralfield.devices import sent
from neuralfield.errors import NeuralfieldError
from neuralfield.seeds import uniform
from neuralfield.signals.signals import Signals
from neuralfield.signals.stacked import Stacked, stacked_bytes
from neuralfield.types import AT_LEAST, EQUAL, Observations

MOST = 2**16
"""Samples of a shape that scores look at: DeepSDF's half a million say no more, and would cost more than the epoch they follow."""


@dataclass(frozen=True)
class Sampled:
    """Points of one shape with their signed distances, `values` [N, C + 1]; they may be a memory map.

    `normals` [M, C], where they are known, are those of the surface in the first M points after the `even` ones of `Shapes`. Of the
    last `empty` points it is known only that they are outside. The first `outside` are those outside, where that is known. Where an
    axis `mirrored` is named, all of it counts turned round along it.
    """

    values: Float[np.ndarray, "N _"]
    normals: Float[np.ndarray, "M C"] | None = None
    empty: int = 0
    outside: int | None = None
    mirrored: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, which: Int[np.ndarray, " n"] | slice) -> Float[np.ndarray, "n _"]:
        """Some points with their distances."""
        return self._turned(self.values[which])

    @property
    def directions(self) -> Float[np.ndarray, "M C"] | None:
        """The normals."""
        return None if self.normals is None else self._turned(np.array(self.normals))

    def _turned(self, vectors: Float[np.ndarray, "n _"]) -> Float[np.ndarray, "n _"]:
        if self.mirrored is None:
            return vectors
        turned = np.array(vectors)
        turned[:, self.mirrored] *= -1
        return turned

    def drawn(self, shares: Float[np.ndarray, " n"], balanced: bool) -> Int[np.ndarray, " n"]:
        """Numbers of points from numbers in [0, 1): of all, or `balanced`, the first half of those outside, the others inside."""
        if not balanced:
            return (shares * len(self)).astype(np.int64)
        half, (order, first) = len(shares) // 2, self._sides
        rows = shares * len(self)
        if 0 < first < len(self):  # else all are on one side
            rows = np.concatenate([shares[:half] * first, first + shares[half:] * (len(self) - first)])
        chosen = rows.astype(np.int64)
        return chosen if order is None else order[chosen].astype(np.int64)

    @cached_property
    def _sides(self) -> tuple[Int[np.ndarray, " N"] | None, int]:
        """(numbers of the points, those outside first, or None where they lie so; how many are outside)."""
        if self.outside is not None:
            return None, self.outside
        inside = self.values[:, -1] < 0
        return np.argsort(inside, kind="stable").astype(np.int32), len(self) - int(inside.sum())

    def thinned(self, even: int) -> "Sampled":
        """Of more than `MOST` points the first `even` ones, and others drawn at random: the same whenever it is asked."""
        if len(self) <= MOST:
            return self
        count = len(self) - even
        others = np.random.default_rng(len(self)).choice(count, max(1, MOST - even), replace=False)
        rows = np.concatenate([np.arange(even), even + np.sort(others)])
        normals = None if self.normals is None else self.normals[np.sort(others[others < len(self.normals)])]
        return Sampled(self.values[rows], normals, int((rows >= len(self) - self.empty).sum()), mirrored=self.mirrored)


class Shapes(Signals):
    """Signed distances of shapes, negative inside, at points of each in the cube [-1, 1]^C: arrays [N_i, C + 1], or `Sampled`.

    The first `even` points of every shape lie evenly in the cube. `frames` [n, C + 1] are the centre and the scale that each shape
    was normalised by: a point p of the user's is (p - centre) / scale inside. Of maps a batch reads its rows.

    With `balanced`, draws of some points take half of them outside and half inside, as DeepSDF's: both sides count alike in the
    objective then, however many samples each has.
    """

    domain = "shape"

    def __init__(
        self,
        samples: Sequence[Float[np.ndarray, "_ _"] | Sampled],
        ids: list[str] | None = None,
        frames: Float[Tensor, "n _"] | None = None,
        even: int = 0,
        labels: Int[Tensor, " n"] | None = None,
        balanced: bool = False,
    ) -> None:
        self.ids = ids if ids is not None else [str(i) for i in range(len(samples))]
        self.samples = [part if isinstance(part, Sampled) else Sampled(part) for part in samples]
        arrays = [part.values for part in self.samples]
        widths = {part.shape[1] for part in arrays if part.ndim == 2}
        if not arrays or any(part.ndim != 2 for part in arrays) or len(widths) != 1 or widths - {3, 4}:
            shapes = sorted({str(list(part.shape)) for part in arrays})[:3]
            raise NeuralfieldError(f"shapes need samples [N, 3] of the plane or [N, 4] of space, all alike; got {shapes or 'none'}")
        for name, part in zip(self.ids, self.samples, strict=True):
            if not len(part):
                raise NeuralfieldError(f"shape {name} has no samples")
        self.even, self.labels, self.balanced, self.dims = even, labels, balanced, widths.pop() - 1
        self._most = max(len(part) for part in arrays)
        unchanged = torch.tensor([0.0] * self.dims + [1.0], dtype=torch.float64)
        self.frames: Float[Tensor, "n F"] = unchanged.repeat(len(samples), 1) if frames is None else frames
        self._stacked: Stacked | None = None

    @property
    def domain_arguments(self) -> dict[str, Any]:
        return {"dims": self.dims, "even": self.even}

    def like(self, arguments: dict[str, Any]) -> "Shapes":
        # how the distances of new shapes were sampled does not matter to a run
        super().like({**self.domain_arguments, "dims": arguments.get("dims")})
        return self

    def facts(self) -> dict[str, Any]:
        counts = [len(part) for part in self.samples]
        return {"dims": self.dims, "samples": counts[0] if len(set(counts)) == 1 else [min(counts), max(counts)]}

    def batch(self, index: Int[Tensor, " B"], points: int | None = None, generator: torch.Generator | None = None) -> Observations:
        parts = [self.samples[i] for i in index.tolist()]
        counts = torch.tensor([len(part) for part in parts])
        if points is not None and (self.balanced or points < self._most):  # whatever else is in the batch
            # with replacement: among many, few are drawn twice, and a permutation of all would cost more than the step
            shares = uniform(generator, index, points).numpy()
            drawn = np.stack([part.drawn(share, self.balanced) for part, share in zip(parts, shares, strict=True)])
            values = self._rows(index, drawn)
            weight = (counts[:, None] / points).expand(-1, points).float()
            return self._observed(index, values, weight, torch.from_numpy(drawn))
        return self._whole(index, parts, counts)

    @property
    def held_bytes(self) -> int:
        return stacked_bytes([part.values for part in self.samples])

    def on(self, device: torch.device | str) -> Self:
        """The same; of draws of some points, the points lie on the device. Whole shapes are put together on the CPU as before."""
        moved = copy.copy(self)
        moved._stacked = Stacked([part.values for part in self.samples], [part.mirrored for part in self.samples], device)
        return moved

    def _rows(self, index: Int[Tensor, " B"], drawn: Int[np.ndarray, "B n"]) -> Float[Tensor, "B n _"]:
        """Samples by their numbers."""
        if self._stacked is not None:
            return self._stacked.rows(index, drawn)
        parts = zip(index.tolist(), drawn, strict=True)
        return torch.from_numpy(np.stack([self.samples[i].rows(each) for i, each in parts]))

    def _whole(self, index: Int[Tensor, " B"], parts: list[Sampled], counts: Int[Tensor, " B"]) -> Observations:
        values = np.zeros((len(parts), int(counts.max()), self.dims + 1), np.float32)
        normals = torch.zeros(len(parts), values.shape[1], self.dims)
        for b, part in enumerate(parts):
            values[b, : len(part)] = part.rows(slice(None))
            if (directions := part.directions) is not None:
                normals[b, self.even : self.even + len(directions)] = torch.from_numpy(directions)
        rows = torch.arange(values.shape[1]).expand(len(parts), -1)
        known = any(part.normals is not None for part in parts)
        weight = (rows < counts[:, None]).float()
        return self._observed(index, torch.from_numpy(values), weight, rows, normals if known else None)

    def truth(self, index: Int[Tensor, " B"]) -> Observations:
        """All that is known of some shapes; of those with more than `MOST` samples a part that says as much."""
        parts = [self.samples[i] for i in index.tolist()]
        some = Shapes([part.thinned(self.even) for part in parts], even=self.even)
        found = some.batch(torch.arange(len(index)))
        share = [(len(all_) - self.even) / max(1, len(few) - self.even) for all_, few in zip(parts, some.samples, strict=True)]
        late = torch.arange(found.weight.shape[1]) >= self.even
        return replace(found, index=index, weight=found.weight * torch.where(late, torch.tensor(share)[:, None], 1.0))

    def _observed(
        self,
        index: Int[Tensor, " B"],
        values: Float[Tensor, "B N _"],
        weight: Float[Tensor, "B N"],
        rows: Int[Tensor, "B N"],
        normals: Float[Tensor, "B N C"] | None = None,
    ) -> Observations:
        """What those `rows` of the samples say."""
        parts, relation = [self.samples[i] for i in index.tolist()], None
        if any(part.empty for part in parts):
            told = torch.tensor([[len(part) - part.empty] for part in parts])
            relation = torch.where(rows < told, EQUAL, AT_LEAST)
        index, weight = (sent(each, values.device) for each in (index, weight))
        relation = None if relation is None else sent(relation, values.device)
        return Observations(index, values[..., :-1], values[..., -1:], weight, relation, normals)

    def select(self, index: Int[Tensor, " m"]) -> Self:
        rows = index.tolist()
        labels = None if self.labels is None else self.labels[index]
        samples, ids = ([each[i] for i in rows] for each in (self.samples, self.ids))
        return type(self)(samples, ids, self.frames[index], self.even, labels, self.balanced)

    def with_mirrored(self, axis: int) -> Self:
        """Each shape twice in a row, the second time mirrored at the plane through the centre of its box across an axis."""
        labels = None if self.labels is None else self.labels.repeat_interleave(2)
        pairs = [each for part in self.samples for each in (part, replace(part, mirrored=axis))]
        ids = [each for name in self.ids for each in (name, f"{name}-mirrored")]
        return type(self)(pairs, ids, self.frames.repeat_interleave(2, 0), self.even, labels, self.balanced)
