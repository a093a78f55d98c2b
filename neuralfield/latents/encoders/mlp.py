"""Fully connected: every value of the grid is an input."""

import math

from jaxtyping import Float
from torch import Tensor

from neuralfield.latents.encoders.network import Network, chained, grid_of, layers, on_grid
from neuralfield.types import Observations


class MLP(Network):
    """All values of a signal on its grid, through `depth` hidden layers of `width`."""

    def build(self) -> None:
        self.grid = grid_of(self.shape, "mlp")
        self.layers = layers(math.prod(self.grid) * self.value_dim, self.width, self.depth, self.outputs)

    def forward(self, observations: Observations) -> Float[Tensor, "B _"]:
        return chained(self.layers, self.activation, on_grid(observations, self.grid).flatten(1))
