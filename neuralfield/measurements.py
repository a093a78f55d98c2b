"""What is observed of a field: its values at the points, means of them around each, or what a user computes of it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from neuralfield.errors import NeuralfieldError
from neuralfield.types import Field, Observations


class Measurement(ABC):
    """From a field and the places of the observations to what should have been seen there.

    The field that `measure` gets is the decoder's own output, which the likelihood takes: of "bernoulli" these are logits.
    """

    points: int = 1
    """Points of the field that each prediction takes, about: what `evaluations` and the memory of Jacobians reckon with."""

    @abstractmethod
    def measure(self, field: Field, observations: Observations) -> Float[Tensor, "B N V"]:
        """Predicted values, one row for each of `observations.values`."""


class Local(Measurement):
    """What is seen at a place comes from `points` points around it alone, in the same way for every place.

    So the exact Jacobian costs one backward pass for each value dimension, as that of the points themselves does.
    """

    linear: bool = False
    """Whether `combine` is linear, so that predictions are affine in the code wherever the field is."""

    @abstractmethod
    def around(self, coords: Float[Tensor, "G N C"]) -> Float[Tensor, "G N K C"]:
        """The points of every place."""

    @abstractmethod
    def combine(self, values: Float[Tensor, "*N K V"]) -> Float[Tensor, "*N V"]:
        """What is seen at places where the field has `values` at the points around."""

    def measure(self, field: Field, observations: Observations) -> Float[Tensor, "B N V"]:
        around = self.around(observations.coords)
        return self.combine(field(around.flatten(1, 2)).unflatten(1, around.shape[1:3]))


class Points(Local):
    """The field's own values at the observed coordinates."""

    linear = True

    def around(self, coords: Float[Tensor, "G N C"]) -> Float[Tensor, "G N 1 C"]:
        return coords[:, :, None]

    def combine(self, values: Float[Tensor, "*N 1 V"]) -> Float[Tensor, "*N V"]:
        return values[..., 0, :]


class Weighted(Local):
    """sum_k weights[k] f(t + offsets[k]) at every place t."""

    linear = True

    def __init__(self, offsets: Float[Tensor, "K C"], weights: Float[Tensor, " K"]) -> None:
        self.offsets, self.weights, self.points = offsets, weights, len(weights)
        self._there: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def around(self, coords: Float[Tensor, "G N C"]) -> Float[Tensor, "G N K C"]:
        if coords.shape[-1] != self.offsets.shape[-1]:
            raise NeuralfieldError(
                f"{type(self).__name__} was made with coord_dim={self.offsets.shape[-1]}, "
                f"but observations.coords have {coords.shape[-1]} coordinate dims"
            )
        return coords[:, :, None] + self._like(coords)[0]

    def combine(self, values: Float[Tensor, "*N K V"]) -> Float[Tensor, "*N V"]:
        return einsum(values, self._like(values)[1], "... k v, k -> ... v")

    def _like(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets and weights where a tensor is; sent there once."""
        place = tensor.device, tensor.dtype
        if place not in self._there:
            self._there[place] = self.offsets.to(tensor), self.weights.to(tensor)
        return self._there[place]


class Average(Weighted):
    """The mean of the field over a box of `size` around every place: what a coarse pixel or a time bin sees.

    `size` is in the units of the field's coordinates, in which the data reach from -1 to 1: one number for each of their
    dimensions, or one for all. The mean is over the centres of `samples` equal parts of every side (midpoint rule).
    """

    def __init__(self, size: float | Sequence[float], samples: int = 4, *, coord_dim: int) -> None:
        sizes = [float(size)] * coord_dim if isinstance(size, int | float) else [float(each) for each in size]
        if len(sizes) != coord_dim or not all(0 < each < math.inf for each in sizes):
            raise ValueError(f"measurement.size must be one positive number, or one for each of {coord_dim} axes, got {size}")
        if samples < 1:
            raise ValueError(f"measurement.samples must be at least 1, got {samples}")
        centres = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples - 0.5
        offsets = torch.cartesian_prod(*[each * centres for each in sizes]).reshape(-1, coord_dim)
        super().__init__(offsets, torch.full_like(offsets[:, 0], 1 / len(offsets)))


class Blur(Weighted):
    """A Gaussian-weighted mean of the field around every place: what a lens or a slow sensor sees.

    `std` is in the units of the field's coordinates. The points are a regular grid, `samples` a side, that ends `reach` standard
    deviations from the place; the weights sum to 1.
    """

    def __init__(self, std: float, reach: float = 3.0, samples: int = 7, *, coord_dim: int) -> None:
        if not (0 < std < math.inf and 0 < reach < math.inf):
            raise ValueError(f"measurement.std and reach must be positive, got {std} and {reach}")
        if samples < 2:
            raise ValueError(f"measurement.samples must be at least 2, the ends of every side, got {samples}")
        steps = torch.linspace(-reach, reach, samples, dtype=torch.float64)
        offsets = torch.cartesian_prod(*[steps] * coord_dim).reshape(-1, coord_dim)
        super().__init__(std * offsets, torch.softmax(-offsets.square().sum(1) / 2, 0))
