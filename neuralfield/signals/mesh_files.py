"""Meshes in files, of any format that trimesh reads, and the cube that they are brought into."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float

from neuralfield.domains.surfaces import Surface
from neuralfield.errors import NeuralfieldError, UsageError

MARGIN = 1.03
"""The farthest vertex lies at radius 1 / MARGIN, as in DeepSDF."""


class PointsOnlyError(NeuralfieldError):
    """A file that holds points and no faces."""


@dataclass(frozen=True)
class Report:
    """What was found in a mesh. `turned`: it was inside out, and was turned. `forked` edges belong to more than two faces."""

    faces: int
    degenerate: int
    open_edges: int
    components: int
    turned: bool
    forked: int = 0

    def __str__(self) -> str:
        found = [f"{self.degenerate} faces without area"] * bool(self.degenerate)
        found += [f"open ({self.open_edges} edges at its border)"] * bool(self.open_edges)
        found += [f"not a manifold ({self.forked} edges of more than two faces)"] * bool(self.forked)
        found += ["inside out (turned)"] * self.turned
        return ", ".join(found)


def read_mesh(file: Path) -> tuple[Surface, Report]:
    """The surface of a file, of any format that trimesh reads: one mesh, faces with an area, outside out."""
    mesh = read_geometry(file)
    vertices, faces = (np.asarray(getattr(mesh, name, ())) for name in ("vertices", "faces"))
    if not len(faces):
        if len(vertices):
            raise PointsOnlyError(f"it holds no faces, only points; read it as scan:{file}")
        raise NeuralfieldError("it holds no faces")
    if not np.isfinite(vertices).all():
        raise NeuralfieldError("it has vertices that are not finite")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise NeuralfieldError(f"it has a face of vertex {faces.max()}, and {len(vertices)} vertices")
    # corners at one place are one vertex, whatever colours, normals or textures meet there
    places, which = np.unique(vertices.astype(np.float64), axis=0, return_inverse=True)
    surface = Surface(places, which.reshape(-1)[faces].astype(np.int64))
    flat = surface.sizes <= 1e-12 * np.ptp(vertices, axis=0).max() ** 2
    if flat.all():
        raise NeuralfieldError("none of its faces has an area")
    surface = Surface(surface.vertices, surface.elements[~flat])
    edges = np.sort(surface.elements[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), 1)
    counts = np.unique(edges, axis=0, return_counts=True)[1]
    # of an open one the volume depends on the origin
    turned = Surface(surface.vertices - (vertices.min(0) + vertices.max(0)) / 2, surface.elements).volume < 0
    if turned:
        surface = Surface(surface.vertices, surface.elements[:, ::-1])
    components = trimesh.graph.connected_components(edges, min_len=1)
    return surface, Report(
        len(surface), int(flat.sum()), int((counts == 1).sum()), len(components), bool(turned), int((counts > 2).sum())
    )


def read_geometry(file: Path) -> Any:
    """What trimesh makes of a file, a scene as one mesh or, where it has none, as one cloud of points; or one clear line."""
    try:
        found = trimesh.load(file, process=False)
        if not isinstance(found, trimesh.Scene):
            return found
        solid = any(isinstance(part, trimesh.Trimesh) for part in found.geometry.values())
        return found.to_mesh() if solid else found.to_geometry()
    except Exception as error:  # trimesh and its readers meet broken files with any of a dozen kinds
        raise NeuralfieldError(f"it cannot be read as a mesh ({' '.join(str(error).split()) or type(error).__name__})") from error


def normalised(surface: Surface, normalise: bool = True, frame: list[float] | None = None) -> tuple[Surface, list[float]]:
    """(the surface in the cube [-1, 1]^C, its frame)."""
    frame = chosen_frame(surface.vertices[np.unique(surface.elements)], normalise, frame)
    inside = Surface((surface.vertices - frame[:-1]) / frame[-1], surface.elements)
    if np.abs(inside.vertices).max() > 1:
        raise NeuralfieldError(
            "it reaches beyond the cube from -1 to 1; let it be normalised by its own box, with signals.normalise=true and no frame"
        )
    return inside, frame


def chosen_frame(points: Float[np.ndarray, "n C"], normalise: bool, frame: list[float] | None) -> list[float]:
    """Centre and scale: those of `frame`, of the points' own box, or of the cube."""
    dims = points.shape[1]
    if frame is None:
        return frame_of(points) if normalise and len(points) else [0.0] * dims + [1.0]
    if len(frame) != dims + 1 or not np.isfinite(frame).all() or not frame[-1] > 0:
        raise UsageError(f"signals.frame must be a centre and a positive scale, [x, y, z, scale]; got {frame}")
    return [float(number) for number in frame]


def frame_of(points: Float[np.ndarray, "n C"]) -> list[float]:
    """Centre and scale that bring the centre of the points' box to 0 and the farthest of them to radius 1 / MARGIN."""
    centre = (points.min(0) + points.max(0)) / 2
    scale = float(np.linalg.norm(points - centre, axis=1).max()) * MARGIN
    return [*centre.tolist(), scale or 1.0]
