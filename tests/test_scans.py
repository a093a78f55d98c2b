"""What was seen of one shape, from a file; and closed outlines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from contracts.signals import SignalsContract

from neuralfield.errors import NeuralfieldError, NeuralfieldWarning, UsageError
from neuralfield.signals.mesh_files import MARGIN
from neuralfield.signals.scans import backprojected, scan
from neuralfield.signals.shapes import Shapes
from neuralfield.signals.signals import Signals, load
from neuralfield.types import AT_LEAST, Observations

CENTRE, SCALE = np.array([3.0, -2.0, 5.0]), 4.0
"""Of the ball that is scanned, in the user's units."""


def directions(count: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed).standard_normal((count, 3))
    return draw / np.linalg.norm(draw, axis=1, keepdims=True)


def write_cloud(file: Path, normals: str | None = None, count: int = 60) -> Path:
    """Points of the ball; `normals` of unit length, longer, or some of them unknown."""
    n = directions(count)
    rows = CENTRE + SCALE * n
    names = ["x", "y", "z"]
    if normals is not None:
        told = n * {"unit": 1.0, "long": 7.0}.get(normals, 1.0)
        if normals == "some":
            told[:10], told[10:20] = 0, np.nan
        rows, names = np.concatenate([rows, told], 1), [*names, "nx", "ny", "nz"]
    head = ["ply", "format ascii 1.0", f"element vertex {count}", *(f"property float {name}" for name in names), "end_header"]
    file.write_text("\n".join([*head, *(" ".join(map(repr, row)) for row in rows.tolist())]) + "\n")
    return file


def seen(shapes: Shapes) -> Observations:
    return shapes.truth(torch.arange(1))


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    """Each kind of thing that may be seen of the ball."""
    n, draw = directions(30), np.random.default_rng(1)
    off = draw.uniform(0.5, 1.4, 40)
    given: dict[str, Any] = {
        "surface": CENTRE + SCALE * n,
        "normals": n,
        "points": CENTRE + SCALE * off[:, None] * directions(40, 2),
        "distances": SCALE * (off - 1),
        "empty": CENTRE + SCALE * 1.02 * directions(20, 3),
    }
    return {name: array for name, array in (given | changes).items() if array is not None}


def write(file: Path, **given: np.ndarray) -> str:
    np.savez(file, allow_pickle=False, **given)
    return str(file)


# clouds


@pytest.mark.parametrize("ending", ["ply", "xyz", "obj", "glb"])
def test_a_cloud_of_points_is_a_surface_partly_seen(tmp_path: Path, ending: str) -> None:
    points = CENTRE + SCALE * directions(80)
    trimesh.PointCloud(points).export(tmp_path / f"scan.{ending}")
    shapes = [load(f"scan:{tmp_path}/scan.{ending}"), load(str(tmp_path / f"scan.{ending}"))]  # by name, and by its ending alone
    for found in shapes:
        assert isinstance(found, Shapes)
        assert found.ids == ["scan"]
        assert found.dims == 3
        observed = seen(found)
        assert observed.values.eq(0).all()
        assert observed.told.eq(1).all()
        assert observed.relation is None
        assert observed.normals is None
        frame = found.frames[0]
        np.testing.assert_allclose(observed.coords[0] * frame[3] + frame[:3], points, atol=1e-5)
        assert float(observed.coords.norm(dim=-1).max()) == pytest.approx(1 / MARGIN)


@pytest.mark.parametrize("normals", ["unit", "long", "some"])
def test_normals_of_a_cloud_are_taken_from_ply(tmp_path: Path, normals: str) -> None:
    observed = seen(scan(str(write_cloud(tmp_path / "scan.ply", normals))))
    assert observed.normals is not None
    expected = torch.from_numpy(directions(60)).float()
    if normals == "some":
        expected[:20] = 0  # what is no direction is unknown
    torch.testing.assert_close(observed.normals[0], expected, rtol=0, atol=1e-5)


