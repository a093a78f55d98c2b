"""Inference: contracts for solvers and starts, and completions with a fitted run."""

from pathlib import Path

import pytest
import torch
from contracts.solver import SolverContract
from contracts.start import StartContract
from synthetic import Linear, images, waves

import neuralfield as nf
from neuralfield.inference.adam import Adam
from neuralfield.inference.lbfgs import LBFGS
from neuralfield.inference.levenberg import Levenberg
from neuralfield.inference.linear import Linear as LinearSolver
from neuralfield.inference.solver import Solver, frozen
from neuralfield.inference.starts import Mean, Nearest, Spectral
from neuralfield.latents.source import FixedCodes
from neuralfield.objective import Objective
from neuralfield.types import Latent, Observations


class TestAdam(SolverContract):
    def make(self) -> Solver:
        return Adam(steps=200, rate=0.1)

    @pytest.mark.parametrize("rate", [1.0, 100.0])
    def test_steps_that_are_far_too_long_do_not_lose_the_start(
        self, rate: float, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        settled = self.make().solve(objective, decoder, observations, start)
        again = Adam(steps=7, rate=rate).solve(objective, decoder, observations, settled.latent)
        assert (again.loss.total <= settled.loss.total + 1e-6).all()


class TestLevenberg(SolverContract):
    def make(self) -> Solver:
        return Levenberg()


class TestLBFGS(SolverContract):
    def make(self) -> Solver:
        return LBFGS(steps=100)


class TestLinear(SolverContract):
    def make(self) -> Solver:
        return LinearSolver()


class TestMean(StartContract):
    kind = "mean"


class TestNearest(StartContract):
    kind = "nearest"


class TestSpectral(StartContract):
    kind = "spectral"


class OfCurves:
    """The same starts for curves at times of their own, with a decoder linear in the code."""

    @pytest.fixture
    def run(self, fitted_curves: Path) -> nf.Run:
        return nf.Run.load(fitted_curves)

    @pytest.fixture
    def images(self) -> nf.Signals:
        return waves(40)


class TestMeanOfCurves(OfCurves, StartContract):
    kind = "mean"


class TestNearestOfCurves(OfCurves, StartContract):
    kind = "nearest"


class TestSpectralOfCurves(OfCurves, StartContract):
    kind = "spectral"


@pytest.mark.parametrize(("steps", "rate"), [(0, 0.1), (-1, 0.1), (10, 0.0), (10, float("nan"))])
def test_steps_and_rates_that_mean_nothing_are_refused(steps: int, rate: float) -> None:
    with pytest.raises(ValueError, match=f"got {steps} and {rate}"):
        Adam(steps=steps, rate=rate)


def test_more_steps_do_not_end_higher(run: nf.Run, images: nf.Images) -> None:
    batch = images.batch(torch.arange(6))
    few, many = (run.infer(batch, run.solver(steps=steps)).loss.total for steps in (5, 80))
    assert (many <= few + 1e-3).all()
    assert many.mean() < few.mean()


def test_steps_too_few_to_settle_are_said_to_be_so(run: nf.Run, images: nf.Images) -> None:
    estimate = run.infer(images.batch(torch.arange(6)), run.solver(steps=2, rate=0.2))
    assert not estimate.converged.all()
    assert any("still falling" in reason for reason in estimate.reasons)


def test_freezing_is_undone_also_after_an_error(run: nf.Run) -> None:
    first = next(iter(run.decoder.parameters()))
    run.decoder.requires_grad_(True)
    first.requires_grad_(False)
    seen: list[bool] = []

    def use() -> None:
        with frozen(run.decoder):
            seen.extend(p.requires_grad for p in run.decoder.parameters())
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        use()
    assert not any(seen)
    assert [p.requires_grad for p in run.decoder.parameters()] == [False] + [True] * (len(seen) - 1)


# starts


def test_the_mean_start_is_the_mean_code(run: nf.Run, images: nf.Images) -> None:
    z = Mean(run.codes)(images.batch(torch.arange(3)), run.decoder, run.model.objective).mean
    torch.testing.assert_close(z, run.codes.mean(0).expand(3, -1))


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_nearest_start_of_a_banks_own_field_is_its_code_however_much_is_seen(
    run: nf.Run, images: nf.Images, share: float
) -> None:
    batch = images.batch(torch.tensor([3, 17, 8]))
    own = nf.Observations(batch.index, batch.coords, run.field(run.codes[batch.index])(batch.coords).detach(), batch.weight)
    seen = own.split(torch.rand(3, 64) < share)[0]
    z = Nearest(run.codes)(seen, run.decoder, run.model.objective).mean
    assert torch.equal(z, run.codes[batch.index])


def test_the_spectral_start_finds_codes_that_are_linear_in_the_signals(run: nf.Run) -> None:
    signals = images(60)
    data = signals.truth(torch.arange(60)).values.flatten(1)
    _, _, directions = torch.linalg.svd(data - data.mean(0), full_matrices=False)
    codes = (data - data.mean(0)) @ directions[:4].T @ torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) + 3
    start = Spectral(codes)
    start.fit(lambda: signals.batches(20), torch.Generator().manual_seed(0))
    found = start(signals.truth(torch.arange(60)), run.decoder, run.model.objective).mean
    left = (found - codes).square().sum() / (codes - codes.mean(0)).square().sum()
    assert left < 1e-3  # R^2 above .999; what is left is the ridge and the shrinkage towards the mean


