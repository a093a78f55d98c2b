"""Samples of all shapes as one table, so that a GPU cuts batches from it."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuralfield.devices import sent

Samples = Float[np.ndarray, "_ _"]


class Stacked:
    """Samples [N_i, C + 1] of some shapes on a device; an array that several of them share is there once.

    Where an axis is `mirrored`, all of a shape's points count turned round along it.
    """

    def __init__(self, samples: Sequence[Samples], mirrored: Sequence[int | None], device: torch.device | str) -> None:
        columns, first, begins = samples[0].shape[1], 0, {}
        self.values = torch.empty(sum(len(array) for array in _distinct(samples)), columns, device=device)
        for array in _distinct(samples):
            self.values[first : first + len(array)] = torch.tensor(array).to(device)  # maps are read here, one at a time
            first, begins[id(array)] = first + len(array), first
        self.first = np.array([begins[id(array)] for array in samples])
        signs = torch.ones(len(samples), columns)
        for sign, axis in zip(signs, mirrored, strict=True):
            if axis is not None:
                sign[axis] = -1
        self.signs = signs.to(device)

    def rows(self, index: Int[Tensor, " B"], drawn: Int[np.ndarray, "B n"]) -> Float[Tensor, "B n _"]:
        """Rows `drawn` of some shapes."""
        device = self.values.device
        rows = sent(torch.from_numpy(drawn + self.first[index.numpy()][:, None]), device)
        return self.values[rows] * self.signs[sent(index, device)][:, None]


def stacked_bytes(samples: Sequence[Samples]) -> int:
    """Bytes of the table of some shapes."""
    return 4 * sum(array.size for array in _distinct(samples))


def _distinct(samples: Sequence[Samples]) -> list[Samples]:
    return list({id(array): array for array in samples}.values())
