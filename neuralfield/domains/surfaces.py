"""Surfaces of shapes: triangles or edges, points on them, and their extraction from a field without looking at empty space."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int
from skimage.measure import find_contours, marching_cubes

from neuralfield.types import Field

COARSEST = 16
"""Cells along a block at first; blocks that may hold the surface are halved until they have FINEST."""
FINEST = 2


@dataclass(frozen=True)
class Surface:
    """Triangles in space (C = 3), or edges in the plane (C = 2, outside on their right): `elements` index `vertices`."""

    vertices: Float[np.ndarray, "n C"]
    elements: Int[np.ndarray, "m C"]

    def __len__(self) -> int:
        return len(self.elements)

    @cached_property
    def sizes(self) -> Float[np.ndarray, " m"]:
        """Areas of triangles, lengths of edges."""
        return np.linalg.norm(self._crossed, axis=1) / (self.vertices.shape[1] - 1)

    @cached_property
    def normals(self) -> Float[np.ndarray, "m C"]:
        """Of unit length, outward."""
        length = np.linalg.norm(self._crossed, axis=1, keepdims=True)
        return self._crossed / np.where(length > 0, length, 1)

    @cached_property
    def _crossed(self) -> Float[np.ndarray, "m C"]:
        corners = self.vertices[self.elements]
        along = corners[:, 1:] - corners[:, :1]
        if self.vertices.shape[1] == 2:
            return np.stack([along[:, 0, 1], -along[:, 0, 0]], 1)
        return np.cross(along[:, 0], along[:, 1])

    @property
    def volume(self) -> float:
        """Signed (an area, of an outline): negative where the elements are turned inside out."""
        dims = self.vertices.shape[1]
        return float(np.linalg.det(self.vertices[self.elements]).sum() / (2 if dims == 2 else 6))

    def framed(self, frame: Float[np.ndarray, " _"]) -> "Surface":
        """In the units that it had before it was normalised by this centre and scale."""
        return Surface(self.vertices * frame[-1] + frame[:-1], self.elements)

    def sample(self, count: int, random: np.random.Generator) -> tuple[Float[np.ndarray, "count C"], Float[np.ndarray, "count C"]]:
        """(points, normals), uniform over the surface."""
        share = self.sizes / self.sizes.sum()
        # systematic: every element gets its share of points, rounded up or down
        which = np.searchsorted(share.cumsum(), (np.arange(count) + random.random()) / count).clip(max=len(share) - 1)
        corners = self.vertices[self.elements[which]]
        return np.einsum("nk,nkc->nc", random.dirichlet(np.ones(corners.shape[1]), count), corners), self.normals[which]


@torch.no_grad()
def extracted(field: Field, resolution: int) -> tuple[Surface, int]:
    """(the surface where a field of one signal is 0, points evaluated), sampled `resolution` times along every axis of [-1, 1]^C.

    Blocks of cells whose value at the centre, read as a distance, leaves no room for the surface are skipped; one cell is allowed
    for fields that are steeper than distances. The rest is the surface that the whole grid would give.
    """
    dims = field.coord_dim or 3
    values, low, evaluated = _sampled(field, resolution, dims)
    step = 2 / (resolution - 1)
    return isosurface(values, low * step - 1, step), evaluated


def isosurface(values: Float[np.ndarray, "*R"], low: Float[np.ndarray, " C"], step: float) -> Surface:
    """Where values on a grid are 0: its first sample lies at `low`, the others `step` apart (axes in the order of coordinates)."""
    if not values.size or values.min() >= 0 or values.max() <= 0:
        return Surface(np.zeros((0, values.ndim)), np.zeros((0, values.ndim), int))
    vertices, elements = _triangles(values) if values.ndim == 3 else _edges(values)
    return Surface(vertices * step + low, elements)


def _sampled(field: Field, resolution: int, dims: int) -> tuple[Float[np.ndarray, "*R"], Int[np.ndarray, " C"], int]:
    """(values on the part of the grid that holds the surface, where that part begins, points evaluated).

    Far from the surface, values have their sign alone.
    """
    cells, step, evaluated = resolution - 1, 2 / (resolution - 1), 0

    def at(places: Float[np.ndarray, "n C"]) -> Float[np.ndarray, " n"]:
        nonlocal evaluated
        evaluated += len(places)
        found: np.ndarray = field(torch.from_numpy((places * step - 1).astype(np.float32)))[0, :, 0].cpu().numpy()
        return found

    values = np.ones((resolution,) * dims, np.float32)
    size = COARSEST
    blocks = np.stack(np.meshgrid(*[np.arange(0, cells, size)] * dims, indexing="ij"), -1).reshape(-1, dims)
    while True:
        found = at(np.minimum(blocks + size / 2, cells))
        near = np.abs(found) <= (size * dims**0.5 / 2 + 1) * step
        for block in blocks[~near & (found < 0)]:
            values[tuple(slice(first, first + size + 1) for first in block)] = -1.0
        blocks = blocks[near]
        if size == FINEST:
            break
        size //= 2
        blocks = (blocks[:, None] + size * np.array(list(product((0, 1), repeat=dims)))).reshape(-1, dims)
        blocks = blocks[(blocks < cells).all(1)]
    if not len(blocks):
        return np.zeros((0,) * dims, np.float32), np.zeros(dims, int), evaluated
    corners = (blocks[:, None] + np.array(list(product(range(FINEST + 1), repeat=dims)))).reshape(-1, dims)
    flat = np.unique(np.ravel_multi_index(tuple(corners[(corners <= cells).all(1)].T), values.shape))
    values.flat[flat] = at(np.stack(np.unravel_index(flat, values.shape), 1).astype(np.float64))
    low, high = blocks.min(0), np.minimum(blocks.max(0) + FINEST, cells)
    return values[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))], low, evaluated


def _triangles(values: Float[np.ndarray, "x y z"]) -> tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, "m 3"]]:
    vertices, faces, _, _ = marching_cubes(values.astype(np.float32), 0.0, gradient_direction="descent")
    return vertices.astype(np.float64), faces.astype(np.int64)


def _edges(values: Float[np.ndarray, "x y"]) -> tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, "m 2"]]:
    vertices, edges, count = [], [], 0
    for line in find_contours(values, 0.0):
        numbers = np.arange(count, count + len(line))
        vertices.append(line)
        edges.append(np.stack([numbers[:-1], numbers[1:]], 1))
        count += len(line)
    return np.concatenate(vertices), np.concatenate(edges)
