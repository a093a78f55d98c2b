"""Completions: each side of a mask is scored on its own, per signal, whatever the batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Nf
from synthetic import images, waves

import neuralfield as nf
from neuralfield.completion import completed, draws_of
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.export.completions import _panels


@pytest.mark.parametrize("hide", ["half:left", "random:0.6"])
def test_each_side_is_scored_over_its_own_pixels(run: nf.Run, hide: str) -> None:
    signals = images(7, seed=5)
    completed = nf.complete(run, signals, nf.Visibility(hide=[hide]))
    truth = signals.truth(torch.arange(7))
    seen = nf.Visibility(hide=[hide])(truth, run.domain)
    error = (run.field(completed.estimate.latent)(truth.coords) - truth.values)[..., 0].square()
    for side, mask in (("observed", seen), ("hidden", ~seen)):
        expected = (error * mask).sum(1) / mask.sum(1)
        torch.testing.assert_close(completed.scores[side]["mse"], expected, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(completed.scores["observed"]["mse"], completed.scores["hidden"]["mse"], rtol=0.05)


def test_codes_are_those_of_what_was_seen_alone(run: nf.Run) -> None:
    signals, visibility = images(5, seed=5), nf.Visibility(observe=["half:top"])
    whole = signals.truth(torch.arange(5))
    observed, _ = whole.split(visibility(whole, run.domain))
    completed = nf.complete(run, signals, visibility)
    assert torch.equal(completed.estimate.latent.mean, run.infer(observed).latent.mean)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_batches_change_nothing(fitted: Path, run: nf.Run, size: int) -> None:
    signals, visibility = images(7, seed=5), nf.Visibility(hide=["random:0.5"], seed=2)
    shares: list[float] = []
    batched = nf.complete(nf.Run.load(fitted, [f"inference.batch={size}"]), signals, visibility, progress=shares.append)
    whole = nf.complete(run, signals, visibility)
    for side in ("observed", "hidden"):
        # codes of the same objective to 1e-4 nats per value
        torch.testing.assert_close(batched.scores[side]["psnr"], whole.scores[side]["psnr"], rtol=0, atol=0.05)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_where_nothing_is_hidden_only_what_was_seen_is_scored(run: nf.Run) -> None:
    completed = nf.complete(run, images(3, seed=5))
    assert set(completed.scores) == {"observed"}
    assert completed.scores["observed"]["ssim"].shape == (3,)


def test_means_are_over_those_that_have_a_score(run: nf.Run, images: nf.Images) -> None:
    scores = {"hidden": {"mse": torch.tensor([1.0, torch.nan, 3.0]), "psnr": torch.tensor([torch.nan] * 3)}}
    assert nf.Completion(run.infer(images), scores).means() == {"hidden": {"mse": 2.0}}


def test_another_solver_can_be_given(run: nf.Run) -> None:
    signals = images(3, seed=5)
    assert nf.complete(run, signals, solver=nf.Adam(steps=3)).estimate.steps.tolist() == [3, 3, 3]


def test_signals_that_do_not_fit_the_run_are_refused(run: nf.Run) -> None:
    with pytest.raises(NeuralfieldError, match=r"height 8.*height 9"):
        nf.complete(run, images(2, 9, 8))


# with samples


@pytest.mark.parametrize("points", ["shared", "own"])
@pytest.mark.parametrize("count", [1, 3])
def test_the_mean_field_is_the_mean_of_the_fields(run: nf.Run, points: str, count: int) -> None:
    draw = torch.Generator().manual_seed(0)
    codes = torch.randn(6, count, 4, generator=draw)
    coords = torch.rand(1 if points == "shared" else count, 9, 2, generator=draw) * 2 - 1
    field, each = run.mean_field(codes), [run.field(z)(coords) for z in codes]
    torch.testing.assert_close(field(coords), torch.stack(each).mean(0), rtol=1e-5, atol=1e-6)
    assert len(field) == count
    if points == "shared":
        torch.testing.assert_close(field(coords[0]), field(coords))


def test_the_mean_field_is_of_values_and_not_of_logits(images: nf.Images) -> None:
    settings = ["likelihood.kind=bernoulli", "decoder.kind=modulated", "decoder.width=8", "decoder.depth=2", "latents.code_dim=4"]
    run = nf.fit(images, recipe="image", settings=[*settings, "training.polish=0"], epochs=1, device="cpu")
    codes, coords = 3 * torch.randn(6, 2, 4), run.domain.grid()
    torch.testing.assert_close(
        run.mean_field(codes)(coords), torch.stack([run.field(z)(coords) for z in codes]).mean(0), rtol=1e-5, atol=1e-6
    )


def test_points_of_another_kind_are_refused_by_a_mean_field_too(run: nf.Run) -> None:
    with pytest.raises(NeuralfieldError, match="coords"):
        run.mean_field(torch.randn(3, 2, 4))(torch.zeros(5, 3))


def test_with_samples_the_completion_of_a_nonlinear_decoder_is_the_mean_over_them(run: nf.Run) -> None:
    signals, visibility = images(4, seed=5), nf.Visibility(hide=["half:left"])
    completion = nf.complete(run, signals, visibility, samples=6, seed=2)
    rows, truth = torch.arange(4), signals.truth(torch.arange(4))
    draws = draws_of(completion.estimate, rows, 6, 2)
    mean = torch.stack([run.field(z)(truth.coords) for z in draws.codes]).mean(0)
    torch.testing.assert_close(
        completed(run, completion.estimate, rows, completion.draws(rows))(truth.coords), mean, rtol=1e-4, atol=1e-5
    )
    seen = visibility(truth, run.domain)
    error = (mean - truth.values)[..., 0].square()
    for side, mask in (("observed", seen), ("hidden", ~seen)):
        torch.testing.assert_close(completion.scores[side]["mse"], (error * mask).sum(1) / mask.sum(1), rtol=1e-3, atol=1e-6)
    at_the_mode = nf.complete(run, signals, visibility, samples=0)
    assert not torch.allclose(at_the_mode.scores["hidden"]["mse"], completion.scores["hidden"]["mse"], rtol=1e-3)
    # the search is that without samples
    assert torch.equal(at_the_mode.estimate.latent.mean, completion.estimate.latent.mean)


def test_of_a_decoder_linear_in_the_code_it_is_the_field_of_the_mean_code(fitted_curves: Path) -> None:
    run = nf.Run.load(fitted_curves)
    estimate = run.infer(waves(3, seed=7), samples=8)
    rows, coords = torch.arange(3), run.domain.grid(9)
    field = completed(run, estimate, rows, draws_of(estimate, rows, 8))
    assert torch.equal(field(coords), run.field(estimate.latent.mean)(coords))


def test_one_sample_is_refused(run: nf.Run) -> None:
    with pytest.raises(UsageError, match="1 samples make no band"):
        nf.complete(run, images(2, seed=5), samples=1)


def rows_shown(run: nf.Run, samples: int, hide: list[str]) -> dict[str, np.ndarray]:
    signals, visibility = images(3, seed=5), nf.Visibility(hide=hide)
    return _panels(run, signals, visibility, nf.complete(run, signals, visibility, samples=samples))


@pytest.mark.parametrize(("samples", "shown"), [(2, 2), (3, 3), (8, 3)])
def test_the_picture_shows_what_was_seen_the_mean_samples_their_deviation_and_the_truth(
    run: nf.Run, samples: int, shown: int
) -> None:
    rows = rows_shown(run, samples, ["half:left"])
    assert list(rows) == ["observed", "mean", *(f"sample {s + 1}" for s in range(shown)), "deviation", "truth"]
    assert {row.shape for row in rows.values()} == {(3, 8, 8, 3)}
    assert list(rows_shown(run, samples, [])) == list(rows)[:-1]  # nothing is hidden, and the first row is the truth


def test_without_samples_the_picture_shows_the_completion(run: nf.Run) -> None:
    assert list(rows_shown(run, 0, ["half:left"])) == ["observed", "completion", "truth"]


@pytest.mark.parametrize("posterior", ["laplace", "randomised"])
def test_the_command_writes_bands_of_images_and_finite_scores(nf_: Nf, fitted: Path, tmp_path: Path, posterior: str) -> None:
    words = ["--hide", "center:4", "--samples", 8, "--limit", 5, "--set", f"inference.posterior={posterior}"]
    answer = nf_("infer", fitted, *words, "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    for side in ("observed", "hidden"):  # `json` refuses what is not finite
        assert {"mse", "psnr", "crps", "width90", "coverage90"} <= set(answer.json["scores"][side])
    with np.load(tmp_path / "out" / "completions.npz", allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files}
    assert set(arrays) == {"ids", "coords", "values", "lower", "upper"}
    for name in ("values", "lower", "upper"):
        assert arrays[name].shape == (5, 64, 1)
        assert np.isfinite(arrays[name]).all()
    assert (arrays["lower"] < arrays["upper"]).all()
    # a mean of eight draws lies within 90 % of them nearly everywhere
    inside = (arrays["lower"] <= arrays["values"]) & (arrays["values"] <= arrays["upper"])
    assert inside.mean() > 0.98
    assert (tmp_path / "out" / "completions.png").read_bytes().startswith(b"\x89PNG")


def test_values_that_are_written_are_the_mean_over_draws(nf_: Nf, fitted: Path, tmp_path: Path, source: str) -> None:
    answer = nf_("infer", fitted, "--hide", "center:4", "--samples", 8, "--seed", 3, "--limit", 4, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    run, signals = nf.Run.load(fitted), nf.load(source, split="test", limit=4)
    completion = nf.complete(run, signals, nf.Visibility(hide=["center:4"], seed=3), samples=8, seed=3)
    draws = completion.draws(torch.arange(4))
    assert draws is not None
    with np.load(tmp_path / "out" / "completions.npz", allow_pickle=False) as held:
        torch.testing.assert_close(
            torch.from_numpy(held["values"]), draws.fields(run, run.domain.grid()).mean(0), rtol=1e-4, atol=1e-5
        )
