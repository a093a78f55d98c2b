"""How near one surface is to another: distances between points on both."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

POINTS = 30_000
"""On a surface: as DeepSDF takes."""
NEAR = 0.02
"""A point this near to the other surface counts as found: 1 % of the cube's side."""


@dataclass(frozen=True)
class Cloud:
    """Points on a surface, with its normals where they are known."""

    points: Float[np.ndarray, "n C"]
    normals: Float[np.ndarray, "n C"] | None = None

    def __len__(self) -> int:
        return len(self.points)

    def rows(self, which: np.ndarray) -> "Cloud":
        """Some of the points."""
        return Cloud(self.points[which], None if self.normals is None else self.normals[which])

    def nearest(self, to: "Cloud") -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """(distance, number) of the nearest of these points, from each point of `to`."""
        distance, number = cKDTree(self.points).query(to.points)
        return distance, number


def surface_scores(ours: Cloud, truth: Cloud) -> dict[str, float]:
    """Of two clouds of points; nothing at all counts as the one point 0.

    - `chamfer`: the mean SQUARED distance from each to the other, summed over both directions (Park et al. 2019)
    - `chamfer_l1`: the mean distance, averaged over both directions (Mescheder et al. 2019)
    - `fscore`: harmonic mean of the shares of points nearer than NEAR to the other
    - `normal_consistency`: mean |cosine| between the normals of nearest points, averaged over both directions
    """
    both = [cloud if len(cloud) else Cloud(np.zeros((1, truth.points.shape[1]))) for cloud in (ours, truth)]
    pairs = [(one, other, *other.nearest(one)) for one, other in (both, both[::-1])]
    distances = [distance for _, _, distance, _ in pairs]
    found = [float((distance < NEAR).mean()) for distance in distances]
    scores = {
        "chamfer": float(sum(np.square(distance).mean() for distance in distances)),
        "chamfer_l1": float(np.mean([distance.mean() for distance in distances])),
        "fscore": 2 * found[0] * found[1] / max(sum(found), 1e-12),
    }
    alike = [
        np.abs((one.normals * other.normals[number]).sum(1)).mean()
        for one, other, _, number in pairs
        if one.normals is not None and other.normals is not None
    ]
    return scores | {"normal_consistency": float(np.mean(alike))} if alike else scores
