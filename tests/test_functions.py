"""Functions from end to end: fitted by the default recipe, completed with bands, written in the user's units, at the command line.

Curves and their files are in test_curves.py and test_csv.py, the models in test_mixed_effects.py and test_linear.py.
"""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Answer, Nf, failed, warned
from synthetic import waves
from torch import Tensor

import neuralfield as nf
from neuralfield.completion import draws_of
from neuralfield.domains.ensembles import LEVEL
from neuralfield.domains.function import Function
from neuralfield.errors import NeuralfieldWarning, UsageError
from neuralfield.signals.sines import sines

FEW = ["latents.code_dim=12"]


@pytest.fixture
def run(fitted_curves: Path) -> nf.Run:
    """Fitted to 40 curves of one channel, each at times of its own."""
    return nf.Run.load(fitted_curves)


@pytest.fixture(scope="module")
def fitted_grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run fitted to 30 curves of two named channels on one grid of 15 times."""
    folder = tmp_path_factory.mktemp("runs") / "grid"
    nf.fit(waves(30, 15, channels=2, own=False), recipe="function", settings=FEW, out=folder, device="cpu")
    return folder


@pytest.fixture
def new() -> nf.Curves:
    return waves(9, seed=7)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def drawn(run: nf.Run, estimate: nf.Estimate, index: Tensor, coords: Tensor, count: int, seed: int = 0) -> Tensor:
    """Draws [S, B, N, V] at points [1 or B, N, C] of the signals that are estimated, whose numbers in their set are `index`."""
    return draws_of(estimate, torch.arange(len(index)), count, seed, index).values(run, coords)


# a run


@pytest.mark.parametrize("folder", ["fitted_curves", "fitted_grid"])
def test_what_a_fit_has_learned_of_noise_and_codes_is_there_after_loading(folder: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(folder)
    data = waves(40) if folder == "fitted_curves" else waves(30, 15, channels=2, own=False)
    fitted, loaded = nf.fit(data, recipe="function", settings=FEW), nf.Run.load(path)
    assert torch.equal(loaded.codes, fitted.codes)
    ours, theirs = fitted.model.objective, loaded.model.objective
    assert ours.likelihood.get_buffer("std") == theirs.likelihood.get_buffer("std")
    assert loaded.recipe.likelihood is not None
    assert loaded.recipe.likelihood.arguments["std"] == float(ours.likelihood.get_buffer("std")) != 0.1  # which is the default
    for part, other in ((ours.prior, theirs.prior), (fitted.prior, loaded.prior), (fitted.start, loaded.start)):
        for name, tensor in part.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name
    batch = data.batch(torch.arange(5))
    one, two = fitted.infer(batch), loaded.infer(batch)
    assert torch.equal(one.latent.mean, two.latent.mean)
    assert torch.equal(one.loss.total, two.loss.total)
    assert torch.equal(
        one.posterior.sample(3, torch.Generator().manual_seed(0)), two.posterior.sample(3, torch.Generator().manual_seed(0))
    )


def test_saved_again_a_run_is_the_same(run: nf.Run, fitted_curves: Path, tmp_path: Path) -> None:
    run.save(tmp_path / "copy")
    for name in ("decoder.safetensors", "latents.safetensors", "inference.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (fitted_curves / name).read_bytes()


@pytest.mark.parametrize("prior", ["gaussian", "isotropic", "kernel-density"])
def test_a_prior_chosen_after_the_fit_is_that_of_a_fit_with_it(fitted_curves: Path, prior: str) -> None:
    chosen = nf.Run.load(fitted_curves, [f"inference.prior={prior}"])
    fitted = nf.fit(waves(40), recipe="function", settings=[*FEW, f"inference.prior={prior}"])
    for name, tensor in fitted.prior.state_dict().items():
        torch.testing.assert_close(chosen.prior.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_the_prior_of_the_fit_describes_curves_as_well_as_those_learned_from_the_bank(fitted_curves: Path, new: nf.Curves) -> None:
    seen = nf.Visibility(observe=["random:0.3"])
    errors = {
        prior: nf.complete(nf.Run.load(fitted_curves, [f"inference.prior={prior}"]), new, seen).means()["hidden"]["nrmse"]
        for prior in ("training", "gaussian", "kernel-density")
    }
    assert max(errors.values()) < 0.5
    assert errors["training"] == pytest.approx(errors["gaussian"], rel=0.05)  # both are the covariance of the linear model


# completion


@pytest.mark.parametrize("size", [1, 4, 100])
def test_codes_samples_and_scores_of_a_signal_do_not_depend_on_its_batch(
    fitted_curves: Path, run: nf.Run, new: nf.Curves, size: int
) -> None:
    visibility = nf.Visibility(observe=["random:0.5"], seed=3)
    whole = nf.complete(run, new, visibility, samples=16)
    parts = nf.complete(nf.Run.load(fitted_curves, [f"inference.batch={size}"]), new, visibility, samples=16)
    torch.testing.assert_close(parts.estimate.latent.mean, whole.estimate.latent.mean, rtol=1e-4, atol=1e-4)
    for side, scores in whole.scores.items():
        for name, values in scores.items():
            # one value of twenty that lies at the very end of its band would be 0.05
            torch.testing.assert_close(parts.scores[side][name], values, rtol=1e-3, atol=1e-3, equal_nan=True)


def test_a_signal_has_the_same_samples_alone_and_among_others(run: nf.Run, new: nf.Curves) -> None:
    coords = run.domain.grid(9)
    batch = new.like(run.recipe.domain.arguments).batch(torch.arange(9))
    estimate = run.infer(batch)
    together = drawn(run, estimate, batch.index, coords, 8, seed=5)
    assert together.shape == (8, 9, 9, 1)
    for i in (0, 4, 8):
        alone = run.infer(batch.rows(torch.tensor([i])))
        torch.testing.assert_close(
            drawn(run, alone, batch.index[i : i + 1], coords, 8, seed=5)[:, 0], together[:, i], rtol=1e-4, atol=1e-4
        )
    assert not torch.allclose(drawn(run, estimate, batch.index, coords, 8, seed=6), together)
    assert torch.equal(drawn(run, estimate, batch.index, coords, 8, seed=5), together)


def test_samples_are_spread_as_codes_and_noise_are(run: nf.Run, new: nf.Curves) -> None:
    batch, coords = new.like(run.recipe.domain.arguments).batch(torch.arange(9)), run.domain.grid(7)
    estimate = run.infer(batch.split(torch.arange(batch.weight.shape[1]).expand(9, -1) < 2)[0])
    samples = drawn(run, estimate, batch.index, coords, 4000)
    fields = torch.stack([run.field(z)(coords) for z in estimate.posterior.sample(4000, torch.Generator().manual_seed(1))])
    noise = run.model.objective.likelihood.get_buffer("std").square()
    # variances of 4000 draws have a standard error of 2.2 % each; seven of those, for two variances of 63 points
    torch.testing.assert_close(samples.var(0), fields.var(0) + noise, rtol=0.16, atol=0)
    assert ((samples.mean(0) - run.field(estimate.latent)(coords)).abs() < 5 * samples.std(0) / 4000**0.5).all()


def test_bands_hold_about_their_share_of_new_curves(run: nf.Run) -> None:
    completion = nf.complete(run, waves(60, seed=11), nf.Visibility(observe=["random:0.4"]), samples=100)
    means = completion.means()
    # some 300 hidden values of 60 curves, whose errors are not independent of each other within one
    assert means["hidden"]["coverage90"] == pytest.approx(LEVEL, abs=0.08)
    assert means["hidden"]["crps"] < means["hidden"]["rmse"]
    assert means["hidden"]["width90"] > means["observed"]["width90"]


def test_a_curve_without_points_is_completed_by_the_mean_with_the_whole_spread(run: nf.Run) -> None:
    with pytest.warns(NeuralfieldWarning, match="they get the prior"):
        curves = nf.Curves.from_list([([], []), ([12.0, 15.0, 18.0, 22.0, 28.0], [50.0, 51.0, 52.0, 50.0, 49.0])])
    completion = nf.complete(run, curves, samples=200)
    components = run.prior.components()
    expected = components.log_weights.exp() @ components.means
    torch.testing.assert_close(completion.estimate.latent.mean[0], expected, rtol=1e-4, atol=1e-4)
    widths = drawn(run, completion.estimate, torch.arange(2), run.domain.grid(20), 200).std(0).mean((1, 2))
    assert widths[0] > 3 * widths[1]
    assert completion.scores["observed"]["crps"].isnan().tolist() == [True, False]


@pytest.mark.parametrize("kind", ["adam", "lbfgs", "levenberg"])
def test_of_any_solver_samples_come_from_the_curvature_at_its_answer(fitted_curves: Path, new: nf.Curves, kind: str) -> None:
    prior = "inference.prior=gaussian"
    run = nf.Run.load(fitted_curves, [prior, f"inference.kind={kind}", "inference.steps=300"])
    exact = nf.Run.load(fitted_curves, [prior]).infer(new)
    assert "crps" not in nf.complete(run, new, samples=0).scores["observed"]
    assert "crps" in nf.complete(run, new, samples=3).scores["observed"]
    # of a decoder linear in the code, under one Gaussian, the curvature is that of the exact posterior
    torch.testing.assert_close(run.infer(new, samples=3).posterior.covariance(), exact.posterior.covariance(), rtol=1e-2, atol=1e-4)


def test_an_estimate_without_a_posterior_has_nothing_to_draw_from(fitted_curves: Path, new: nf.Curves) -> None:
    estimate = nf.Run.load(fitted_curves, ["inference.kind=adam", "inference.prior=gaussian"]).infer(new)
    with pytest.raises(UsageError, match="no posterior to draw from"):
        draws_of(estimate, torch.arange(2), 3)


def test_adam_reaches_the_codes_of_the_closed_form_under_one_normal_prior(fitted_curves: Path, new: nf.Curves) -> None:
    exact = nf.Run.load(fitted_curves, ["inference.prior=gaussian"]).infer(new)
    searched = nf.Run.load(fitted_curves, ["inference.prior=gaussian", "inference.kind=adam", "inference.steps=2000"]).infer(new)
    assert (searched.loss.total - exact.loss.total).min() > -1e-4  # nothing is below the optimum, up to float32
    assert (searched.loss.total - exact.loss.total).max() < 0.05


def test_images_get_bands_too(images: nf.Images) -> None:
    settings = ["decoder.kind=linear", "training.steps=0", "training.polish=0", "inference.kind=linear", "inference.start=mean"]
    settings += ["latents.code_dim=6", "latents.noise=0", "likelihood.noise=learned", "prior.kind=gaussian"]
    run = nf.fit(images, recipe="image", settings=settings)
    scores = nf.complete(run, images, nf.Visibility(hide=["half:left"]), samples=30).means()["hidden"]
    assert {"crps", "width90", "coverage90", "mse"} <= set(scores)
    assert 0.5 < scores["coverage90"] <= 1


# written in the user's units


@pytest.mark.parametrize("folder", ["fitted_curves", "fitted_grid"])
def test_completions_are_a_table_in_the_users_units_with_bands(
    nf_: Nf, folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(folder)
    shared = folder == "fitted_grid"
    table = write_long(tmp_path / "new.csv", waves(5, 15, channels=2 if shared else 1, own=not shared, seed=7))
    answer = nf_("infer", path, "--data", table, "--observe", "first:0.5", "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    facts = answer.json
    assert facts["solver"] == "linear"
    assert facts["converged"] == 1
    for side in ("observed", "hidden"):
        assert {"rmse", "nrmse", "crps", "width90", "coverage90"} <= set(facts["scores"][side])
    assert facts["coverage90"] == facts["scores"]["hidden"]["coverage90"]
    assert 0 <= facts["coverage90"] <= 1
    run = nf.Run.load(path)
    assert isinstance(run.domain, Function)
    rows, names = rows_of(tmp_path / "out" / "completions.csv"), run.domain.columns[1]
    assert list(rows[0]) == ["id", "t", *(f"{name}{end}" for name in names for end in ("", "_lower", "_upper"))]
    with np.load(tmp_path / "out" / "codes.npz", allow_pickle=False) as held:
        ids, codes = held["ids"].tolist(), torch.from_numpy(held["codes"])
    assert ids == [f"wave-{i}" for i in range(5)]
    times = sorted({float(row["t"]) for row in rows})
    assert times[0] == pytest.approx(10)
    assert times[-1] == pytest.approx(30)
    assert len(times) == (15 if shared else 128)
    expected = run.domain.values_at(run.field(codes), times)
    assert len(rows) == 5 * len(times)
    found = np.array([[float(row[name]) for name in names] for row in rows]).reshape(expected.shape)
    # values of size 50, of which eight digits are written; times are rounded to the seven digits of a float32 coordinate
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=0, atol=1e-3)
    for row in rows:
        for name in names:
            assert float(row[f"{name}_lower"]) < float(row[name]) < float(row[f"{name}_upper"])


def write_long(path: Path, curves: nf.Curves) -> Path:
    """Curves as a long table, with ids and the channels' names."""
    names = curves.domain_arguments["names"] or ["x"]
    times = curves.times.expand(curves.values.shape[:2]) if curves.times.ndim == 1 else curves.times
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "t", *names])
        for name, t, x in zip(curves.ids, times.tolist(), curves.values.tolist(), strict=True):
            table.writerows([name, at, *values] for at, values in zip(t, x, strict=True) if np.isfinite(values[0]))
    return path


