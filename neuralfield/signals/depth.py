"""Shapes as a depth camera sees them: points on their front, and empty space before it."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from neuralfield.domains.domain import Domain
from neuralfield.domains.renders import camera
from neuralfield.errors import UsageError
from neuralfield.signals.masks import Mask
from neuralfield.types import Observations

DISTANCE = 3.0
"""Of the camera from the origin, which it looks at."""
CELL, REACH = 0.05, 2.0
"""Side of the depth map's pixels, and half its width, in units of the plane through the origin: a few surface samples a pixel."""
SLACK = 0.15
"""Depth within a pixel of a surface that is seen: three times its side, a slope of about 70 degrees. To its neighbours, twice."""
ON = 0.01
"""Where no sample lies on the surface itself, those this near to it stand for it."""


class Depth(Mask):
    """`depth:30,20`: what a depth map from azimuth 30 and elevation 20 degrees shows.

    Seen are samples of the surface that no other sample hides, and of samples in front of it or beside it that they are
    outside it: a signed distance of at least 0. The camera stands at distance 3 from the origin, `azimuth` from z towards x.
    """

    def __call__(self, observations: Observations, domain: Domain) -> Bool[Tensor, "B N"]:
        front, free = self._seen(observations, domain)
        return front | free

    def bounded(self, observations: Observations, domain: Domain) -> Bool[Tensor, "B N"]:
        return self._seen(observations, domain)[1]

    def _seen(self, observations: Observations, domain: Domain) -> tuple[Bool[Tensor, "B N"], Bool[Tensor, "B N"]]:
        """(samples of the visible surface, samples of empty space in front of it)."""
        if domain.coord_dim != 3:
            raise UsageError(f"mask depth:{self.argument} is for shapes in space; these have {domain.coord_dim} dimensions")
        seen, known, value = observations.weight > 0, observations.told > 0, observations.values[..., 0]
        on = known & (value == 0)
        on = torch.where(on.any(1, keepdim=True), on, known & (value.abs() < ON))
        outside = torch.where(known, value > 0, seen & (value >= 0)) & ~on
        pixel, depth = self._projected(observations.coords.expand(len(observations), -1, -1))
        depths = _depth_map(pixel, depth.masked_fill(~on, torch.inf))
        # samples are points, and what lies between them hides too
        around = -max_pool2d(-depths, 3, 1, 1).flatten(1).gather(1, pixel)
        front = on & (depth <= depths.flatten(1).gather(1, pixel) + SLACK) & (depth <= around + 2 * SLACK)
        if observations.normals is not None:
            to_camera = self._eye(depth) - observations.coords
            unknown = (observations.normals == 0).all(-1)
            front &= unknown | ((observations.normals * to_camera).sum(-1) > 0)
        return front, outside & (depth < around)

    def _projected(self, coords: Float[Tensor, "B N 3"]) -> tuple[Tensor, Tensor]:
        """(number of the pixel, depth) of every point."""
        seen = coords @ torch.from_numpy(camera(*self._angles())).to(coords).T
        depth = DISTANCE - seen[..., 2]
        at = (seen[..., :2] * (DISTANCE / depth)[..., None] + REACH) / CELL
        column, row = at.long().clamp(0, _SIDE - 1).unbind(-1)
        return row * _SIDE + column, depth

    def _eye(self, like: Tensor) -> Float[Tensor, " 3"]:
        """Where the camera stands."""
        return DISTANCE * torch.from_numpy(camera(*self._angles())[2]).to(like)

    def _angles(self) -> tuple[float, float]:
        try:
            azimuth, elevation = (float(part) for part in self.argument.split(","))
        except ValueError:
            azimuth = elevation = math.nan
        if not (math.isfinite(azimuth) and math.isfinite(elevation)):
            raise UsageError(f'a mask like depth:30,20 needs an azimuth and an elevation, got "{self.argument}"')
        return azimuth, elevation


_SIDE = round(2 * REACH / CELL)


def _depth_map(pixel: Tensor, depth: Float[Tensor, "B N"]) -> Float[Tensor, "B 1 S S"]:
    """The least depth in every pixel."""
    empty = depth.new_full((len(depth), _SIDE**2), torch.inf)
    return empty.scatter_reduce(1, pixel, depth, "amin").view(-1, 1, _SIDE, _SIDE)
