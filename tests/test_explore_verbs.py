"""nf interpolate, sample, report and compare: what they write and print, and one line for whatever is wrong."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Nf, failed
from PIL import Image
from synthetic import TINY, balls, blobs, images, waves

import neuralfield as nf
from neuralfield.errors import NeuralfieldError
from neuralfield.explore import measures, report
from neuralfield.explore.neighbours import Gallery, training_signals
from neuralfield.signals.roster import Roster

SHAPE = ["latents.code_dim=4", "decoder.width=16", "decoder.depth=2", "decoder.frequencies=8", "training.batch=4"]
SHAPE += ["training.points=64", "training.steps=20", "inference.points=256", "inference.steps=5", "domain.dims=3"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, source: str) -> Path:
    """Another run of the same signals."""
    folder = tmp_path_factory.mktemp("runs") / "other"
    nf.fit(source, recipe="image", settings=[*TINY, "latents.code_dim=3"], epochs=2, out=folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def fitted_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six balls, hardly fitted."""
    folder = tmp_path_factory.mktemp("runs") / "balls"
    nf.fit(balls(), recipe="shape", settings=SHAPE, epochs=2, out=folder, device="cpu")
    return folder


# interpolate


@pytest.mark.parametrize("path", ["linear", "spherical", "density", "graph"])
def test_interpolate_writes_a_way_between_two_signals(nf_: Nf, fitted: Path, tmp_path: Path, path: str) -> None:
    answer = nf_("interpolate", fitted, 3, "train-00008", "--path", path, "--steps", 5, "--out", tmp_path / "way.npy", "--json")
    assert answer.code == 0, answer.err
    assert {"run", "out", "from", "to", "path", "steps", "length", "evaluations"} == set(answer.json)
    assert (answer.json["from"], answer.json["to"], answer.json["steps"]) == ("train-00003", "train-00008", 5)
    nf_("decode", fitted, "--signal", 3, "--signal", 8, "--out", tmp_path / "ends.npy")
    way, ends = np.load(tmp_path / "way.npy"), np.load(tmp_path / "ends.npy")
    assert way.shape == (5, 8, 8, 1)
    np.testing.assert_allclose(way[[0, -1]], ends, atol=1e-5)  # the same codes, in batches of other sizes


def test_a_way_is_a_picture_or_an_animation(nf_: Nf, fitted: Path, tmp_path: Path) -> None:
    for ending in ("png", "gif"):
        assert nf_("interpolate", fitted, 0, 1, "--steps", 7, "--out", tmp_path / f"way.{ending}").code == 0
    assert Image.open(tmp_path / "way.png").size == (56, 8)
    animation = Image.open(tmp_path / "way.gif")
    assert getattr(animation, "n_frames", 1) == 7
    assert animation.size == (96, 96)


def test_curves_and_solids_have_ways_too(nf_: Nf, fitted_curves: Path, fitted_shapes: Path, tmp_path: Path) -> None:
    assert nf_("interpolate", fitted_curves, "wave-1", "wave-7", "--steps", 3, "--out", tmp_path / "way.csv").code == 0
    rows = (tmp_path / "way.csv").read_text().splitlines()
    assert len({row.split(",")[0] for row in rows[1:]}) == 3
    answer = nf_("interpolate", fitted_shapes, 0, 5, "--steps", 2, "--resolution", 16, "--out", tmp_path / "way.npy", "--json")
    assert answer.code == 0, answer.err
    assert np.load(tmp_path / "way.npy").shape == (2, 16, 16, 16, 1)


def test_frames_go_evenly_from_one_end_to_the_other() -> None:
    frames = torch.tensor([[0.0, 0.0, 2.0], [9.0, 9.0, 9.0], [4.0, 8.0, 4.0]], dtype=torch.float64)
    way = Roster(["a", "b", "c"], frames=frames).between(3)
    assert way.frames is not None
    assert way.frames.tolist() == [[0, 0, 2], [2, 4, 3], [4, 8, 4]]
    assert len(set(way.ids)) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["0", "99", "--out", "a.png"], "0 to 23"),
        (["0", "train-0001", "--out", "a.png"], "did you mean"),
        (["0", "1", "--path", "graf", "--out", "a.png"], 'did you mean "graph"'),
        (["0", "1", "--steps", "1", "--out", "a.png"], "--steps"),
        (["0", "1", "--out", "a.jpg"], ".png"),
        (["0", "1"], "--out"),
    ],
)
def test_interpolate_refuses_in_one_line(nf_: Nf, fitted: Path, words: list[str], says: str) -> None:
    answer = nf_("interpolate", fitted, *words)
    assert answer.code == 2
    assert says in answer.err
    assert "Traceback" not in answer.err


