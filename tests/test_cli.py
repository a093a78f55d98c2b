"""The command line is a contract: exit codes, one line for every failure, one JSON object where it is asked for, nothing lost."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Nf, failed
from PIL import Image
from synthetic import TINY, blobs

import neuralfield as nf
from neuralfield.cli.main import VERBS
from neuralfield.run import FORMAT

pytestmark = pytest.mark.usefixtures("ctrl_c")

SETTINGS = [word for setting in TINY for word in ("--set", setting)]


def listing(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def fit_words(source: str, out: Path, *more: object) -> list[object]:
    return ["fit", "--domain", "image", "--data", source, *SETTINGS, "--epochs", 2, "--out", out, *more]


# what it prints


def test_fit_prints_what_the_contract_lists(nf_: Nf, source: str, tmp_path: Path) -> None:
    answer = nf_(*fit_words(source, tmp_path / "run", "--json"))
    assert answer.code == 0, answer.err
    facts = answer.json
    assert facts["run"] == str(tmp_path / "run")
    assert (facts["signals"], facts["epochs"]) == (24, 2)
    assert facts["seconds"] > 0
    assert facts["points_per_second"] > 0
    assert set(facts["scores"]["train"]) >= {"mse", "psnr", "ssim"}
    assert len(nf.Run.load(tmp_path / "run").ids) == 24


def test_progress_goes_to_stderr_and_results_to_stdout(nf_: Nf, source: str, tmp_path: Path) -> None:
    answer = nf_(*fit_words(source, tmp_path / "run"))
    assert "training" in answer.err
    assert "training" not in answer.out
    assert str(tmp_path / "run") in answer.out


@pytest.mark.parametrize("mask", ["--hide center:4", "--observe half:left", "--observe random:0.3 --seed 3"])
def test_infer_prints_what_the_contract_lists_and_writes_completions(nf_: Nf, fitted: Path, tmp_path: Path, mask: str) -> None:
    answer = nf_("infer", fitted, *mask.split(), "--limit", 6, "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    facts = answer.json
    assert facts["run"] == str(fitted)
    assert (facts["signals"], facts["solver"]) == (6, "adam")
    assert 0 <= facts["converged"] <= 1
    assert facts["steps"] == 10
    assert sum(facts["reasons"].values()) == 6
    assert facts["evaluations"] >= 3 * 10  # forward and backward of every step
    assert facts["seconds"] > 0
    assert "coverage90" in facts
    for side in ("observed", "hidden"):
        assert math.isfinite(facts["scores"][side]["psnr"])
    assert (tmp_path / "out" / "completions.png").is_file()
    with np.load(tmp_path / "out" / "completions.npz", allow_pickle=False) as held:
        assert held["values"].shape == (6, 64, 1)
        assert len(held["ids"]) == 6


def test_infer_of_whole_signals_has_no_hidden_scores(nf_: Nf, fitted: Path, tmp_path: Path) -> None:
    facts = nf_("infer", fitted, "--limit", 3, "--out", tmp_path / "out", "--json").json
    assert facts["scores"]["observed"]["ssim"] <= 1
    assert facts["scores"]["hidden"] == {}


@pytest.mark.parametrize("kind", ["modulated", "concat", "convolutional"])
def test_infer_works_with_every_kind_of_decoder(nf_: Nf, source: str, tmp_path: Path, kind: str) -> None:
    words = ["--set", f"decoder.kind={kind}", "--set", "decoder.width=8"]
    assert nf_(*fit_words(source, tmp_path / "run"), *words).code == 0
    assert nf_("infer", tmp_path / "run", "--limit", 2).code == 0


def test_eval_prints_what_the_contract_lists_and_writes_nothing(nf_: Nf, run_folder: Path, source: str) -> None:
    before = listing(run_folder)
    facts = nf_("eval", run_folder, "--data", source, "--split", "test", "--hide", "center:4", "--json").json
    assert (facts["run"], facts["signals"]) == (str(run_folder), 12)
    assert set(facts["scores"]) == {"observed", "hidden"}
    assert listing(run_folder) == before


def test_eval_and_infer_agree(nf_: Nf, fitted: Path, tmp_path: Path) -> None:
    mask = ["--hide", "random:0.5", "--seed", 4]
    evaluated = nf_("eval", fitted, *mask, "--json").json
    inferred = nf_("infer", fitted, *mask, "--out", tmp_path / "out", "--json").json
    assert evaluated["scores"] == inferred["scores"]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == inferred["scores"]


@pytest.mark.parametrize("ending", [".png", ".npy", ".csv"])
@pytest.mark.parametrize("resolution", [None, 20])
def test_decode_prints_what_the_contract_lists_and_writes_at_any_resolution(
    nf_: Nf, fitted: Path, tmp_path: Path, ending: str, resolution: int | None
) -> None:
    out, side = tmp_path / "new" / f"signal{ending}", resolution or 8
    wanted = ["--resolution", resolution] if resolution else []
    facts = nf_("decode", fitted, "--signal", 2, "--signal", "train-00005", *wanted, "--out", out, "--json").json
    assert (facts["run"], facts["out"], facts["resolution"]) == (str(fitted), str(out), resolution)
    assert facts["evaluations"] == 2 * side * side
    assert facts["seconds"] >= 0
    run = nf.Run.load(fitted)
    with torch.no_grad():
        values = run.field(run.codes[[2, 5]])(run.domain.grid(side)).reshape(2, side, side, 1).numpy()
    if ending == ".npy":
        np.testing.assert_allclose(np.load(out, allow_pickle=False), values, atol=1e-5)
    elif ending == ".csv":
        table = np.genfromtxt(out, delimiter=",", names=True)
        assert table.dtype.names == ("id", "x", "y", "value0")
        np.testing.assert_allclose(table["value0"], values.reshape(-1), atol=1e-5)
    else:
        picture = np.asarray(Image.open(out).convert("RGB"))
        expected = (np.concatenate(list(values), 1)[..., 0].clip(0, 1) * 255).round()
        assert picture.shape == (side, 2 * side, 3)
        np.testing.assert_allclose(picture[..., 0], expected, atol=1)


def test_codes_can_be_written_and_decoded_again(nf_: Nf, fitted: Path, tmp_path: Path) -> None:
    facts = nf_("codes", fitted, "--out", tmp_path / "codes.npz", "--json").json
    assert (facts["signals"], facts["code_dim"]) == (24, 4)
    run = nf.Run.load(fitted)
    with np.load(tmp_path / "codes.npz", allow_pickle=False) as held:
        assert sorted(held.files) == ["codes", "ids", "labels", "std"]
        assert held["ids"].tolist() == run.ids
        assert np.array_equal(held["codes"], run.codes.numpy())
        assert held["labels"].tolist() == run.labels.tolist()
    answer = nf_("decode", fitted, "--codes", tmp_path / "codes.npz", "--out", tmp_path / "all.npy", "--json")
    assert answer.json["evaluations"] == 24 * 64


def test_add_lets_signals_join(nf_: Nf, run_folder: Path, source: str) -> None:
    facts = nf_("add", run_folder, "--data", source, "--split", "test", "--json").json
    assert (facts["signals"], facts["added"]) == (36, 12)
    assert len(nf.Run.load(run_folder).codes) == 36


def test_data_says_what_there_is(nf_: Nf, source: str, tmp_path: Path) -> None:
    facts = nf_("data", source, "--out", tmp_path / "sheet.png", "--json").json
    assert (facts["signals"], facts["domain"], facts["height"], facts["width"], facts["channels"]) == (24, "image", 8, 8, 1)
    assert facts["labels"] == {"0": 8, "1": 8, "2": 8}
    assert (tmp_path / "sheet.png").is_file()


def test_recipes_are_listed_and_shown_as_toml_that_can_be_used(nf_: Nf, tmp_path: Path) -> None:
    listed = {
        "autodecoder-linear",
        "autoencoder-cnn",
        "autoencoder-contractive",
        "autoencoder-denoising",
        "autoencoder-linear",
        "autoencoder-mlp",
        "autoencoder-sparse-kl",
        "autoencoder-sparse-l1",
        "image",
        "image-completion",
        "image-modulated",
        "autodecoder-mnist",
        "deepsdf",
        "function",
        "functions-joint",
        "functions-alternating",
        "shape",
        "shape-single",
        "glo",
        "encdec",
    }
    assert listed <= set(nf_("recipes", "--json").json["recipes"])
    shown = nf_("recipes", "image", "--set", "decoder.width=77")
    (tmp_path / "mine.toml").write_text(shown.out)
    assert nf.Recipe.load(tmp_path / "mine.toml") == nf.Recipe.load("image", ["decoder.width=77"])


def test_doctor_lists_devices_and_every_part(nf_: Nf) -> None:
    facts = nf_("doctor", "--json").json
    assert "cpu" in facts["devices"][0]
    assert facts["auto"]["training"].startswith("bfloat16" if facts["auto"]["device"] == "cuda" else "float32")
    assert "modulated" in facts["parts"]["decoders"]


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS)])
def test_every_verb_has_help(nf_: Nf, verb: list[str]) -> None:
    answer = nf_(*verb, "--help")
    assert answer.code == 0
    assert "Usage: nf" in answer.out


def test_python_dash_m_is_nf() -> None:
    done = subprocess.run([sys.executable, "-m", "neuralfield", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)


# wrong usage: 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fly"], "fly"),
        (["fit", "--speed", "3"], "--speed"),
        (["fit", "--epochs", "0"], "--epochs"),
        (["fit", "--epochs", "many"], "many"),
        (["infer"], "RUN"),
        (["decode", "run"], "--out"),
        (["fit"], "--domain or --recipe"),
        (["fit", "--domain", "imag"], 'did you mean "image"'),
        (["fit", "--domain", "image", "--recipe", "imagee"], 'did you mean "image"'),
        (["fit", "--domain", "image", "--budget", "5x"], "60s, 5m or 1h"),
        (["fit", "--domain", "image", "--budget", "0"], "60s, 5m or 1h"),
        (["fit", "--domain", "image", "--budget", "5s", "--epochs", "3"], "not by both"),
        (["fit", "--domain", "image", "--set", "decoder.widht=3"], 'did you mean "width"'),
        (["fit", "--domain", "image", "--set", "decoder.width=wide"], "decoder"),
        (["fit", "--domain", "image", "--set", "decoder.kind=concatt"], 'did you mean "concat"'),
        (["fit", "--domain", "image", "--set", "signals.padding=2"], "padding"),
        (["fit", "--domain", "image", "--data", "mnist-mni"], 'did you mean "mnist-mini"'),
        (["fit", "--domain", "image", "--data", "mnist-mini", "--split", "tset"], 'did you mean "test"'),
        (["fit", "--domain", "image", "--device", "abacus"], "abacus"),
        (["fit", "--domain", "image", "--set", "inference.start=nearst"], 'did you mean "nearest"'),
        (["fit", "--resume"], "--out RUN"),
        (["recipes", "imagee"], 'did you mean "image"'),
        (["data", "mnist-mni"], 'did you mean "mnist-mini"'),
        (["data", "mnist-mini", "--set", "decoder.width=3"], "[signals]"),
    ],
)
def test_wrong_usage_exits_with_2_and_writes_nothing(
    nf_: Nf, words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = nf_(*words)
    assert answer.code == 2, answer
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["infer", "--hide", "centre:4"], 'did you mean "center"'),
        (["infer", "--hide", "center:four"], "center:12"),
        (["infer", "--hide", "half:lefft"], 'did you mean "left"'),
        (["infer", "--solver", "adm"], 'did you mean "adam"'),
        (["infer", "--set", "inference.stps=3"], 'did you mean "steps"'),
        (["infer", "--set", "inference.steps=0"], "inference.steps"),
        (["decode", "--signal", "99", "--out", "a.png"], "0 to 23"),
        (["decode", "--signal", "train-0000", "--out", "a.png"], "did you mean"),
        (["decode", "--out", "a.stl"], ".png"),
        (["decode", "--signal", "1", "--codes", "codes.npz", "--out", "a.png"], "not by both"),
        (["decode", "--resolution", "0", "--out", "a.png"], "--resolution"),
    ],
)
def test_wrong_usage_of_a_run_exits_with_2(
    nf_: Nf, fitted: Path, words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = nf_(words[0], fitted, *words[1:])
    assert answer.code == 2, answer
    assert said in answer.err
    assert not list(tmp_path.iterdir())


# bad data: 1


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of eight grey pictures."""
    for i, pixels in enumerate((blobs(8)[..., 0] * 255).to(torch.uint8).numpy()):
        save(tmp_path / "pictures" / f"{i}.png", pixels)
    return tmp_path / "pictures"


