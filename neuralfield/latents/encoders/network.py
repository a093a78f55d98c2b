"""What reads observations of signals into numbers, from which an encoder makes codes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuralfield.errors import NeuralfieldError
from neuralfield.kernels import reference
from neuralfield.types import Observations

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: reference.ACTIVATIONS[name] for name in ("relu", "leaky-relu", "silu")},
    "tanh": torch.tanh,
    "logistic": torch.sigmoid,
}


class Network(nn.Module, ABC):
    """Reads what was observed of some signals into `outputs` numbers each, of every signal on its own.

    All kinds are built from the same arguments: signals have `value_dim` values at points of `coord_dim` coordinates, which may lie
    on a grid of `shape`; hidden layers are `width` wide, and there are `depth` of them where a kind has a choice.
    """

    whole: ClassVar[bool] = True
    """Whether it reads all points of a grid and nothing else."""

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
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f'there is no activation "{activation}"; known: {", ".join(ACTIVATIONS)}')
        self.coord_dim, self.value_dim, self.shape, self.outputs = coord_dim, value_dim, shape, outputs
        self.width, self.depth, self.activation = width, depth, ACTIVATIONS[activation]
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Make the layers, for these sizes."""

    @abstractmethod
    def forward(self, observations: Observations) -> Float[Tensor, "B _"]:
        """`outputs` numbers for each signal."""


def grid_of(shape: tuple[int, ...] | None, network: str) -> tuple[int, ...]:
    """The grid that the signals lie on, for a network that needs one; else a ValueError that names the one that does not."""
    if shape is None:
        raise ValueError(f"network {network} reads signals on a grid, and these have none; latents.network=set takes any points")
    return shape


def on_grid(observations: Observations, shape: tuple[int, ...]) -> Float[Tensor, "B N V"]:
    """The values on the whole grid of `shape`, 0 where hidden; one clear line where they are not there."""
    got, takes = observations.values.shape[1], f"the {math.prod(shape)} points of the {' x '.join(map(str, shape))} grid"
    if got != math.prod(shape):
        raise NeuralfieldError(f"the encoder takes {takes}, but got {got}; latents.network=set takes any")
    if len(observations.coords) > 1 and not bool((observations.coords == observations.coords[:1]).all()):
        raise NeuralfieldError(f"the encoder takes {takes}, but got {got} of each signal's own; latents.network=set takes any")
    return observations.values


def layers(ins: int, width: int, depth: int, outs: int) -> nn.ModuleList:
    """Linear layers of an MLP: `depth` hidden ones, and the last."""
    sizes = [ins, *[width] * depth, outs]
    return nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))


def chained(layers: nn.ModuleList, activation: Callable[[Tensor], Tensor], h: Float[Tensor, "*B _"]) -> Float[Tensor, "*B _"]:
    """The layers one after the other, with the activation between them."""
    for number, layer in enumerate(layers):
        h = layer(activation(h) if number else h)
    return h