def test_without_samples_no_bands_are_written(nf_: Nf, fitted_curves: Path, tmp_path: Path) -> None:
    table = write_long(tmp_path / "new.csv", waves(3, seed=7))
    answer = nf_("infer", fitted_curves, "--data", table, "--samples", 0, "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    assert list(rows_of(tmp_path / "out" / "completions.csv")[0]) == ["id", "t", "x"]
    with np.load(tmp_path / "out" / "completions.npz", allow_pickle=False) as held:
        assert set(held.files) == {"ids", "coords", "values"}
    assert set(answer.json["scores"]["observed"]) == {"rmse", "nrmse"}
    assert answer.json["coverage90"] is None


def test_the_number_of_samples_is_that_of_the_recipe_or_as_asked(nf_: Nf, fitted_curves: Path, tmp_path: Path) -> None:
    table = write_long(tmp_path / "new.csv", waves(3, seed=7))
    scores = [
        nf_("eval", fitted_curves, "--data", table, *more, "--json").json["scores"]["observed"]
        for more in ([], ["--samples", 64], ["--samples", 9], ["--set", "inference.samples=9"], ["--samples", 9, "--seed", 1])
    ]
    assert scores[0] == scores[1]
    assert scores[2] == scores[3] != scores[0]
    assert scores[4] != scores[2]
    assert scores[4]["rmse"] == scores[2]["rmse"]


def test_a_solver_that_does_not_fit_the_run_is_wrong_usage(nf_: Nf, fitted: Path) -> None:
    failed(nf_("eval", fitted, "--solver", "linear", "--limit", 2), 2, "Modulated", "adam")


@pytest.mark.parametrize("resolution", [None, 20])
@pytest.mark.parametrize("folder", ["fitted_curves", "fitted_grid"])
def test_decoded_curves_are_in_the_users_units(
    nf_: Nf, folder: str, tmp_path: Path, resolution: int | None, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(folder)
    run = nf.Run.load(path)
    assert isinstance(run.domain, Function)
    more = ["--resolution", resolution] if resolution else []
    for out in ("a.csv", "a.npy", "a.png"):
        answer = nf_("decode", path, "--signal", 3, "--signal", "wave-7", *more, "--out", tmp_path / out, "--json")
        assert answer.code == 0, answer.err
    (count,) = run.domain.grid_shape(resolution)
    assert answer.json["evaluations"] == 2 * count
    rows, names = rows_of(tmp_path / "a.csv"), run.domain.columns[1]
    assert list(rows[0]) == ["id", "t", *names]
    assert [row["id"] for row in rows] == ["wave-3"] * count + ["wave-7"] * count
    times = [float(row["t"]) for row in rows[:count]]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (pytest.approx(10), pytest.approx(30))
    expected = run.domain.values_at(run.field(run.codes[[3, 7]]), times).detach().numpy()
    found = np.array([[float(row[name]) for name in names] for row in rows]).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(np.load(tmp_path / "a.npy", allow_pickle=False), expected, rtol=0, atol=1e-3)
    assert 20 < found.min() < found.max() < 80  # curves around 50, with a standard deviation of about 8


def test_a_completed_table_can_be_read_again_as_curves(nf_: Nf, fitted_curves: Path, tmp_path: Path) -> None:
    table = write_long(tmp_path / "new.csv", waves(3, seed=7))
    assert nf_("infer", fitted_curves, "--data", table, "--samples", 0, "--out", tmp_path / "out").code == 0
    again = nf.load(f"csv:{tmp_path / 'out' / 'completions.csv'}")
    assert isinstance(again, nf.Curves)
    assert again.ids == [f"wave-{i}" for i in range(3)]
    assert again.values.shape == (3, 128, 1)


# bad tables, at the command line


def fit_words(table: Path, out: Path) -> list[object]:
    return ["fit", "--domain", "function", "--data", f"csv:{table}", "--set", FEW[0], "--out", out]


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


GOOD = "id,t,x\n" + "".join(f"{name},{t},{5 + i + t * t:.3f}\n" for i, name in enumerate("abcdef") for t in (10, 14, 19, 25, 30))


def both(nf_: Nf, run: Path, content: str, tmp_path: Path) -> list[Answer]:
    """What `fit` and `infer` say to a table."""
    table = text(tmp_path / "bad.csv", content)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    return [nf_(*fit_words(table, tmp_path / "run")), nf_("infer", run, "--data", table, "--out", tmp_path / "out")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD.replace("b,19,", "b,19,high"), ["line 9", 'column "x"', "high"]),
        (GOOD.replace("c,25", "c,late"), ["line 15", 'column "t"', '"late"']),
        (GOOD.replace("d,14,", "d,14,7,"), ["line 18", "4 cells", "line 1 has 3"]),
        (
            GOOD.replace("e,10,109.000", "e,10,inf"),
            ["infinite", "curve e"],
        ),
        ("id,t,x\n", ["no rows"]),
        ("", ["empty"]),
        ("id,t\na,1\n", ["column of values"]),
        ("id,t,x\na,1,\nb,2,\n", ["none of the 2 curves"]),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line_with_the_place(
    nf_: Nf, fitted_curves: Path, tmp_path: Path, content: str, words: list[str]
) -> None:
    for answer in both(nf_, fitted_curves, content, tmp_path):
        failed(answer, 1, tmp_path / "bad.csv", *words)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("always::neuralfield.errors.NeuralfieldWarning")  # as users have it
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD + "b,14,9\n", ["1 times occur again", "time 14 of curve b", "averaged"]),
        (GOOD + "g,12,\n", ["1 of 7 curves", '"g"', "get the prior"]),
        (
            GOOD.replace("\n", ",1\n").replace("x,1", "x,y").replace("b,14,202.000,1", "b,14,202.000,"),
            ["lack some of their channels"],
        ),
    ],
)
def test_a_table_with_something_odd_is_taken_and_one_line_says_what(
    nf_: Nf, fitted_curves: Path, tmp_path: Path, content: str, words: list[str]
) -> None:
    fitted, inferred = both(nf_, fitted_curves, content, tmp_path)
    warned(fitted, *words)
    if "y" not in content.splitlines()[0]:
        warned(inferred, *words)


