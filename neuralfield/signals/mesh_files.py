"""Meshes in files, of any format that trimesh reads, and the cube that they are brought into."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import igl
import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from neuralfield.domains.surfaces import Surface
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.signals.distances import INSIDE

MARGIN = 1.03
"""The farthest vertex lies at radius 1 / MARGIN, as in DeepSDF."""


class PointsOnlyError(NeuralfieldError):
    """A file that holds points and no faces."""


@dataclass(frozen=True)
class Report:
    """What was found in a mesh.

    `turned`: it, or a part of it, was inside out, and was turned. `forked` edges belong to more than two faces. At edges `against`
    each other two faces disagree which side is outside.
    """

    faces: int
    degenerate: int
    open_edges: int
    components: int
    turned: bool
    forked: int = 0
    against: int = 0

    def __str__(self) -> str:
        found = [f"{self.degenerate} faces without area"] * bool(self.degenerate)
        found += [f"open ({self.open_edges} edges at its border)"] * bool(self.open_edges)
        found += [f"not a manifold ({self.forked} edges of more than two faces)"] * bool(self.forked)
        found += [f"faces turned against each other ({self.against} edges)"] * bool(self.against)
        found += ["inside out (turned)"] * self.turned
        return ", ".join(found)

    @property
    def described(self) -> str:
        """The same with the mesh's size."""
        return f"{self.faces} faces in {self.components} {'part' if self.components == 1 else 'parts'}: {self}"


def read_mesh(file: Path) -> tuple[Surface, Report]:
    """The surface of a file, of any format that trimesh reads: one mesh, faces with an area, outside out."""
    whole = _surface(file)
    flat = _flat(whole)
    if flat.all():
        raise NeuralfieldError("none of its faces has an area")
    surface = _compact(Surface(whole.vertices, whole.elements[~flat]))
    edges = Edges.of(surface.elements)
    surface = Surface(surface.vertices, _agreeing(surface.elements, edges))
    inverted = _inverted(surface, edges)
    surface = Surface(surface.vertices, np.where(inverted[:, None], surface.elements[:, ::-1], surface.elements))
    components = trimesh.graph.connected_components(edges.ends, min_len=1)
    found = {"open_edges": int((edges.counts == 1).sum()), "forked": int((edges.counts > 2).sum()), "against": edges.against}
    return surface, Report(len(surface), int(flat.sum()), components=len(components), turned=bool(inverted.any()), **found)


def _surface(file: Path) -> Surface:
    """The faces of a file, and the vertices that they use."""
    mesh = read_geometry(file)
    vertices, faces = (np.asarray(getattr(mesh, name, ())) for name in ("vertices", "faces"))
    if not len(faces):
        if len(vertices):
            raise PointsOnlyError(f"it holds no faces, only points; read it as scan:{file}")
        raise NeuralfieldError("it holds no faces")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise NeuralfieldError(f"it has a face of vertex {faces.max()}, and {len(vertices)} vertices")
    used = _compact(Surface(vertices.astype(np.float64), faces.astype(np.int64)))
    if not np.isfinite(used.vertices).all():
        raise NeuralfieldError("it has vertices that are not finite")
    # corners at one place are one vertex, whatever colours, normals or textures meet there
    places, which = np.unique(used.vertices, axis=0, return_inverse=True)
    return Surface(places, which.reshape(-1)[used.elements])


def _compact(surface: Surface) -> Surface:
    """Without the vertices that no face uses."""
    used, which = np.unique(surface.elements, return_inverse=True)
    return Surface(surface.vertices[used], which.reshape(surface.elements.shape))


def _flat(surface: Surface) -> Bool[np.ndarray, " m"]:
    """Faces without an area: as seen from their own size, or from that of the others."""
    corners = surface.vertices[surface.elements]
    longest = np.linalg.norm(corners - np.roll(corners, 1, 1), axis=2).max(1)
    flat = surface.sizes <= 1e-12 * longest**2
    if flat.all():
        return flat
    return flat | (surface.sizes <= 1e-12 * np.ptp(corners[~flat].reshape(-1, 3), axis=0).max() ** 2)


