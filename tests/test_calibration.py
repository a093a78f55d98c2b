"""Calibration: bands that hold as much of signals never seen as they say, whatever noise the fit believed in."""

import hashlib
from pathlib import Path

import pytest
import torch
from commands import Nf, failed
from synthetic import TINY, images, waves
from torch import Tensor

import neuralfield as nf
from neuralfield import calibration
from neuralfield.calibration import LEAST_NOISE, MOST_NOISE, TEMPERATURES, Calibrated, calibrate
from neuralfield.domains.ensembles import LEVEL
from neuralfield.errors import UsageError
from neuralfield.inference.calibration import Calibration
from neuralfield.likelihoods import Bernoulli, Gaussian

CENTRE = nf.Visibility(hide=["center:4"])
FEW_TIMES = nf.Visibility(observe=["random:0.4"])


def run_of(folder: Path, std: float | None = None) -> nf.Run:
    """A fitted run whose likelihood believes in another standard deviation."""
    run = nf.Run.load(folder)
    if std is not None:
        run.model.objective.likelihood.get_buffer("std").fill_(std)
    return run


def kept(run: nf.Run) -> dict[str, float]:
    """What a run is calibrated to."""
    return {name: float(value) for name, value in run.calibration.state_dict().items()}


def told(found: Calibrated) -> dict[str, float]:
    """The same of what was found."""
    return {"temperature": found.temperature, "evidence": found.evidence, "noise": found.noise}


UNCALIBRATED = {"temperature": 1.0, "evidence": 1.0, "noise": 0.0}


def of_each(run: nf.Run, signals: nf.Signals, visibility: nf.Visibility, seed: int = 0) -> dict[str, Tensor]:
    """Scores of every signal's bands, over what was hidden of it."""
    return nf.complete(run, signals, visibility, samples=32, seed=seed).scores["hidden"]


def holds_its_share(calibrated_on: Tensor, of_others: Tensor) -> None:
    """Coverage of other signals is LEVEL, up to four standard errors of two means over signals, and not because they are wide."""
    error = (calibrated_on.var() / len(calibrated_on) + of_others.var() / len(of_others)).sqrt()
    assert float(error) < 0.03
    assert abs(float(of_others.mean()) - LEVEL) < 4 * float(error)


STDS = [0.003, 0.1, 0.5]
"""Of images in [0, 1] that the small decoder misses by 0.1: far too small, about right, far too large."""


@pytest.mark.parametrize("std", STDS)
def test_bands_of_images_hold_their_share_whatever_noise_was_believed_in(fitted: Path, std: float) -> None:
    run, ours, others = run_of(fitted, std), images(80, seed=5), images(80, seed=6)
    before = of_each(run, others, CENTRE)
    found = calibrate(run, ours, CENTRE)
    assert found.coverage90 == pytest.approx(LEVEL, abs=0.01)
    after = of_each(run, others, CENTRE)
    holds_its_share(of_each(run, ours, CENTRE)["coverage90"], after["coverage90"])
    if std != 0.1:
        assert abs(before["coverage90"].mean() - LEVEL) > 0.05
        assert after["crps"].mean() < before["crps"].mean()


@pytest.mark.parametrize("factor", [0.02, 1.0, 1.5, 8.0])
def test_bands_of_curves_hold_their_share_whatever_noise_was_believed_in(fitted_curves: Path, factor: float) -> None:
    std = factor * float(nf.Run.load(fitted_curves).model.objective.likelihood.get_buffer("std"))
    run, ours, others = run_of(fitted_curves, std), waves(150, seed=5), waves(150, seed=6)
    before = of_each(run, others, FEW_TIMES)
    found = calibrate(run, ours, FEW_TIMES)
    assert found.coverage90 == pytest.approx(LEVEL, abs=0.01)
    after = of_each(run, others, FEW_TIMES)
    holds_its_share(of_each(run, ours, FEW_TIMES)["coverage90"], after["coverage90"])
    if factor < 1:
        assert after["crps"].mean() < before["crps"].mean()