def test_unsorted_times_and_rows_are_as_good_as_sorted_ones(nf_: Nf, tmp_path: Path) -> None:
    head, *lines = GOOD.splitlines()
    shuffled = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))]
    runs = []
    for name, rows in (("sorted", lines), ("shuffled", shuffled)):
        table = text(tmp_path / f"{name}.csv", "\n".join([head, *rows]))
        answer = nf_(*fit_words(table, tmp_path / name))
        assert answer.code == 0, answer.err
        assert "nf: " not in answer.err
        runs.append(nf.Run.load(tmp_path / name))
    assert torch.equal(runs[0].codes, runs[1].codes)
    assert runs[0].ids == runs[1].ids


@pytest.mark.parametrize("content", ["t,x\n5,3\n", "id,t,x\na,1,2\nb,4,3\nc,9,1\n", "id,t,x\na,1,2\nb,4,3\nb,9,1\n"])
def test_curves_of_one_point_are_fitted_and_completed(nf_: Nf, tmp_path: Path, content: str) -> None:
    table = text(tmp_path / "few.csv", content)
    answer = nf_(*fit_words(table, tmp_path / "run"), "--json")
    assert answer.code == 0, answer.err
    inferred = nf_("infer", tmp_path / "run", "--data", table, "--json")
    assert inferred.code == 0, inferred.err
    assert np.isfinite(inferred.json["scores"]["observed"]["rmse"])
    for row in rows_of(tmp_path / "run" / "completions" / "completions.csv"):
        assert np.isfinite(float(row["x"]))