@dataclass(frozen=True)
class Edges:
    """The edges of triangles: the vertices at their `ends`, how many faces each has, and which edges each face has.

    `forward` says of a face's edge whether it runs from the vertex of the lower number to the other.
    """

    ends: Int[np.ndarray, "e 2"]
    counts: Int[np.ndarray, " e"]
    of_face: Int[np.ndarray, "m 3"]
    forward: Bool[np.ndarray, "m 3"]

    @classmethod
    def of(cls, faces: Int[np.ndarray, "m 3"]) -> "Edges":
        """Those of faces."""
        directed = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
        ends, which, counts = np.unique(np.sort(directed, 1), axis=0, return_inverse=True, return_counts=True)
        return cls(ends, counts, which.reshape(-1, 3), (directed[:, 0] < directed[:, 1]).reshape(-1, 3))

    @cached_property
    def pairs(self) -> tuple[Int[np.ndarray, "p 2"], Bool[np.ndarray, " p"]]:
        """(the two faces at each edge that has two, whether they disagree: both run along it in one direction)."""
        order = np.argsort(self.of_face.reshape(-1), kind="stable")
        two = order[(self.counts == 2)[self.of_face.reshape(-1)[order]]].reshape(-1, 2)
        forward = self.forward.reshape(-1)[two]
        return two // 3, forward[:, 0] == forward[:, 1]

    @property
    def against(self) -> int:
        """Edges whose two faces disagree."""
        return int(self.pairs[1].sum())

    def parts(self) -> Int[np.ndarray, " m"]:
        """A number for each face, the same for faces that are connected by edges."""
        count = len(self.of_face)
        rows = np.repeat(np.arange(count), 3)
        found: np.ndarray = _connected(np.stack([rows, count + self.of_face.reshape(-1)], 1), count + len(self.ends))[:count]
        return found


def _connected(links: Int[np.ndarray, "l 2"], count: int) -> Int[np.ndarray, " n"]:
    """The number of the connected component of each of `count` nodes."""
    graph = coo_matrix((np.ones(len(links), bool), (links[:, 0], links[:, 1])), (count, count))
    found: np.ndarray = connected_components(graph, directed=False)[1]
    return found.astype(np.int64)


def _agreeing(faces: Int[np.ndarray, "m 3"], edges: Edges) -> Int[np.ndarray, "m 3"]:
    """Faces turned so that neighbours agree, the fewer to the more; as they are where that cannot be, as on a Moebius strip."""
    if not edges.against:
        return faces
    (pairs, disagree), count = edges.pairs, len(faces)
    # each face stands there twice, as it is and turned (+ count); what agrees is linked
    first, second = pairs.T
    other = second + count * disagree
    links = np.concatenate([np.stack([first, other], 1), np.stack([first + count, (other + count) % (2 * count)], 1)])
    sides = _connected(links, 2 * count).reshape(2, count)
    kept = np.bincount(sides[0], minlength=2 * count)[sides]
    turned = (kept[0] < kept[1]) | ((kept[0] == kept[1]) & (sides[0] > sides[1]))
    return np.where(turned[:, None], faces[:, ::-1], faces)


def _inverted(surface: Surface, edges: Edges) -> Bool[np.ndarray, " m"]:
    """Faces of parts that are inside out, judged by their volume: each closed part for itself, all open ones together.

    A closed part that lies in another, as a cavity does, is turned with that.
    """
    parts = edges.parts()
    is_open = np.isin(parts, parts[(edges.counts == 1)[edges.of_face].any(1)])
    _, first, parts = np.unique(np.where(is_open, -1, parts), return_index=True, return_inverse=True)
    parts = parts.reshape(-1)
    # of an open one the volume depends on the origin
    middle = (surface.vertices.min(0) + surface.vertices.max(0)) / 2
    volume = np.bincount(parts, np.linalg.det(surface.vertices[surface.elements] - middle))
    return (volume < 0)[_outermost(surface, parts, ~is_open[first])][parts]


def _outermost(surface: Surface, parts: Int[np.ndarray, " m"], closed: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """For each part the one with the largest box that it lies in: both closed, else it is itself."""
    corners, first = surface.vertices[surface.elements], np.unique(parts, return_index=True)[1]
    low, high = np.full((len(closed), 3), np.inf), np.full((len(closed), 3), -np.inf)
    np.minimum.at(low, parts, corners.min(1))
    np.maximum.at(high, parts, corners.max(1))
    outer, free = np.arange(len(closed)), closed.copy()
    for part in np.argsort(-(high - low).prod(1), kind="stable"):
        if free[part]:
            free[part] = False
            within = np.flatnonzero(free & (low >= low[part]).all(1) & (high <= high[part]).all(1))
            if len(within):
                places = corners[first[within]].mean(1)
                winding = igl.fast_winding_number(surface.vertices, surface.elements[parts == part], places)
                within = within[np.abs(winding) > INSIDE]
                outer[within], free[within] = part, False
    return outer


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
