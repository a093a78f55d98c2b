"""f(z, t) in two halves: what depends on the code alone, once per signal, and what happens at every point."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from neuralfield.latents.basis import SpectralBasis
from neuralfield.types import Conditioning


class Decoder(nn.Module, ABC):
    """The decoder that all signals share.

    Constructors may ask for `coord_dim`, `value_dim`, `code_dim`, and for the `shape` and `grid` [1, N, C] that the signals share:
    a recipe fills these in.
    """

    pointwise: ClassVar[bool] = True
    """Whether the value at a point depends on the conditioning and that point alone (so the Jacobian costs one backward pass)."""

    maps: ClassVar[bool] = False
    """Whether the conditioning is the values on a grid, so that the work is there, and points are only read from it."""

    affine_conditioning: ClassVar[bool] = False
    """Whether the conditioning is affine in the code, so that its Jacobian is the same for all codes."""

    broadcasts: ClassVar[bool] = False
    """Whether the conditioning consists of tensors [B, 1, K] that also do, as [B, N, K], where every point has its own."""

    draws: bool = False
    """Whether it draws torch's own random numbers while it trains (dropout): the loop then makes them repeatable."""

    linear_in_code: bool = False
    """Whether values are affine in the code, so that a code's posterior is known in closed form."""

    def adopt(self, basis: SpectralBasis) -> bool:
        """Begin as the linear model whose coefficients the first codes are, and say so; most decoders begin with random weights."""
        return False

    @abstractmethod
    def condition(self, z: Float[Tensor, "B D"]) -> Conditioning:
        """What `evaluate` needs of the codes: a pytree of tensors [B, ...]."""

    @abstractmethod
    def evaluate(self, conditioning: Conditioning, coords: Float[Tensor, "G N C"]) -> Float[Tensor, "B N V"]:
        """Values at points: G is B, or 1 where all signals share the points."""

    def forward(self, z: Float[Tensor, "B D"], coords: Float[Tensor, "G N C"]) -> Float[Tensor, "B N V"]:
        return self.evaluate(self.condition(z), coords)
