"""One matrix and a shift."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from neuralfield.latents.encoders.network import Network, grid_of, on_grid
from neuralfield.types import Observations


class Linear(Network):
    """Affine in the values of a signal on its grid: it has no hidden layers, so width, depth and activation say nothing."""

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
        self.grid = grid_of(shape, "linear")
        self.layer = nn.Linear(math.prod(self.grid) * value_dim, outputs)

    def forward(self, observations: Observations) -> Float[Tensor, "B _"]:
        return self.layer(on_grid(observations, self.grid).flatten(1))
