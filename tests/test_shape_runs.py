"""Shapes from end to end: surfaces written in the user's units, completions as meshes, and the commands."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from commands import Nf, failed, warned
from synthetic import Ball, balls

import neuralfield as nf
import neuralfield.files as files
from neuralfield.completion import complete
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.export.completions import write_completions
from neuralfield.export.decoded import choose_codes, write_decoded
from neuralfield.export.meshes import UNSURE, file_names, write_mesh
from neuralfield.inference.restarts import coarse_search
from neuralfield.latents.source import FixedCodes
from neuralfield.recipe import Recipe, build
from neuralfield.run import Run
from neuralfield.signals.masks import Visibility
from neuralfield.signals.roster import Roster
from neuralfield.signals.scans import scan
from neuralfield.signals.shapes import Shapes

SMALL = [
    "latents.code_dim=4",
    "decoder.width=16",
    "decoder.depth=2",
    "decoder.frequencies=8",
    "training.batch=4",
    "training.points=64",
    "training.steps=20",
    "inference.points=256",
    "inference.steps=5",
]
"""Settings that turn the recipe `shape` into one that fits in seconds."""
SIZES = ["signals.even=200", "signals.surface=200", "signals.near=200"]
WORDS = [word for setting in (*SMALL, *SIZES) for word in ("--set", setting)]
FRAMES = torch.tensor([[10.0, 20.0, -30.0, 5.0], [0.0, 0.0, 0.0, 1.0], [-1.0, 0.0, 0.0, 0.1]], dtype=torch.float64)


@pytest.fixture
def run() -> Run:
    """Nothing was fitted: three balls around 0 of radius 0.45, 0.5 and 0.55, with frames, by the exact decoder."""
    recipe = Recipe.load(
        "shape", ["latents.code_dim=4", "domain.dims=3", "domain.even=300", "inference.prior=training", "inference.points=600"]
    )
    model = replace(build(recipe, 3), decoder=Ball())
    with torch.no_grad():
        model.source.codes.copy_(torch.tensor([[0.0, 0, 0, -0.5], [0, 0, 0, 0], [0, 0, 0, 0.5]]))
    return Run(recipe, model, Roster(["small", "middle", "large"], frames=FRAMES), {})


def as_mesh(file: Path) -> trimesh.Trimesh:
    read = trimesh.load(file, force="mesh")
    assert isinstance(read, trimesh.Trimesh)
    return read


# surfaces in files


@pytest.mark.parametrize("ending", ["ply", "obj", "glb", "stl"])
def test_a_decoded_surface_has_the_users_units(run: Run, tmp_path: Path, ending: str) -> None:
    out = tmp_path / "new" / f"a.{ending}"
    points = write_decoded(run, *choose_codes(run, ("small",), None), 64, out)
    assert 0 < points < 64**3
    mesh = as_mesh(out)
    off = np.linalg.norm(mesh.vertices - FRAMES[0, :3].numpy(), axis=1) - 5 * 0.45
    assert np.abs(off).max() < 5 * 1e-3
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * (5 * 0.45) ** 3, rel=0.01)  # outside out


def test_several_surfaces_have_a_file_each(run: Run, tmp_path: Path) -> None:
    write_decoded(run, *choose_codes(run, ("0", "large"), None), 32, tmp_path / "a.ply")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a-large.ply", "a-small.ply"]
    assert np.ptp(as_mesh(tmp_path / "a-large.ply").vertices[:, 0]) == pytest.approx(0.1 * 2 * 0.55, rel=0.01)


@pytest.mark.parametrize("ending", ["gltf", "dae", "txt", "jpg"])
def test_other_endings_are_refused_with_the_list(run: Run, tmp_path: Path, ending: str) -> None:
    with pytest.raises(UsageError, match=r"\.png, \.gif, \.npy, \.csv, \.ply, \.obj, \.glb, \.stl"):
        write_decoded(run, *choose_codes(run, (), None), 32, tmp_path / f"a.{ending}")
    assert not list(tmp_path.iterdir())


def test_a_field_without_a_surface_is_one_line(run: Run, tmp_path: Path) -> None:
    with pytest.raises(NeuralfieldError, match=r"the field of nothing is nowhere 0 in \[-1, 1\]\^3"):
        write_decoded(run, Roster(["nothing"]), torch.tensor([[0.0, 0, 0, -9]]), 32, tmp_path / "a.ply")
    assert not list(tmp_path.iterdir())


def test_a_resolution_of_one_is_one_line(run: Run, tmp_path: Path) -> None:
    for ending in ("ply", "png", "npy"):
        with pytest.raises(NeuralfieldError, match="at least 2 samples, got 1"):
            write_decoded(run, *choose_codes(run, (), None), 1, tmp_path / f"a.{ending}")


def test_deviations_are_colours_and_numbers_in_the_users_units(run: Run, tmp_path: Path) -> None:
    surface, _ = run.domain.surface(run.field(run.codes[:1]), 24)
    deviation = np.linspace(0, 2 * UNSURE, len(surface.vertices))
    write_mesh(tmp_path / "a.ply", surface, FRAMES[0].numpy(), deviation)
    mesh = trimesh.load(tmp_path / "a.ply", process=False)
    assert b"deviation" in (tmp_path / "a.ply").read_bytes()[:600]
    held = mesh.metadata["_ply_raw"]["vertex"]["data"]["deviation"]
    np.testing.assert_allclose(np.ravel(held), 5 * deviation, rtol=1e-6)
    colours = np.asarray(mesh.visual.vertex_colors)[:, :3].astype(int)
    assert colours[0, 2] > colours[0, 0]  # blue, where it is sure
    assert colours[-1, 0] > colours[-1, 2]  # red, where it is not
    assert (colours[deviation >= UNSURE] == colours[-1]).all()


def test_codes_in_a_file_carry_their_frames(run: Run, tmp_path: Path) -> None:
    files.write_npz(tmp_path / "codes.npz", ids=np.array(["b", "a"]), codes=run.codes[1:].numpy(), frames=FRAMES[1:].numpy())
    roster, codes = choose_codes(run, (), tmp_path / "codes.npz")
    assert roster.ids == ["b", "a"]
    assert torch.equal(codes, run.codes[1:])
    assert roster.frames is not None
    assert torch.equal(roster.frames, FRAMES[1:])


@pytest.mark.parametrize("frames", [np.zeros((2, 4)), np.zeros((3, 3)), np.full((3, 4), np.nan)])
def test_frames_that_do_not_fit_are_one_line(run: Run, tmp_path: Path, frames: np.ndarray) -> None:
    files.write_npz(tmp_path / "codes.npz", codes=run.codes.numpy(), frames=frames)
    with pytest.raises(NeuralfieldError, match=r"codes.npz must hold finite frames \[3, 4\]"):
        choose_codes(run, (), tmp_path / "codes.npz")


# completions


@pytest.mark.parametrize("samples", [0, 4])
def test_completed_solids_are_meshes_in_the_users_units(run: Run, tmp_path: Path, samples: int) -> None:
    shapes = balls(2, even=300, surface=400, near=300)
    framed = Shapes(shapes.samples, shapes.ids, FRAMES[:2], shapes.even)
    visibility = Visibility(observe=["depth:30,20"])
    completion = complete(run, framed, visibility, samples=samples)
    write_completions(tmp_path, run, framed, visibility, completion)
    for row, name in enumerate(shapes.ids):
        mesh = as_mesh(tmp_path / "meshes" / f"{name}.ply")
        frame = FRAMES[row].numpy()
        radius = np.linalg.norm((mesh.vertices - frame[:3]) / frame[3], axis=1)
        np.testing.assert_allclose(radius, 0.45 + 0.06 * row, atol=0.02)  # seen from one side, and a prior
        held = (tmp_path / "meshes" / f"{name}.ply").read_bytes()[:600]
        assert (b"deviation" in held) == (samples > 0)
    scores = completion.means()
    assert set(scores) == {"observed", "hidden"}
    assert scores["hidden"]["chamfer_l1"] < 0.04
    assert scores["hidden"]["iou"] > 0.85
    # what was completed can be decoded again, in the user's units
    roster, codes = choose_codes(run, (), tmp_path / "codes.npz")
    write_decoded(run, roster, codes, 32, tmp_path / "again.ply")
    centre = as_mesh(tmp_path / "again-ball-0.ply").bounds.mean(0)
    np.testing.assert_allclose(centre, FRAMES[0, :3], atol=5 * 0.02)


def test_what_is_hidden_never_reaches_the_completion(run: Run) -> None:
    shapes, visibility = balls(1), Visibility(observe=["depth:0,0"])
    other = balls(1)
    seen = visibility(shapes.truth(torch.arange(1)), run.domain)[0].numpy()
    values = other.samples[0].values.copy()
    values[~seen, 3] = np.where(values[~seen, 3] > 0, 1e3, -1e3)  # on the same sides: free space is seen to be free
    changed = Shapes([replace(other.samples[0], values=values)], even=other.even)
    codes = [complete(run, given, visibility).estimate.latent.mean for given in (shapes, changed)]
    assert torch.equal(*codes)


def test_a_scan_has_no_volume_to_compare(run: Run, tmp_path: Path) -> None:
    """Its points do not lie evenly, whatever those of the bank did."""
    direction = np.random.default_rng(0).standard_normal((500, 3))
    np.savez(tmp_path / "scan.npz", surface=0.5 * direction / np.linalg.norm(direction, axis=1, keepdims=True))
    scores = complete(run, scan(str(tmp_path / "scan.npz"), normalise=False)).means()["observed"]
    assert "iou" not in scores
    assert scores["chamfer_l1"] < 0.03


def test_scores_of_batches_that_lack_some_are_put_together(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first shape has no sample near its surface, so it has no surface to compare with."""
    shapes = balls(3, even=300, normals=False)
    far = shapes.samples[0].values
    far = far[np.abs(far[:, 3]) > 0.05]
    mixed = Shapes([far, *(part.values for part in shapes.samples[1:])], even=100)
    monkeypatch.setattr("neuralfield.completion.DRAWN_AT_ONCE", 1)  # one at a time
    found = complete(run, mixed, Visibility(observe=["half:x"])).scores["hidden"]
    assert found["chamfer_l1"].isfinite().tolist() == [False, True, True]
    assert found["sdf_l1"].isfinite().all()