def test_of_a_mesh_that_is_said_to_be_a_scan_the_vertices_are_seen(tmp_path: Path) -> None:
    trimesh.creation.box().export(tmp_path / "a.ply")
    assert len(scan(str(tmp_path / "a.ply")).samples[0]) == 8
    assert len(load(str(tmp_path / "a.ply"), even=10, surface=10, near=10, cache=str(tmp_path / "cache")).samples[0]) == 30  # type: ignore[attr-defined]


def test_a_cloud_that_is_not_finite_is_one_line(tmp_path: Path) -> None:
    file = write_cloud(tmp_path / "scan.ply")
    file.write_text(file.read_text().replace(file.read_text().splitlines()[9].split()[0], "nan", 1))
    with pytest.raises(NeuralfieldError, match=f"{file}: .*not finite"):
        scan(str(file))


# frames


def test_a_frame_that_is_known_is_taken(tmp_path: Path) -> None:
    shapes = scan(str(write_cloud(tmp_path / "scan.ply")), frame=[*CENTRE.tolist(), 2 * SCALE])
    assert shapes.frames.tolist() == [[*CENTRE, 2 * SCALE]]
    torch.testing.assert_close(seen(shapes).coords.norm(dim=-1), torch.full((1, 60), 0.5), rtol=0, atol=1e-6)


def test_without_normalisation_a_scan_stays_where_it_is(tmp_path: Path) -> None:
    file = write(tmp_path / "scan.npz", surface=0.5 * directions(30))
    shapes = scan(file, normalise=False)
    assert shapes.frames.tolist() == [[0, 0, 0, 1]]
    np.testing.assert_allclose(seen(shapes).coords[0], 0.5 * directions(30), atol=1e-7)


@pytest.mark.parametrize("frame", [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0], [0.0, 0.0, 0.0, float("nan")], []])
def test_a_frame_that_is_none_is_one_line(tmp_path: Path, frame: list[float]) -> None:
    with pytest.raises(NeuralfieldError, match=r"signals\.frame must be .*\[x, y, z, scale\]"):
        scan(str(write_cloud(tmp_path / "scan.ply")), frame=frame)


# arrays


def test_every_kind_of_thing_seen_of_a_shape_is_read(tmp_path: Path) -> None:
    shapes = scan(write(tmp_path / "ball.npz", **arrays()))
    observed, frame = seen(shapes), shapes.frames[0]
    assert shapes.ids == ["ball"]
    assert observed.relation is not None
    assert observed.normals is not None
    told, bound = observed.told[0] > 0, observed.relation[0] == AT_LEAST
    back = (observed.coords[0] * frame[3] + frame[:3]).numpy()
    off = np.linalg.norm(back - CENTRE, axis=1) - SCALE
    # distances are scaled as their points are
    np.testing.assert_allclose(observed.values[0, told, 0] * frame[3], off[told], atol=1e-5)
    assert told.sum() == 70
    assert 0 < bound.sum() <= 20
    assert (off[bound] > 0).all()
    assert observed.values[0, bound].eq(0).all()
    assert observed.coords[0, bound].abs().max() <= 1
    torch.testing.assert_close(observed.normals[0, :30], torch.from_numpy(directions(30)).float())
    assert observed.normals[0, 30:].eq(0).all()


@pytest.mark.parametrize("alone", [["surface"], ["surface", "normals"], ["points", "distances"], ["surface", "empty"]])
def test_what_belongs_together_is_enough(tmp_path: Path, alone: list[str]) -> None:
    given = arrays()
    shapes = scan(write(tmp_path / "scan.npz", **{name: given[name] for name in alone}))
    assert (seen(shapes).normals is not None) == ("normals" in alone)
    assert (seen(shapes).relation is not None) == ("empty" in alone)


def test_normals_are_directions_whatever_their_length(tmp_path: Path) -> None:
    lengths = np.linspace(0.1, 9, 30)[:, None]
    normals = [
        seen(scan(write(tmp_path / f"{i}.npz", **arrays(normals=each)))).normals
        for i, each in enumerate((directions(30), lengths * directions(30)))
    ]
    torch.testing.assert_close(normals[1], normals[0])