# a run


def test_a_batch_of_one_and_of_many_reach_the_same_objective(run: nf.Run, images: nf.Images) -> None:
    observed = images.batch(torch.arange(12)).split(torch.rand(12, 64, generator=torch.Generator().manual_seed(0)) < 0.6)[0]
    together = run.infer(observed).loss.total
    alone = torch.cat([run.infer(observed.rows(slice(i, i + 1))).loss.total for i in range(12)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-4)  # the invariant's own tolerance


@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_the_batch_size_of_inference_changes_nothing(fitted: Path, images: nf.Images, size: int) -> None:
    batch = images.batch(torch.arange(12))
    estimate = nf.Run.load(fitted, [f"inference.batch={size}"]).infer(batch)
    torch.testing.assert_close(estimate.loss.total, nf.Run.load(fitted).infer(batch).loss.total, rtol=0, atol=1e-4)
    assert len(estimate.reasons) == len(estimate.latent) == 12


def test_inference_calls_the_objective_of_training_with_the_prior_of_the_bank(run: nf.Run, images: nf.Images) -> None:
    batch = images.batch(torch.arange(4))
    estimate = run.infer(batch)
    training, completing = run.model.objective, run.completion_objective()
    assert completing.likelihood is training.likelihood
    for objective, equal in ((training, False), (completing, True)):
        loss = objective(FixedCodes(estimate.latent.mean), run.decoder, batch)
        torch.testing.assert_close(loss.data, estimate.loss.data)
        assert torch.allclose(loss.prior, estimate.loss.prior) == equal


def test_evaluations_of_a_run_charge_the_start_as_well(fitted: Path, images: nf.Images) -> None:
    batch = images.batch(torch.arange(6))
    mean, nearest = (nf.Run.load(fitted, [f"inference.start={start}"]) for start in ("mean", "nearest"))
    charged = nearest.start.evaluations(batch, nearest.decoder)
    assert (charged > 0).all()
    torch.testing.assert_close(nearest.infer(batch).evaluations - mean.infer(batch).evaluations, charged)


def test_less_seen_is_further_from_the_truth(run: nf.Run, images: nf.Images) -> None:
    batch = images.batch(torch.arange(24))
    order = torch.rand(24, 64, generator=torch.Generator().manual_seed(0))
    errors = []
    for share in (1.0, 0.02):
        estimate = run.infer(batch.split(order < share)[0], run.solver(steps=60))
        errors.append(run.domain.score(run.field(estimate.latent), batch)["mse"].mean())
    assert errors[0] < errors[1]


@pytest.mark.parametrize("level", [0.0, 0.5, 1e6])
@pytest.mark.parametrize("seen", [1, 64])
def test_odd_signals_have_finite_codes_and_a_reason(run: nf.Run, images: nf.Images, level: float, seen: int) -> None:
    whole = images.batch(torch.arange(2))
    mask = (torch.arange(64) < seen).expand(2, -1)
    odd = nf.Observations(whole.index, whole.coords, torch.full_like(whole.values, level), whole.weight).split(mask)[0]
    estimate = run.infer(odd)
    assert estimate.latent.mean.isfinite().all()
    assert estimate.loss.total.isfinite().all()
    assert all(estimate.reasons)


def test_results_lie_on_the_cpu_whatever_the_device(fitted: Path, images: nf.Images, device: torch.device) -> None:
    run = nf.Run.load(fitted).to(device)
    estimate = run.infer(images.batch(torch.arange(3)))
    assert run.device.type == device.type
    assert estimate.latent.mean.device.type == estimate.loss.total.device.type == "cpu"