names_of_scores = pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("images", "crps"),
        ("images", "width90"),
        ("images", "coverage90"),
        ("curves", "coverage90"),
    ],
)


@names_of_scores
def test_what_it_reports_is_what_completions_then_score(fitted: Path, fitted_curves: Path, kind: str, name: str) -> None:
    folder, signals, visibility = (
        (fitted, images(20, seed=5), CENTRE) if kind == "images" else (fitted_curves, waves(20, seed=5), FEW_TIMES)
    )
    run = nf.Run.load(folder)
    found = calibrate(run, signals, visibility, samples=16, seed=3)
    scores = nf.complete(run, signals, visibility, samples=16, seed=3).scores["hidden"]
    # the same draws; signals without a hidden point have no score, and no share there
    assert getattr(found, name) == pytest.approx(float(scores[name].nanmean()), rel=1e-3, abs=1e-3)


def test_what_it_found_is_what_the_run_then_draws_with(run: nf.Run) -> None:
    found = calibrate(run, images(20, seed=5), CENTRE, samples=16)
    assert found.signals == 20
    assert kept(run) == pytest.approx(told(found))
    assert found.temperature <= 2 * max(TEMPERATURES)
    assert LEAST_NOISE <= found.noise <= MOST_NOISE
    assert run.facts["calibration"]["noise"] == found.noise


def test_a_calibration_repeats_and_its_progress_ends_at_one(fitted: Path) -> None:
    shares: list[float] = []
    one, two = (
        calibrate(nf.Run.load(fitted), images(6, seed=5), CENTRE, samples=8, progress=progress)
        for progress in (shares.append, lambda share: None)
    )
    assert one == two
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_where_nothing_is_hidden_bands_are_those_of_what_was_seen(fitted: Path) -> None:
    run, signals = nf.Run.load(fitted), images(20, seed=5)
    found = calibrate(run, signals, samples=16)
    scores = nf.complete(run, signals, samples=16).scores["observed"]
    assert found.coverage90 == pytest.approx(float(scores["coverage90"].mean()), abs=1e-3)
    assert found.coverage90 == pytest.approx(LEVEL, abs=0.01)


# what a run keeps


def test_it_survives_saving_and_loading(run_folder: Path) -> None:
    run = nf.Run.load(run_folder)
    found = calibrate(run, images(8, seed=5), CENTRE, samples=8)
    run.save()
    loaded = nf.Run.load(run_folder)
    assert kept(loaded) == kept(run)
    assert loaded.completion_objective().temperature == found.temperature
    assert loaded.facts["calibration"]["signals"] == 8
    signals = images(4, seed=6)
    ours, theirs = (of_each(each, signals, CENTRE) for each in (run, loaded))
    for name in ("crps", "width90", "coverage90"):
        assert torch.equal(ours[name], theirs[name])


def test_a_calibration_anew_overwrites_and_does_not_build_on_the_old_one(fitted: Path) -> None:
    again, fresh = nf.Run.load(fitted), nf.Run.load(fitted)
    again.calibration.temperature.fill_(32.0)
    again.calibration.noise.fill_(5.0)
    again.calibration.evidence.fill_(0.1)
    found = [calibrate(run, images(8, seed=5), CENTRE, samples=8) for run in (again, fresh)]
    assert found[0] == found[1]
    assert kept(again) == kept(fresh)
    calibrate(again, images(8, seed=5), nf.Visibility(observe=["random:0.1"]), samples=8)
    assert again.facts["calibration"]["noise"] == pytest.approx(float(again.calibration.noise))
    assert "random:0.1" in again.facts["calibration"]["masks"]


def test_a_run_that_was_not_calibrated_is_as_it_was(run: nf.Run) -> None:
    assert kept(run) == UNCALIBRATED
    likelihood = run.model.objective.likelihood
    assert run.calibration.predictive(likelihood) is likelihood
    assert "calibration" not in run.facts


