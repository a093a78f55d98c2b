"""Shaded pictures of surfaces, by points alone: no display, no ray tracer."""

import numpy as np
from jaxtyping import Float, UInt8

from neuralfield.domains.surfaces import Surface

SIDE = 128
"""Pixels of a picture."""
POINTS = 120_000
"""On a surface: about seven for each pixel that it covers."""
REACH = 1.1
"""Half of what a picture shows, in units of the cube's half side."""
AZIMUTH, ELEVATION = 30.0, 20.0
"""Of the camera, in degrees: it looks at the front (z) from its right and from above."""
LIGHT = np.array([0.35, 0.6, 0.7])
"""Direction to the light, as the camera sees it."""
COLOUR = np.array([120.0, 160.0, 215.0])


def portrait(surface: Surface) -> UInt8[np.ndarray, "height width 3"]:
    """A surface in the camera's light, on white; an outline as a line."""
    if not len(surface):
        return np.full((SIDE, SIDE, 3), 255, np.uint8)
    return splatted(*surface.sample(POINTS, np.random.default_rng(0)))


def splatted(
    points: Float[np.ndarray, "n C"], normals: Float[np.ndarray, "n C"] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Points as pixels, the nearest in front; shaded by their normals, or by their depth where they have none."""
    picture = np.full((SIDE, SIDE, 3), 255.0)
    if points.shape[1] == 2:
        points = np.concatenate([points, np.zeros((len(points), 1))], 1)
        seen, shade = points, np.full(len(points), 0.6)
    else:
        turn = camera(AZIMUTH, ELEVATION)
        seen = points @ turn.T
        if normals is None:
            shade = np.interp(seen[:, 2], (-1, 1), (0.35, 1.0))
        else:
            # both sides are lit: an open surface shows its inside
            shade = 0.3 + 0.7 * np.abs((normals @ turn.T) @ (LIGHT / np.linalg.norm(LIGHT)))
    order = np.argsort(seen[:, 2], kind="stable")
    column, row = ((1 + side * seen[order, axis] / REACH) * SIDE / 2 - 0.5 for axis, side in ((0, 1), (1, -1)))
    for right, down in ((0, 0), (0, 1), (1, 0), (1, 1)):
        x, y = (np.floor(at).astype(int) + by for at, by in ((column, right), (row, down)))
        inside = (x >= 0) & (x < SIDE) & (y >= 0) & (y < SIDE)
        picture[y[inside], x[inside]] = shade[order][inside, None] * COLOUR
    return picture.round().clip(0, 255).astype(np.uint8)


def camera(azimuth: float, elevation: float) -> Float[np.ndarray, "3 3"]:
    """World to camera: x to the right, y up, z towards the viewer, who stands `azimuth` degrees from z towards x, and above."""
    (c, s), up = ((np.cos(a), np.sin(a)) for a in np.deg2rad((azimuth, elevation)))
    around = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    c, s = up
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ around
