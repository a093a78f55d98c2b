"""Layers that decoders of coordinates share."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuralfield.kernels.reference import full_precision

Activation = Literal["relu", "leaky-relu", "silu"]


class FourierFeatures(nn.Module):
    """t -> (t, sin 2 pi B t, cos 2 pi B t), B ~ N(0, bandwidth^2) in cycles per unit (Tancik et al. 2020).

    With 0 frequencies it is t alone.
    """

    frequencies: Tensor

    def __init__(self, coord_dim: int, frequencies: int, bandwidth: float) -> None:
        super().__init__()
        self.out_dim = coord_dim + 2 * frequencies
        self.register_buffer("frequencies", torch.randn(coord_dim, frequencies) * bandwidth)

    def forward(self, coords: Float[Tensor, "G N C"]) -> Float[Tensor, "G N F"]:
        phase = 2 * math.pi * full_precision(torch.matmul, coords, self.frequencies)
        return torch.cat([coords, phase.sin(), phase.cos()], -1)


class Linears(nn.ModuleList):
    """Linear layers in a row, known to be so."""

    def __init__(self, ins: list[int], outs: list[int]) -> None:
        super().__init__(nn.Linear(i, o) for i, o in zip(ins, outs, strict=True))

    def __iter__(self) -> Iterator[nn.Linear]:  # type: ignore[override]
        return super().__iter__()  # type: ignore[return-value]

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index)
