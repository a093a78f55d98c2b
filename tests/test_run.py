"""The run folder: what is saved is what is loaded, bit for bit; a damaged one is one clear line; nothing in it can run code."""

import ast
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from synthetic import TINY, blobs, images

import neuralfield as nf
import neuralfield.files as files
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.kernels.tinycudann import TinyCudaNN
from neuralfield.run import FORMAT

PACKAGE = Path(nf.__file__).parent
WEIGHTS = ("decoder.safetensors", "latents.safetensors", "inference.safetensors")


def one_line(make: Callable[[], object], *words: object) -> None:
    """`make` fails in one line of ours that says all of `words`."""
    with pytest.raises(NeuralfieldError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def fields_equal(a: nf.Run, b: nf.Run) -> bool:
    coords = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.equal(a.field(a.codes)(coords), b.field(b.codes)(coords))


# round trips


def test_a_loaded_run_is_the_fitted_one_bit_for_bit(tmp_path: Path, images: nf.Images) -> None:
    fitted = nf.fit(images, recipe="image", settings=TINY, epochs=2, out=tmp_path / "run")
    loaded = nf.Run.load(tmp_path / "run")
    assert fields_equal(fitted, loaded)
    assert (loaded.ids, loaded.facts, loaded.recipe) == (images.ids, fitted.facts, fitted.recipe)
    assert torch.equal(loaded.labels, images.labels)
    assert loaded.path == tmp_path / "run"
    batch = images.batch(torch.arange(5))
    ours, theirs = fitted.infer(batch), loaded.infer(batch)
    assert torch.equal(ours.latent.mean, theirs.latent.mean)
    assert torch.equal(ours.evaluations, theirs.evaluations)


@pytest.mark.parametrize(
    "settings",
    [
        ["decoder.kind=concat", "decoder.width=12", "decoder.depth=2"],
        ["decoder.kind=convolutional", "decoder.width=4", "inference.start=mean"],
        ["decoder.basis=siren", "decoder.modulation=film", "inference.start=nearest", "inference.prior=isotropic"],
        ["likelihood.kind=bernoulli", "latents.init=normal", "training.optimiser=adam"],
    ],
)
def test_every_kind_of_part_survives_the_disk(tmp_path: Path, images: nf.Images, settings: list[str]) -> None:
    fitted = nf.fit(images, recipe="image", settings=[*TINY, "training.polish=0", *settings], epochs=1)
    fitted.save(tmp_path / "run")
    loaded = nf.Run.load(tmp_path / "run")
    assert fields_equal(fitted, loaded)
    batch = images.batch(torch.arange(3))
    assert torch.equal(fitted.infer(batch).latent.mean, loaded.infer(batch).latent.mean)


def test_saving_again_elsewhere_gives_the_same_files(run: nf.Run, fitted: Path, tmp_path: Path) -> None:
    run.save(tmp_path / "copy")
    for name in (*WEIGHTS, "metrics.json", "recipe.toml"):
        ours, theirs = ((folder / name).read_bytes() for folder in (tmp_path / "copy", fitted))
        if name == "recipe.toml":  # a fit also says there how long it was to last
            ours, theirs = (text.split(b"[run]")[0] for text in (ours, theirs))
        assert ours == theirs, name


def test_a_run_that_was_fitted_with_a_kernel_that_is_not_here_is_loaded_with_another(tmp_path: Path, images: nf.Images) -> None:
    shifted = [*TINY, "decoder.kind=modulated", "decoder.width=8", "decoder.depth=2", "decoder.frequencies=4"]
    nf.fit(images, recipe="image", settings=shifted, epochs=1, device="cpu", out=tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('kernel = "auto"', 'kernel = "tinycudann"'))
    run = nf.Run.load(tmp_path / "run")
    missing = TinyCudaNN.missing()
    assert run.recipe.decoder.arguments["kernel"] == ("auto" if missing else "tinycudann")
    assert not missing or run.field(run.codes[:1])(torch.zeros(3, 2)).shape == (1, 3, 1)


def test_a_run_without_a_folder_says_how_to_save_it(images: nf.Images) -> None:
    run = nf.fit(images, recipe="image", settings=[*TINY, "training.polish=0"], epochs=1)
    one_line(run.save, "run.save(path)")


def test_settings_on_loading_change_how_it_infers(fitted: Path) -> None:
    run = nf.Run.load(fitted, ["inference.steps=77"])
    assert run.recipe.inference.arguments["steps"] == 77
    assert torch.equal(run.codes, nf.Run.load(fitted).codes)


def test_a_prior_can_be_chosen_after_the_fit_but_a_start_that_learns_cannot(
    fitted: Path, tmp_path: Path, images: nf.Images
) -> None:
    run = nf.Run.load(fitted, ["inference.prior=isotropic"])
    assert run.prior.state_dict()["std"] == pytest.approx(float(run.codes.square().mean().sqrt()))
    other = nf.fit(images, recipe="image", settings=[*TINY, "inference.start=mean", "training.polish=0"], epochs=1)
    other.save(tmp_path / "run")
    one_line(lambda: nf.Run.load(tmp_path / "run", ["inference.start=spectral"]), "spectral", "learned", "mean")


def test_a_field_is_a_continuous_function_in_the_data_units(run: nf.Run) -> None:
    field = run.field(run.codes[:2])
    coords = torch.rand(50, 2) * 2 - 1
    assert field(coords).shape == (2, 50, 1)
    near = field(coords + 1e-6)
    assert (field(coords) - near).abs().max() < 1e-3  # slopes of these smooth images are far below 1000
    assert torch.equal(run.field(nf.Latent(run.codes[:2]))(coords), field(coords))


# new signals join


def test_adding_signals_leaves_the_decoder_and_the_old_codes_bit_identical(run: nf.Run) -> None:
    decoder = {name: value.clone() for name, value in run.decoder.state_dict().items()}
    codes, ids = run.codes.clone(), list(run.ids)
    estimate = run.add(images(5, seed=9))
    assert all(torch.equal(value, decoder[name]) for name, value in run.decoder.state_dict().items())
    assert torch.equal(run.codes[:24], codes)
    assert torch.equal(run.codes[24:], estimate.latent.mean)
    assert run.ids[:24] == ids
    assert len(run.ids) == len(run.codes) == len(run.labels) == 29


def test_added_signals_survive_the_disk_and_can_be_starts(run_folder: Path) -> None:
    run = nf.Run.load(run_folder, ["inference.start=nearest"])
    run.add(images(5, seed=9))
    assert len(run.start.codes) == 29
    run.save()
    again = nf.Run.load(run_folder)
    assert torch.equal(again.codes, run.codes)
    assert again.ids == run.ids
    assert torch.equal(again.labels, run.labels)


def test_adding_gives_the_codes_that_inference_gives(run: nf.Run, fitted: Path) -> None:
    new = images(5, seed=9)
    expected = nf.Run.load(fitted).infer(new.truth(torch.arange(5)))
    assert torch.equal(run.add(new).latent.mean, expected.latent.mean)


def test_signals_that_do_not_fit_are_refused_and_nothing_is_added(run: nf.Run) -> None:
    one_line(lambda: run.add(images(3, 8, 9)), "width 8", "width 9", "signals.resize=[8,8]")
    one_line(lambda: run.add(images(3, 8, 8, 3)), "channels 1", "channels 3", "signals.channels=1")
    assert len(run.codes) == len(run.ids) == 24


# damaged folders


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_missing_file_is_named(run_folder: Path, name: str) -> None:
    (run_folder / name).unlink()
    one_line(lambda: nf.Run.load(run_folder), run_folder / name, "missing", "half written")


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_named(run_folder: Path, name: str, keep: float) -> None:
    content = (run_folder / name).read_bytes()
    (run_folder / name).write_bytes(content[: int(len(content) * keep)])
    one_line(lambda: nf.Run.load(run_folder), run_folder / name, "damaged or truncated")


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_file_of_other_tensors_is_named(run_folder: Path, name: str) -> None:
    files.write_tensors(run_folder / name, {"something": torch.zeros(2)}, {"ids": []})
    one_line(lambda: nf.Run.load(run_folder), name)


def test_files_of_two_runs_do_not_pass_for_one(run_folder: Path, tmp_path: Path, images: nf.Images) -> None:
    other = nf.fit(images, recipe="image", settings=[*TINY, "decoder.width=10", "training.polish=0"], epochs=1)
    other.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "decoder.safetensors", run_folder)
    one_line(lambda: nf.Run.load(run_folder), run_folder / "decoder.safetensors", "does not fit its recipe")