def test_noise_replaces_that_of_likelihoods_that_have_one() -> None:
    seven = Calibration()
    seven.noise.fill_(0.7)
    found = seven.predictive(Gaussian(0.1))
    assert float(found.get_buffer("std")) == pytest.approx(0.7)
    chances = Bernoulli()
    assert seven.predictive(chances) is chances


@pytest.mark.parametrize("temperature", [0.5, 16.0])
def test_a_temperature_divides_what_is_seen_and_not_the_prior(fitted_curves: Path, temperature: float) -> None:
    run, signals = nf.Run.load(fitted_curves, ["inference.prior=gaussian"]), waves(4, seed=5)
    plain = run.infer(signals).posterior.covariance().double()
    run.calibration.temperature.fill_(temperature)
    found = run.infer(signals).posterior.covariance().double()
    # of a decoder linear in the code S^-1 = P + A / T, with the prior's precision P
    precision = torch.linalg.inv(run.prior.components().covariance.double())
    expected = torch.linalg.inv(precision + (torch.linalg.inv(plain) - precision) / temperature)
    # inverses of inverses of float32 covariances
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * float(expected.abs().amax()))


@pytest.mark.parametrize("power", [0.5, 0.0])
def test_the_weights_of_optima_are_raised_to_the_power_of_the_evidence(fitted: Path, power: float) -> None:
    run, signals = nf.Run.load(fitted, ["inference.starts=6"]), images(4, seed=5)
    plain = run.infer(signals, samples=8).posterior
    run.calibration.evidence.fill_(power)
    found = run.infer(signals, samples=8).posterior
    raised = plain.log_weights.exp().pow(power)
    torch.testing.assert_close(found.log_weights.exp(), raised / raised.sum(1, keepdim=True))
    assert torch.equal(found.means, plain.means)


