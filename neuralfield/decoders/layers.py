"""Layers that decoders of coordinates share."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu, silu

Activation = Literal["relu", "leaky-relu", "silu"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": relu,
    "leaky-relu": lambda x: leaky_relu(x, 0.2),  # DCGAN's slope
    "silu": silu,
}


class FourierFeatures(nn.Module):
    """t -> (t, sin 2 pi B t, cos 2 pi B t) with B ~ N(0, bandwidth^2) cycles per unit (Tancik et al. 2020); 0 frequencies give t alone."""

    def __init__(self, coord_dim: int, frequencies: int, bandwidth: float) -> None:
        super().__init__()
        self.out_dim = coord_dim + 2 * frequencies
        self.register_buffer("frequencies", torch.randn(coord_dim, frequencies) * bandwidth)

    def forward(self, coords: Float[Tensor, "G N C"]) -> Float[Tensor, "G N F"]:
        phase = 2 * math.pi * (coords @ self.frequencies)
        return torch.cat([coords, phase.sin(), phase.cos()], -1)
