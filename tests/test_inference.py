"""Inference: contracts for solvers and starts, and completions with a fitted run."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from contracts.solver import SolverContract
from contracts.start import StartContract
from synthetic import TINY, Counting, Linear, images, waves
from torch import Tensor, nn

import neuralfield as nf
from neuralfield.decoders.decoder import Decoder
from neuralfield.decoders.modulated import Modulated
from neuralfield.errors import UsageError
from neuralfield.inference import amortised
from neuralfield.inference.adam import Adam
from neuralfield.inference.lbfgs import LBFGS
from neuralfield.inference.levenberg import Levenberg
from neuralfield.inference.linear import Linear as LinearSolver
from neuralfield.inference.solver import Solver, frozen
from neuralfield.inference.starts import Mean, Nearest, Spectral, Start
from neuralfield.latents.kernel_density import KernelDensity
from neuralfield.latents.priors import Gaussian as GaussianPrior
from neuralfield.latents.priors import Isotropic, Prior
from neuralfield.latents.source import FixedCodes
from neuralfield.likelihoods import Bernoulli, Gaussian
from neuralfield.measurements import Points
from neuralfield.objective import MAP, Objective
from neuralfield.registry import resolve
from neuralfield.types import Estimate, Latent, Loss, Observations


class Other(Objective):
    def forward(self, *arguments: object) -> Loss:
        raise NotImplementedError


class Wrapped(Objective):
    """The same numbers as a MAP, and not one."""

    def __init__(self, inner: Objective) -> None:
        super().__init__()
        self.inner, self.likelihood, self.prior = inner, inner.likelihood, inner.prior

    def forward(self, *arguments: object) -> Loss:
        return self.inner(*arguments)


class OneDirection(Decoder):
    """Bent, and of three code dimensions it knows one sum: two directions have no curvature but the prior's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0], [0.5]]))

    def condition(self, z: Tensor) -> Tensor:
        return z[:, :2].sum(1)[:, None, None].expand(-1, -1, 2)

    def evaluate(self, conditioning: Tensor, coords: Tensor) -> Tensor:
        return torch.tanh(coords + conditioning) @ self.weight


