"""Surfaces out of fields, and distances out of meshes: how much work, and whether they are right."""

import statistics
from collections.abc import Callable
from importlib.util import find_spec

import igl
import numpy as np
import torch
import trimesh
from machine import data_folder
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from shape_measures import Report, Sizes, fitted, surface_points, timed
from skimage.measure import marching_cubes

import neuralfield as nf
from neuralfield.domains.surfaces import Surface, extracted
from neuralfield.signals.distances import signed_distance
from neuralfield.signals.mesh_files import normalised, read_mesh

RADIUS = 0.9
SHARE, SAME, ROUND = 0.04, 1e-6, 1e-4
"""Targets: of the dense grid's evaluations; vertices apart; a sphere's vertices off its radius."""
MESH = "rocker_arm"
"""20,088 faces, watertight."""
FASTER, REMOVED, BAND = 20.0, 0.05, 3e-3
"""Targets of distances: time against trimesh; with so many faces gone, no wrong sign farther than this from the surface."""


def meshing(sizes: Sizes, report: Report) -> None:
    """Extraction that skips empty space against the whole grid."""
    report.say("## Meshing", "")
    off, evaluated = sphere(sizes.coarse)
    report.target(
        f"sphere of radius {RADIUS} at {sizes.coarse}^3: vertices within {ROUND:g} of the radius.",
        f"{off:.1e}, from {evaluated / sizes.coarse**3:.1%} of the grid's evaluations",
        off <= ROUND,
    )
    run = fitted("seats", sizes)
    rows = [against_dense(run.field(code[None]), sizes.fine) for code in run.codes[: sizes.dense]]
    report.say(f"The first {len(rows)} training seats at {sizes.fine}^3, our extraction and marching cubes on the whole grid:", "")
    report.table(HEAD, [(name, *_cells(row)) for name, row in zip(run.ids, rows, strict=False)])
    share, apart = max(row[0] for row in rows), max(row[1] for row in rows)
    report.target(f"at most {SHARE:.0%} of the dense grid's evaluations at {sizes.fine}^3.", f"{share:.2%} at most", share <= SHARE)
    report.target(f"vertices equal to the dense ones within {SAME:g}.", f"{apart:.1e}", apart <= SAME)
    all_seats = [against_dense(run.field(code[None]), sizes.coarse) for code in run.codes]
    same = sum(row[2] == row[3] for row in all_seats)
    report.say(
        f"All {len(all_seats)} training seats at {sizes.coarse}^3: farthest vertex {max(row[1] for row in all_seats):.1e} from the "
        f"dense result's, {statistics.mean(row[0] for row in all_seats):.2%} of the evaluations on average, "
        f"{sum(row[5] for row in all_seats) / sum(row[4] for row in all_seats):.1f} x less CPU.",
        "",
    )
    report.target(
        f"as many components as the dense result on all seats ({sizes.coarse}^3).",
        f"{same} of {len(all_seats)}",
        same == len(all_seats),
    )


Compared = tuple[float, float, int, int, float, float]
HEAD = ("seat", "share of evaluations", "vertices apart", "components", "dense", "CPU s", "dense")


def _cells(row: Compared) -> tuple[str, ...]:
    return f"{row[0]:.2%}", f"{row[1]:.1e}", str(row[2]), str(row[3]), f"{row[4]:.2f}", f"{row[5]:.1f}"


def sphere(resolution: int) -> tuple[float, int]:
    """(how far the farthest vertex is off the radius, points evaluated)."""
    field = nf.Field(lambda _, coords: coords.norm(dim=-1, keepdim=True) - RADIUS, torch.zeros(1, 1), coord_dim=3)
    surface, evaluated = extracted(field, resolution)
    return float(np.abs(np.linalg.norm(surface.vertices, axis=1) - RADIUS).max()), evaluated


def against_dense(field: nf.Field, resolution: int) -> Compared:
    """(share of evaluations, farthest vertex from the other result's, components and the dense's, CPU seconds and the dense's)."""
    with timed() as ours:
        surface, evaluated = extracted(field, resolution)
    with timed() as theirs:
        whole = dense(field, resolution)
    here, there = surface.vertices, whole.vertices
    apart = max(cKDTree(a).query(b)[0].max() for a, b in ((here, there), (there, here))) if len(here) and len(there) else 0.0
    apart = float("inf") if bool(len(here)) != bool(len(there)) else float(apart)
    return evaluated / resolution**3, apart, components(surface), components(whole), ours.seconds, theirs.seconds


@torch.no_grad()
def dense(field: nf.Field, resolution: int) -> Surface:
    """Marching cubes on every sample of the cube."""
    step = 2 / (resolution - 1)
    axis = (np.arange(resolution) * step - 1).astype(np.float32)
    slab = np.stack(np.meshgrid(axis[:1], axis, axis, indexing="ij"), -1).reshape(-1, 3)
    values = np.empty((resolution,) * 3, np.float32)
    for i, x in enumerate(axis):
        slab[:, 0] = x
        values[i] = field(torch.from_numpy(slab))[0, :, 0].numpy().reshape(resolution, resolution)
    if values.min() >= 0 or values.max() <= 0:
        return Surface(np.zeros((0, 3)), np.zeros((0, 3), int))
    vertices, faces, _, _ = marching_cubes(values, 0.0, gradient_direction="descent")
    return Surface(vertices.astype(np.float64) * step - 1, faces.astype(np.int64))


def components(surface: Surface) -> int:
    """Pieces that hang together by their faces."""
    if not len(surface):
        return 0
    rows, columns = surface.elements[:, :2].T, surface.elements[:, 1:].T
    n = len(surface.vertices)
    graph = coo_matrix((np.ones(rows.size), (rows.ravel(), columns.ravel())), shape=(n, n))
    return int(connected_components(graph, directed=False)[0])


