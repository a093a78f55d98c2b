"""Layers that decoders of coordinates share."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear, relu, silu

Activation = Literal["relu", "leaky-relu", "silu"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": relu,
    "leaky-relu": lambda x: leaky_relu(x, 0.2),  # DCGAN's slope
    "silu": silu,
}


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
        phase = 2 * math.pi * (coords @ self.frequencies)
        return torch.cat([coords, phase.sin(), phase.cos()], -1)


class Linears(nn.ModuleList):
    """Linear layers in a row, known to be so."""

    def __init__(self, ins: list[int], outs: list[int]) -> None:
        super().__init__(nn.Linear(i, o) for i, o in zip(ins, outs, strict=True))

    def __iter__(self) -> Iterator[nn.Linear]:  # type: ignore[override]
        return super().__iter__()  # type: ignore[return-value]

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index)


def shifted(inputs: Float[Tensor, "G N K"], weight: Float[Tensor, "M K"], shift: Float[Tensor, "B #N M"]) -> Float[Tensor, "B N M"]:
    """inputs weight' + shift, where G is B or 1: in one pass where each signal has inputs of its own."""
    if len(inputs) == len(shift):
        return torch.baddbmm(shift, inputs, weight.T.expand(len(inputs), -1, -1))
    return linear(inputs, weight) + shift