# sample


def test_sample_says_how_far_each_is_from_the_nearest_training_signal(nf_: Nf, fitted: Path, tmp_path: Path) -> None:
    words = ["-n", 5, "--density", "gaussian", "--seed", 4, "--out", tmp_path / "new.npy", "--json"]
    facts = nf_("sample", fitted, *words).json
    drawn = torch.from_numpy(np.load(tmp_path / "new.npy"))
    signals = training_signals(nf.Run.load(fitted))
    assert signals is not None
    real = signals.truth(torch.arange(24)).values.reshape(24, 8, 8, 1)
    apart = (drawn[:, None] - real).square().mean((2, 3, 4))
    np.testing.assert_allclose(facts["distances"], apart.min(1).values, rtol=1e-4)
    assert facts["nearest"] == [f"train-{row:05d}" for row in apart.argmin(1).tolist()]
    assert facts["mean_distance"] == pytest.approx(np.mean(facts["distances"]))
    assert facts["real"] is True
    again = nf_("sample", fitted, *words).json
    assert again == facts


def test_samples_of_curves_and_of_runs_whose_data_are_gone(nf_: Nf, fitted_curves: Path, tmp_path: Path) -> None:
    answer = nf_("sample", fitted_curves, "-n", 3, "--out", tmp_path / "new.csv", "--json")
    assert answer.json["real"] is False
    assert "as the run decodes it" in answer.out
    assert all(name.startswith("wave-") for name in answer.json["nearest"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-n", "0", "--out", "a.png"], "-n"),
        (["--density", "mixtur", "--out", "a.png"], 'did you mean "mixture"'),
        (["--out", "a.jpg"], ".png"),
    ],
)
def test_sample_refuses_in_one_line(nf_: Nf, fitted: Path, words: list[str], says: str) -> None:
    answer = nf_("sample", fitted, *words)
    assert answer.code == 2
    assert says in answer.err


# report