def sampling(sizes: Sizes, report: Report) -> None:
    """Signed distances: time and signs."""
    mesh = normalised(read_mesh(data_folder() / "meshes" / "singles" / f"{MESH}.ply")[0])[0]
    random = np.random.default_rng(0)
    points = cloud(mesh, sizes.distances, random)
    report.say(
        f"## Signed distances, {MESH} ({len(mesh)} faces), {len(points)} points, half in the cube and half near the surface", ""
    )
    seconds = []
    for _ in range(3):
        with timed() as clock:
            ours = signed_distance(mesh, points)
        seconds.append(clock.seconds)
    if find_spec("rtree"):
        against_trimesh(mesh, points, ours, statistics.median(seconds), sizes, report)
    else:
        report.say(f"Ours: {statistics.median(seconds):.2f} CPU s. trimesh needs rtree for its distances: pip install rtree.", "")
    signs(mesh, points, ours, sizes, report)


def cloud(mesh: Surface, count: int, random: np.random.Generator) -> np.ndarray:
    """Half evenly in the cube, half near the surface (standard deviation .02), in random order."""
    near = surface_points(mesh, count - count // 2, 0) + 0.02 * random.standard_normal((count - count // 2, 3))
    return random.permutation(np.concatenate([random.uniform(-1, 1, (count // 2, 3)), near]))


def against_trimesh(mesh: Surface, points: np.ndarray, ours: np.ndarray, seconds: float, sizes: Sizes, report: Report) -> None:
    """trimesh.proximity.signed_distance on some of the points, scaled up; it is positive inside."""
    other = trimesh.Trimesh(mesh.vertices, mesh.elements, process=False)
    some = points[: sizes.slow_distances]
    trimesh.proximity.signed_distance(other, some[:10])  # its trees are built once
    with timed() as clock:
        theirs = -trimesh.proximity.signed_distance(other, some)
    slow = clock.seconds * len(points) / len(some)
    rows = [("ours", f"{seconds:.2f}"), (f"trimesh, by the first {len(some)} points", f"{slow:.0f}")]
    report.table(("", f"CPU s for {len(points)} points"), rows)
    report.target(f"at most 1/{FASTER:.0f} of trimesh's time.", f"1/{slow / seconds:.0f}", seconds * FASTER <= slow)
    apart = np.abs(np.abs(theirs) - np.abs(ours[: len(some)])).max()
    inside = other.contains(some)
    report.say(f"Unsigned distances differ by at most {apart:.1e}.")
    report.say(
        f"Points that trimesh's contains places on the other side: {(inside != (ours[: len(some)] < 0)).sum()} of {len(some)}.", ""
    )


def signs(mesh: Surface, points: np.ndarray, ours: np.ndarray, sizes: Sizes, report: Report) -> None:
    """Wrong signs: against formulas, against the exact winding number, and with faces gone."""
    wrong = {name: against_formula(shape, formula, sizes) for name, (shape, formula) in analytic().items()}
    some = points[: sizes.slow_distances]
    exact = igl.winding_number(mesh.vertices, mesh.elements, some) > 0.5
    wrong[f"{MESH}, {len(some)} points, exact winding number"] = int((exact != (ours[: len(some)] < 0)).sum()), len(some)
    report.table(("watertight mesh", "wrong signs", "of"), [(name, *counts) for name, counts in wrong.items()])
    total = sum(count for count, _ in wrong.values())
    report.target("no wrong sign on watertight meshes.", str(total), total == 0)
    kept = np.random.default_rng(1).permutation(len(mesh))[round(REMOVED * len(mesh)) :]
    holed = signed_distance(Surface(mesh.vertices, mesh.elements[kept]), points)
    turned = (holed < 0) != (ours < 0)
    beyond = int((turned & (np.abs(ours) > BAND)).sum())
    far = float(np.abs(ours[turned]).max()) if turned.any() else 0.0
    what = f"with {REMOVED:.0%} of the faces removed no wrong sign beyond {BAND:g} of the surface."
    report.target(what, f"{beyond} of {len(points)} ({turned.sum()} wrong in all, the farthest at {far:.1e})", beyond == 0)


Formula = Callable[[np.ndarray], np.ndarray]


def analytic() -> dict[str, tuple[trimesh.Trimesh, Formula]]:
    """Meshes of solids whose distance has a formula."""

    def ring(p: np.ndarray) -> np.ndarray:
        return np.hypot(np.hypot(p[:, 0], p[:, 1]) - 0.6, p[:, 2]) - 0.25

    def ball(p: np.ndarray) -> np.ndarray:
        return np.linalg.norm(p, axis=1) - 0.9

    torus = trimesh.creation.torus(0.6, 0.25, major_sections=128, minor_sections=64)
    return {"torus": (torus, ring), "icosphere": (trimesh.creation.icosphere(subdivisions=5, radius=0.9), ball)}


def against_formula(mesh: trimesh.Trimesh, formula: Formula, sizes: Sizes) -> tuple[int, int]:
    """(wrong signs, points) of those farther from the solid's surface than the facets are."""
    surface = Surface(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    corners = surface.vertices[surface.elements]
    facets = max(np.abs(formula(each)).max() for each in (corners.mean(1), corners[:, :2].mean(1), corners[:, 1:].mean(1)))
    points = cloud(surface, sizes.distances, np.random.default_rng(2))
    truth = formula(points)
    clear = np.abs(truth) > 1.1 * facets
    found = signed_distance(surface, points[clear])
    return int(((found < 0) != (truth[clear] < 0)).sum()), int(clear.sum())
