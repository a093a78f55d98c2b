"""Shapes: signed distances at points of their own, in memory or mapped from files."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuralfield.errors import NeuralfieldError
from neuralfield.signals.signals import Signals
from neuralfield.types import AT_LEAST, EQUAL, Observations


class Shapes(Signals):
    """`samples[i]` [N_i, C + 1] are points of shape i and their signed distances, negative inside, in the cube [-1, 1]^C.

    The first `even` points of every shape lie evenly in the cube. `normals[i]` [M_i, C], where they are known, are those of the
    surface in the M_i points that follow; they ride along with whole shapes. Of the last `empty[i]` points it is known only that
    they are outside. `frames` [n, C + 1] are the centre and the scale that each shape was normalised by: a point p of the user's is
    (p - centre) / scale inside. Samples may be memory maps; a batch reads its rows.
    """

    domain = "shape"

    def __init__(
        self,
        samples: Sequence[Float[np.ndarray, "_ _"]],
        ids: list[str] | None = None,
        frames: Float[Tensor, "n _"] | None = None,
        even: int = 0,
        labels: Int[Tensor, " n"] | None = None,
        normals: Sequence[Float[np.ndarray, "_ _"]] | None = None,
        empty: Sequence[int] | None = None,
    ) -> None:
        self.ids = ids if ids is not None else [str(i) for i in range(len(samples))]
        widths = {part.shape[1] for part in samples if part.ndim == 2}
        if not samples or any(part.ndim != 2 for part in samples) or len(widths) != 1 or widths - {3, 4}:
            shapes = sorted({str(list(part.shape)) for part in samples})[:3]
            raise NeuralfieldError(f"shapes need samples [N, 3] of the plane or [N, 4] of space, all alike; got {shapes or 'none'}")
        for name, part in zip(self.ids, samples, strict=True):
            if not len(part):
                raise NeuralfieldError(f"shape {name} has no samples")
        self.samples, self.even, self.labels, self.dims = list(samples), even, labels, widths.pop() - 1
        self.normals = None if normals is None else list(normals)
        self.empty = None if empty is None else list(empty)
        unchanged = torch.tensor([0.0] * self.dims + [1.0], dtype=torch.float64)
        self.frames: Float[Tensor, "n F"] = unchanged.repeat(len(samples), 1) if frames is None else frames

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
        counts, normals = torch.tensor([len(part) for part in parts]), None
        if points is not None and points < int(counts.max()):
            # with replacement: among many, few are drawn twice, and a permutation of all would cost more than the step
            rows = (torch.rand(len(parts), points, generator=generator, dtype=torch.float64) * counts[:, None]).long()
            drawn = np.stack([part[each] for part, each in zip(parts, rows.numpy(), strict=True)])
            relation = self._relation(index, rows, counts)
            weight = (counts[:, None] / points).expand(-1, points).float()
        else:
            drawn = np.zeros((len(parts), int(counts.max()), self.dims + 1), np.float32)
            for row, part in zip(drawn, parts, strict=True):
                row[: len(part)] = part
            rows = torch.arange(drawn.shape[1]).expand(len(parts), -1)
            weight = (rows < counts[:, None]).float()
            relation = self._relation(index, rows, counts)
            normals = self._normals(index, drawn.shape[1])
        both = torch.from_numpy(drawn)
        return Observations(index, both[..., :-1], both[..., -1:], weight, relation, normals)

    def _relation(self, index: Int[Tensor, " B"], rows: Int[Tensor, "B N"], counts: Int[Tensor, " B"]) -> Int[Tensor, "B N"] | None:
        if self.empty is None:
            return None
        told = counts - torch.tensor([self.empty[i] for i in index.tolist()])
        return torch.where(rows < told[:, None], EQUAL, AT_LEAST)

    def _normals(self, index: Int[Tensor, " B"], count: int) -> Float[Tensor, "B N C"] | None:
        if self.normals is None:
            return None
        normals = torch.zeros(len(index), count, self.dims)
        for row, i in enumerate(index.tolist()):
            own = torch.from_numpy(np.array(self.normals[i]))
            normals[row, self.even : self.even + len(own)] = own
        return normals

    def select(self, index: Int[Tensor, " m"]) -> Self:
        rows = index.tolist()
        labels = None if self.labels is None else self.labels[index]
        chosen = [self.samples[i] for i in rows]
        normals = None if self.normals is None else [self.normals[i] for i in rows]
        empty = None if self.empty is None else [self.empty[i] for i in rows]
        return type(self)(chosen, [self.ids[i] for i in rows], self.frames[index], self.even, labels, normals, empty)
