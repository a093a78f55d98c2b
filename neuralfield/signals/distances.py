"""Signed distances to meshes and outlines, and where to take them: negative inside.

In three dimensions the distance is libigl's exact unsigned one, and its sign that of its fast winding number (Barill et al. 2018),
which stays right where a mesh has holes. libigl's combined function returns scaled distances and is not used.
"""

from dataclasses import dataclass

import igl
import numpy as np
from jaxtyping import Float

from neuralfield.domains.surfaces import Surface
from neuralfield.errors import UsageError

INSIDE = 0.5
"""Winding number above which a point is inside: half of a closed surface's."""
AT_ONCE = 2**22
"""Pairs of a point and an edge of an outline that are looked at together."""


def signed_distance(surface: Surface, points: Float[np.ndarray, "n C"]) -> Float[np.ndarray, " n"]:
    """Of points to a surface, negative inside."""
    points = np.ascontiguousarray(points, np.float64)
    if not len(points):
        return np.zeros(0)
    far, inside = (_of_mesh if points.shape[1] == 3 else _of_outline)(surface, points)
    return far * np.where(inside, -1.0, 1.0)


def _of_mesh(surface: Surface, points: Float[np.ndarray, "n 3"]) -> tuple[np.ndarray, np.ndarray]:
    squared = igl.point_mesh_squared_distance(points, surface.vertices, surface.elements)[0]
    return np.sqrt(squared), igl.fast_winding_number(surface.vertices, surface.elements, points) > INSIDE


def _of_outline(surface: Surface, points: Float[np.ndarray, "n 2"]) -> tuple[np.ndarray, np.ndarray]:
    corners = surface.vertices[surface.elements]
    square = np.maximum(surface.sizes**2, np.finfo(float).tiny)
    far, turned = [], []
    for some in np.array_split(points, max(1, len(points) * len(corners) // AT_ONCE)):
        start, end = (corners[:, k] - some[:, None] for k in (0, 1))
        along = end - start
        share = (-(start * along).sum(2) / square).clip(0, 1)
        far.append(np.linalg.norm(start + share[..., None] * along, axis=2).min(1))
        turned.append(np.arctan2(start[..., 0] * end[..., 1] - start[..., 1] * end[..., 0], (start * end).sum(2)).sum(1))
    return np.concatenate(far), np.concatenate(turned) / (2 * np.pi) > INSIDE


@dataclass(frozen=True)
class Plan:
    """How many distances are taken of a shape, and where.

    `even` points lie evenly in the cube [-1, 1]^C, `surface` points on the surface (distance 0), and `near` points off it by
    normal errors of standard deviation `spread` and `spread` / sqrt(10) in turn (DeepSDF: 0.07), held in the cube.
    """

    even: int = 4096
    surface: int = 4096
    near: int = 16384
    spread: float = 0.05

    def __post_init__(self) -> None:
        if min(self.even, self.surface, self.near) < 0 or self.even + self.surface + self.near < 1 or not self.spread > 0:
            asked = f"even {self.even}, surface {self.surface}, near {self.near}, spread {self.spread}"
            raise UsageError(f"signals need 0 or more samples of each kind, 1 in all, and a positive spread; got {asked}")

    def take(
        self, surface: Surface, random: np.random.Generator
    ) -> tuple[Float[np.ndarray, "N _"], Float[np.ndarray, "surface C"]]:
        """(points and their distances, normals of those on the surface).

        First the even ones, then those on the surface, then those near it.
        """
        dims = surface.vertices.shape[1]
        even = random.uniform(-1, 1, (self.even, dims))
        on, normals = surface.sample(self.surface, random)
        base, _ = surface.sample(self.near, random)
        wide = np.where(np.arange(self.near) % 2 == 0, 1.0, 0.1**0.5)[:, None]
        near = (base + self.spread * wide * random.standard_normal((self.near, dims))).clip(-1, 1)
        distance = signed_distance(surface, np.concatenate([even, near]))
        value = np.concatenate([distance[: self.even], np.zeros(self.surface), distance[self.even :]])
        samples = np.concatenate([np.concatenate([even, on, near]), value[:, None]], 1)
        return samples.astype(np.float32), normals.astype(np.float32)
