"""Strided convolutions: the decoder of that name, the other way round."""

import math
from itertools import pairwise

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from neuralfield.latents.encoders.network import Network, grid_of, on_grid
from neuralfield.types import Observations

SMALLEST = 4
"""Side of the last map: 32x32 halved three times."""


class Convolutional(Network):
    """An image of any size, halved by convolutions until its shorter side is about 4, and a linear layer on what is left.

    `width` channels double on every coarser map, up to four times. How often it is halved is up to the shape, so `depth` says
    nothing. Images that cannot be halved so often are joined by black rows and columns, the same on both sides up to one.
    """

    def build(self) -> None:
        self.grid = grid_of(self.shape, "convolutional")
        if len(self.grid) != 2:
            raise ValueError(
                f"network convolutional reads grids of two axes, but the signals' has {len(self.grid)}: {list(self.grid)}; "
                "latents.network=mlp takes any grid"
            )
        halvings = int(math.log2(min(self.grid) / SMALLEST)) if min(self.grid) >= SMALLEST else 0
        last = [math.ceil(side / 2**halvings) for side in self.grid]
        self.missing = [side * 2**halvings - have for side, have in zip(last, self.grid, strict=True)]
        channels = [self.value_dim, *[min(4 * self.width, self.width * 2**step) for step in range(max(1, halvings))]]
        kernel = (4, 2, 1) if halvings else (3, 1, 1)  # size, stride and padding: halved exactly, or as large as before
        self.layers = nn.ModuleList(nn.Conv2d(i, o, *kernel) for i, o in pairwise(channels))
        self.last = nn.Linear(channels[-1] * math.prod(last), self.outputs)

    def forward(self, observations: Observations) -> Float[Tensor, "B _"]:
        h = rearrange(on_grid(observations, self.grid), "b (h w) v -> b v h w", h=self.grid[0])
        above, left = (missing // 2 for missing in self.missing)
        h = pad(h, (left, self.missing[1] - left, above, self.missing[0] - above))
        for layer in self.layers:
            h = self.activation(layer(h))
        return self.last(h.flatten(1))