CAMERA = {"depth": np.ones((4, 4)), "c2w": np.eye(4), "focal": np.array(4.0)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, ["none of the arrays surface", "there are: none"]),
        ({"images": np.zeros((2, 2))}, ["none of the arrays surface", "there are: images"]),
        (arrays(distances=None), ['"distances"', "[0] for 40 points"]),
        (arrays(points=None), ['"distances"', "[40] for 0 points"]),
        (arrays(surface=None), ['"normals"', '"surface"']),
        (arrays(normals=np.zeros((3, 3))), ['"normals"', '"surface"']),
        (arrays(surface=np.zeros((3, 2))), ['"surface"', "[n, 3]", "[3, 2]"]),
        (arrays(empty=np.zeros(3)), ['"empty"', "[n, 3]", "[3]"]),
        (arrays(points=np.full((40, 3), np.nan)), ['"points"', "finite"]),
        (arrays(distances=np.full(40, np.inf)), ['"distances"', "finite"]),
        (arrays(surface=np.array([["a", "b", "c"]])), ['"surface"', "numbers", "U1"]),
        ({"empty": directions(5)}, ["no point on the surface"]),
        ({"surface": np.zeros((0, 3))}, ["no point on the surface"]),
        ({"depth": np.ones((4, 4))}, ['"c2w" is not so']),
        ({"c2w": np.eye(4), "surface": directions(5)}, ['"depth" is not so']),
        (CAMERA | {"focal": np.ones(2)}, ['"focal" is not so']),
        (CAMERA | {"c2w": np.eye(3)}, ['"c2w" is not so']),
        (CAMERA | {"depth": np.ones(4)}, ['"depth" is not so']),
        (CAMERA | {"depth": np.zeros((4, 4))}, ["no point on the surface"]),
        (CAMERA | {"depth": np.full((4, 4), np.nan)}, ['"depth"', "finite"]),
        (CAMERA | {"depth": np.full((4, 4), -1.0)}, ['"depth"', "0 where nothing"]),
        (CAMERA | {"focal": np.array(0.0)}, ["focal positive"]),
        (CAMERA | {"c2w": np.diag([2.0, 2.0, 2.0, 1.0])}, ["c2w", "no rotation"]),
        (CAMERA | {"c2w": np.diag([-1.0, 1.0, 1.0, 1.0])}, ["c2w", "mirror image"]),
        (CAMERA | {"c2w": -np.eye(4)}, ["c2w", "mirror image"]),
    ],
)
def test_arrays_that_do_not_fit_together_are_one_line(tmp_path: Path, given: dict[str, np.ndarray], words: list[str]) -> None:
    file = write(tmp_path / "scan.npz", **given)
    with pytest.raises(NeuralfieldError) as caught:
        scan(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("name", ["none.npz", "none.ply", "broken.npz", "broken.ply"])
def test_a_scan_that_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    if name.startswith("broken"):
        (tmp_path / name).write_bytes(b"hello")
    with pytest.raises(NeuralfieldError, match=name) as caught:
        load(f"scan:{tmp_path / name}")
    assert "\n" not in str(caught.value)


# depth maps


def rendered(side: int = 48, focal: float = 60.0, radius: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """(depth map of a ball around 0, camera), seen from a place without symmetry; 0 beside it."""
    eye = np.array([1.2, 0.7, 1.9])
    back = eye / np.linalg.norm(eye)
    right = np.cross([0, 1, 0], back)
    right /= np.linalg.norm(right)
    c2w = np.eye(4)
    c2w[:3, :3], c2w[:3, 3] = np.stack([right, np.cross(back, right), back], 1), eye
    rows, columns = np.indices((side, side))
    rays = np.stack([(columns + 0.5 - side / 2) / focal, -(rows + 0.5 - side / 2) / focal, -np.ones((side, side))], -1)
    rays = rays @ c2w[:3, :3].T
    a, b, c = (rays**2).sum(-1), rays @ eye, eye @ eye - radius**2
    room = b**2 - a * c
    return np.where(room > 0, (-b - np.sqrt(room.clip(0))) / a, 0.0), c2w


def test_a_depth_map_of_a_ball_lies_on_it_and_all_before_it_is_empty() -> None:
    depth, c2w = rendered()
    surface, empty = backprojected(depth, c2w, 60.0, np.random.default_rng(0))
    assert len(surface) == (depth > 0).sum() > 200
    np.testing.assert_allclose(np.linalg.norm(surface, axis=1), 0.6, atol=1e-9)
    assert ((surface * (c2w[:3, 3] - surface)).sum(1) > 0).all()  # its front
    assert len(empty) >= depth.size
    assert (np.linalg.norm(empty, axis=1) > 0.6 - 1e-9).all()
    # also beside the ball, and behind the plane through its centre
    assert (empty @ c2w[:3, 3] < 0).any()


@pytest.mark.parametrize("move", [0.0, 1.0, -40.0])
def test_empty_space_is_the_same_wherever_the_origin_lies(move: float) -> None:
    depth, c2w = rendered()
    moved = c2w.copy()
    moved[:3, 3] = move * c2w[:3, 3]  # 0: the camera is the origin
    surface, empty = backprojected(depth, moved, 60.0, np.random.default_rng(0))
    still, same = backprojected(depth, c2w, 60.0, np.random.default_rng(0))
    shift = moved[:3, 3] - c2w[:3, 3]
    np.testing.assert_allclose(surface, still + shift, atol=1e-9)
    np.testing.assert_allclose(empty, same + shift, atol=1e-9)
    box = np.array([still.min(0), still.max(0)])
    far = np.linalg.norm(np.abs(box - c2w[:3, 3]).max(0))
    reach = np.linalg.norm(same - c2w[:3, 3], axis=1)
    assert 0.9 * far < reach.max() <= far + 1e-9


def test_where_nothing_was_hit_one_unit_is_empty() -> None:
    surface, empty = backprojected(np.zeros((8, 8)), np.eye(4), 4.0, np.random.default_rng(0))
    assert len(surface) == 0
    assert 0.9 < np.linalg.norm(empty, axis=1).max() <= 1


@pytest.mark.parametrize("given", [arrays(), CAMERA, {"surface": directions(5)}, {"empty": directions(5)}])
def test_a_scan_that_is_read_as_signals_is_told_what_it_is(tmp_path: Path, given: dict[str, np.ndarray]) -> None:
    file = write(tmp_path / "scan.npz", **given)
    with pytest.raises(NeuralfieldError, match=f"read it as scan:{file}"):
        load(file)


def test_a_picture_that_is_not_square_has_its_own_axes() -> None:
    depth, focal = np.zeros((2, 6)), 3.0
    depth[0, 5] = 2.0  # the upper right
    surface, _ = backprojected(depth, np.eye(4), focal, np.random.default_rng(0))
    np.testing.assert_allclose(surface, [[2.5 / 3 * 2, 0.5 / 3 * 2, -2.0]])


def test_a_depth_map_is_a_scan_with_free_space(tmp_path: Path) -> None:
    depth, c2w = rendered()
    shapes = scan(write(tmp_path / "scan.npz", depth=depth, c2w=c2w, focal=np.array(60.0)), frame=[0.0, 0.0, 0.0, 1.0])
    observed = seen(shapes)
    assert observed.relation is not None
    told = observed.told[0] > 0
    torch.testing.assert_close(observed.coords[0, told].norm(dim=-1), torch.full((int(told.sum()),), 0.6), rtol=0, atol=1e-5)
    assert (observed.relation[0] == AT_LEAST).sum() > 500
    assert observed.coords.abs().max() <= 1
    again = scan(str(tmp_path / "scan.npz"), frame=[0.0, 0.0, 0.0, 1.0])
    assert torch.equal(seen(again).coords, observed.coords)  # drawn alike
    other = scan(str(tmp_path / "scan.npz"), frame=[0.0, 0.0, 0.0, 1.0], seed=1)
    assert not torch.equal(seen(other).coords, observed.coords) or len(other.samples[0]) != len(shapes.samples[0])


def test_a_depth_map_beside_points_with_normals_leaves_those_their_normals(tmp_path: Path) -> None:
    depth, c2w = rendered()
    points = 0.6 * directions(10)
    given = {"surface": points, "normals": directions(10), "depth": depth, "c2w": c2w, "focal": np.array([60.0])}
    observed = seen(scan(write(tmp_path / "scan.npz", **given), frame=[0.0, 0.0, 0.0, 1.0]))
    assert observed.normals is not None
    torch.testing.assert_close(observed.normals[0, :10], torch.from_numpy(directions(10)).float())
    assert observed.normals[0, 10:].eq(0).all()
    assert observed.told.sum() == 10 + (depth > 0).sum()


# outlines


def polygons() -> list[np.ndarray]:
    """A square, a triangle, circles."""
    rings = []
    for i in range(4):
        angle = np.arange(40 + i) * 2 * np.pi / (40 + i)
        rings.append(10 * (i + 1) * np.stack([np.cos(angle), np.sin(angle)], 1) + [5 * i, 3])
    return [np.array([[0, 0], [4, 0], [4, 4], [0, 4.0]]), np.array([[0, 0], [3, 0], [0, 1.0]]), *rings]


def write_outlines(file: Path, rings: list[np.ndarray], **changes: Any) -> str:
    offsets = np.concatenate([[0], np.cumsum([len(ring) for ring in rings])])
    np.savez(file, allow_pickle=False, **({"points": np.concatenate(rings), "offsets": offsets} | changes))
    return f"npz:{file}"


class TestOutlines(SignalsContract):
    replaces = True

    @pytest.fixture
    def signals(self, tmp_path: Path) -> Signals:
        return load(write_outlines(tmp_path / "a.npz", polygons(), names=np.array(list("abcdef"))))


def read(file: Path, rings: list[np.ndarray], **changes: Any) -> Shapes:
    shapes = load(write_outlines(file, rings, **changes))
    assert isinstance(shapes, Shapes)
    return shapes


def test_outlines_have_exact_distances_in_their_frames(tmp_path: Path) -> None:
    shapes = read(tmp_path / "a.npz", polygons())
    assert shapes.dims == 2
    assert shapes.ids == [str(i) for i in range(6)]
    for part, frame, i in zip(shapes.samples[2:], shapes.frames[2:].numpy(), range(4), strict=True):
        coords = part.values[:, :2] * frame[2] + frame[:2]
        exact = np.linalg.norm(coords - [5 * i, 3], axis=1) - 10 * (i + 1)
        # a polygon of 40 corners lies within radius (1 - cos(pi / 40)) of its circle
        np.testing.assert_allclose(part.values[:, 2] * frame[2], exact, atol=10 * (i + 1) * 0.0032)


@pytest.mark.parametrize("how", ["turned", "closed", "repeated"])
def test_either_direction_and_repeated_points_are_the_same_outline(tmp_path: Path, how: str) -> None:
    rings = polygons()
    other = {
        "turned": [ring[::-1] for ring in rings],
        "closed": [np.concatenate([ring, ring[:1]]) for ring in rings],
        "repeated": [ring.repeat(2, 0) for ring in rings],
    }[how]
    plain, changed = read(tmp_path / "a.npz", rings), read(tmp_path / "b.npz", other)
    torch.testing.assert_close(changed.frames, plain.frames)
    for a, b in zip(plain.samples, changed.samples, strict=True):
        even = slice(plain.even)
        np.testing.assert_allclose(a.values[even], b.values[even], atol=1e-6)
        assert (a.values[even, 2] < 0).any()


def test_points_of_whole_numbers_are_an_outline_too(tmp_path: Path) -> None:
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]])
    a, b = read(tmp_path / "a.npz", [square]), read(tmp_path / "b.npz", [square.astype(float)])
    assert np.array_equal(a.samples[0].values, b.samples[0].values)


