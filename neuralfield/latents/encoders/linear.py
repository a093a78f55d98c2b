"""One matrix and a shift."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from neuralfield.latents.encoders.network import Network, grid_of, on_grid
from neuralfield.types import Observations


class Linear(Network):
    """Affine in the values of a signal on its grid: it has no hidden layers, so width, depth and activation say nothing."""

    def build(self) -> None:
        self.grid = grid_of(self.shape, "linear")
        self.layer = nn.Linear(math.prod(self.grid) * self.value_dim, self.outputs)

    def forward(self, observations: Observations) -> Float[Tensor, "B _"]:
        return self.layer(on_grid(observations, self.grid).flatten(1))