def test_a_curve_of_one_point_is_completed_by_a_run(nf_: Nf, fitted_curves: Path, tmp_path: Path) -> None:
    answer = nf_("infer", fitted_curves, "--data", text(tmp_path / "one.csv", "t,x\n15,55\n"), "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["signals"] == 1
    assert len(rows_of(tmp_path / "out" / "completions.csv")) == 128


def test_other_channels_than_the_runs_are_one_line(nf_: Nf, fitted_curves: Path, fitted_grid: Path, tmp_path: Path) -> None:
    one, two = (write_long(tmp_path / f"{c}.csv", waves(3, channels=c, seed=7)) for c in (1, 2))
    failed(nf_("infer", fitted_curves, "--data", two, "--out", tmp_path / "out"), 1, "1 channels", "have 2")
    failed(nf_("infer", fitted_grid, "--data", one, "--out", tmp_path / "out"), 1, "2 channels", "have 1")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("always::neuralfield.errors.NeuralfieldWarning")  # as users have it
def test_times_beyond_those_of_the_fit_are_taken_with_a_line_that_says_so(nf_: Nf, fitted_curves: Path, tmp_path: Path) -> None:
    table = text(tmp_path / "late.csv", "id,t,x\na,12,50\na,20,55\na,35,48\n")
    warned(nf_("infer", fitted_curves, "--data", table, "--out", tmp_path / "out"), "from 10 to 30", "35", "extrapolated")


def test_masks_that_need_a_grid_are_wrong_usage_without_one(
    nf_: Nf, fitted_curves: Path, fitted_grid: Path, tmp_path: Path
) -> None:
    table = write_long(tmp_path / "a.csv", waves(3, seed=7))
    failed(nf_("eval", fitted_curves, "--data", table, "--hide", "center:4"), 2, "no grid")
    grid = write_long(tmp_path / "b.csv", waves(3, 15, channels=2, own=False, seed=7))
    assert nf_("eval", fitted_grid, "--data", grid, "--hide", "center:4").code == 0


# few points


@pytest.mark.slow
def test_three_points_of_a_sine_say_most_of_it() -> None:
    run = nf.fit(sines(), recipe="function")
    test, draws = sines("test"), np.random.default_rng(0)
    three = np.stack([draws.choice(30, 3, replace=False) for _ in range(len(test))])
    seen = torch.zeros(len(test), 30, dtype=torch.bool)
    seen[torch.arange(len(test))[:, None], torch.from_numpy(three)] = True
    whole = test.like(run.recipe.domain.arguments).truth(torch.arange(len(test)))
    observed, hidden = whole.split(seen)
    estimate = run.infer(observed)
    samples = drawn(run, estimate, whole.index, whole.coords, 200)
    scores: dict[str, Any] = run.domain.score(run.field(estimate.latent), hidden, samples)
    assert scores["nrmse"].mean() < 0.4
    # 5400 hidden values of 200 sines; within one their errors go together
    assert 0.8 < scores["coverage90"].mean() < 0.97
    assert scores["crps"].mean() < scores["rmse"].mean()