class Links(HTMLParser):
    """Everything that a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert tag not in ("script", "link", "iframe", "object")

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: Path) -> Links:
    parser = Links()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def test_a_report_is_one_page_that_needs_nothing_else(nf_: Nf, run_folder: Path) -> None:
    answer = nf_("report", run_folder, "--json")
    assert answer.code == 0, answer.err
    page = read(run_folder / "report.html")
    assert answer.json["bytes"] == (run_folder / "report.html").stat().st_size
    assert len(page.links) >= 7  # a figure for each section, of codes two
    for link in page.links:
        kind, _, inside = link.partition(",")
        assert kind == "data:image/png;base64"
        assert min(Image.open(io.BytesIO(base64.b64decode(inside))).size) > 20
    assert not re.search(r"@import|url\(", (run_folder / "report.html").read_text())
    for title in report.SECTIONS:
        assert title in page.text
    assert "code_dim = 4" in page.text
    assert "each code left out in turn" in page.text


@pytest.mark.slow
def test_reports_of_runs_without_labels_data_or_a_folder(fitted_curves: Path, fitted_shapes: Path, tmp_path: Path) -> None:
    unlabelled = nf.fit(images(labelled=False), recipe="image", settings=TINY, epochs=2, device="cpu")
    for name, run in {"images": unlabelled, "curves": nf.Run.load(fitted_curves), "shapes": nf.Run.load(fitted_shapes)}.items():
        page = read(nf.write_report(run, tmp_path / name / "page.html"))
        assert len(page.links) >= 7, name
    assert "left out in turn" not in page.text


def test_a_name_is_no_markup(run_folder: Path) -> None:
    folder = run_folder.rename(run_folder.with_name("a<b>&c"))
    assert "a<b>&c" in read(nf.write_report(nf.Run.load(folder))).text


def test_fitting_again_removes_the_report_of_the_old_run(nf_: Nf, run_folder: Path, source: str) -> None:
    (run_folder / "report.html").write_text("old")
    nf.fit(source, recipe="image", settings=TINY, epochs=1, out=run_folder, overwrite=True, device="cpu")
    assert not (run_folder / "report.html").exists()


def test_report_refuses_in_one_line(nf_: Nf, tmp_path: Path) -> None:
    failed(nf_("report", tmp_path), 1, "is not a run folder")


# compare


def test_compare_writes_a_table_numbers_and_pictures(nf_: Nf, fitted: Path, other: Path, tmp_path: Path) -> None:
    words = ["--limit", 6, "--hide", "center:4", "--hide", "half:left", "--out", tmp_path / "c", "--json"]
    answer = nf_("compare", fitted, other, *words)
    assert answer.code == 0, answer.err
    facts = answer.json
    assert [run["name"] for run in facts["runs"]] == ["fitted", "other"]
    assert [run["code_dim"] for run in facts["runs"]] == [4, 3]
    numbers = {"fit_seconds", "train", "new", "seconds_per_signal", "evaluations", "converged", "knn_bank", "knn_new"}
    numbers |= {"midpoints_linear", "midpoints_density", "midpoints_from_code", "samples_from_training", "new_from_samples"}
    for run in facts["runs"]:
        assert numbers | {"hidden center:4", "hidden half:left"} <= set(run)
        assert all(np.isfinite(run[name]) for name in numbers)
    assert json.loads((tmp_path / "c" / "compare.json").read_text())["runs"] == facts["runs"]
    table = (tmp_path / "c" / "compare.md").read_text()
    assert "| hidden half:left, psnr |" in table
    assert table.splitlines()[2] in answer.out
    assert min(Image.open(tmp_path / "c" / "compare.png").size) > 100


def test_the_numbers_of_a_comparison_are_those_of_the_other_commands(nf_: Nf, fitted: Path) -> None:
    compared = nf_("compare", fitted, "--limit", 6, "--hide", "half:left", "--json").json["runs"][0]
    whole = nf_("eval", fitted, "--limit", 6, "--json").json
    hidden = nf_("eval", fitted, "--limit", 6, "--hide", "half:left", "--json").json
    assert compared["new"] == pytest.approx(whole["scores"]["observed"]["psnr"])
    assert compared["evaluations"] == pytest.approx(whole["evaluations"])
    assert compared["hidden half:left"] == pytest.approx(hidden["scores"]["hidden"]["psnr"])


def test_the_same_run_twice_is_the_same_twice(nf_: Nf, fitted: Path) -> None:
    first, second = nf_("compare", fitted, fitted, "--limit", 4, "--json").json["runs"]
    assert [first.pop("name"), second.pop("name")] == ["fitted (1)", "fitted (2)"]
    for run in (first, second):
        assert run.pop("seconds_per_signal") > 0
    assert first == second


def test_real_signals_are_what_distances_are_judged_by(run: nf.Run) -> None:
    new = nf.Images(blobs(5, seed=1), [f"new-{i}" for i in range(5)])
    found = nf.compare([run], new)
    signals = training_signals(run)
    assert signals is not None
    expected = Gallery.of(run, signals).nearest(Gallery.of(run, new))[0].mean().item()
    assert found.real["new_from_training"] == pytest.approx(expected)
    assert found.real["new_from_as_many"] == pytest.approx(expected)  # there are fewer of them than samples


def test_runs_of_curves_are_compared_as_well(fitted_curves: Path) -> None:
    run = nf.Run.load(fitted_curves)
    told = nf.compare([run, run], waves(6, seed=5), hide=["first:0.5"]).runs
    assert {"new", "hidden first:0.5", "midpoints_density", "samples_from_training", "knn_new"} <= set(told[0])


@pytest.mark.slow
def test_runs_of_shapes_are_compared_as_well(fitted_shapes: Path) -> None:
    told = nf.compare([nf.Run.load(fitted_shapes)], balls(2)).runs
    assert {"new", "midpoints_density", "samples_from_training"} <= set(told[0])
    assert "knn_bank" not in told[0]


@pytest.fixture(scope="module")
def encoding(tmp_path_factory: pytest.TempPathFactory, source: str) -> Path:
    """A run whose codes are read by a variational encoder."""
    folder = tmp_path_factory.mktemp("runs") / "encoding"
    settings = ["latents.code_dim=4", "latents.network=mlp", "latents.width=16", "decoder.width=4", "training.batch=8"]
    nf.fit(source, recipe="vae", settings=settings, epochs=3, out=folder, device="cpu")
    return folder


def test_encoders_are_compared_alone_and_with_a_search_after_them(nf_: Nf, fitted: Path, encoding: Path) -> None:
    plain, encoded = nf_("compare", fitted, encoding, "--limit", 6, "--json").json["runs"]
    assert encoded["new_encode"] == pytest.approx(encoded["new"])  # the run's own inference encodes
    assert encoded["new_search"] > encoded["new_encode"]  # dB; a search minimises what is scored, but for the prior
    assert encoded["seconds_encode"] < encoded["seconds_search"]
    assert "prior_from_training" in encoded
    assert not {"new_encode", "prior_from_training"} & set(plain)


def test_what_cannot_be_searched_is_compared_as_it_is_encoded(encoding: Path) -> None:
    run = nf.Run.load(encoding)
    run.model.objective.searchable = False  # type: ignore[misc]  # as that of encoder, decoder, encoder
    told = nf.compare([run], limit=3).runs[0]
    assert "new_encode" in told
    assert "new_search" not in told


def test_what_lies_between_codes_of_an_encoder_and_is_drawn_from_them(nf_: Nf, encoding: Path, tmp_path: Path) -> None:
    assert nf_("interpolate", encoding, 0, 1, "--out", tmp_path / "way.png").code == 0
    assert nf_("sample", encoding, "--density", "training", "--out", tmp_path / "new.png").code == 0
    assert nf_("report", encoding, "--out", tmp_path / "page.html").code == 0


def refit(folder: Path, out: Path, **changes: object) -> Path:
    """A copy of a run that says it was fitted to other data."""
    run = nf.Run.load(shutil.copytree(folder, out))
    for name, value in changes.items():
        setattr(run, name, value)
    run.save()
    return out


def test_runs_that_were_fitted_to_different_signals_are_refused(
    nf_: Nf, fitted: Path, fitted_curves: Path, source: str, tmp_path: Path
) -> None:
    failed(nf_("compare", fitted, fitted_curves), 1, "fitted and curves", '"image"', '"function"')
    run = nf.Run.load(fitted)
    fewer = nf.fit(source, recipe="image", settings=TINY, limit=20, epochs=1, out=tmp_path / "fewer", device="cpu")
    failed(nf_("compare", fitted, fewer.path or ""), 1, "fitted and fewer", "limit None and 20")
    wide = nf.fit(images(width=9), recipe="image", settings=TINY, epochs=1, out=tmp_path / "wide", device="cpu")
    failed(nf_("compare", fitted, wide.path or ""), 1, "fitted and wide", "width 8 and 9")
    names = Roster([f"x-{i}" for i in range(24)], run.labels)
    failed(nf_("compare", fitted, refit(fitted, tmp_path / "renamed", roster=names)), 1, "fitted and renamed", "other ids")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--hide", "centre:4"], 2, "center"),
        (["--split", "none"], 2, "none"),
        (["--data", "nowhere.npz"], 1, "nowhere"),
        (["--limit", "0"], 2, "--limit"),
    ],
)
def test_compare_refuses_in_one_line(nf_: Nf, fitted: Path, words: list[str], code: int, says: str) -> None:
    answer = nf_("compare", fitted, *words)
    assert answer.code == code, answer
    assert says in answer.err
    assert "Traceback" not in answer.err


def test_compare_needs_a_run_and_new_signals(nf_: Nf, fitted_curves: Path) -> None:
    assert nf_("compare").code == 2
    failed(nf_("compare", fitted_curves), 2, "--data")
    with pytest.raises(NeuralfieldError, match="at least one run"):
        nf.compare([])


def test_pairs_are_of_different_labels_where_there_are_any(run: nf.Run) -> None:
    assert run.labels is not None
    start, end = measures.pairs(run, 24, seed=0)
    assert len(start) == measures.PAIRS
    assert (run.labels[start] != run.labels[end]).all()
    run.roster = Roster(run.ids)
    start, end = measures.pairs(run, 24, seed=0)
    assert (start != end).all()
