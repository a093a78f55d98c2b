"""Completions: each side of a mask is scored on its own, per signal, whatever the batches."""

from pathlib import Path

import pytest
import torch
from synthetic import images

import neuralfield as nf
from neuralfield.errors import NeuralfieldError


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