def test_powers_of_the_evidence_are_tried_at_every_temperature(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rmse = {}
    for powers in ((1.0,), (0.25,), (1.0, 0.25)):
        monkeypatch.setattr(calibration, "POWERS", powers)
        monkeypatch.setattr(calibration, "TEMPERATURES", (1 / 16,))
        found = calibrate(nf.Run.load(fitted, ["inference.starts=6"]), images(10, seed=5), CENTRE, samples=16)
        assert found.evidence in powers
        rmse[powers] = found.rmse
    assert rmse[1.0,] != rmse[0.25,]
    assert rmse[1.0, 0.25] == min(rmse.values())


def test_of_all_temperatures_the_one_whose_means_err_least_is_found(fitted: Path) -> None:
    run, signals = nf.Run.load(fitted), images(20, seed=5)
    found = calibrate(run, signals, CENTRE, samples=16)
    for temperature in (0.25, 1.0, 4.0, found.temperature):
        run.calibration.temperature.fill_(temperature)
        psnr = nf.complete(run, signals, CENTRE, samples=16).scores["hidden"]["psnr"]
        rmse = 10 ** (-psnr / 10)
        assert float(rmse.mean().sqrt()) >= found.rmse - 1e-6
    assert float(rmse.mean().sqrt()) == pytest.approx(found.rmse, rel=1e-4)


# what cannot be calibrated


def refused(run: nf.Run, signals: nf.Signals, visibility: nf.Visibility, samples: int, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        calibrate(run, signals, visibility, samples)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("samples", [-1, 0, 1])
def test_one_sample_makes_no_band(run: nf.Run, images: nf.Images, samples: int) -> None:
    refused(run, images, CENTRE, samples, f"at least 2 samples, got {samples}")


def test_no_signals_are_refused(run: nf.Run, images: nf.Images) -> None:
    refused(run, images.select(torch.arange(0)), CENTRE, 8, "no signals to calibrate with")


NOTHING = nf.Visibility(observe=["random:1"])


def test_masks_that_hide_nothing_are_refused(run: nf.Run, images: nf.Images) -> None:
    refused(run, images, NOTHING, 8, "nothing of these signals is hidden and known")


def test_a_calibration_that_fails_leaves_the_run_as_it_was(run: nf.Run, images: nf.Images) -> None:
    with pytest.raises(UsageError):
        calibrate(run, images, NOTHING, 8)
    assert kept(run) == UNCALIBRATED


def test_a_likelihood_without_a_noise_level_keeps_none_and_it_is_said(tmp_path: Path) -> None:
    settings = ["likelihood.kind=bernoulli", *(setting for setting in TINY if not setting.startswith("likelihood"))]
    run = nf.fit(images(20), recipe="image", settings=settings, epochs=1)
    with pytest.warns(nf.NeuralfieldWarning, match="no noise level makes that 90%"):
        found = calibrate(run, images(10, seed=5), CENTRE, samples=8)
    assert found.noise == 0.0
    assert float(run.calibration.noise) == 0.0


def test_powers_are_not_tried_where_weights_are_exact(fitted_curves: Path) -> None:
    assert calibrate(nf.Run.load(fitted_curves), waves(10, seed=5), FEW_TIMES, samples=8).evidence == 1.0


# nf calibrate


def digests(folder: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("decoder.safetensors", "latents.safetensors")
    }


def test_the_command_prints_what_it_found_and_changes_neither_codes_nor_decoder(nf_: Nf, run_folder: Path) -> None:
    before = digests(run_folder)
    answer = nf_("calibrate", run_folder, "--hide", "center:4", "--json")
    assert answer.code == 0, answer.err
    facts = answer.json
    assert set(facts) == {"run", *Calibrated.__dataclass_fields__}
    assert facts["signals"] == 12
    assert facts["temperature"] <= 2 * max(TEMPERATURES)
    assert 0 < facts["noise"] <= MOST_NOISE
    assert 0 < facts["crps"] < facts["width90"]
    assert facts["coverage90"] == pytest.approx(LEVEL, abs=0.02)
    assert digests(run_folder) == before
    found = kept(nf.Run.load(run_folder))
    assert found == pytest.approx({name: facts[name] for name in found})
    again = nf_("calibrate", run_folder, "--hide", "center:4", "--json")
    assert again.json == facts
    assert digests(run_folder) == before


def test_settings_of_one_calibration_are_not_kept(nf_: Nf, run_folder: Path) -> None:
    recipe = (run_folder / "recipe.toml").read_bytes()
    answer = nf_("calibrate", run_folder, "--limit", 3, "--samples", 4, "--set", "inference.steps=3", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["signals"] == 3
    assert (run_folder / "recipe.toml").read_bytes() == recipe


def test_after_it_completions_of_the_command_have_the_bands_that_it_promised(nf_: Nf, run_folder: Path, tmp_path: Path) -> None:
    facts = nf_("calibrate", run_folder, "--hide", "center:4", "--samples", 16, "--json").json
    words = ["infer", run_folder, "--hide", "center:4", "--samples", 16, "--out", tmp_path / "out", "--json"]
    scores = nf_(*words).json["scores"]["hidden"]
    for name in ("crps", "width90", "coverage90"):
        assert scores[name] == pytest.approx(facts[name], rel=1e-3, abs=1e-3)


def test_what_cannot_be_calibrated_is_one_line_and_leaves_the_run_as_it_was(nf_: Nf, run_folder: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in run_folder.iterdir() if file.is_file()}
    failed(nf_("calibrate", run_folder, "--hide", "center:4", "--samples", 1), 2, "at least 2 samples, got 1")
    failed(nf_("calibrate", run_folder, "--observe", "random:1"), 2, "hidden and known")
    failed(nf_("calibrate", run_folder, "--hide", "middle:4"), 2, "middle")
    failed(nf_("calibrate", tmp_path / "none"), 1, "there is no run")
    assert {file.name: file.read_bytes() for file in run_folder.iterdir() if file.is_file()} == before


def test_no_samples_at_all_are_refused_by_the_command_too(nf_: Nf, run_folder: Path) -> None:
    failed(nf_("calibrate", run_folder, "--hide", "center:4", "--samples", 0), 2, "at least 2 samples, got 0")