def test_no_folder_and_a_folder_that_is_no_run_are_told_apart(tmp_path: Path) -> None:
    one_line(lambda: nf.Run.load(tmp_path / "none"), "there is no run", tmp_path / "none")
    one_line(lambda: nf.Run.load(tmp_path), "is not a run folder", "recipe.toml")
    (tmp_path / "file").write_text("")
    one_line(lambda: nf.Run.load(tmp_path / "file"), tmp_path / "file", "not a run folder")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_recipe_is_one_line(run_folder: Path, keep: float) -> None:
    text = (run_folder / "recipe.toml").read_text()
    (run_folder / "recipe.toml").write_text(text[: int(len(text) * keep)])
    one_line(lambda: nf.Run.load(run_folder), run_folder)


def edit_recipe(folder: Path, old: str, new: str) -> None:
    text = (folder / "recipe.toml").read_text()
    assert old in text
    (folder / "recipe.toml").write_text(text.replace(old, new))


def test_a_newer_format_is_refused_by_its_number(run_folder: Path) -> None:
    edit_recipe(run_folder, f"format = {FORMAT}", f"format = {FORMAT + 1}")
    one_line(lambda: nf.Run.load(run_folder), run_folder, f"format {FORMAT + 1}", f"up to {FORMAT}", "upgrade")


