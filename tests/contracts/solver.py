"""Laws of every solver: finding codes with the decoder frozen."""

import pytest
import torch
from synthetic import Counting, Linear
from torch import Tensor

from neuralfield.inference.solver import Solver
from neuralfield.latents.priors import Isotropic
from neuralfield.latents.source import FixedCodes
from neuralfield.likelihoods import Gaussian
from neuralfield.measurements import Points
from neuralfield.objective import MAP, Objective
from neuralfield.types import Estimate, Latent, Observations

CODE_DIM, POINTS = 3, 12
SETTLED = ("converged", "exact")
"""What a solver says of an answer that no further work would change."""


class SolverContract:
    """Give `make`: a solver with steps enough to settle on a linear problem of three unknowns."""

    def make(self) -> Solver:
        raise NotImplementedError

    @pytest.fixture
    def solver(self) -> Solver:
        return self.make()

    @pytest.fixture
    def objective(self) -> Objective:
        return MAP(Points(), Gaussian(0.3), Isotropic(CODE_DIM))

    @pytest.fixture
    def decoder(self) -> Linear:
        return Linear(CODE_DIM)

    @pytest.fixture
    def observations(self, decoder: Linear) -> Observations:
        """Five signals with noise; each has its own points, and its own ones of them are hidden."""
        draw = torch.Generator().manual_seed(3)
        coords = torch.rand(5, POINTS, 2, generator=draw) * 2 - 1
        z = torch.randn(5, CODE_DIM, generator=draw)
        values = decoder(z, coords).detach() + 0.1 * torch.randn(5, POINTS, 1, generator=draw)
        weight = (torch.rand(5, POINTS, generator=draw) < 0.7).float()
        return Observations(torch.arange(5), coords, values, weight)

    @pytest.fixture
    def start(self) -> Latent:
        return Latent(torch.zeros(5, CODE_DIM))

    @staticmethod
    def cost(objective: Objective, decoder: Linear, observations: Observations, z: Tensor) -> Tensor:
        with torch.no_grad():
            return objective(FixedCodes(z), decoder, observations).total

    def test_an_answer_has_one_row_per_signal(
        self, solver: Solver, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        estimate = solver.solve(objective, decoder, observations, start)
        assert estimate.latent.mean.shape == (5, CODE_DIM)
        assert estimate.converged.shape == estimate.steps.shape == estimate.evaluations.shape == (5,)
        assert len(estimate.reasons) == 5
        assert not estimate.latent.mean.requires_grad or solver.differentiable

    def test_the_reported_loss_is_that_of_the_codes(
        self, solver: Solver, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        estimate = solver.solve(objective, decoder, observations, start)
        torch.testing.assert_close(estimate.loss.total, self.cost(objective, decoder, observations, estimate.latent.mean))

    def test_the_optimum_of_a_linear_problem_is_found(
        self, solver: Solver, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        # ridge regression in closed form, float64: z = (J' W J / s^2 + I)^-1 J' W x / s^2
        estimate = solver.solve(objective, decoder, observations, start)
        jacobian = (decoder.basis(observations.coords) * decoder.weight[:, 0]).detach().double()
        weighted = jacobian * observations.weight[..., None].double() / 0.3**2
        precision = weighted.transpose(1, 2) @ jacobian + torch.eye(CODE_DIM, dtype=torch.float64)
        best = torch.linalg.solve(precision, weighted.transpose(1, 2) @ observations.values.double())[..., 0].float()
        gap = estimate.loss.total - self.cost(objective, decoder, observations, best)
        assert gap.min() > -1e-5  # nothing is below the optimum, up to float32
        assert gap.max() < 1e-3  # nats per observed value
        assert estimate.converged.all()

    def test_no_signal_ends_worse_than_it_starts(
        self, solver: Solver, objective: Objective, decoder: Linear, observations: Observations
    ) -> None:
        for scale in (0.1, 10.0, 1000.0):
            start = Latent(torch.randn(5, CODE_DIM, generator=torch.Generator().manual_seed(5)) * scale)
            before = self.cost(objective, decoder, observations, start.mean)
            after = solver.solve(objective, decoder, observations, start).loss.total
            assert (after <= before * (1 + 1e-6) + 1e-6).all()  # the same numbers may be summed in another order

    def test_a_signal_reaches_the_same_objective_alone_and_in_a_batch(
        self, solver: Solver, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        together = solver.solve(objective, decoder, observations, start)
        for i in range(5):
            row = slice(i, i + 1)
            alone = solver.solve(objective, decoder, observations.rows(row), Latent(start.mean[row]))
            assert abs(alone.loss.total[0] - together.loss.total[i]) < 1e-4  # the invariant's own tolerance

    def test_what_is_hidden_has_no_influence_bit_for_bit(
        self, solver: Solver, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        plain = solver.solve(objective, decoder, observations, start)
        seen = (observations.weight > 0)[..., None]
        for filling in (torch.tensor(torch.nan), torch.tensor(torch.inf), torch.tensor(1e9), torch.randn(5, POINTS, 1)):
            values = torch.where(seen, observations.values, filling)
            filled = Observations(observations.index, observations.coords, values, observations.weight)
            assert torch.equal(solver.solve(objective, decoder, filled, start).latent.mean, plain.latent.mean)

    def test_the_decoder_and_the_start_are_left_as_they_were(
        self, solver: Solver, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        before = {name: value.clone() for name, value in decoder.state_dict().items()}
        solver.solve(objective, decoder, observations, start)
        assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in decoder.parameters())
        assert start.mean.eq(0).all()

    def test_torchs_own_random_numbers_are_neither_used_nor_moved(
        self, solver: Solver, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        results = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            results.append(solver.solve(objective, decoder, observations, start).latent.mean)
            assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(*results)

    def test_it_works_where_gradients_are_switched_off(
        self, solver: Solver, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        plain = solver.solve(objective, decoder, observations, start)
        with torch.no_grad():
            assert torch.equal(solver.solve(objective, decoder, observations, start).latent.mean, plain.latent.mean)

    def test_evaluations_per_observed_point_are_the_work_that_was_done(
        self, solver: Solver, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        counting = Counting(decoder)
        estimate = solver.solve(objective, counting, observations, start)
        done = float((estimate.evaluations * (observations.weight > 0).sum(1)).sum())
        assert done == pytest.approx(counting.work, rel=0.02)  # of what a whole batch shares, a signal's part may be rounded

    @pytest.mark.parametrize("level", [0.0, 1.0, -1e6, 1e6])
    @pytest.mark.parametrize("seen", [1, POINTS])
    def test_constant_and_huge_signals_and_single_points_have_finite_codes(
        self, solver: Solver, objective: Objective, decoder: Linear, observations: Observations, level: float, seen: int
    ) -> None:
        weight, start = torch.zeros(5, POINTS), Latent(torch.zeros(5, CODE_DIM))
        weight[:, :seen] = 1
        constant = Observations(observations.index, observations.coords, torch.full((5, POINTS, 1), level), weight)
        estimate = solver.solve(objective, decoder, constant, start)
        assert estimate.latent.mean.isfinite().all()
        assert estimate.loss.total.isfinite().all()
        assert all(reason and "\n" not in reason for reason in estimate.reasons)

    def test_a_search_that_is_cut_short_says_so(self, objective: Objective, decoder: Linear, observations: Observations) -> None:
        far = Latent(torch.full((5, CODE_DIM), 1e5))
        estimate = self.make().solve(objective, decoder, observations, far)
        for settled, reason in zip(estimate.converged.tolist(), estimate.reasons, strict=True):
            assert settled == (reason in SETTLED)

    # what more is known of the codes

    def test_it_gives_a_posterior_where_it_says_so(
        self, solver: Solver, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        estimate = solver.solve(objective, decoder, observations, start)
        assert (estimate.posterior is not None) == solver.gives_posterior

    @pytest.fixture
    def estimate(
        self, solver: Solver, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> Estimate:
        if not solver.gives_posterior:
            pytest.skip("this solver gives no posterior")
        return solver.solve(objective, decoder, observations, start)

    def test_samples_of_a_posterior_repeat_with_their_generator(self, estimate: Estimate) -> None:
        def drawn(seed: int) -> Tensor:
            samples: Tensor = estimate.posterior.sample(7, torch.Generator().manual_seed(seed))
            return samples

        first, state = drawn(0), torch.get_rng_state()
        assert first.shape == (7, 5, CODE_DIM)
        assert torch.equal(drawn(0), first)
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.equal(drawn(1), first)

    def test_samples_of_a_posterior_lie_around_the_estimate(self, estimate: Estimate) -> None:
        samples = estimate.posterior.sample(20_000, torch.Generator().manual_seed(0))
        error = samples.std(0) / 20_000**0.5
        assert ((samples.mean(0) - estimate.latent.mean).abs() < 5 * error).all()  # five standard errors of a fixed draw

    def test_a_posterior_of_some_signals_is_theirs(self, estimate: Estimate) -> None:
        posterior = estimate.posterior
        assert len(posterior) == 5
        some = posterior.rows(torch.tensor([3, 1]))
        whole, part = posterior.covariance(), some.covariance()
        assert torch.equal(part, whole[[3, 1]])
        joined = type(posterior).joined([posterior.rows(slice(0, 2)), posterior.rows(slice(2, 5))]).cpu()
        again, first = (each.sample(3, torch.Generator().manual_seed(0)) for each in (joined, posterior))
        assert torch.equal(again, first)

    def test_less_seen_is_less_known(
        self, solver: Solver, objective: Objective, decoder: Linear, observations: Observations, start: Latent, estimate: Estimate
    ) -> None:
        less = observations.split(torch.arange(POINTS).expand(5, -1) < POINTS // 2)[0]
        wider = solver.solve(objective, decoder, less, start).posterior.covariance() - estimate.posterior.covariance()
        # what is added is a covariance too, up to float32
        assert torch.linalg.eigvalsh(wider).min() > -1e-6
        assert wider.diagonal(dim1=1, dim2=2).sum() > 0
