"""Shapes: signed distances at points of their own, in memory or mapped from files."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuralfield.errors import NeuralfieldError
from neuralfield.signals.signals import Signals
from neuralfield.types import Observations

MOST = 2**16
"""Samples of a shape that scores look at: DeepSDF's half a million say no more, and would cost more than the epoch they follow."""


class Shapes(Signals):
    """`samples[i]` [N_i, C + 1] are points of shape i and their signed distances, negative inside, in the cube [-1, 1]^C.

    The first `even` points of every shape lie evenly in the cube. `frames` [n, C + 1] are the centre and the scale that each shape
    was normalised by: a point p of the user's is (p - centre) / scale inside. Samples may be memory maps; a batch reads its rows.

    With `balanced`, draws of some points take half of them outside and half inside, as DeepSDF's: both sides count alike in the
    objective then, however many samples each has. The first `outside[i]` samples of shape i are those outside, where that is known.
    """

    domain = "shape"

    def __init__(
        self,
        samples: Sequence[Float[np.ndarray, "_ _"]],
        ids: list[str] | None = None,
        frames: Float[Tensor, "n _"] | None = None,
        even: int = 0,
        labels: Int[Tensor, " n"] | None = None,
        balanced: bool = False,
        outside: list[int] | None = None,
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
        self.balanced, self.outside = balanced, outside
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
        counts = torch.tensor([len(part) for part in parts])
        if points is not None and (self.balanced or points < int(counts.max())):
            # with replacement: among many, few are drawn twice, and a permutation of all would cost more than the step
            shares = torch.rand(len(parts), points, generator=generator, dtype=torch.float64).numpy()
            rows = [self._rows(i, share) for i, share in zip(index.tolist(), shares, strict=True)]
            drawn = np.stack([part[each] for part, each in zip(parts, rows, strict=True)])
            weight = (counts[:, None] / points).expand(-1, points).float()
            return _observations(index, drawn, weight)
        return self._whole(index, parts)

    def truth(self, index: Int[Tensor, " B"]) -> Observations:
        """All that is known of some shapes; of more than `MOST` samples the even ones, and every so manieth of the others."""
        return self._whole(index, [self._scored(self.samples[i]) for i in index.tolist()])

    def _scored(self, samples: Float[np.ndarray, "_ _"]) -> Float[np.ndarray, "_ _"]:
        step = -(-len(samples) // MOST)
        return samples if step == 1 else np.concatenate([samples[: self.even], samples[self.even :: step]])

    def _whole(self, index: Int[Tensor, " B"], parts: list[Float[np.ndarray, "_ _"]]) -> Observations:
        """All of these samples, the shorter ones followed by unseen points."""
        counts = torch.tensor([len(part) for part in parts])
        padded = np.zeros((len(parts), int(counts.max()), self.dims + 1), np.float32)
        for row, part in zip(padded, parts, strict=True):
            row[: len(part)] = part
        return _observations(index, padded, (torch.arange(padded.shape[1]) < counts[:, None]).float())

    def _rows(self, shape: int, shares: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Samples of a shape from numbers in [0, 1): from all of them, or half of them from those outside."""
        samples, half, order = self.samples[shape], len(shares) // 2, None
        if not self.balanced:
            return (shares * len(samples)).astype(np.int64)
        if self.outside is not None:
            first = self.outside[shape]
        else:
            inside = samples[:, -1] < 0
            order, first = np.argsort(inside, kind="stable"), len(samples) - int(inside.sum())
        rows = shares * len(samples)
        if 0 < first < len(samples):  # else all are on one side
            rows = np.concatenate([shares[:half] * first, first + shares[half:] * (len(samples) - first)])
        chosen = rows.astype(np.int64)
        return chosen if order is None else order[chosen]

    def select(self, index: Int[Tensor, " m"]) -> Self:
        rows = index.tolist()
        labels = None if self.labels is None else self.labels[index]
        chosen = [self.samples[i] for i in rows]
        outside = None if self.outside is None else [self.outside[i] for i in rows]
        return type(self)(chosen, [self.ids[i] for i in rows], self.frames[index], self.even, labels, self.balanced, outside)


def _observations(index: Int[Tensor, " B"], samples: Float[np.ndarray, "B N _"], weight: Float[Tensor, "B N"]) -> Observations:
    both = torch.from_numpy(samples)
    return Observations(index, both[..., :-1], both[..., -1:], weight)