def test_a_newer_format_is_named_even_where_its_recipe_has_keys_that_are_unknown_today(run_folder: Path) -> None:
    edit_recipe(run_folder, f"format = {FORMAT}", f"format = {FORMAT + 1}\n[tomorrow]\nx = 1")
    one_line(lambda: nf.Run.load(run_folder), f"format {FORMAT + 1}")


def test_an_unfinished_fit_says_how_to_go_on(run_folder: Path) -> None:
    edit_recipe(run_folder, "finished = true", "finished = false")
    one_line(lambda: nf.Run.load(run_folder), "not finished", f"--resume --out {run_folder}")


@pytest.mark.parametrize("content", [b"", b"{", b'{"scores": ', b"\xff"])
def test_a_damaged_metrics_file_is_named(run_folder: Path, content: bytes) -> None:
    (run_folder / "metrics.json").write_bytes(content)
    one_line(lambda: nf.Run.load(run_folder), run_folder / "metrics.json")


def test_a_run_needs_nothing_but_its_recipe_and_weights(run_folder: Path, fitted: Path) -> None:
    for entry in run_folder.iterdir():
        if entry.name not in (*WEIGHTS, "recipe.toml"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert fields_equal(nf.Run.load(run_folder), nf.Run.load(fitted))


# writing


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})

    def full(*arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, full)
            one_line(lambda: files.write_json(path, {"new": 2}), path, "No space left on device", "untouched")
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
        assert "old" in path.read_text()


def test_numbers_that_are_not_finite_are_not_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"psnr": float("inf")})
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", pickle.dumps([1])])
@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_arrays_that_cannot_be_read_are_one_line(tmp_path: Path, content: bytes, ending: str) -> None:
    (tmp_path / f"a.{ending}").write_bytes(content)
    one_line(lambda: files.read_npz(tmp_path / f"a.{ending}"), f"a.{ending}", "cannot be read")


def test_arrays_round_trip(tmp_path: Path) -> None:
    array = blobs(2).numpy()
    files.write_npz(tmp_path / "a.npz", codes=array, other=array[:1])
    read = files.read_npz(tmp_path / "a.npz")
    assert sorted(read) == ["codes", "other"]
    assert (read["codes"] == array).all()
    one_line(lambda: files.read_npz(tmp_path / "none.npz"), "none.npz", "does not exist")


