"""Surfaces of shapes: triangles or edges, points on them, and their extraction from a field without looking at empty space."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from skimage.measure import find_contours, marching_cubes

from neuralfield.types import Field

COARSEST = 16
"""Cells along a block at first; blocks that may hold the surface are halved until they have FINEST."""
FINEST = 2
STEEPEST = 1.1
"""Slope that is allowed for: of a distance it is 1, of fitted fields now and then a little more. It grows with the slope of those
that turn out to be steeper on the coarsest level."""


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
def extracted(field: Field, resolution: int, dims: int = 3) -> tuple[Surface, int]:
    """(the surface where a field of one signal is 0, points evaluated).

    The field is sampled `resolution` times along every axis of [-1, 1]^dims.

    Blocks of cells whose value at the centre, read as a distance, leaves no room for the surface are skipped, with some allowance
    for fields that are steeper than distances; where the surface leaves the blocks that are left, it is followed. The result is the
    surface that the whole grid would give.
    """
    samples = _Samples(field, resolution, dims)
    blocks = samples.refined()
    values, low = samples.followed(blocks)
    return isosurface(values, low * samples.step - 1, samples.step), samples.evaluated


def isosurface(values: Float[np.ndarray, "*R"], low: Float[np.ndarray, " C"], step: float) -> Surface:
    """Where values on a grid are 0: its first sample lies at `low`, the others `step` apart (axes in the order of coordinates).

    Cells with a corner that is NaN are left out.
    """
    known = values[~np.isnan(values)]
    if not known.size or known.min() >= 0 or known.max() <= 0:
        return Surface(np.zeros((0, values.ndim)), np.zeros((0, values.ndim), int))
    vertices, elements = _triangles(values) if values.ndim == 3 else _edges(values)
    return Surface(vertices * step + low, elements)


class _Samples:
    """A field of one signal on a grid, evaluated where it is asked for; elsewhere NaN."""

    def __init__(self, field: Field, resolution: int, dims: int) -> None:
        self.field, self.dims, self.cells, self.step = field, dims, resolution - 1, 2 / (resolution - 1)
        self.values = np.full((resolution,) * self.dims, np.nan, np.float32)
        self.evaluated = 0

    def at(self, places: Int[np.ndarray, "*n C"]) -> Float[np.ndarray, "*n"]:
        """Values at samples of the grid."""
        flat = np.ravel_multi_index(tuple(np.moveaxis(places, -1, 0)), self.values.shape)
        known = self.values.reshape(-1)
        new = np.unique(flat[np.isnan(known[flat])])
        where = np.stack(np.unravel_index(new, self.values.shape), 1) * self.step - 1
        known[new] = self.field(torch.from_numpy(where.astype(np.float32)))[0, :, 0].cpu().numpy()
        self.evaluated += len(new)
        found: np.ndarray = known[flat]
        return found

    def refined(self) -> Int[np.ndarray, "n C"]:
        """The first corners of blocks of FINEST cells that may hold the surface."""
        size = COARSEST
        blocks = np.stack(np.meshgrid(*[np.arange(0, self.cells, size)] * self.dims, indexing="ij"), -1).reshape(-1, self.dims)
        steepest = STEEPEST
        while True:
            found = self.at(np.minimum(blocks + size // 2, self.cells))
            if size == COARSEST:
                steepest = max(STEEPEST, STEEPEST * self._slope(found, blocks))
            blocks = blocks[np.abs(found) <= steepest * (size * self.dims**0.5 / 2) * self.step]
            if size == FINEST:
                return blocks
            size //= 2
            blocks = (blocks[:, None] + size * _corners(self.dims, 1)).reshape(-1, self.dims)
            blocks = blocks[(blocks < self.cells).all(1)]

    def _slope(self, values: Float[np.ndarray, " n"], blocks: Int[np.ndarray, "n C"]) -> float:
        """The greatest slope along an axis between the centres of the first blocks, which make a lattice."""
        side = round(len(blocks) ** (1 / self.dims))
        lattice = values.reshape((side,) * self.dims)
        places = np.minimum(np.unique(blocks) + COARSEST // 2, self.cells) * self.step
        apart = np.diff(places).clip(min=self.step)
        slopes = [np.abs(np.moveaxis(np.diff(lattice, axis=axis), axis, -1)) / apart for axis in range(self.dims)]
        return max((float(each.max()) for each in slopes if each.size), default=0.0)

    def followed(self, blocks: Int[np.ndarray, "n C"]) -> tuple[Float[np.ndarray, "*R"], Int[np.ndarray, " C"]]:
        """(values on the part of the grid that holds the surface, where that part begins), all of it from these blocks on."""
        if not len(blocks):
            return np.zeros((0,) * self.dims, np.float32), np.zeros(self.dims, int)
        taken = np.zeros((-(-self.cells // FINEST),) * self.dims, bool)
        new, low, high = blocks, blocks.min(0), blocks.max(0)
        while len(new):
            taken[tuple((new // FINEST).T)] = True
            low, high = np.minimum(low, new.min(0)), np.maximum(high, new.max(0))
            self.at(np.minimum(new[:, None] + _corners(self.dims, FINEST), self.cells))
            new = self._beyond(new, taken)
        return self.values[tuple(slice(a, b + FINEST + 1) for a, b in zip(low, high, strict=True))], low

    def _beyond(self, blocks: Int[np.ndarray, "n C"], taken: Bool[np.ndarray, "*M"]) -> Int[np.ndarray, "m C"]:
        """Blocks that are not taken yet and into which the surface goes on from these."""
        found = []
        for axis, side in product(range(self.dims), (-1, 1)):
            there = blocks + side * FINEST * np.eye(self.dims, dtype=int)[axis]
            open_ = (there[:, axis] >= 0) & (there[:, axis] < self.cells)
            open_[open_] = ~taken[tuple((there[open_] // FINEST).T)]
            face = _corners(self.dims, FINEST)
            face = face[face[:, axis] == (FINEST if side > 0 else 0)]
            signs = self.at(np.minimum(blocks[open_, None] + face, self.cells)) < 0
            found.append(there[open_][signs.any(1) & ~signs.all(1)])
        return np.unique(np.concatenate(found), axis=0)


def _corners(dims: int, size: int) -> Int[np.ndarray, "n C"]:
    """The samples of a block of `size` cells."""
    return np.array(list(product(range(size + 1), repeat=dims)))


def _triangles(values: Float[np.ndarray, "x y z"]) -> tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, "m 3"]]:
    unknown = np.isnan(values)
    # a cell is masked at its last corner
    mask = ~np.any([np.roll(unknown, shift, (0, 1, 2)) for shift in _corners(3, 1)], axis=0)
    filled = np.where(unknown, 1, values).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(filled, 0.0, gradient_direction="descent", mask=mask)
    return vertices.astype(np.float64), faces.astype(np.int64)


def _edges(values: Float[np.ndarray, "x y"]) -> tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, "m 2"]]:
    vertices, edges, count = [], [], 0
    for line in find_contours(values, 0.0):
        numbers = np.arange(count, count + len(line))
        vertices.append(line)
        edges.append(np.stack([numbers[:-1], numbers[1:]], 1))
        count += len(line)
    return np.concatenate(vertices), np.concatenate(edges)
