"""A set encoder: points wherever they lie, as many as there are, in any order."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuralfield.latents.encoders.network import Network, chained, layers
from neuralfield.types import Observations

FREQUENCIES = 32
"""Fourier features tell near points apart, which a narrow network on coordinates alone does slowly (Tancik et al. 2020)."""
BANDWIDTH = 1.0
"""In cycles per unit, of coordinates in [-1, 1]."""


class Points(Network):
    """An MLP on every point's coordinates, their Fourier features and values; the mean over what is seen; an MLP on that
    (Zaheer et al. 2017, "Deep sets").

    The mean is weighed by the observations' weights, so a drawn part that stands for all gives the mean over all in expectation.
    Bounds are left out: their values are none. Where nothing is seen the mean is 0.
    """

    whole: ClassVar[bool] = False
    frequencies: Tensor

    def build(self) -> None:
        self.register_buffer("frequencies", torch.randn(self.coord_dim, FREQUENCIES) * BANDWIDTH)
        self.place = nn.Linear(
            self.coord_dim + 2 * FREQUENCIES, self.width
        )  # with `value` one layer; places are shared by many signals
        self.value = nn.Linear(self.value_dim, self.width, bias=False)
        self.each = layers(self.width, self.width, max(0, self.depth - 1), self.width)
        self.all = layers(self.width, self.width, self.depth, self.outputs)

    def forward(self, observations: Observations) -> Float[Tensor, "B _"]:
        return chained(self.all, self.activation, self.pooled(observations))

    def pooled(self, observations: Observations) -> Float[Tensor, "B width"]:
        """The mean over the points seen of what the network makes of each."""
        weight = observations.told
        seen = weight > 0
        anywhere = seen if len(observations.coords) == len(observations) else seen.any(0, keepdim=True)
        coords = observations.coords.masked_fill(~anywhere[..., None], 0.0)  # nothing there, whatever stands there
        h = self.activation(self.place(self._features(coords)) + self.value(observations.values))
        h = self.activation(chained(self.each, self.activation, h))
        total = weight.sum(1, keepdim=True)
        return torch.einsum("bn,bnw->bw", weight, h) / total.masked_fill(total == 0, 1.0)

    def _features(self, coords: Float[Tensor, "G N C"]) -> Float[Tensor, "G N F"]:
        phase = 2 * math.pi * (coords @ self.frequencies)
        return torch.cat([coords, phase.sin(), phase.cos()], -1)