def test_what_is_inside_is_as_large_as_the_outline(tmp_path: Path) -> None:
    shapes = read(tmp_path / "a.npz", polygons())
    for part, frame, area in zip(shapes.samples[:2], shapes.frames[:2], (16.0, 1.5), strict=True):
        inside = (part.values[: shapes.even, 2] < 0).mean() * 4 * float(frame[2]) ** 2
        assert inside == pytest.approx(area, rel=0.2)  # of 1024 points


def test_names_stay_with_their_outlines(tmp_path: Path) -> None:
    assert read(tmp_path / "a.npz", polygons()[:2], names=np.array(["square", "triangle"])).ids == ["square", "triangle"]


SQUARE = polygons()[0]


@pytest.mark.parametrize(
    ("rings", "changes", "words"),
    [
        ([SQUARE, SQUARE[:2]], {}, ["outline 1", "2 different points", "at least 3"]),
        ([SQUARE, SQUARE[[0, 0, 0, 0]]], {}, ["outline 1", "0 different points"]),
        ([np.array([[0, 0], [1, 0.1], [2, 0.2]])], {}, ["outline 0", "encloses nothing"]),
        ([np.array([[0, 0], [1, 0.1], [2, 0.2]]) + 1e6], {}, ["outline 0", "encloses nothing"]),
        ([np.where(SQUARE == 4, np.nan, SQUARE)], {}, ["outline 0", "not finite"]),
        ([SQUARE], {"points": np.zeros((4, 3))}, ['"points"', "[n, 2]", "[4, 3]"]),
        ([SQUARE], {"points": np.array([["a", "b"]])}, ['"points"', "[n, 2]"]),
        ([SQUARE], {"offsets": np.array([0, 3])}, ['"offsets"', "4"]),
        ([SQUARE], {"offsets": np.array([1, 4])}, ['"offsets"']),
        ([SQUARE], {"offsets": np.array([0, 5, 4])}, ['"offsets"', "rise"]),
        ([SQUARE], {"offsets": np.array([0.0, 4.0])}, ['"offsets"', "whole numbers"]),
        ([SQUARE], {"offsets": np.array([4])}, ['"offsets"']),
        ([SQUARE], {"offsets": np.array([[0, 4]])}, ['"offsets"']),
        ([SQUARE], {"offsets": np.array([0, 5, 4], np.uint32)}, ['"offsets"', "rise"]),
        ([SQUARE], {"names": np.array(["a", "b"])}, ['"names"', "each of 1 outlines, got 2"]),
        ([SQUARE, SQUARE], {"names": np.array(["a", "a"])}, ['"names"', "of its own"]),
    ],
)
def test_outlines_that_are_none_are_one_line(
    tmp_path: Path, rings: list[np.ndarray], changes: dict[str, np.ndarray], words: list[str]
) -> None:
    with pytest.raises(NeuralfieldError) as caught:
        load(write_outlines(tmp_path / "a.npz", rings, **changes))
    assert str(caught.value).startswith(str(tmp_path / "a.npz"))
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("setting", [{"pad": 2}, {"log": True}, {"channels": 1}])
def test_settings_of_images_and_curves_are_refused_of_outlines(tmp_path: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="outlines"):
        load(write_outlines(tmp_path / "a.npz", polygons()), **setting)


def test_points_beyond_the_cube_are_left_out_and_none_inside_is_one_line(tmp_path: Path) -> None:
    points = np.array([[0.1, 0, 0], [0, 0.2, 0], [3, 0, 0], [0, 0, -0.4]])
    normals = np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, -1]])
    np.savez(tmp_path / "seen.npz", surface=points, normals=normals, points=[[0.9, 0.9, 0.9]], distances=[0.8])
    with pytest.warns(NeuralfieldWarning, match="left out 1 of 4 points of the surface, beyond"):
        batch = scan(str(tmp_path / "seen.npz"), normalise=False).batch(torch.tensor([0]))
    np.testing.assert_allclose(batch.coords[0].numpy(), [*points[[0, 1, 3]].tolist(), [0.9, 0.9, 0.9]], rtol=1e-6)
    assert batch.normals is not None
    assert batch.normals[0, :3].tolist() == normals[[0, 1, 3]].tolist()
    with pytest.raises(NeuralfieldError, match=r"seen.npz: none of its surface lies in the cube .* signals.frame"):
        scan(str(tmp_path / "seen.npz"), frame=[100.0, 0.0, 0.0, 1.0])