# commands


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder fitted to six primitives. Never write into it."""
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    nf.fit("primitives", recipe="shape", settings=[*SMALL, *SIZES, "signals.count=6"], out=folder, device="cpu")
    return folder


@pytest.mark.slow
def test_shapes_are_fitted_completed_and_decoded_by_commands(nf_: Nf, shaped: Path, tmp_path: Path) -> None:
    inferred = nf_("infer", shaped, "--observe", "depth:30,20", "--samples", 4, "--limit", 2, "--out", tmp_path / "out", "--json")
    assert inferred.code == 0, inferred.err
    for side in ("observed", "hidden"):
        assert {"sdf_l1", "chamfer", "chamfer_l1", "fscore"} <= set(inferred.json["scores"][side])
    for out in ("a.ply", "a.obj", "a.glb", "a.stl", "a.png", "a.npy"):
        decoded = nf_("decode", shaped, "--signal", 1, "--resolution", 24, "--out", tmp_path / out, "--json")
        assert decoded.code == 0, decoded.err
        assert (tmp_path / out).stat().st_size > 0
    assert np.load(tmp_path / "a.npy").shape == (1, 24, 24, 24, 1)
    failed(nf_("decode", shaped, "--resolution", 1, "--out", tmp_path / "b.ply"), 1, "at least 2 samples")
    failed(nf_("decode", shaped, "--out", tmp_path / "b.dae"), 2, ".ply, .obj, .glb, .stl")
    failed(nf_("infer", shaped, "--observe", "depth:30", "--limit", 1), 2, "azimuth and an elevation")
    failed(nf_("infer", shaped, "--hide", "half:sideways", "--limit", 1), 2, "sideways", "front")


@pytest.mark.slow
def test_a_scan_is_completed_by_a_command(nf_: Nf, shaped: Path, tmp_path: Path) -> None:
    points = np.random.default_rng(0).standard_normal((200, 3)) * [1, 0.2, 1] * 40
    trimesh.PointCloud(points).export(tmp_path / "scan.ply")
    answer = nf_("infer", shaped, "--data", tmp_path / "scan.ply", "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["signals"] == 1
    assert "iou" not in answer.json["scores"]["observed"]
    with np.load(tmp_path / "out" / "codes.npz") as held:
        assert held["ids"].tolist() == ["scan"]
        assert held["frames"][0, 3] > 40
    np.savez(tmp_path / "flat.npz", points=np.zeros((4, 2)), offsets=np.array([0, 4]))
    failed(nf_("infer", shaped, "--data", f"scan:{tmp_path / 'flat.npz'}"), 1, "flat.npz", "[n, 3]")


@pytest.mark.slow
def test_one_mesh_has_a_network_of_its_own(nf_: Nf, tmp_path: Path) -> None:
    trimesh.creation.icosphere(3).apply_translation([7, 0, 0]).export(tmp_path / "ball.ply")
    words = [word for setting in ("decoder.width=16", "training.steps=60", *SIZES) for word in ("--set", setting)]
    words += ["--set", f"signals.cache={tmp_path / 'cache'}"]
    fitted = nf_("fit", "--recipe", "shape-single", "--data", tmp_path / "ball.ply", *words, "--out", tmp_path / "run", "--json")
    assert fitted.code == 0, fitted.err
    assert fitted.json["signals"] == 1
    assert nf_("decode", tmp_path / "run", "--resolution", 32, "--out", tmp_path / "again.ply").code == 0
    np.testing.assert_allclose(as_mesh(tmp_path / "again.ply").bounds.mean(0), [7, 0, 0], atol=0.3)


@pytest.mark.slow
def test_outlines_are_fitted_and_completed_by_commands(nf_: Nf, tmp_path: Path) -> None:
    rings = [np.stack([np.cos(t) * (1 + 0.1 * i), np.sin(t)], 1) for i in range(6) for t in [np.arange(30) * 2 * np.pi / 30]]
    np.savez(tmp_path / "a.npz", points=np.concatenate(rings), offsets=np.arange(7) * 30)
    words = [word for setting in SMALL for word in ("--set", setting)]
    fitted = nf_("fit", "--domain", "shape", "--data", f"npz:{tmp_path / 'a.npz'}", *words, "--out", tmp_path / "run", "--json")
    assert fitted.code == 0, fitted.err
    assert nf.Run.load(tmp_path / "run").domain.coord_dim == 2
    inferred = nf_("infer", tmp_path / "run", "--observe", "half:left", "--samples", 4, "--limit", 2, "--json")
    assert inferred.code == 0, inferred.err
    assert nf_("decode", tmp_path / "run", "--resolution", 24, "--out", tmp_path / "a.png").code == 0
    failed(nf_("decode", tmp_path / "run", "--out", tmp_path / "a.ply"), 2, ".png")
    failed(nf_("infer", tmp_path / "run", "--observe", "depth:30,20"), 2, "for shapes in space")
    failed(nf_("infer", tmp_path / "run", "--observe", "half:front"), 2, "front")
    failed(nf_("infer", tmp_path / "run", "--data", "primitives", "--limit", 1), 1, "dims 2", "dims 3")


def test_a_look_at_primitives(nf_: Nf, tmp_path: Path) -> None:
    words = [word for setting in SIZES for word in ("--set", setting)]
    answer = nf_("data", "primitives", *words, "--set", "signals.count=7", "--out", tmp_path / "sheet.png", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["signals"], answer.json["dims"], answer.json["samples"]) == (7, 3, 600)
    assert (tmp_path / "sheet.png").is_file()
    for setting, said in (("count=0", "at least 1"), ("even=-1", "0 or more"), ("family=chiar", "chair"), ("cuont=3", "count")):
        failed(nf_("data", "primitives", "--set", f"signals.{setting}"), 2, said)


@pytest.mark.filterwarnings("always::neuralfield.errors.NeuralfieldWarning")  # as users have it
def test_a_strict_look_at_meshes_refuses_what_is_odd(nf_: Nf, tmp_path: Path) -> None:
    for name, keep in (("whole", 12), ("open", 11)):
        box = trimesh.creation.box()
        (tmp_path / "set").mkdir(exist_ok=True)
        trimesh.Trimesh(box.vertices, box.faces[:keep]).export(tmp_path / "set" / f"{name}.ply")
    words = ["data", f"meshes:{tmp_path / 'set'}", "--set", f"signals.cache={tmp_path / 'cache'}"]
    warned(nf_(*words), "1 of 2 meshes", "open.ply: open (3 edges")
    failed(nf_(*words, "--strict"), 1, "open.ply")
    (tmp_path / "set" / "bad.ply").write_bytes(b"")
    failed(nf_(*words), 1, "bad.ply", "--skip-bad")
    (tmp_path / "set" / "open.ply").unlink()
    warned(nf_(*words, "--skip-bad"), "bad.ply")


@pytest.mark.filterwarnings("always::neuralfield.errors.NeuralfieldWarning")
def test_a_look_at_meshes_shows_the_defects_of_every_one(nf_: Nf, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for i in range(5):
        box = trimesh.creation.box()
        trimesh.Trimesh(box.vertices, box.faces[: 12 - i]).export(tmp_path / "set" / f"{i}.ply")
    words = ["data", f"meshes:{tmp_path / 'set'}", "--set", f"signals.cache={tmp_path / 'cache'}"]
    for word in SIZES:
        words += ["--set", word]
    answer = nf_(*words, "--json")
    warned(answer, "4 of 5 meshes", "...")
    assert sorted(answer.json["meshes"]) == ["1.ply", "2.ply", "3.ply", "4.ply"]
    shown = nf_(*words).out.splitlines()
    for i in range(1, 5):
        lines = [line for line in shown if line.startswith(f"{i}.ply")]
        assert len(lines) == 1
        assert f"{12 - i} faces in 1 part: open (" in lines[0]


# searches


@pytest.mark.parametrize("coarse", [None, 60])
def test_a_search_is_the_same_for_one_shape_and_for_many(coarse: int | None) -> None:
    settings = ["inference.points=300", f"inference.coarse={coarse or 'none'}", "inference.start=nearest", "inference.steps=4"]
    run = nf.fit(balls(7), domain="shape", settings=[*SMALL, *settings])
    batch = balls(3).batch(torch.arange(3))
    # each was seen on a side of its own, so that no point is hidden of all
    seen = batch.coords[..., :1] > torch.tensor([-2.0, 0.0, 0.3])[:, None, None]
    observed, _ = batch.split(seen[..., 0])
    together = run.infer(observed)
    for i in range(3):
        alone = run.infer(observed.rows(slice(i, i + 1)))
        torch.testing.assert_close(alone.loss.total[0], together.loss.total[i], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.latent.mean[0], together.latent.mean[i], rtol=0.02, atol=0.02)  # one optimum, not another


def test_a_coarse_search_brings_the_fine_one_near_for_a_fraction_of_its_work() -> None:
    run = nf.fit(balls(7), domain="shape", settings=[*SMALL, "inference.points=600", "inference.start=mean", "inference.steps=1"])
    shapes, objective = balls(5).batch(torch.arange(5)), run.completion_objective()
    starts = run.start(shapes, run.decoder, objective).mean[None]
    near, work = coarse_search(run.solver(steps=4), objective, run.decoder, shapes, starts, 60)
    assert near.shape == starts.shape
    costs = [objective(FixedCodes(z[0]), run.decoder, shapes).total.detach() for z in (starts, near)]
    assert costs[1].sum() < costs[0].sum()
    assert (work <= 60 / 700 * 5 * 3 + 1e-4).all()  # of 700 points, at the start and after each of four steps, forward and back


def test_outlines_are_written_in_the_units_that_they_came_in(tmp_path: Path) -> None:
    circle = 1000 + 200 * np.stack([np.cos(t := np.linspace(0, 6.28, 60)), np.sin(t)], 1)
    np.savez(tmp_path / "circles.npz", points=np.concatenate([circle, 3 * circle]), offsets=[0, 60, 120])
    run = nf.fit(f"npz:{tmp_path / 'circles.npz'}", recipe="shape", settings=SMALL, device="cpu")
    shapes = nf.load(f"npz:{tmp_path / 'circles.npz'}")
    write_completions(tmp_path, run, shapes, Visibility(), complete(run, shapes))
    held = files.read_npz(tmp_path / "completions.npz")
    assert held["coords"].shape == (2, held["values"].shape[1], 2)
    for row, size in ((0, 1), (1, 3)):
        reach = 200 * 1.03 * size
        np.testing.assert_allclose(held["coords"][row].min(0), 1000 * size - reach, rtol=2e-3)
        np.testing.assert_allclose(held["coords"][row].max(0), 1000 * size + reach, rtol=2e-3)
    inside = run.field(complete(run, shapes).estimate.latent.mean)(run.domain.grid()).numpy()
    np.testing.assert_allclose(held["values"], inside * 206 * np.array([1, 3])[:, None, None], rtol=2e-3)
    write_decoded(run, run.roster.rows([1]), run.codes[[1]], 4, tmp_path / "one.csv")
    rows = np.genfromtxt(tmp_path / "one.csv", delimiter=",", skip_header=1)[:, 1:]
    assert rows[:, :2].min() == pytest.approx(3000 - 618, rel=2e-3)


def test_files_have_names_of_their_own() -> None:
    assert file_names(["a/b", "a-b", "c"]) == ["a-b-0", "a-b-1", "c"]