class StudentT(Prior):
    """Concave far out: no curvature is left of it there."""

    def cost(self, latent: Latent) -> Tensor:
        return 1.5 * torch.log1p(latent.mean.square() / 2).sum(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(n, 3, generator=generator)

    def fit(self, codes: Tensor, known: object = None) -> "StudentT":
        return self


def correlated() -> GaussianPrior:
    draw = torch.Generator().manual_seed(5)
    return GaussianPrior(3).fit(torch.randn(50, 3, generator=draw) @ torch.randn(3, 3, generator=draw) + 0.5)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """A search that does not end fails its test, not the whole run of tests."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


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

    @pytest.mark.parametrize("far", [0.0, 1.0, 100.0])
    def test_one_undamped_step_solves_the_ridge_problem(self, far: float, decoder: Linear, observations: Observations) -> None:
        exact, prior = decoder.double(), correlated().double()
        seen = Observations(
            observations.index, observations.coords.double(), observations.values.double(), observations.weight.double()
        )
        start = Latent(far * torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double())
        objective = MAP(Points(), Gaussian(0.5), prior, temperature=3.0).double()
        estimate = Levenberg(steps=1, damping=1e-9).solve(objective, exact, seen, start)
        # z = mean + (J' W J / s^2 + S^-1)^-1 J' W (x - J mean) / s^2, and the temperature multiplies s^2
        components = prior.components()
        mean, precision = components.means[0], torch.linalg.inv(components.covariance[0])
        jacobian = (exact.basis(seen.coords) * exact.weight[:, 0]).detach()
        weighted = jacobian * seen.weight[..., None] / (3 * 0.5**2)
        left = seen.values[..., 0] - jacobian @ mean
        hessian = weighted.mT @ jacobian + precision
        best = mean + torch.linalg.solve(hessian, weighted.mT @ left[..., None])[..., 0]
        # damping of 1e-9 keeps that share, times the spread of the eigenvalues, of the way
        torch.testing.assert_close(estimate.latent.mean, best, rtol=1e-6, atol=1e-6)
        assert estimate.converged.all()
        assert estimate.steps.eq(1).all()
        torch.testing.assert_close(estimate.posterior.covariance(), torch.linalg.inv(hessian), rtol=1e-6, atol=1e-9)

    def test_of_a_linear_problem_its_posterior_is_the_exact_one(
        self, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        exact = LinearSolver().solve(objective, decoder, observations, start)
        found = Levenberg(tolerance=1e-9).solve(objective, decoder, observations, start)
        # both are of float32 decoders; a search ends where float32 sums no longer fall
        torch.testing.assert_close(found.latent.mean, exact.latent.mean, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.posterior.covariance(), exact.posterior.covariance(), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"steps": 0}, "got 0, 4, 0.0001 and 0.1"),
            ({"steps": -3}, "got -3, 4"),
            ({"jacobians": 0}, "got 30, 0"),
            ({"tolerance": 0.0}, "got 30, 4, 0.0 "),
            ({"tolerance": float("nan")}, "nan"),
            ({"damping": 0.0}, "and 0.0"),
            ({"damping": -1.0}, "and -1.0"),
            ({"damping": float("nan")}, "and nan"),
        ],
    )
    def test_settings_that_mean_nothing_are_refused(self, wrong: dict[str, float], words: str) -> None:
        with pytest.raises(ValueError, match=words) as caught:
            Levenberg(**wrong)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)

    def test_an_objective_that_is_no_map_is_refused_in_one_line_with_the_way_out(
        self, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        for call in (
            lambda: Levenberg().check(Other(), decoder),
            lambda: Levenberg().solve(Other(), decoder, observations, start),
        ):
            with pytest.raises(UsageError) as caught:
                call()
            message = str(caught.value)
            assert "\n" not in message
            assert 'needs the objective "map", not Other' in message
            assert "--set inference.kind=adam" in message

    def test_any_decoder_and_any_map_are_welcome(self) -> None:
        for decoder in (Linear(3), Modulated(2, 1, 3, width=4, depth=2), OneDirection()):
            Levenberg().check(MAP(Points(), Bernoulli(), Isotropic(3)), decoder)


class TestLBFGS(SolverContract):
    def make(self) -> Solver:
        return LBFGS(steps=100)

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"steps": 0}, "got 0, 20 and 0.0001"),
            ({"memory": 0}, "got 40, 0 and"),
            ({"tolerance": 0.0}, "and 0.0"),
            ({"tolerance": -1.0}, "and -1.0"),
            ({"tolerance": float("nan")}, "and nan"),
        ],
    )
    def test_settings_that_mean_nothing_are_refused(self, wrong: dict[str, float], words: str) -> None:
        with pytest.raises(ValueError, match=words) as caught:
            LBFGS(**wrong)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("memory", [1, 3, 50])
    def test_the_optimum_is_found_whatever_is_remembered(
        self, memory: int, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        best = LinearSolver().solve(objective, decoder, observations, start)
        # what a short memory promises may be a tenth of what is left
        estimate = LBFGS(steps=200, memory=memory, tolerance=1e-6).solve(objective, decoder, observations, start)
        assert estimate.converged.all()
        assert (estimate.loss.total - best.loss.total).max() < 1e-3  # nats per observed value, as in the contract

    def test_an_objective_that_is_no_map_is_solved_all_the_same(
        self, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        other = Wrapped(objective)
        solver = self.make()
        solver.prepare(other, decoder, torch.randn(20, 3), torch.rand(1, 9, 2))
        estimate, plain = (solver.solve(each, decoder, observations, start) for each in (other, objective))
        assert torch.equal(estimate.latent.mean, plain.latent.mean)


class TestPreparedLBFGS(SolverContract):
    """The same laws where it has looked at a bank before."""

    def make(self) -> Solver:
        solver, draw = LBFGS(steps=100), torch.Generator().manual_seed(6)
        bank, points = torch.randn(40, 3, generator=draw), torch.rand(1, 30, 2, generator=draw) * 2 - 1
        solver.prepare(MAP(Points(), Gaussian(0.3), Isotropic(3)), Linear(3), bank, points)
        return solver

    def test_having_looked_at_the_bank_saves_steps_and_changes_no_optimum(
        self, objective: Objective, decoder: Linear, observations: Observations, start: Latent
    ) -> None:
        prepared, plain = (solver.solve(objective, decoder, observations, start) for solver in (self.make(), LBFGS(steps=100)))
        assert prepared.steps.sum() < plain.steps.sum()
        # each within 1e-4 nats per value of the optimum, as the model sees it
        torch.testing.assert_close(prepared.loss.total, plain.loss.total, rtol=0, atol=1e-3)

    def test_looking_leaves_decoder_and_bank_as_they_were_and_repeats(self, objective: Objective, decoder: Linear) -> None:
        bank, points = torch.randn(300, 3), torch.rand(1, 30, 2)
        before, weights, state = bank.clone(), decoder.weight.clone(), torch.get_rng_state()
        results = []
        for _ in range(2):
            solver = LBFGS()
            solver.prepare(objective, decoder, bank, points)
            results.append(solver._per_point)
        assert torch.equal(*results)
        assert torch.equal(bank, before)
        assert torch.equal(decoder.weight, weights)
        assert decoder.weight.requires_grad
        assert decoder.weight.grad is None
        assert torch.equal(torch.get_rng_state(), state)

    def test_what_it_saw_is_the_gauss_newton_curvature_of_a_point(self, decoder: Linear) -> None:
        bank, points = torch.randn(500, 3), torch.rand(1, 64, 2) * 2 - 1
        solver = LBFGS()
        solver.prepare(MAP(Points(), Gaussian(0.3), Isotropic(3)), decoder, bank, points)
        jacobian = (decoder.basis(points)[0] * decoder.weight[:, 0]).detach().double()
        expected = jacobian.T @ jacobian / (0.3**2 * 64)
        assert solver._per_point is not None
        # random signs, two for each of 256 codes: a relative error of about 1 / sqrt(512) = 4 %, three of which are allowed
        torch.testing.assert_close(solver._per_point, expected, rtol=0, atol=0.13 * float(expected.diagonal().max()))


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


def fit_of(kind: str, run: nf.Run, signals: nf.Signals) -> Start:
    """A start that has learned from signals; those that learn by steps take few of them here."""
    start: Start = resolve("starts", kind)(run.codes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amortised, "STEPS", 200)
        start.fit(lambda: signals.batches(10), torch.Generator().manual_seed(0))
    return start


@pytest.fixture(scope="module")
def amortised_of_images(fitted: Path) -> Start:
    return fit_of("amortised", nf.Run.load(fitted), images())


@pytest.fixture(scope="module")
def amortised_of_curves(fitted_curves: Path) -> Start:
    return fit_of("amortised", nf.Run.load(fitted_curves), waves(40))


class TestAmortised(StartContract):
    kind = "amortised"

    @pytest.fixture
    def start(self, amortised_of_images: Start) -> Start:
        return amortised_of_images


class TestAmortisedOfCurves(OfCurves, StartContract):
    kind = "amortised"

    @pytest.fixture
    def start(self, amortised_of_curves: Start) -> Start:
        return amortised_of_curves


@pytest.mark.parametrize(("steps", "rate"), [(0, 0.1), (-1, 0.1), (10, 0.0), (10, float("nan"))])
def test_steps_and_rates_that_mean_nothing_are_refused(steps: int, rate: float) -> None:
    with pytest.raises(ValueError, match=f"got {steps} and {rate}"):
        Adam(steps=steps, rate=rate)


# second-order solvers where nothing is linear

CONVOLUTIONAL = [
    "latents.code_dim=4",
    "decoder.kind=convolutional",
    "decoder.width=4",
    "likelihood.std=0.1",
    "training.batch=8",
    "training.warmup=0.1",
    "training.polish=3",
]
SECOND_ORDER: dict[str, Callable[[], Solver]] = {"levenberg": Levenberg, "lbfgs": LBFGS}
second_order = pytest.mark.parametrize("solver", SECOND_ORDER)


@pytest.fixture(scope="module", params=["modulated", "convolutional"])
def small(request: pytest.FixtureRequest) -> nf.Run:
    """A run of 24 images whose decoder has seen them often enough to be more than its random weights."""
    settings = TINY if request.param == "modulated" else CONVOLUTIONAL
    return nf.fit(images(), recipe="image", settings=settings, epochs=60, device="cpu")


def solved(run: nf.Run, solver: Solver, observations: Observations) -> Estimate:
    objective = run.completion_objective()
    solver.prepare(objective, run.decoder, run.codes, run.domain.grid())
    return solver.solve(objective, run.decoder, observations, run.start(observations, run.decoder, objective))


def unseen(share: float, count: int = 12) -> Observations:
    """Images that no fit has seen, of which a share of the pixels is seen."""
    seen = torch.rand(count, 64, generator=torch.Generator().manual_seed(0)) < share
    return images(count, seed=1).batch(torch.arange(count)).split(seen)[0]


@second_order
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_second_order_solvers_end_as_low_as_thousands_of_adams_steps(small: nf.Run, solver: str, share: float) -> None:
    observations = unseen(share)
    adam = solved(small, Adam(steps=2000), observations).loss.total
    found = solved(small, SECOND_ORDER[solver](), observations).loss.total
    assert found.mean() <= adam.mean() + 0.01 * adam.mean().abs()
    # of each signal 1 % as well, but for one of twelve, which may end in another optimum, as nobody's objective is convex; that of
    # some is near 0, and says nothing of the size of what is summed
    assert (found > adam + 0.01 * adam.abs().clamp(min=1)).sum() <= 1


@second_order
def test_they_do_with_a_few_steps_what_adam_needs_hundreds_for(small: nf.Run, solver: str) -> None:
    observations = unseen(1.0)
    found, adam = solved(small, SECOND_ORDER[solver](), observations), solved(small, Adam(steps=100), observations)
    assert found.loss.total.mean() <= adam.loss.total.mean() + 1e-2
    assert found.evaluations.mean() < 0.5 * adam.evaluations.mean()


@second_order
def test_the_reported_loss_of_a_fitted_run_is_that_of_the_codes(small: nf.Run, solver: str) -> None:
    observations = unseen(0.3)
    estimate = solved(small, SECOND_ORDER[solver](), observations)
    with torch.no_grad():
        loss = small.completion_objective()(FixedCodes(estimate.latent.mean), small.decoder, observations)
    torch.testing.assert_close(estimate.loss.total, loss.total, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(estimate.loss.prior, loss.prior, rtol=1e-5, atol=1e-5)


@second_order
def test_a_converged_search_ends_where_the_gradient_promises_nothing_more(small: nf.Run, solver: str) -> None:
    observations = unseen(1.0)
    settled = solved(small, SECOND_ORDER[solver](), observations)
    objective, again = small.completion_objective(), Adam(steps=500, rate=0.01)
    better = again.solve(objective, small.decoder, observations, settled.latent).loss.total
    assert settled.converged.any()
    # a hundred times what the solver's own model promised at most: kinks and curvature of the decoder are not in that model
    assert (settled.loss.total - better)[settled.converged].max() < 1e-2


@second_order
def test_one_by_one_and_in_a_batch_searches_of_a_fitted_run_end_alike(small: nf.Run, solver: str) -> None:
    observations = unseen(1.0, 6)
    together = solved(small, SECOND_ORDER[solver](), observations).loss.total
    alone = torch.cat([solved(small, SECOND_ORDER[solver](), observations.rows(slice(i, i + 1))).loss.total for i in range(6)])
    # paths part by rounding and end within the tolerance of 1e-4 nats per value of the same optimum
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-3)


@second_order
@pytest.mark.parametrize("level", [0.0, 0.5, 1e6, -1e6])
@pytest.mark.parametrize("seen", [1, 64])
def test_one_point_constants_and_huge_values_have_finite_codes(small: nf.Run, solver: str, level: float, seen: int) -> None:
    whole = images(3, seed=1).batch(torch.arange(3))
    mask = (torch.arange(64) < seen).expand(3, -1)
    odd = Observations(whole.index, whole.coords, torch.full_like(whole.values, level), whole.weight).split(mask)[0]
    estimate = solved(small, SECOND_ORDER[solver](), odd)
    assert estimate.latent.mean.isfinite().all()
    assert estimate.loss.total.isfinite().all()
    assert all(reason and "\n" not in reason for reason in estimate.reasons)
    if estimate.posterior is not None:
        assert estimate.posterior.factor.isfinite().all()


@second_order
def test_points_that_are_seen_twice_are_points_that_count_twice(small: nf.Run, solver: str) -> None:
    one = unseen(0.5, 4)
    twice = Observations(one.index, one.coords.repeat(1, 2, 1), one.values.repeat(1, 2, 1), one.weight.repeat(1, 2))
    weighted = Observations(one.index, one.coords, one.values, 2 * one.weight)
    found, expected = (solved(small, SECOND_ORDER[solver](), each).loss.total for each in (twice, weighted))
    assert found.isfinite().all()
    # convolutional maps are read between their pixels for points that are no grid: the same values by another sum
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@second_order
def test_one_point_many_times_over_is_enough_for_a_finite_code(small: nf.Run, solver: str) -> None:
    point = torch.full((1, 200, 2), 0.1)
    many = Observations(torch.arange(2), point, torch.full((2, 200, 1), 0.7), torch.ones(2, 200))
    estimate = solved(small, SECOND_ORDER[solver](), many)
    assert estimate.latent.mean.isfinite().all()
    assert estimate.loss.total.isfinite().all()


@second_order
@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize(
    "prior",
    [lambda: Isotropic(3, 0.7), correlated, lambda: KernelDensity(3).fit(torch.randn(12, 3) + 1)],
    ids=["isotropic", "normal", "kernels"],
)
def test_where_nothing_is_seen_a_search_ends_at_a_mode_of_the_prior_and_says_so(
    solver: str, prepared: bool, prior: Callable[[], Prior]
) -> None:
    made, decoder, search = prior(), OneDirection(), SECOND_ORDER[solver]()
    objective = MAP(Points(), Gaussian(0.3), made)
    if prepared:
        search.prepare(objective, decoder, torch.randn(20, 3), torch.rand(1, 9, 2))
    blind = Observations(torch.arange(4), torch.rand(1, 9, 2), torch.rand(4, 9, 1), torch.zeros(4, 9))
    for start in (made.sample(4, torch.Generator().manual_seed(0)), torch.full((4, 3), 3.0)):
        estimate = search.solve(objective, decoder, blind, Latent(start))
        assert estimate.converged.all()
        assert set(estimate.reasons) == {"converged"}
        assert estimate.loss.data.eq(0).all()
        leaf = estimate.latent.mean.double().requires_grad_()
        gradient = torch.autograd.grad(made.double().cost(Latent(leaf)).sum(), leaf)[0]
        # what is left to fall, g' P^-1 g / 2, is a millionth of a cost of a few nats
        left = torch.einsum(
            "bd,bde,be->b", gradient, torch.linalg.inv(made.curvature(Latent(leaf.detach()))).expand(4, -1, -1), gradient
        )
        assert left.max() / 2 < 1e-4
        if not isinstance(made, KernelDensity):
            mean = made.components().means.double().expand(4, -1)
            torch.testing.assert_close(estimate.latent.mean.double(), mean, rtol=0, atol=0.02)
        made.float()


@pytest.mark.parametrize("prior", [lambda: Isotropic(3, 0.7), correlated], ids=["isotropic", "normal"])
def test_where_nothing_is_seen_levenbergs_posterior_is_the_prior(prior: Callable[[], Prior]) -> None:
    made = prior()
    blind = Observations(torch.arange(2), torch.rand(1, 9, 2), torch.rand(2, 9, 1), torch.zeros(2, 9))
    estimate = Levenberg().solve(MAP(Points(), Gaussian(0.3), made), OneDirection(), blind, Latent(torch.zeros(2, 3)))
    expected = made.components().covariance.expand(2, -1, -1)
    torch.testing.assert_close(estimate.posterior.covariance(), expected, rtol=1e-4, atol=1e-6)


def seen_of_one_direction(count: int = 3) -> Observations:
    draw = torch.Generator().manual_seed(2)
    return Observations(
        torch.arange(count),
        torch.rand(1, 9, 2, generator=draw) * 2 - 1,
        torch.rand(count, 9, 1, generator=draw),
        torch.ones(count, 9),
    )


WIDE = [1e2, 1e4, 1e6, 3e6, 1e7, 1e8, 1e10, 1e15]
"""Standard deviations of priors beside which nothing seen is no curvature at all: condition numbers of the Hessian up to 1e32."""


@pytest.mark.parametrize(
    ("solver", "prepared", "noise"),
    [
        ("levenberg", False, 0.3),
        ("levenberg", False, 1e-4),
        ("lbfgs", False, 0.3),
        ("lbfgs", False, 1e-4),
        ("lbfgs", True, 0.3),
        ("lbfgs", True, 1e-4),
    ],
)
def test_a_singular_hessian_is_damped(solver: str, prepared: bool, noise: float) -> None:
    decoder, observations = OneDirection(), seen_of_one_direction()
    for std in WIDE:
        for seed in range(5):
            bank = torch.randn(20, 3, generator=torch.Generator().manual_seed(seed))
            objective, search, start = MAP(Points(), Gaussian(noise), Isotropic(3, std)), SECOND_ORDER[solver](), Latent(bank[:3])
            if prepared:
                search.prepare(objective, decoder, bank, observations.coords)
            with within(5):
                estimate = search.solve(objective, decoder, observations, start)
            assert estimate.latent.mean.isfinite().all()
            with torch.no_grad():
                before = objective(FixedCodes(start.mean), decoder, observations).total
            assert (estimate.loss.total <= before + 1e-6 * before.abs()).all()


@second_order
@pytest.mark.parametrize("std", [1.0, 1e8])
def test_a_decoder_that_has_no_slope_at_the_start_is_left_to_the_prior(solver: str, std: float) -> None:
    class Dead(OneDirection):
        def evaluate(self, conditioning: Tensor, coords: Tensor) -> Tensor:
            return torch.relu(coords + conditioning - 100) @ self.weight

    start = torch.randn(3, 3)
    objective = MAP(Points(), Gaussian(0.3), Isotropic(3, std))
    estimate = SECOND_ORDER[solver]().solve(objective, Dead(), seen_of_one_direction(), Latent(start))
    assert estimate.converged.all()
    assert (estimate.latent.mean.norm(dim=1) <= start.norm(dim=1) * (1 + 1e-6)).all()


@second_order
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_where_the_prior_is_concave_a_search_still_ends_no_higher(solver: str, weight: float) -> None:
    decoder, whole = OneDirection(), seen_of_one_direction()
    observations = Observations(whole.index, whole.coords, whole.values, weight * whole.weight)
    objective, search, start = MAP(Points(), Gaussian(0.3), StudentT()), SECOND_ORDER[solver](), Latent(torch.full((3, 3), 20.0))
    search.prepare(objective, decoder, torch.randn(20, 3), whole.coords)
    with torch.no_grad():
        before = objective(FixedCodes(start.mean), decoder, observations).total
    with within(5):
        estimate = search.solve(objective, decoder, observations, start)
    assert estimate.latent.mean.isfinite().all()
    assert (estimate.loss.total <= before).all()


@pytest.mark.parametrize(("solver", "prepared"), [("levenberg", False), ("lbfgs", False), ("lbfgs", True)])
def test_a_decoder_whose_values_are_no_numbers_is_a_reason_and_no_exception(solver: str, prepared: bool) -> None:
    decoder, observations, search, start = OneDirection(), seen_of_one_direction(), SECOND_ORDER[solver](), torch.randn(3, 3)
    nn.init.constant_(decoder.weight, torch.nan)
    objective = MAP(Points(), Gaussian(0.3), Isotropic(3))
    with within(5):
        if prepared:
            search.prepare(objective, decoder, torch.randn(20, 3), observations.coords)
        estimate = search.solve(objective, decoder, observations, Latent(start))
    assert not estimate.converged.any()
    assert torch.equal(estimate.latent.mean, start)
    assert all(estimate.reasons)


@second_order
def test_signals_without_any_points_get_the_mode_of_the_prior(solver: str) -> None:
    nothing = Observations(torch.arange(2), torch.zeros(1, 0, 2), torch.zeros(2, 0, 1), torch.zeros(2, 0))
    objective = MAP(Points(), Gaussian(0.3), Isotropic(3))
    estimate = SECOND_ORDER[solver]().solve(objective, OneDirection(), nothing, Latent(torch.zeros(2, 3)))
    assert estimate.latent.mean.eq(0).all()
    assert estimate.converged.all()


@second_order
def test_the_mode_of_a_prior_is_settled_whatever_its_normalising_constant_is(solver: str) -> None:
    class Unnormalised(StudentT):
        def cost(self, latent: Latent) -> Tensor:
            return 0.5 * latent.mean.square().sum(1)

    whole = seen_of_one_direction()
    blind = Observations(whole.index, whole.coords, whole.values, 0 * whole.weight)
    estimate = SECOND_ORDER[solver]().solve(
        MAP(Points(), Gaussian(0.3), Unnormalised()), OneDirection(), blind, Latent(torch.zeros(3, 3))
    )
    assert estimate.converged.all()


@second_order
@pytest.mark.parametrize("decoder", ["modulated", "linear"])
def test_evaluations_of_nonlinear_decoders_are_the_work_that_was_done(solver: str, decoder: str) -> None:
    made = Modulated(2, 2, 3, width=6, depth=2, frequencies=3) if decoder == "modulated" else Linear(3, 2)
    draw = torch.Generator().manual_seed(3)
    observations = Observations(
        torch.arange(5), torch.rand(1, 12, 2, generator=draw), torch.rand(5, 12, 2, generator=draw), torch.ones(5, 12)
    ).split(torch.rand(5, 12, generator=draw) < 0.7)[0]
    counting = Counting(made)
    objective, start = MAP(Points(), Gaussian(0.05), Isotropic(3)), Latent(torch.zeros(5, 3))
    estimate = SECOND_ORDER[solver]().solve(objective, counting, observations, start)
    done = float((estimate.evaluations * (observations.weight > 0).sum(1)).sum())
    assert done == pytest.approx(counting.work, rel=1e-6)


@second_order
def test_lists_of_settings_choose_a_solver_for_a_run_that_was_fitted_for_another(fitted: Path, solver: str) -> None:
    run = nf.Run.load(fitted, [f"inference.kind={solver}"])
    estimate = run.infer(images(6, seed=1))
    assert estimate.loss.total.isfinite().all()
    assert (estimate.posterior is not None) == (solver == "levenberg")
    assert (estimate.loss.total <= nf.Run.load(fitted).infer(images(6, seed=1)).loss.total + 1e-2).all()


@second_order
def test_wrong_settings_of_a_solver_are_one_line_that_names_them(fitted: Path, solver: str) -> None:
    for setting in ("inference.steps=0", "inference.tolerance=0"):
        with pytest.raises(UsageError) as caught:
            nf.Run.load(fitted, [f"inference.kind={solver}", setting]).infer(images(2))
        assert "\n" not in str(caught.value)
        assert "inference.steps" in str(caught.value)


# any solver


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


@pytest.fixture(scope="module")
def guessing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 200 images that has learned an amortised start."""
    folder = tmp_path_factory.mktemp("runs") / "guessing"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amortised, "STEPS", 500)  # a third of what it takes by default
        nf.fit(images(200), recipe="image", settings=[*TINY, "inference.start=amortised"], epochs=20, out=folder, device="cpu")
    return folder


