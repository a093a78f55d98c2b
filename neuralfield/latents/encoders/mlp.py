"""Fully connected: every value of the grid is an input."""

import math

from jaxtyping import Float
from torch import Tensor

from neuralfield.latents.encoders.network import Network, chained, grid_of, layers, on_grid
from neuralfield.types import Observations


class MLP(Network):
    """All values of a signal on its grid, through `depth` hidden layers of `width`."""

    def __init__(
        self,
        coord_dim: int,
        value_dim: int,
        shape: tuple[int, ...] | None,
        outputs: int,
        width: int = 128,
        depth: int = 2,
        activation: str = "relu",
    ) -> None:
        super().__init__(coord_dim, value_dim, shape, outputs, width, depth, activation)
        self.grid = grid_of(shape, "mlp")
        self.layers = layers(math.prod(self.grid) * value_dim, width, depth, outputs)

    def forward(self, observations: Observations) -> Float[Tensor, "B _"]:
        return chained(self.layers, self.activation, on_grid(observations, self.grid).flatten(1))