# nothing that is loaded can run code


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", [*WEIGHTS, "recipe.toml", "metrics.json"])
def test_a_pickle_in_a_files_place_is_refused_and_not_run(run_folder: Path, tmp_path: Path, name: str) -> None:
    (run_folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    one_line(lambda: nf.Run.load(run_folder), name)
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_that_is_a_pickle_is_refused_and_not_run(run_folder: Path, tmp_path: Path, source: str) -> None:
    edit_recipe(run_folder, "finished = true", "finished = false")
    (run_folder / "resume" / "state.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    one_line(lambda: nf.fit(out=run_folder, resume=True), "state.safetensors", "damaged or truncated")
    assert not (tmp_path / "sprung").exists()


def calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def imported(tree: ast.AST) -> set[str]:
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


RUNS_CODE = {"eval", "exec", "joblib.load", "torch.jit.load", "torch.hub.load", "yaml.load", "pd.read_pickle"}
READS_PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "cPickle", "_pickle"}
INERT = PACKAGE / "signals" / "torchvision_sets.py"
"""CIFAR's own files are pickles: this one reads them with an unpickler that calls nothing (tested in test_signals.py)."""


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_no_file_of_the_package_can_run_what_it_loads(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert not calls(tree) & RUNS_CODE
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":  # which is so of files of other programs alone
            assert "weights_only=True" in map(ast.unparse, node.keywords)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load", "np.savez", "np.savez_compressed"):
            assert not any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords)
    if file == INERT:
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        (unpickler,) = [node for node in classes if "pickle.Unpickler" in map(ast.unparse, node.bases)]
        assert "find_class" in {node.name for node in unpickler.body if isinstance(node, ast.FunctionDef)}
        assert not calls(tree) & {"pickle.load", "pickle.loads", "pickle.Unpickler"}
    else:
        assert not imported(tree) & READS_PICKLES


def test_the_files_of_a_run_are_of_kinds_that_hold_no_code(fitted: Path) -> None:
    kinds = {".safetensors", ".toml", ".json", ".png", ".tsv", ".pbtxt"}
    for file in fitted.rglob("*"):
        assert file.is_dir() or file.suffix in kinds or file.name.startswith("events.out.tfevents."), file


def test_unknown_signals_of_a_run_made_in_python_are_asked_for(images: nf.Images) -> None:
    run = nf.fit(images, recipe="image", settings=[*TINY, "training.polish=0"], epochs=1)
    with pytest.raises(UsageError, match="--data SOURCE"):
        nf.load_signals(run)


def test_a_run_on_colour_images_infers_after_loading_as_before(tmp_path: Path) -> None:
    pixels = torch.rand(6, 3, 5, 3, generator=torch.Generator().manual_seed(0))
    run = nf.fit(nf.Images(pixels), domain="image", settings=["latents.code_dim=4"], epochs=2, out=tmp_path / "run")
    batch = nf.Images(pixels).batch(torch.arange(4))
    assert torch.equal(nf.Run.load(tmp_path / "run").infer(batch).latent.mean, run.infer(batch).latent.mean)


def test_labels_of_a_bank_survive_signals_that_have_none(fitted: Path, images: nf.Images) -> None:
    run = nf.Run.load(fitted)
    run.roster = replace(run.roster, labels=torch.arange(len(run.ids)))
    bare = nf.Images(images.pixels[:3])
    run.add(bare)
    assert run.labels is not None
    assert run.labels.tolist() == [*range(len(run.ids) - 3), -1, -1, -1]


def test_the_training_prior_can_be_that_of_inference(fitted: Path, images: nf.Images) -> None:
    run = nf.Run.load(fitted, ["inference.prior=training"])
    assert run.completion_objective().prior is run.model.objective.prior
    assert run.infer(images.batch(torch.arange(2))).latent.mean.isfinite().all()
