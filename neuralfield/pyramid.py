"""The Laplacian pyramid of images, and a likelihood that compares images by it."""

import math
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from neuralfield.errors import NeuralfieldError
from neuralfield.likelihoods import Likelihood

BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)
"""The filter of Burt and Adelson (1983) with a = 3/8, times 16: nearly a normal of standard deviation 1."""

Axes = tuple[Float[Tensor, "h H"], Float[Tensor, "w W"], Float[Tensor, "H h"], Float[Tensor, "W w"]]
"""(reduce rows, reduce columns, expand rows, expand columns) of one level."""


class Pyramid(torch.nn.Module):
    """An image as what each of `levels` halvings of its resolution takes away, and the coarsest image that is left.

    Of an image G_0, G_(j+1) is G_j blurred and halved, L_j = G_j - expand(G_(j+1)), and the last level is G_levels itself (Burt and
    Adelson 1983). A side of n pixels is halved to ceil(n / 2), any size is allowed. Filters are normalised at the borders, so that
    a constant image has nothing but its coarsest level. `inverse` adds up what was taken away: exact up to rounding.
    """

    def __init__(self, shape: tuple[int, int], levels: int) -> None:
        super().__init__()
        self.shapes = [shape]
        for level in range(levels):
            height, width = self.shapes[-1]
            self.shapes.append((-(-height // 2), -(-width // 2)))
            for axis, side in (("rows", height), ("columns", width)):
                self.register_buffer(f"reduce_{axis}_{level}", _reduce(side), persistent=False)
                self.register_buffer(f"expand_{axis}_{level}", _expand(side), persistent=False)

    def forward(self, images: Float[Tensor, "B V H W"]) -> list[Float[Tensor, "B V _ _"]]:
        """The levels, finest first."""
        found = []
        for rows, columns, expand_rows, expand_columns in self._axes(images):
            coarser = _along(images, rows, columns)
            found.append(images - _along(coarser, expand_rows, expand_columns))
            images = coarser
        return [*found, images]

    def inverse(self, levels: list[Float[Tensor, "B V _ _"]]) -> Float[Tensor, "B V H W"]:
        """The image of some levels."""
        image = levels[-1]
        for level, (_, _, rows, columns) in zip(reversed(levels[:-1]), reversed(self._axes(image)), strict=True):
            image = level + _along(image, rows, columns)
        return image

    def gathered(self, levels: list[Float[Tensor, "B V _ _"]]) -> Float[Tensor, "B V H W"]:
        """|P|' levels for the map P from an image to its levels; of detail levels |1 - ER| is taken for its bound 1 + ER.

        |P| sums to 1 over the pixels of a coefficient of the last level, and that bound to 2 over those of another.
        """
        image = levels[-1]
        for level, (rows, columns, expand_rows, expand_columns) in zip(
            reversed(levels[:-1]), reversed(self._axes(image)), strict=True
        ):
            image = level + _along(image + _along(level, expand_rows.T, expand_columns.T), rows.T, columns.T)
        return image

    def _axes(self, like: Tensor) -> list[Axes]:
        names = ("reduce_rows", "reduce_columns", "expand_rows", "expand_columns")
        found = [[self.get_buffer(f"{name}_{level}").to(like) for name in names] for level in range(len(self.shapes) - 1)]
        return [(a, b, c, d) for a, b, c, d in found]


class LaplacianPyramid(Likelihood):
    """-log p = Lap1(predicted, values) / `scale` + constant, Lap1 = sum_j 2^(2j) |L_j(predicted) - L_j(values)|_1.

    That is the loss of GLO (Bojanowski et al. 2018, after Ling and Okada 2006), j = 0 the finest of `levels` + 1 levels: the last
    is what `levels` halvings leave. A level has a quarter of the coefficients of the one before, so 2^(2j) makes all levels count
    alike: a coefficient counts for the 4^j pixels that it stands for, and its cost is spread evenly over them (over those that
    there are, at the borders of sides that are no multiple of 2^levels). The constant is that of independent Laplace densities,
    log(2 scale) a value: the density's own differs from it by a number that depends on the shape alone.

    Values are those of all points of the grid, in its order; where some were not seen, differences there count as 0.
    """

    pointwise: ClassVar[bool] = False

    def __init__(self, shape: tuple[int, ...], scale: float = 0.1, levels: int = 3) -> None:
        super().__init__()
        if len(shape) != 2:
            raise ValueError(f"it compares images, but the signals lie on a grid of {len(shape)} axes: {list(shape)}")
        if not scale > 0 or levels < 0:
            raise ValueError(f"likelihood.scale must be positive and levels 0 or more, got {scale} and {levels}")
        self.scale, self.levels, (self.height, self.width) = scale, levels, shape
        self.pyramid = Pyramid((self.height, self.width), levels)

    def nll(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N"]:
        each = self._spread([level.abs() for level in self.pyramid(self._image(predicted - values))])
        return rearrange(each, "b v h w -> b (h w) v").sum(-1) / self.scale + values.shape[-1] * math.log(2 * self.scale)

    def mean(self, predicted: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        return predicted

    def curvature(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        """Of a parabola above the cost of the whole image, without mixed terms.

        A coefficient c = sum_n P_n d_n costs |c| <= c^2 / 2 |c_0| + |c_0| / 2, and c^2 <= sum_n |P_n| * sum_n |P_n| d_n^2.
        Coefficients c_0 smaller than the scale are taken for it: at 0 the parabola would have no bound.
        """
        with torch.no_grad():
            sizes = [level.abs().clamp(min=self.scale) for level in self.pyramid(self._image(predicted - values))]
            bends = [4.0**j * (2 if j < self.levels else 1) / (self.scale * size) for j, size in enumerate(sizes)]
            return rearrange(self.pyramid.gathered(bends), "b v h w -> b (h w) v")

    def _spread(self, levels: list[Float[Tensor, "B V _ _"]]) -> Float[Tensor, "B V H W"]:
        """sum_j 4^j levels_j, each coefficient spread evenly over its pixels."""
        return torch.stack([self._over_pixels(level, 2**j) for j, level in enumerate(levels)]).sum(0)

    def _over_pixels(self, level: Float[Tensor, "B V _ _"], side: int) -> Float[Tensor, "B V H W"]:
        for axis, pixels in ((2, self.height), (3, self.width)):
            level = level.repeat_interleave(side, axis).narrow(axis, 0, pixels)
            if pixels % side:  # the last coefficient stands for fewer
                inside = pixels - pixels % side
                last = level.narrow(axis, inside, pixels % side) * (side / (pixels % side))
                level = torch.cat([level.narrow(axis, 0, inside), last], axis)
        return level

    def _image(self, values: Float[Tensor, "B N V"]) -> Float[Tensor, "B V H W"]:
        if values.shape[1] != self.height * self.width:
            raise NeuralfieldError(
                f"likelihood LaplacianPyramid compares images of {self.height} x {self.width} pixels as a whole, but got "
                f"{values.shape[1]} points: leave out training.points, inference.points, inference.coarse and draw"
            )
        return rearrange(values, "b (h w) v -> b v h w", h=self.height)


def _along(images: Float[Tensor, "B V H W"], rows: Float[Tensor, "h H"], columns: Float[Tensor, "w W"]) -> Float[Tensor, "B V h w"]:
    """A linear map along each axis."""
    return rows @ images @ columns.T


def _taps(side: int) -> Float[Tensor, "h n"]:
    """The filter around every second of `side` pixels."""
    apart = torch.arange(side)[None] - 2 * torch.arange(-(-side // 2))[:, None]
    inside = apart.abs() <= len(BINOMIAL) // 2
    return torch.where(inside, torch.tensor(BINOMIAL, dtype=torch.float64)[(apart + 2).clamp(0, 4)], 0.0)


def _reduce(side: int) -> Float[Tensor, "h n"]:
    taps = _taps(side)
    return taps / taps.sum(1, keepdim=True)


def _expand(side: int) -> Float[Tensor, "n h"]:
    taps = _taps(side).T
    return taps / taps.sum(1, keepdim=True)