def test_a_missing_path_is_one_line(nf_: Nf, tmp_path: Path) -> None:
    for source in (f"images:{tmp_path}/none", f"npz:{tmp_path}/none.npz", f"mnist:{tmp_path}/none", f"{tmp_path}/none.png"):
        failed(nf_(*fit_words(source, tmp_path / "run")), 1, tmp_path / "none")
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_is_one_line(nf_: Nf, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    failed(nf_(*fit_words(f"images:{tmp_path}/empty", tmp_path / "run")), 1, tmp_path / "empty", "no PNG or JPEG")


@pytest.mark.filterwarnings("always::neuralfield.errors.NeuralfieldWarning")  # as users have it
def test_a_broken_picture_is_named_and_skipped_only_on_demand(nf_: Nf, pictures: Path, tmp_path: Path) -> None:
    whole = (pictures / "0.png").read_bytes()
    (pictures / "3.png").write_bytes(whole[: len(whole) // 2])
    words = fit_words(f"images:{pictures}", tmp_path / "run")
    failed(nf_(*words), 1, pictures / "3.png", "--skip-bad")
    assert not (tmp_path / "run").exists()
    skipped = nf_(*words, "--skip-bad", "--json")
    assert skipped.code == 0, skipped.err
    assert skipped.json["signals"] == 7
    assert "3.png" in skipped.err


@pytest.mark.filterwarnings("always::neuralfield.errors.NeuralfieldWarning")  # as users have it
def test_a_strict_look_at_data_refuses_what_would_be_skipped(nf_: Nf, pictures: Path) -> None:
    (pictures / "3.png").write_bytes(b"")
    assert nf_("data", f"images:{pictures}", "--skip-bad").code == 0
    failed(nf_("data", f"images:{pictures}", "--skip-bad", "--strict"), 1, "3.png")


def test_mixed_channels_are_named_with_the_way_out(nf_: Nf, pictures: Path, tmp_path: Path) -> None:
    save(pictures / "colour.png", np.zeros((8, 8, 3), np.uint8))
    words = fit_words(f"images:{pictures}", tmp_path / "run")
    failed(nf_(*words), 1, "colour.png", "channels", "--set signals.channels=1")
    assert nf_(*words, "--set", "signals.channels=1").code == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(nf_: Nf, tmp_path: Path, value: float) -> None:
    images = blobs(4)[..., 0].numpy()
    images[2, 5, 1] = value
    np.savez(tmp_path / "a.npz", images=images)
    failed(nf_(*fit_words(f"npz:{tmp_path}/a.npz", tmp_path / "run")), 1, "a.npz", str(value), "row 5")


def test_signals_of_another_size_than_the_runs_are_named_with_the_way_out(nf_: Nf, fitted: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=blobs(3, 9, 8)[..., 0].numpy())
    failed(nf_("infer", fitted, "--data", f"npz:{tmp_path}/a.npz"), 1, "height 8", "height 9", "signals.resize")


def test_a_mask_of_another_size_is_one_line(nf_: Nf, fitted: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.ones((4, 4)))
    failed(nf_("infer", fitted, "--hide", f"file:{tmp_path}/mask.npy"), 1, "4 x 4", "8 x 8")
    failed(nf_("infer", fitted, "--hide", f"file:{tmp_path}/none.npy"), 1, "none.npy")


@pytest.mark.parametrize("mask", ["--hide center:8", "--hide random:1", "--observe half:left --hide half:left"])
def test_a_mask_that_hides_everything_is_one_line(nf_: Nf, run_folder: Path, mask: str) -> None:
    failed(nf_("infer", run_folder, *mask.split()), 1, "hide everything", "leave some")
    assert not (run_folder / "completions").exists()


# bad runs: 1


def test_runs_that_cannot_be_read_are_one_line_for_every_verb(nf_: Nf, run_folder: Path, tmp_path: Path) -> None:
    def damage(how: Callable[[Path], object]) -> Path:
        folder = Path(shutil.copytree(run_folder, tmp_path / "damaged", dirs_exist_ok=True))
        how(folder)
        return folder

    def edited(old: str, new: str) -> Callable[[Path], object]:
        return lambda f: (f / "recipe.toml").write_text((f / "recipe.toml").read_text().replace(old, new))

    def truncated(f: Path) -> None:
        (f / "latents.safetensors").write_bytes((f / "latents.safetensors").read_bytes()[:-40])

    cases: list[tuple[Callable[[Path], object], list[str]]] = [
        (lambda f: (f / "decoder.safetensors").unlink(), ["decoder.safetensors is missing", "half written"]),
        (truncated, ["latents.safetensors is damaged or truncated"]),
        (edited(f"format = {FORMAT}", f"format = {FORMAT + 1}"), [f"format {FORMAT + 1}", "upgrade"]),
        (edited(f"format = {FORMAT}", f"format = {FORMAT - 1}"), [f"format {FORMAT - 1}", "older", "fit again"]),
        (edited("finished = true", "finished = false"), ["not finished", "nf fit --resume --out"]),
        (lambda f: (f / "recipe.toml").unlink(), ["is not a run folder", "recipe.toml"]),
        (shutil.rmtree, ["there is no run"]),
    ]
    out = ["--out", tmp_path / "out.png"]
    verbs = [["infer", *out], ["eval"], ["decode", *out], ["codes", *out]]
    for how, words in cases:
        folder = damage(how)
        for verb, *more in verbs:
            failed(nf_(verb, folder, *more), 1, folder, *words)
    assert not (tmp_path / "out.png").exists()


def test_codes_that_do_not_fit_are_one_line(nf_: Nf, fitted: Path, tmp_path: Path) -> None:
    for arrays in ({"z": np.zeros(3)}, {"codes": np.zeros((2, 9))}, {"codes": np.full((2, 4), np.nan)}):
        np.savez(tmp_path / "a.npz", allow_pickle=False, **arrays)
        failed(nf_("decode", fitted, "--codes", tmp_path / "a.npz", "--out", tmp_path / "a.png"), 1, "a.npz", "[n, 4]")
    failed(nf_("decode", fitted, "--codes", tmp_path / "none.npz", "--out", tmp_path / "a.png"), 1, "none.npz", "does not exist")


# nothing is lost


def test_an_out_that_exists_is_refused_and_left_alone(nf_: Nf, run_folder: Path, source: str, tmp_path: Path) -> None:
    before = listing(run_folder)
    failed(nf_(*fit_words(source, run_folder)), 1, run_folder, "--resume", "--overwrite")
    assert listing(run_folder) == before
    (tmp_path / "file").write_text("mine")
    failed(nf_(*fit_words(source, tmp_path / "file", "--overwrite")), 1, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_overwrite_removes_only_what_a_run_wrote(nf_: Nf, run_folder: Path, source: str) -> None:
    mine = ["notes.txt", "figures/notes.txt", "data/picture.png", "weights.pt", "00000/mine.tsv"]
    for name in mine:
        (run_folder / name).parent.mkdir(exist_ok=True)
        (run_folder / name).write_text("mine")
    answer = nf_(*fit_words(source, run_folder, "--overwrite", "--seed", 5, "--json"))
    assert answer.code == 0, answer.err
    after = listing(run_folder)
    assert all(after[name] == b"mine" for name in mine)
    assert nf.Run.load(run_folder).facts["seed"] == 5
    assert len(list(run_folder.glob("events.out.tfevents.*"))) == 1


def test_a_folder_that_is_no_run_is_never_overwritten(nf_: Nf, source: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "holiday.png").write_bytes(b"mine")
    failed(nf_(*fit_words(source, folder, "--overwrite")), 1, folder, "not a run's folder")
    assert listing(folder) == {"holiday.png": b"mine"}


def test_a_folder_with_a_recipe_of_ones_own_is_never_overwritten(nf_: Nf, source: str, tmp_path: Path) -> None:
    mine = {"recipe.toml": b'[domain]\nkind = "image"\n', "decoder.safetensors": b"precious"}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    failed(nf_(*fit_words(source, tmp_path, "--overwrite")), 1, "not a run's folder")
    assert {name: (tmp_path / name).read_bytes() for name in mine} == mine


@pytest.mark.parametrize(
    "wrong",
    [["--data", "npz:nowhere.npz"], ["--set", "decoder.widht=3"], ["--device", "abacus"], ["--set", "training.optimiser=addam"]],
)
def test_overwrite_removes_nothing_where_the_new_fit_cannot_begin(nf_: Nf, run_folder: Path, source: str, wrong: list[str]) -> None:
    before = listing(run_folder)
    assert nf_(*fit_words(source, run_folder, "--overwrite"), *wrong).code in (1, 2)
    assert listing(run_folder) == before


def test_an_interrupted_fit_exits_with_130_and_goes_on_as_if_nothing_had_happened(
    nf_: Nf, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuralfield.cli.progress import Bar

    assert nf_(*fit_words(source, tmp_path / "whole")).code == 0
    reports, report = [], Bar.report

    def pressing(self: Bar, given: Any) -> None:
        report(self, given)
        reports.append(given)
        if len(reports) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Bar, "report", pressing)
        answer = nf_(*fit_words(source, tmp_path / "run"))
    failed(answer, 130, "interrupted", f"nf fit --resume --out {tmp_path / 'run'}")
    failed(nf_("infer", tmp_path / "run"), 1, "--resume")
    resumed = nf_("fit", "--resume", "--out", tmp_path / "run", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["epochs"] == 2
    for name in ("decoder.safetensors", "latents.safetensors", "inference.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_ctrl_c_during_inference_exits_with_130(nf_: Nf, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neuralfield.cli.progress import Bar

    monkeypatch.setattr(Bar, "share", lambda self, share: os.kill(os.getpid(), signal.SIGINT))
    failed(nf_("eval", fitted, "--limit", 2), 130, "interrupted")


def full(*arguments: object, **more: object) -> None:
    raise OSError(28, os.strerror(28))


@pytest.mark.parametrize("writer", ["os.replace", "os.fsync", "PIL.Image.Image.save", "pathlib.Path.mkdir"])
def test_a_full_disk_is_one_line_for_every_verb_that_writes(
    nf_: Nf, run_folder: Path, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    before = listing(run_folder)
    out = tmp_path / "out"
    verbs = {
        "fit": fit_words(source, tmp_path / "new"),
        "infer": ["infer", run_folder, "--limit", 2, "--out", out],
        "decode": ["decode", run_folder, "--out", out / "a.png"],
        "codes": ["codes", run_folder, "--out", out / "codes.npz"],
        "data": ["data", source, "--out", out / "sheet.png"],
    }
    touched = {"PIL.Image.Image.save": {"fit", "infer", "decode", "data"}, "pathlib.Path.mkdir": set(verbs)}
    with monkeypatch.context() as patched:
        patched.setattr(writer, full)
        for verb in touched.get(writer, {"fit", "infer", "codes"}):
            failed(nf_(*verbs[verb]), 1, "No space left on device")
    assert listing(run_folder) == before
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
    assert all(nf_(*words).code == 0 for words in verbs.values())  # the same commands work once there is room


def test_a_full_disk_while_adding_leaves_a_whole_run(
    nf_: Nf, run_folder: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full_for(name: str) -> Callable[..., None]:
        return lambda a, b: full() if Path(b).name == name else replace(a, b)

    for name in ("decoder.safetensors", "latents.safetensors", "inference.safetensors", "metrics.json", "recipe.toml"):
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", full_for(name))
            failed(nf_("add", run_folder, "--data", source, "--split", "test"), 1, name, "No space left on device")
        run = nf.Run.load(run_folder)
        assert len(run.ids) == len(run.codes)
        assert not [file for file in run_folder.iterdir() if file.name.startswith(".")]


def test_debug_shows_where(nf_: Nf, tmp_path: Path) -> None:
    for place in (["--debug", "eval", tmp_path], ["eval", tmp_path, "--debug"]):
        answer = nf_(*place)
        assert answer.code == 1
        assert "Traceback" in answer.err
        assert answer.err.rstrip().splitlines()[-1].startswith("nf: ")


def test_what_nobody_foresaw_is_one_line_too(nf_: Nf, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **more: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("neuralfield.run.Run.load", broken)
    answer = nf_("eval", fitted)
    assert answer.code == 1
    assert answer.err.splitlines() == ["nf: unexpected RuntimeError: first line (--debug shows where; please report it)"]


def test_a_fit_without_out_gets_a_folder_of_its_own(nf_: Nf, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--domain", "image", "--data", source, *SETTINGS, "--epochs", 1, "--json"]
    assert [nf_(*words).json["run"] for _ in range(2)] == ["runs/image", "runs/image-2"]


@pytest.mark.real_data
def test_the_shared_mnist_is_a_source(nf_: Nf, data_root: Path) -> None:
    if not (data_root / "mnist" / "MNIST" / "raw").is_dir():
        pytest.skip(f"no MNIST in {data_root}")
    facts = nf_("data", f"mnist:{data_root / 'mnist'}", "--limit", 50, "--set", "signals.pad=2", "--json").json
    assert (facts["signals"], facts["height"], facts["width"]) == (50, 32, 32)
