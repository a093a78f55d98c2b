"""Fully connected: every value of a shared grid is an output of one network of the code."""

import math
from typing import ClassVar

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from neuralfield.decoders.decoder import Decoder
from neuralfield.decoders.layers import Activation, Linears
from neuralfield.decoders.reading import check_readable, read_grid
from neuralfield.kernels.reference import ACTIVATIONS


class MLP(Decoder):
    """z -> `depth` hidden layers of `width` -> values on the grid; between its points they are interpolated, as those of `Linear`.

    The decoder of textbook autoencoders. Its work does not grow with the points that are asked for, its weights do with the grid.
    """

    pointwise: ClassVar[bool] = False
    maps: ClassVar[bool] = True
    grid: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        grid: Float[Tensor, "1 N C"],
        value_dim: int,
        code_dim: int,
        width: int = 256,
        depth: int = 2,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        check_readable(shape)
        self.shape, self.value_dim, self.activation = shape, value_dim, ACTIVATIONS[activation]
        self.register_buffer("grid", grid, persistent=False)
        self.layers = Linears([code_dim, *[width] * depth], [*[width] * depth, math.prod(shape) * value_dim])

    def condition(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B N V"]:
        for number, layer in enumerate(self.layers):
            z = layer(self.activation(z) if number else z)
        return rearrange(z, "b (n v) -> b n v", v=self.value_dim)

    def evaluate(self, conditioning: Float[Tensor, "B N V"], coords: Float[Tensor, "G M C"]) -> Float[Tensor, "B M V"]:
        return read_grid(conditioning, self.shape, self.grid, coords)