@pytest.mark.parametrize("mask", ["observe=random:0.3", "observe=half:left", "hide=center:4", "observe=center:4"])
def test_the_amortised_start_of_partly_seen_images_is_lower_than_the_mean_start(guessing: Path, mask: str) -> None:
    run, count = nf.Run.load(guessing), 60
    side, what = mask.split("=")
    whole = images(count, seed=1).batch(torch.arange(count))
    seen = nf.Visibility(**{side: [what]})(whole, run.domain)
    observed, hidden = whole.split(seen)
    objective = run.completion_objective()
    ours, mean = (start(observed, run.decoder, objective).mean for start in (run.start, Mean(run.codes)))
    with torch.no_grad():
        costs = [objective(FixedCodes(z), run.decoder, observed).total for z in (ours, mean)]
        errors = [run.domain.score(run.field(z), hidden)["mse"].mean() for z in (ours, mean)]
    assert costs[0].mean() < costs[1].mean()
    assert (costs[0] < costs[1]).double().mean() > 0.7
    assert errors[0] < errors[1]


def test_a_learned_start_travels_with_its_run(guessing: Path, tmp_path: Path) -> None:
    run = nf.Run.load(guessing)
    run.save(tmp_path / "copy")
    seen, again = unseen(0.3), nf.Run.load(tmp_path / "copy")
    starts = [each.start(seen, each.decoder, each.model.objective).mean for each in (run, again)]
    assert torch.equal(*starts)
    assert not torch.allclose(starts[0], run.codes.mean(0))


