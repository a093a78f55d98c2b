"""Transposed convolutions with coordinate channels: a map of the signals' own size, read as a field between its pixels."""

import math
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from neuralfield.decoders.decoder import Decoder
from neuralfield.decoders.layers import Activation
from neuralfield.decoders.reading import read_map
from neuralfield.domains.grid import pixel_centres
from neuralfield.kernels.reference import ACTIVATIONS

SMALLEST = 4
"""Side of the first map: 4x4 doubled three times is 32x32, as in the usual MNIST decoders."""


class Convolutional(Decoder):
    """z -> a small map -> doubled by transposed convolutions until it covers `shape` -> cropped.

    Coordinates of the pixels are two more input channels of every layer (Liu et al. 2018), and `width` channels double on
    every coarser map, up to four times. Between pixel centres values are cubic interpolations, exact at the centres.
    """

    pointwise: ClassVar[bool] = False
    maps: ClassVar[bool] = True

    def __init__(
        self, shape: tuple[int, ...], value_dim: int, code_dim: int, width: int = 32, activation: Activation = "leaky-relu"
    ) -> None:
        super().__init__()
        if len(shape) != 2:
            raise ValueError(f"it makes maps of two axes, but the signals lie on a grid of {len(shape)}: {list(shape)}")
        self.shape, self.activation = shape, ACTIVATIONS[activation]
        doublings = max(0, int(math.log2(min(shape) / SMALLEST))) if min(shape) >= SMALLEST else 0
        self.first_shape = tuple(math.ceil(side / 2**doublings) for side in shape)
        channels = [min(4 * width, width * 2**step) for step in reversed(range(max(1, doublings)))]
        self.first = nn.Linear(code_dim, channels[0] * math.prod(self.first_shape))
        doubling = [nn.ConvTranspose2d(i + 2, o, 4, 2, 1) for i, o in zip(channels, [*channels[1:], value_dim], strict=True)]
        self.layers = nn.ModuleList(doubling if doublings else [nn.Conv2d(channels[0] + 2, value_dim, 3, padding=1)])

    def condition(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B V height width"]:
        height, width = self.first_shape
        h = rearrange(self.first(z), "b (c h w) -> b c h w", h=height, w=width)
        for layer in self.layers:
            h = self.activation(h)
            centres = rearrange(pixel_centres(h.shape[2], h.shape[3], h.device), "1 (h w) c -> 1 c h w", h=h.shape[2])
            h = layer(torch.cat([h, centres.expand(len(h), -1, -1, -1)], 1))
        top, left = ((have - want) // 2 for have, want in zip(h.shape[2:], self.shape, strict=True))
        return h[..., top : top + self.shape[0], left : left + self.shape[1]]

    def evaluate(self, conditioning: Float[Tensor, "B V height width"], coords: Float[Tensor, "G N 2"]) -> Float[Tensor, "B N V"]:
        return read_map(conditioning, coords)
