"""Meshes as shapes: what is read of a file, what is told of it, what is kept, and the distances that are taken."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from contracts.signals import SignalsContract
from scipy.spatial import cKDTree

from neuralfield.domains.surfaces import Surface
from neuralfield.errors import NeuralfieldError, NeuralfieldWarning, UsageError
from neuralfield.signals.distances import Plan, signed_distance
from neuralfield.signals.mesh_files import MARGIN, PointsOnlyError, Report, read_mesh
from neuralfield.signals.meshes import Meshes, meshes
from neuralfield.signals.outlines import polygon
from neuralfield.signals.shapes import Shapes
from neuralfield.signals.signals import Signals, load

SIZES = {"even": 40, "surface": 30, "near": 50}
ENDINGS = ["ply", "obj", "stl", "off", "glb"]
"""Those that trimesh writes without other packages."""


def box(size: float = 1.0, at: tuple[float, float, float] = (0, 0, 0)) -> trimesh.Trimesh:
    """A box with its corners cut off on one side, so that it has no symmetry."""
    made = trimesh.creation.box((1.0, 0.6, 1.4)).subdivide()
    made.vertices[:, 0] += 0.2 * made.vertices[:, 1] ** 2 + 0.1 * made.vertices[:, 2]
    made.vertices = made.vertices * size + at
    return made


def write(folder: Path, mesh: trimesh.Trimesh, name: str = "a.ply") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    mesh.export(folder / name)
    return folder / name


def without(mesh: trimesh.Trimesh, faces: slice | np.ndarray) -> trimesh.Trimesh:
    kept = np.ones(len(mesh.faces), bool)
    kept[faces] = False
    return trimesh.Trimesh(mesh.vertices, mesh.faces[kept], process=False)


def write_off(file: Path, vertices: np.ndarray, faces: list[list[int]]) -> Path:
    """Any vertices and faces, wrong ones too."""
    lines = ["OFF", f"{len(vertices)} {len(faces)} 0", *(" ".join(map(str, v)) for v in vertices.tolist())]
    file.write_text("\n".join([*lines, *(f"3 {' '.join(map(str, face))}" for face in faces)]) + "\n")
    return file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Surface]:
    """The surfaces that were sampled, as the test goes on."""
    surfaces, take = [], Plan.take

    def counted(self: Plan, surface: Surface, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        surfaces.append(surface)
        return take(self, surface, random)

    monkeypatch.setattr(Plan, "take", counted)
    return surfaces


# reading


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_reads_to_the_same_surface(tmp_path: Path, ending: str) -> None:
    surface, report = read_mesh(write(tmp_path, box(), f"a.{ending}"))
    assert (len(surface), report.open_edges, report.components, report.turned, str(report)) == (48, 0, 1, False, "")
    found = surface.vertices[surface.elements].reshape(-1, 9)
    exact = box().triangles[:, :, :]
    # in either format a triangle may begin with any of its corners
    expected = np.concatenate([np.roll(exact, turn, axis=1) for turn in range(3)]).reshape(-1, 9)
    assert cKDTree(expected).query(found)[0].max() < 1e-6  # float32 files
    assert surface.volume == pytest.approx(box().volume, rel=1e-6)


@pytest.mark.parametrize("ending", ["obj", "glb"])
def test_corners_where_textures_or_normals_meet_are_one_vertex(tmp_path: Path, ending: str) -> None:
    split = box()
    split.unmerge_vertices()
    uv = trimesh.visual.TextureVisuals(uv=np.random.default_rng(0).random((len(split.vertices), 2)))
    hard = trimesh.Trimesh(
        split.vertices, split.faces, process=False, vertex_normals=np.repeat(split.face_normals, 3, 0), visual=uv
    )
    surface, report = read_mesh(write(tmp_path, hard, f"a.{ending}"))
    assert (len(surface.vertices), report.open_edges, report.components) == (len(box().vertices), 0, 1)


def test_a_scene_of_several_meshes_is_one_surface(tmp_path: Path) -> None:
    scene = trimesh.Scene([box(), box(0.5, (3, 0, 0))])
    scene.export(tmp_path / "a.glb")
    surface, report = read_mesh(tmp_path / "a.glb")
    assert (len(surface), report.components) == (96, 2)
    assert surface.volume == pytest.approx(box().volume * 1.125, rel=1e-5)


def inverted() -> trimesh.Trimesh:
    return trimesh.Trimesh(box().vertices, box().faces[:, ::-1], process=False)


def with_flat_faces() -> trimesh.Trimesh:
    flat = np.array([[0, 0, 1], [2, 3, 2]])
    return trimesh.Trimesh(box().vertices, np.concatenate([box().faces, flat]), process=False)


def with_a_fin() -> trimesh.Trimesh:
    """A triangle more on one of its edges."""
    a, b = box().faces[0, :2]
    vertices = np.concatenate([box().vertices, [[2.0, 2.0, 2.0]]])
    return trimesh.Trimesh(vertices, np.concatenate([box().faces, [[a, b, len(vertices) - 1]]]), process=False)


@pytest.mark.parametrize(
    ("make", "facts", "words"),
    [
        (box, {}, ""),
        (lambda: without(box(), slice(0, 1)), {"faces": 47, "open_edges": 3}, "open (3 edges at its border)"),
        (inverted, {"turned": True}, "inside out (turned)"),
        (with_flat_faces, {"degenerate": 2}, "2 faces without area"),
        (with_a_fin, {"faces": 49, "open_edges": 2, "forked": 1}, "not a manifold (1 edges of more than two faces)"),
    ],
    ids=["whole", "open", "inverted", "degenerate", "not a manifold"],
)
def test_what_is_found_in_a_mesh_is_told(
    tmp_path: Path, make: Callable[[], trimesh.Trimesh], facts: dict[str, int], words: str
) -> None:
    surface, report = read_mesh(write(tmp_path, make(), "a.off"))
    expected = {"faces": 48, "degenerate": 0, "open_edges": 0, "components": 1, "turned": False, "forked": 0, "against": 0} | facts
    assert report == Report(**expected)
    assert words in str(report)
    assert bool(str(report)) == bool(words)
    assert surface.volume > 0
    assert (surface.sizes > 0).all()


def triangles(surface: Surface) -> set[bytes]:
    """Each triangle from its least corner on: which are there, and which way round."""
    corners = surface.vertices[surface.elements]
    first = [min(range(3), key=lambda k: face[k].tolist()) for face in corners]
    return {np.roll(face, -k, axis=0).tobytes() for face, k in zip(corners, first, strict=True)}


@pytest.mark.parametrize("stray", [(3.0, 0.0, 0.0), (3e5, 0.0, 0.0), (np.nan, 0.0, 0.0)])
@pytest.mark.parametrize("flat", [False, True])
def test_a_vertex_that_no_face_with_an_area_uses_changes_nothing(
    tmp_path: Path, stray: tuple[float, float, float], flat: bool
) -> None:
    mesh = box()
    clean, _ = read_mesh(write_off(tmp_path / "clean.off", mesh.vertices, mesh.faces.tolist()))
    vertices, more = np.concatenate([mesh.vertices, [stray]]), [[0, len(mesh.vertices), 0]] * flat
    if flat and np.isnan(stray).any():
        with pytest.raises(NeuralfieldError, match="not finite"):
            read_mesh(write_off(tmp_path / "a.off", vertices, mesh.faces.tolist() + more))
        return
    surface, report = read_mesh(write_off(tmp_path / "a.off", vertices, mesh.faces.tolist() + more))
    assert triangles(surface) == triangles(clean)
    assert len(surface.vertices) == len(clean.vertices)
    assert report.degenerate == len(more)


def sphere(at: float = 0.0, radius: float = 1.0, flipped: float = 0.0) -> trimesh.Trimesh:
    """A ball with a share of its faces turned."""
    made = trimesh.creation.icosphere(2, radius=radius)
    turned = np.random.default_rng(0).random(len(made.faces)) < flipped
    faces = np.where(turned[:, None], made.faces[:, ::-1], made.faces)
    return trimesh.Trimesh(made.vertices + np.array([at, 0, 0]), faces, process=False)


def together(*parts: trimesh.Trimesh) -> trimesh.Trimesh:
    return trimesh.util.concatenate(list(parts))


@pytest.mark.parametrize("share", [0.05, 0.4, 0.6, 0.95])
def test_faces_turned_against_each_other_are_told_and_made_to_agree(tmp_path: Path, share: float) -> None:
    whole, _ = read_mesh(write(tmp_path, sphere(), "whole.off"))
    surface, report = read_mesh(write(tmp_path, sphere(flipped=share), "a.off"))
    assert triangles(surface) == triangles(whole)
    assert report.against > 0
    assert report.turned == (share > 0.5)
    assert f"faces turned against each other ({report.against} edges)" in str(report)


def test_where_faces_cannot_agree_it_is_told(tmp_path: Path) -> None:
    angle, side = np.arange(12) * np.pi / 6, np.array([-0.3, 0.3])
    radius = 1 + side[:, None] * np.cos(angle / 2)
    strip = np.stack([radius * np.cos(angle), radius * np.sin(angle), side[:, None] * np.sin(angle / 2)], 2).transpose(1, 0, 2)
    faces = []
    for k in range(12):
        a, b, c, d = 2 * k, 2 * k + 1, 2 * k + 2, 2 * k + 3
        c, d = (c, d) if k < 11 else (1, 0)
        faces += [[a, b, c], [c, b, d]]
    surface, report = read_mesh(write_off(tmp_path / "a.off", strip.reshape(-1, 3), faces))
    assert len(surface) == 24
    assert report.against > 0


@pytest.mark.parametrize(
    ("parts", "volume", "turned"),
    [
        ([(0, 1, 0), (3, 1, 1)], 2, True),
        ([(0, 1, 1), (3, 0.5, 1)], 1.125, True),
        ([(0, 1, 0), (3, 1, 0)], 2, False),
        ([(0, 1, 0), (0, 0.5, 1)], 0.875, False),  # a cavity
        ([(0, 1, 1), (0, 0.5, 0)], 0.875, True),  # a cavity, the whole inside out
    ],
)
def test_each_part_is_turned_outside_out_and_cavities_stay(
    tmp_path: Path, parts: list[tuple[float, float, float]], volume: float, turned: bool
) -> None:
    surface, report = read_mesh(write(tmp_path, together(*(sphere(*part) for part in parts)), "a.off"))
    assert surface.volume == pytest.approx(volume * sphere().volume, rel=1e-6)
    assert report.turned == turned
    assert report.components == 2


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("ball", [False, True])
def test_what_lies_in_the_box_of_another_part_but_not_in_it_is_judged_for_itself(tmp_path: Path, ring: bool, ball: bool) -> None:
    torus = trimesh.creation.torus(2.0, 0.4)
    if ring:
        torus.invert()
    surface, report = read_mesh(write(tmp_path, together(torus, sphere(0, 0.3, float(ball))), "a.off"))
    assert report.turned == (ring or ball)
    assert surface.volume == pytest.approx(abs(torus.volume) + sphere(0, 0.3).volume, rel=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_closed_parts_in_an_open_one_stay_outside_out(tmp_path: Path, turned: bool) -> None:
    """The open one may face either way."""
    ball = trimesh.creation.icosphere(3, radius=2.0)
    bowl = without(ball, ball.triangles_center[:, 2] > 0.3)
    if turned:
        bowl = trimesh.Trimesh(bowl.vertices, bowl.faces[:, ::-1], process=False)
    surface, report = read_mesh(write(tmp_path, together(bowl, sphere(0, 0.3)), "a.off"))
    assert report.turned == turned
    inner = np.linalg.norm(surface.vertices[surface.elements].mean(1), axis=1) < 0.4
    assert inner.sum() == len(sphere().faces)
    assert Surface(surface.vertices, surface.elements[inner]).volume > 0


@pytest.mark.parametrize("where", [(0, 0, 0), (0, 0, 1e3), (0, 0, -1e3), (1e3, -1e3, 1e3)])
@pytest.mark.parametrize("turned", [False, True])
def test_an_open_mesh_is_turned_only_where_it_is_inside_out_wherever_it_lies(
    tmp_path: Path, where: tuple[float, float, float], turned: bool
) -> None:
    ball = trimesh.creation.icosphere(3)
    bowl = without(ball, ball.triangles_center[:, 2] > 0.3)
    faces = bowl.faces[:, ::-1] if turned else bowl.faces
    report = read_mesh(write(tmp_path, trimesh.Trimesh(bowl.vertices + where, faces, process=False), "a.off"))[1]
    assert report.open_edges > 0
    assert report.turned == turned


CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
FACES = [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]


@pytest.mark.parametrize(
    ("vertices", "faces", "words"),
    [
        (CORNERS, [], "no faces, only points"),
        (np.where(CORNERS == 1, np.nan, CORNERS), FACES, "not finite"),
        (np.where(CORNERS == 1, np.inf, CORNERS), FACES, "not finite"),
        (CORNERS * [1, 0, 0], FACES, "none of its faces has an area"),
        (CORNERS, [*FACES, [0, 1, 9]], "vert"),
    ],
    ids=["points only", "NaN", "infinite", "flat", "a face of no vertex"],
)
def test_what_holds_no_surface_is_one_line(tmp_path: Path, vertices: np.ndarray, faces: list[list[int]], words: str) -> None:
    with pytest.raises(NeuralfieldError, match=words) as caught:
        read_mesh(write_off(tmp_path / "a.off", vertices, faces))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, PointsOnlyError) == (not faces)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("content", [b"", b"hello\n", b"ply\nformat binary_little_endian 1.0\nelement vertex 9\n"])
def test_what_is_no_mesh_is_one_line(tmp_path: Path, ending: str, content: bytes) -> None:
    (tmp_path / f"a.{ending}").write_bytes(content)
    with pytest.raises(NeuralfieldError) as caught:
        meshes(str(tmp_path / f"a.{ending}"))
    assert str(tmp_path / f"a.{ending}") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mesh_file_that_was_cut_off_is_one_line(tmp_path: Path) -> None:
    file = write(tmp_path, box())
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(NeuralfieldError, match=f"{file}: .*--skip-bad"):
        meshes(str(file))


# a folder of them


class TestMeshes(SignalsContract):
    replaces = True

    @pytest.fixture
    def signals(self, tmp_path: Path) -> Signals:
        for i in range(6):
            write(tmp_path / "set", box(1 + 0.1 * i), f"{i}.{ENDINGS[i % 5]}")
        return load(f"meshes:{tmp_path / 'set'}", **SIZES)


def test_shapes_lie_in_the_ball_and_their_frames_lead_back(tmp_path: Path) -> None:
    file = write(tmp_path, box(20, (100, 200, -300)))
    shapes = meshes(str(file), even=500, surface=400, near=300)
    assert shapes.ids == ["a"]
    assert shapes.even == 500
    samples, frame = shapes.samples[0], shapes.frames[0].numpy()
    on = samples.values[500:900]
    vertices = np.asarray(trimesh.load(file).vertices)
    assert np.linalg.norm((vertices - frame[:3]) / frame[3], axis=1).max() == pytest.approx(1 / MARGIN)
    np.testing.assert_allclose(frame[:3], (vertices.max(0) + vertices.min(0)) / 2)
    # in the user's units the samples of the surface lie on the mesh, and distances are those to it
    surface = Surface(vertices.astype(float), np.asarray(trimesh.load(file).faces))
    assert np.abs(signed_distance(surface, on[:, :3] * frame[3] + frame[:3])).max() < 20 * 1e-5
    whole = samples.values[:, :3] * frame[3] + frame[:3]
    np.testing.assert_allclose(samples.values[:, 3] * frame[3], signed_distance(surface, whole), atol=20 * 2e-5)
    assert samples.normals is not None
    beyond = whole[500:900] + 20 * 0.01 * samples.normals
    assert (signed_distance(surface, beyond) > 0).mean() > 0.99  # outward, but for creases


def test_without_normalisation_coordinates_stay(tmp_path: Path) -> None:
    shapes = meshes(str(write(tmp_path, box(0.5))), normalise=False, **SIZES)
    assert shapes.frames.tolist() == [[0, 0, 0, 1]]
    with pytest.raises(NeuralfieldError, match=r"beyond the cube .*signals.normalise=true"):
        meshes(str(write(tmp_path, box(5))), normalise=False, **SIZES)


def test_one_frame_for_all_keeps_their_sizes_apart(tmp_path: Path) -> None:
    for name, size in (("a.ply", 10), ("b.ply", 40)):
        write(tmp_path, box(size, (100, 0, 0)), name)
    shapes = meshes(str(tmp_path), frame=[100.0, 0.0, 0.0, 50.0], **SIZES)
    assert shapes.frames.tolist() == [[100, 0, 0, 50]] * 2
    small, large = (np.linalg.norm(part.values[40:70, :3], axis=1).mean() for part in shapes.samples)
    assert large == pytest.approx(4 * small, rel=0.2)
    with pytest.raises(NeuralfieldError, match=r"b.ply: it reaches beyond the cube"):
        meshes(str(tmp_path), frame=[100.0, 0.0, 0.0, 12.0], **SIZES)
    with pytest.raises(UsageError, match=r"signals.frame must be a centre and a positive scale"):
        meshes(str(tmp_path), frame=[0.0, 0.0, 1.0], **SIZES)


def test_mirrored_shapes_are_those_of_mirrored_meshes(tmp_path: Path) -> None:
    shapes = meshes(str(write(tmp_path, box())), mirror="y", **SIZES)
    assert shapes.ids == ["a", "a-mirrored"]
    for observed in (shapes.batch(torch.arange(2)), shapes.truth(torch.arange(2))):
        turned = torch.tensor([1.0, -1.0, 1.0])
        assert torch.equal(observed.coords[1], observed.coords[0] * turned)
        assert torch.equal(observed.values[1], observed.values[0])
        assert observed.normals is not None
        assert torch.equal(observed.normals[1], observed.normals[0] * turned)
    drawn = shapes.select(torch.tensor([1])).batch(torch.tensor([0]), 20, torch.Generator().manual_seed(0))
    own = shapes.samples[0].values
    assert all((np.abs(own[:, :3] * [1, -1, 1] - point).max(1) == 0).any() for point in drawn.coords[0].numpy())
    with pytest.raises(UsageError, match=r'signals.mirror must be an axis, "x", "y" or "z", got \'w\''):
        meshes(str(tmp_path), mirror="w", **SIZES)


def test_splits_are_folders_and_others_are_not_read(tmp_path: Path) -> None:
    for name in ("train/b.ply", "train/a.obj", "test/c.ply", "raw/d.ply", "train/.hidden.ply", "train/notes.txt"):
        path = tmp_path / name
        write(path.parent, box(), path.name) if path.suffix != ".txt" else path.write_text("mine")
    assert meshes(str(tmp_path), **SIZES).ids == ["a", "b"]
    assert meshes(str(tmp_path), split="test", **SIZES).ids == ["c"]
    assert meshes(str(tmp_path / "raw"), split="test", **SIZES).ids == ["d"]


def test_a_missing_split_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    write(tmp_path / "train", box())
    with pytest.raises(NeuralfieldError, match=r"no test/.*--split train"):
        meshes(str(tmp_path), split="test")


def test_files_that_differ_in_their_ending_alone_keep_it(tmp_path: Path) -> None:
    for name in ("a.ply", "a.obj", "b.ply"):
        write(tmp_path, box(), name)
    assert meshes(str(tmp_path), **SIZES).ids == ["a.obj", "a.ply", "b"]


def test_a_folder_without_meshes_and_a_path_without_anything_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(NeuralfieldError, match=f"{tmp_path} holds no meshes.*ply"):
        meshes(str(tmp_path))
    with pytest.raises(NeuralfieldError, match=f"no file or folder {tmp_path}/none"):
        meshes(f"{tmp_path}/none")


@pytest.mark.parametrize(
    ("settings", "words"), [({"even": -1}, "0 or more"), ({"spread": 0.0}, "positive spread"), ({"split": "trian"}, "train")]
)
def test_settings_that_mean_nothing_are_wrong_usage(tmp_path: Path, settings: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        meshes(str(write(tmp_path, box())), **settings)  # type: ignore[arg-type]


def test_defects_are_one_warning_or_refused(tmp_path: Path) -> None:
    write(tmp_path, without(box(), slice(0, 1)), "open.ply")
    write(tmp_path, inverted(), "turned.ply")
    write(tmp_path, box(), "whole.ply")
    with pytest.warns(NeuralfieldWarning, match=r"2 of 3 meshes of .*open.ply: open.*turned.ply: inside out") as caught:
        shapes = meshes(str(tmp_path), **SIZES)
    assert len(caught) == 1
    assert len(shapes) == 3
    with pytest.raises(NeuralfieldError, match=r"2 of 3 meshes .*open.ply"):
        meshes(str(tmp_path), strict=True, **SIZES)


def test_bad_files_are_named_and_left_out_on_demand(tmp_path: Path) -> None:
    write(tmp_path, box(), "good.ply")
    (tmp_path / "bad.ply").write_bytes(b"")
    with pytest.raises(NeuralfieldError, match=r"bad.ply: .*--skip-bad"):
        meshes(str(tmp_path), **SIZES)
    with pytest.warns(NeuralfieldWarning, match=r"left out .*bad.ply"):
        assert meshes(str(tmp_path), skip_bad=True, **SIZES).ids == ["good"]
    (tmp_path / "good.ply").unlink()
    with pytest.warns(NeuralfieldWarning), pytest.raises(NeuralfieldError, match="none of the 1 meshes"):
        meshes(str(tmp_path), skip_bad=True, **SIZES)


def test_points_in_a_folder_of_meshes_are_left_out_on_demand_too(tmp_path: Path) -> None:
    write(tmp_path, box(), "good.ply")
    trimesh.PointCloud(box().vertices).export(tmp_path / "points.ply")
    with pytest.raises(NeuralfieldError, match=r"points.ply: .*only points.*scan:"):
        meshes(str(tmp_path), **SIZES)
    with pytest.warns(NeuralfieldWarning, match=r"left out .*points.ply"):
        assert meshes(str(tmp_path), skip_bad=True, **SIZES).ids == ["good"]


def test_metres_beside_millimetres_are_told(tmp_path: Path) -> None:
    for i, size in enumerate((1.0, 1.1, 0.9, 1000.0)):
        write(tmp_path, box(size), f"{i}.ply")
    with pytest.warns(NeuralfieldWarning, match=r"differ in size by a factor of 1.11e\+03 .*: 3\)"):
        meshes(str(tmp_path), **SIZES)


# what is kept


def same(a: Shapes, b: Shapes) -> bool:
    pairs = zip(a.samples, b.samples, strict=True)
    return torch.equal(a.frames, b.frames) and all(
        np.array_equal(x.values, y.values) and np.array_equal(x.normals, y.normals) for x, y in pairs
    )


def test_a_mesh_is_sampled_once(tmp_path: Path, taken: list[Surface]) -> None:
    file = write(tmp_path / "one", without(box(), slice(0, 1)))
    with pytest.warns(NeuralfieldWarning, match="open"):
        first = meshes(str(file), **SIZES)
    assert len(taken) == 1
    with pytest.warns(NeuralfieldWarning, match="open"):  # what was found is told again
        again = meshes(str(file), **SIZES)
    assert len(taken) == 1
    assert same(first, again)
    # the same mesh in another folder, by another name, is the same shape
    other = write(tmp_path / "two", without(box(), slice(0, 1)), "b.ply")
    with pytest.warns(NeuralfieldWarning, match="open"):
        assert same(first, meshes(str(other), **SIZES))
    assert len(taken) == 1


def test_another_mesh_or_another_setting_is_sampled_anew(tmp_path: Path, taken: list[Surface]) -> None:
    file = write(tmp_path, box())
    first = meshes(str(file), **SIZES)
    for count, change in enumerate(({"even": 41}, {"surface": 31}, {"near": 51}, {"spread": 0.06}), start=2):
        meshes(str(file), **(SIZES | change))  # type: ignore[arg-type]
        assert len(taken) == count
    small = write(tmp_path, box(0.4), "small.ply")
    meshes(str(small), **SIZES)
    meshes(str(small), normalise=False, **SIZES)
    assert len(taken) == 7
    write(tmp_path, box(1.5))  # the same path
    changed = meshes(str(file), **SIZES)
    assert len(taken) == 8
    assert not torch.equal(changed.frames, first.frames)


def test_what_is_kept_lies_where_the_user_says(tmp_path: Path, taken: list[Surface]) -> None:
    file = write(tmp_path, box())
    first = meshes(str(file), cache=str(tmp_path / "mine"), **SIZES)
    assert any((tmp_path / "mine").iterdir())
    assert not (tmp_path / "cache").exists()
    assert same(first, meshes(str(file), **SIZES))  # seeded by the mesh: sampled twice, and the same
    assert len(taken) == 2
    assert any((tmp_path / "cache" / "neuralfield").rglob("*.npy"))


def test_a_kill_between_leaves_nothing_half_that_is_used(
    tmp_path: Path, taken: list[Surface], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, replace = write(tmp_path, box()), os.replace
    whole = meshes(str(file), cache=str(tmp_path / "whole"), **SIZES)
    for step in range(3):  # values, normals, what is said about them
        steps = iter(range(3))

        def killed(a: Path, b: Path, steps: object = steps, step: int = step) -> None:
            if next(steps) == step:  # type: ignore[call-overload]
                raise KeyboardInterrupt
            replace(a, b)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                meshes(str(file), cache=str(tmp_path / f"kill-{step}"), **SIZES)
        before = len(taken)
        assert same(meshes(str(file), cache=str(tmp_path / f"kill-{step}"), **SIZES), whole)
        assert len(taken) == before + 1


@pytest.mark.parametrize("damage", ["removed", "cut", "emptied", "no JSON", "other JSON"])
def test_what_was_damaged_is_sampled_again(tmp_path: Path, taken: list[Surface], damage: str) -> None:
    file, cache = write(tmp_path, box()), tmp_path / "mine"
    whole = meshes(str(file), cache=str(cache), **SIZES)
    values, whole_values = sorted(cache.glob("*.npy"))[0], [part.values.copy() for part in whole.samples]
    content = values.read_bytes()
    values.unlink()  # maps of the old file stay as they are
    if damage in ("cut", "emptied"):
        values.write_bytes(content[:-40] if damage == "cut" else b"")
    elif damage != "removed":
        values.write_bytes(content)
        next(cache.glob("*.json")).write_text("{" if damage == "no JSON" else json.dumps({"a": 1}))
    again = meshes(str(file), cache=str(cache), **SIZES)
    assert len(taken) == 2
    assert np.array_equal(again.samples[0].values, whole_values[0])


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    write(tmp_path, box())
    for skip_bad in (False, True):
        with pytest.raises(
            NeuralfieldError, match=r"cannot be kept in .*file/below .*cannot be written.*signals.cache=FOLDER"
        ) as caught:
            meshes(str(tmp_path), cache=str(tmp_path / "file" / "below"), skip_bad=skip_bad, **SIZES)
        assert "a.ply" not in str(caught.value)
        assert "--skip-bad" not in str(caught.value)


def test_a_change_in_a_buffer_beside_a_gltf_is_seen(tmp_path: Path, taken: list[Surface]) -> None:
    for name, content in box().export(file_type="gltf").items():
        (tmp_path / ("a.gltf" if name.endswith(".gltf") else name)).write_bytes(content)
    first = meshes(str(tmp_path), **SIZES)
    assert same(first, meshes(str(tmp_path), **SIZES))
    assert len(taken) == 1
    described = (tmp_path / "a.gltf").read_bytes()
    for buffer in tmp_path.glob("*.bin"):
        buffer.write_bytes(buffer.read_bytes().replace(np.float32(0.3).tobytes(), np.float32(0.4).tobytes()))
    changed = meshes(str(tmp_path), **SIZES)
    assert (tmp_path / "a.gltf").read_bytes() == described
    assert len(taken) == 2
    assert not same(first, changed)


def test_what_was_found_comes_with_the_shapes(tmp_path: Path) -> None:
    write(tmp_path, without(box(), slice(0, 1)), "open.ply")
    write(tmp_path, box(), "whole.ply")
    for _ in range(2):  # fresh, then from the cache
        with pytest.warns(NeuralfieldWarning, match="open"):
            found = load(f"meshes:{tmp_path}", **SIZES)
        assert isinstance(found, Meshes)
        assert list(found.reports) == ["open.ply", "whole.ply"]
        assert [report.open_edges for report in found.reports.values()] == [3, 0]


def test_a_plan_may_leave_kinds_of_points_out(tmp_path: Path) -> None:
    file = write(tmp_path, box())
    nothing = {"even": 0, "surface": 0, "near": 0}
    for sizes in (nothing | {kind: 20} for kind in nothing):
        shapes = [meshes(str(file), **sizes) for _ in range(2)]  # fresh, then from the cache
        assert same(*shapes)
        batch = shapes[1].truth(torch.arange(1))
        assert batch.weight.shape == (1, 20)
        assert (batch.values == 0).all() == (sizes["surface"] > 0)


# distances


def brute(surface: Surface, points: np.ndarray) -> np.ndarray:
    """Unsigned distances to triangles, each by its plane, its three edges and nothing else."""
    best = np.full(len(points), np.inf)
    for a, b, c in surface.vertices[surface.elements]:
        normal = np.cross(b - a, c - a)
        normal /= np.linalg.norm(normal)
        sides = [(points - p) @ np.cross(normal, q - p) for p, q in ((a, b), (b, c), (c, a))]
        height = np.where(np.min(sides, axis=0) >= 0, np.abs((points - a) @ normal), np.inf)
        best = np.minimum(best, height)
        for p, q in ((a, b), (b, c), (c, a)):
            share = ((points - p) @ (q - p) / ((q - p) @ (q - p))).clip(0, 1)
            best = np.minimum(best, np.linalg.norm(points - p - share[:, None] * (q - p), axis=1))
    return best


def icosphere(subdivisions: int) -> Surface:
    mesh = trimesh.creation.icosphere(subdivisions)
    return Surface(np.asarray(mesh.vertices), np.asarray(mesh.faces))


def test_distances_are_those_of_brute_force() -> None:
    points = np.random.default_rng(0).uniform(-1.2, 1.2, (400, 3))
    for surface in (icosphere(2), Surface(np.asarray(box().vertices), np.asarray(box().faces))):
        np.testing.assert_allclose(np.abs(signed_distance(surface, points)), brute(surface, points), atol=1e-12)


@pytest.mark.parametrize("subdivisions", [2, 3, 4])
def test_distances_to_a_faceted_ball_are_right_to_its_facets(subdivisions: int) -> None:
    surface, points = icosphere(subdivisions), np.random.default_rng(0).uniform(-1.3, 1.3, (3000, 3))
    sag = 1 - np.linalg.norm(surface.vertices[surface.elements].mean(1), axis=1).min()
    off = signed_distance(surface, points) - (np.linalg.norm(points, axis=1) - 1)
    assert off.min() > -1e-9  # the mesh lies inside its ball
    assert off.max() <= sag + 1e-9


def test_signs_are_right_nearly_to_the_surface_with_one_face_of_twenty_gone() -> None:
    random, whole = np.random.default_rng(0), icosphere(5)
    holed = Surface(whole.vertices, whole.elements[random.random(len(whole)) > 0.05])
    direction = random.standard_normal((4000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    off = random.choice([-1, 1], 4000) * random.uniform(3e-3, 0.2, 4000)
    points = direction * (1 + off)[:, None]
    intact = np.abs(signed_distance(whole, points)) > 3e-3
    # over a hole the sign is that of half its solid angle: only right beyond its own size
    covered = np.abs(np.abs(signed_distance(holed, points)) - np.abs(off)) < 1.5e-3
    assert (intact & covered).sum() > 3000
    assert np.array_equal(signed_distance(holed, points)[intact & covered] < 0, off[intact & covered] < 0)


@pytest.mark.parametrize("turned", [False, True])
def test_distances_to_a_square_and_a_circle_in_the_plane_are_exact(turned: bool) -> None:
    points = np.random.default_rng(0).uniform(-1.5, 1.5, (3000, 2))
    corners = np.array([[-0.5, -0.8], [0.5, -0.8], [0.5, 0.8], [-0.5, 0.8]])
    square = polygon(corners[::-1] if turned else corners, "square")
    beyond = np.abs(points) - [0.5, 0.8]
    exact = np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(1), 0)
    np.testing.assert_allclose(signed_distance(square, points), exact, atol=1e-12)
    angle = np.arange(500) * 2 * np.pi / 500 * (-1 if turned else 1)
    circle = polygon(0.9 * np.stack([np.cos(angle), np.sin(angle)], 1), "circle")
    np.testing.assert_allclose(signed_distance(circle, points), np.linalg.norm(points, axis=1) - 0.9, atol=0.9 * 2e-5 * 1.1)


def test_of_no_points_there_are_no_distances() -> None:
    assert signed_distance(icosphere(1), np.zeros((0, 3))).shape == (0,)