@pytest.mark.parametrize("kind", ["mean", "nearest", "spectral", "amortised"])
def test_several_starts_are_its_own_and_codes_of_the_bank(run: nf.Run, images: nf.Images, kind: str) -> None:
    start = fit_of(kind, run, images)
    observed = images.batch(torch.arange(5)).split(torch.rand(5, 64, generator=torch.Generator().manual_seed(1)) < 0.5)[0]
    own = start(observed, run.decoder, run.model.objective).mean
    for count in (1, 2, 5):
        starts, work = start.several(observed, run.decoder, run.model.objective, count)
        assert starts.shape == (count, 5, 4)
        assert torch.equal(starts[0], own)
        for z in starts[1:].flatten(0, 1):
            assert (run.codes == z).all(1).any()
        again = start.several(observed, run.decoder, run.model.objective, count)
        assert torch.equal(again[0], starts)
        expected = start.evaluations(observed, run.decoder)
        if count > 1:
            expected = expected + Nearest(run.codes).evaluations(observed, run.decoder)
        torch.testing.assert_close(work, expected)


def test_other_starts_are_near_first_and_all_different_where_the_bank_is_large_enough(run: nf.Run, images: nf.Images) -> None:
    batch, objective = images.batch(torch.arange(5)), run.model.objective
    others = Mean(run.codes).several(batch, run.decoder, objective, 7)[0][1:]
    assert torch.equal(others[0], Nearest(run.codes)(batch, run.decoder, objective).mean)
    errors = torch.stack([run.domain.score(run.field(z), batch)["mse"] for z in others])
    assert (errors[1:] >= errors[:-1] - 1e-7).all()
    for b in range(5):
        assert len(others[:, b].unique(dim=0)) == 6


def test_a_bank_smaller_than_the_starts_repeats_itself(run: nf.Run, images: nf.Images) -> None:
    batch = images.batch(torch.arange(3))
    for bank in (run.codes[:1], run.codes[:3]):
        starts, _ = Mean(bank).several(batch, run.decoder, run.model.objective, 9)
        assert starts.shape == (9, 3, 4)
        for b in range(3):
            assert len(starts[1:, b].unique(dim=0)) == len(bank)


def test_more_starts_cost_more_and_end_no_higher(fitted: Path) -> None:
    observed = unseen(0.3)
    one, four = (nf.Run.load(fitted, [f"inference.starts={count}"]).infer(observed) for count in (1, 4))
    # four searches of ten steps each, and the choice of their starts
    assert (four.evaluations > 3 * one.evaluations).all()
    assert (four.loss.total <= one.loss.total + 1e-6).all()  # the first start is the single one
    assert (four.loss.total < one.loss.total - 1e-3).any()


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
