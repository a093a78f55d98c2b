"""Posteriors of codes: draws of mixtures, evidence of several starts, and approximations against closed forms and integrals."""

import math
from pathlib import Path

import pytest
import torch
from commands import Nf
from synthetic import TINY, Linear, images, waves
from torch import Tensor, nn

import neuralfield as nf
from neuralfield.decoders.decoder import Decoder
from neuralfield.errors import UsageError
from neuralfield.inference.langevin import Langevin
from neuralfield.inference.laplace import Laplace, around, mixture
from neuralfield.inference.lbfgs import LBFGS
from neuralfield.inference.levenberg import Levenberg
from neuralfield.inference.linear import Linear as LinearSolver
from neuralfield.inference.posterior import Approximation, Posterior
from neuralfield.inference.quadratic import evaluations, quadratic
from neuralfield.inference.randomised import Randomised
from neuralfield.inference.restarts import search
from neuralfield.inference.solver import Solver
from neuralfield.latents.priors import Gaussian as GaussianPrior
from neuralfield.latents.priors import Isotropic, Prior
from neuralfield.latents.source import FixedCodes
from neuralfield.likelihoods import Bernoulli, Gaussian, Likelihood
from neuralfield.measurements import Points
from neuralfield.objective import MAP
from neuralfield.types import Estimate, Latent, Observations

APPROXIMATIONS: dict[str, type[Approximation]] = {"laplace": Laplace, "randomised": Randomised, "langevin": Langevin}
every_approximation = pytest.mark.parametrize("kind", APPROXIMATIONS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unlike(b: int = 2, k: int = 3, d: int = 2, shared: bool = False) -> Posterior:
    """Mixtures of components of other places, widths and weights for every signal."""
    draw = seeded(3)
    factor = torch.tril(0.3 * torch.randn(b, 1 if shared else k, d, d, generator=draw)) + 0.4 * torch.eye(d)
    log_weights = torch.log_softmax(torch.randn(b, k, generator=draw), 1)
    return Posterior(log_weights, 2 * torch.randn(b, k, d, generator=draw), factor)


# draws of a mixture


@pytest.mark.parametrize("count", [1, 7, 64])
def test_every_component_has_its_share_of_draws_up_to_one(count: int) -> None:
    log_weights = torch.log_softmax(2 * torch.randn(50, 5, generator=seeded()), 1)
    number = torch.arange(5.0)[None, :, None].expand(50, -1, -1)
    drawn = Posterior(log_weights, number, torch.zeros(50, 1, 1, 1)).sample(count, seeded(1))
    counts = (drawn[..., 0].T[:, :, None] == torch.arange(5.0)).sum(1)
    assert counts.sum(1).eq(count).all()
    # float32 weights are off by 1e-7 of count
    assert ((counts - count * log_weights.exp()).abs() < 1 + 1e-4).all()


def test_the_order_of_draws_says_nothing_of_their_components() -> None:
    weights = torch.tensor([0.5, 0.3, 0.2])
    count = 4000
    posterior = Posterior(
        weights.log().expand(count, -1), torch.arange(3.0)[None, :, None].expand(count, -1, -1), torch.zeros(count, 1, 1, 1)
    )
    drawn = posterior.sample(6, seeded())[..., 0]
    for place in drawn:
        shares = (place[:, None] == torch.arange(3.0)).float().mean(0)
        # five standard errors of a share of 4000
        assert ((shares - weights).abs() < 5 * (weights * (1 - weights) / count).sqrt()).all()


@pytest.mark.parametrize("shared", [True, False])
def test_draws_have_the_moments_of_the_mixture(shared: bool) -> None:
    posterior, count = unlike(shared=shared), 40_000
    drawn = posterior.sample(count, seeded()).double()
    share = posterior.log_weights.double().exp()
    own = (posterior.factor @ posterior.factor.mT).double().expand(-1, 3, -1, -1)
    within = torch.einsum("bk,bkde->bde", share, own)
    apart = posterior.means.double() - posterior.mean.double()[:, None]
    expected = within + torch.einsum("bk,bkd,bke->bde", share, apart, apart)
    # five standard errors, those of normals of the whole variance: components' own ones are smaller, as shares do not vary
    size = expected.diagonal(dim1=1, dim2=2)
    assert ((drawn.mean(0) - posterior.mean).abs() < 5 * (size / count).sqrt()).all()
    for b in range(2):
        found, scale = torch.cov(drawn[:, b].T), (size[b][:, None] * size[b]).sqrt()
        assert ((found - expected[b]).abs() < 5 * scale * (2 / count) ** 0.5).all()
    torch.testing.assert_close(posterior.covariance().double(), within if not shared else own[:, 0], rtol=1e-5, atol=1e-6)


def test_draws_repeat_with_their_generator() -> None:
    posterior = unlike()
    assert torch.equal(posterior.sample(9, seeded(4)), posterior.sample(9, seeded(4)))
    assert not torch.equal(posterior.sample(9, seeded(4)), posterior.sample(9, seeded(5)))


def test_rows_and_their_joining_lose_nothing() -> None:
    posterior = unlike(b=5)
    joined = Posterior.joined([posterior.rows(slice(0, 2)), posterior.rows(torch.tensor([2])), posterior.rows(slice(3, 5))])
    assert len(joined) == len(posterior) == 5
    for name in ("log_weights", "means", "factor"):
        assert torch.equal(getattr(joined, name), getattr(posterior, name))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 32, 100, 1000])
def test_of_draws_gives_back_every_draw_exactly_once(count: int) -> None:
    codes = torch.randn(count, 3, 2, generator=seeded())
    posterior = Posterior.of_draws(codes)
    for seed in range(5):
        drawn = posterior.sample(count, seeded(seed))
        for b in range(3):
            assert torch.equal(drawn[:, b].sort(0).values, codes[:, b].sort(0).values)
    torch.testing.assert_close(posterior.mean, codes.mean(0))
    assert posterior.log_weights.exp().sum(1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)


# evidence of several starts


def one_gaussian(mean: list[float], covariance: list[list[float]]) -> Posterior:
    factor = torch.linalg.cholesky(torch.tensor(covariance))
    return Posterior(torch.zeros(1, 1), torch.tensor([[mean]]), factor[None, None])


def test_separate_gaussians_weigh_as_much_as_their_evidence() -> None:
    # what exp(-cost) integrates to around an optimum: exp(-cost) sqrt(det 2 pi S)
    covariances = [[[0.5, 0.1], [0.1, 0.3]], [[0.02, 0.0], [0.0, 0.08]], [[1.0, -0.4], [-0.4, 0.2]]]
    parts = [one_gaussian([20.0 * k, -5.0], covariance) for k, covariance in enumerate(covariances)]
    costs = torch.tensor([[3.0], [1.5], [2.0]])
    evidence = torch.stack(
        [
            math.exp(-cost) * torch.linalg.det(2 * math.pi * torch.tensor(s)).sqrt()
            for cost, s in zip([3.0, 1.5, 2.0], covariances, strict=True)
        ]
    )
    found = mixture(costs, parts)
    torch.testing.assert_close(found.log_weights[0].exp(), evidence / evidence.sum())
    assert torch.equal(found.means[0], torch.tensor([[0.0, -5.0], [20.0, -5.0], [40.0, -5.0]]))
    torch.testing.assert_close(found.factor[0] @ found.factor[0].mT, torch.tensor(covariances))


@pytest.mark.parametrize("times", [1, 3])
def test_an_optimum_that_several_starts_have_found_counts_once(times: int) -> None:
    one, other = one_gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]), one_gaussian([9.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    near = one_gaussian([0.01, 0.0], [[1.0, 0.0], [0.0, 1.0]])  # a search ends a little off
    found = mixture(torch.ones(times + 2, 1), [one] * times + [near, other])
    shares = found.log_weights[0].exp()
    assert shares[:-1].sum().item() == pytest.approx(0.5, abs=1e-5)
    assert shares[-1].item() == pytest.approx(0.5, abs=1e-5)


def test_costs_of_thousands_of_nats_are_weighed_by_their_difference() -> None:
    parts = [one_gaussian([20.0 * k, 0.0], [[1.0, 0.0], [0.0, 1.0]]) for k in range(2)]
    found = mixture(torch.tensor([[5000.0], [5000.0 - math.log(3)]]), parts)
    # float32 numbers of size 5000 are known to 5e-4
    torch.testing.assert_close(found.log_weights[0].exp(), torch.tensor([0.25, 0.75]), rtol=0, atol=1e-3)


# a decoder with two optima


class TwoWells(Decoder):
    """z^2 + tilt z t at a point t: z and -z look alike, but for the tilt."""

    def __init__(self, tilt: float) -> None:
        super().__init__()
        self.tilt = nn.Parameter(torch.tensor(tilt))

    def condition(self, z: Tensor) -> Tensor:
        return z

    def evaluate(self, conditioning: Tensor, coords: Tensor) -> Tensor:
        z = conditioning[:, None]
        return z.square() + self.tilt * z * coords


class Bent(Decoder):
    """exp(z) everywhere: low values say little of how low z is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def condition(self, z: Tensor) -> Tensor:
        return z

    def evaluate(self, conditioning: Tensor, coords: Tensor) -> Tensor:
        return self.scale * conditioning[:, None].exp() + 0 * coords


class Logits(Bent):
    """3 z t, whose sigmoid is the chance of a point to be white."""

    def evaluate(self, conditioning: Tensor, coords: Tensor) -> Tensor:
        return 3 * self.scale * conditioning[:, None] * coords


def on_a_line(values: Tensor) -> Observations:
    """Values [B, N] at points from -1 to 1, all seen."""
    coords = torch.linspace(-1, 1, values.shape[1])[None, :, None]
    return Observations(torch.arange(len(values)), coords, values[..., None], torch.ones_like(values))


def wells(tilt: float, codes: list[float]) -> tuple[TwoWells, Observations]:
    decoder = TwoWells(tilt)
    points = torch.linspace(-1, 1, 5)[None, :, None]
    with torch.no_grad():
        return decoder, on_a_line(decoder(torch.tensor(codes)[:, None], points)[..., 0])


def density(objective: MAP, decoder: Decoder, observations: Observations) -> tuple[Tensor, Tensor]:
    """(codes [M] of one dimension, the shares [M] that the first signal's posterior has around them), by numerical integration."""
    z = torch.linspace(-8, 3, 20_001)
    first = observations.rows(slice(0, 1))
    many = Observations(torch.arange(len(z)), first.coords, first.values.expand(len(z), -1, -1), first.weight.expand(len(z), -1))
    with torch.no_grad():
        loss = objective(FixedCodes(z[:, None]), decoder, many)
    return z, torch.softmax(-(loss.data + loss.prior).double(), 0)


@pytest.mark.parametrize("solver", [Levenberg(), LBFGS(steps=100)], ids=["levenberg", "lbfgs"])
def test_a_search_keeps_the_best_of_its_starts_and_is_charged_for_all(solver: Solver) -> None:
    codes = [-1.0, 1.0, -0.8]
    decoder, observations = wells(0.5, codes)
    objective = MAP(Points(), Gaussian(0.1), Isotropic(1))
    starts = torch.tensor([1.5, -1.5, 1.4])[:, None, None].expand(-1, 3, 1).contiguous()
    single = [solver.solve(objective, decoder, observations, Latent(z)) for z in starts]
    found = search(solver, objective, decoder, observations, starts)
    # the prior pulls an optimum of noise .1 and slope 2 by less than a hundredth
    torch.testing.assert_close(found.latent.mean[:, 0], torch.tensor(codes), rtol=0, atol=0.02)
    costs = torch.stack([each.loss.total for each in single])
    assert torch.equal(found.loss.total, costs.min(0).values)
    assert (costs[0] - found.loss.total > 1).tolist() == [True, False, True]  # the other well is much worse
    torch.testing.assert_close(found.evaluations, torch.stack([each.evaluations for each in single]).sum(0))
    for b, k in enumerate(costs.argmin(0).tolist()):
        assert torch.equal(found.latent.mean[b], single[k].latent.mean[b])
        assert (found.reasons[b], found.steps[b], found.converged[b]) == (
            single[k].reasons[b],
            single[k].steps[b],
            single[k].converged[b],
        )


@pytest.mark.parametrize("solver", [Levenberg(), LBFGS(steps=100)], ids=["levenberg", "lbfgs"])
def test_the_posterior_of_a_search_gives_each_well_the_mass_that_it_has(solver: Solver) -> None:
    decoder, observations = wells(0.02, [-1.0, 1.0])
    objective = MAP(Points(), Gaussian(0.05), Isotropic(1))
    starts = torch.tensor([1.5, -1.5, 1.2, 1.4])[:, None, None].expand(-1, 2, 1).contiguous()
    found = search(solver, objective, decoder, observations, starts, with_posterior=True)
    assert found.posterior.means.shape == (2, 4, 1)
    for b in range(2):
        z, share = density(objective, decoder, observations.rows(slice(b, b + 1)))
        left = (found.posterior.log_weights[b].exp() * (found.posterior.means[b, :, 0] < 0)).sum()
        assert 0.1 < float(left) < 0.9
        # Laplace leaves out terms of about noise^2 = .0025; searches end 1e-4 nats per value above their optimum
        assert float(left) == pytest.approx(float(share[z < 0].sum()), abs=0.01)
        drawn = found.posterior.sample(100, seeded())[:, b, 0]
        assert (drawn < 0).sum() == pytest.approx(100 * float(left), abs=1)
    plain = search(solver, objective, decoder, observations, starts)
    extra = 0.0 if solver.gives_posterior else len(starts) * evaluations(objective, decoder, observations, 1)
    torch.testing.assert_close(found.evaluations, plain.evaluations + extra)


def test_one_start_is_the_solver_itself() -> None:
    decoder, observations = wells(0.5, [-1.0, 1.0])
    objective, start = MAP(Points(), Gaussian(0.1), Isotropic(1)), torch.full((1, 2, 1), 1.5)
    found = search(LBFGS(), objective, decoder, observations, start)
    plain = LBFGS().solve(objective, decoder, observations, Latent(start[0]))
    assert torch.equal(found.latent.mean, plain.latent.mean)
    assert torch.equal(found.evaluations, plain.evaluations)
    assert found.posterior is None


# approximations of a normal posterior are exact


def correlated() -> GaussianPrior:
    draw = seeded(5)
    return GaussianPrior(3).fit(torch.randn(50, 3, generator=draw) @ torch.randn(3, 3, generator=draw) + 0.5)


def copies(count: int) -> tuple[Linear, Observations]:
    """One signal `count` times, under as many numbers: a third of its points is hidden, and a third counts twice."""
    decoder, draw = Linear(3), seeded(3)
    coords = torch.rand(1, 12, 2, generator=draw) * 2 - 1
    values = decoder(torch.randn(1, 3, generator=draw), coords).detach() + 0.3 * torch.randn(1, 12, 1, generator=draw)
    weight = torch.tensor([1.0, 2.0, 0.0] * 4)
    return decoder, Observations(torch.arange(count), coords, values.expand(count, -1, -1), weight.expand(count, -1))


def approximated(
    kind: str, objective: MAP, decoder: Decoder, observations: Observations, solver: Solver, count: int, start: Tensor
) -> tuple[Estimate, Tensor, Tensor]:
    """(the estimate of a search, draws [S, B, D], evaluations that they took)."""
    estimate = search(solver, objective, decoder, observations, start[None], with_posterior=True)
    posterior, work = APPROXIMATIONS[kind]()(objective, decoder, observations, estimate.posterior, solver, count)
    return estimate, posterior.sample(count, seeded(9)), work


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(
    ("kind", "solver"),
    [
        ("laplace", Levenberg(tolerance=1e-7)),
        ("randomised", Levenberg(tolerance=1e-7)),
        ("randomised", LBFGS(steps=100, tolerance=1e-7)),
        ("randomised", LinearSolver()),
        ("langevin", Levenberg(tolerance=1e-7)),
    ],
    ids=["laplace", "randomised-levenberg", "randomised-lbfgs", "randomised-linear", "langevin"],
)
def test_of_a_linear_decoder_under_one_normal_prior_draws_are_those_of_the_exact_posterior(
    kind: str, solver: Solver, temperature: float
) -> None:
    decoder, observations = copies(400)
    objective = MAP(Points(), Gaussian(0.5), correlated(), temperature=temperature)
    first = observations.rows(slice(0, 1))
    exact = LinearSolver().solve(objective, decoder, first, Latent(torch.zeros(1, 3))).posterior
    mean, covariance = exact.mean[0].double(), exact.covariance()[0].double()
    drawn = approximated(kind, objective, decoder, observations, solver, 6, torch.zeros(400, 3))[1].flatten(0, 1).double()
    count, size = len(drawn), covariance.diagonal()
    # five standard errors of 2400 draws; an element of a covariance has sqrt((C_ii C_jj + C_ij^2) / count)
    assert ((drawn.mean(0) - mean).abs() < 5 * (size / count).sqrt()).all()
    errors = ((size[:, None] * size + covariance.square()) / count).sqrt()
    assert ((torch.cov(drawn.T) - covariance).abs() < 5 * errors).all()


@every_approximation
def test_draws_of_a_signal_do_not_depend_on_its_batch(kind: str) -> None:
    decoder, observations = copies(6)
    objective = MAP(Points(), Gaussian(0.5), correlated())
    solver, start = Levenberg(tolerance=1e-7), torch.zeros(6, 3)

    def posterior(rows: slice) -> Posterior:
        part = observations.rows(rows)
        estimate = search(solver, objective, decoder, part, start[rows][None], with_posterior=True)
        return APPROXIMATIONS[kind]()(objective, decoder, part, estimate.posterior, solver, 5)[0]

    together = posterior(slice(None)).means
    for b in (0, 3, 5):
        # float32 decoders, summed in another order; Langevin's moves are the same unless one is accepted by less than that
        torch.testing.assert_close(posterior(slice(b, b + 1)).means[0], together[b], rtol=1e-3, atol=1e-3)
    if kind != "laplace":
        assert not torch.allclose(together[0], together[1], atol=1e-2)  # of the same values under another number


@pytest.mark.parametrize("kind", ["laplace", "randomised"])
def test_draws_of_a_run_do_not_depend_on_the_batch(fitted: Path, kind: str) -> None:
    signals = images(5, seed=4)
    seen = torch.rand(5, 64, generator=seeded()) < 0.4
    observed = signals.batch(torch.arange(5)).split(seen)[0]
    together, alone = (
        nf.Run.load(fitted, [f"inference.posterior={kind}", f"inference.batch={size}"]).infer(observed, samples=4)
        for size in (100, 1)
    )
    # as many steps of Adam, and moves of a chain, as they are: sums of float32 in another order are all that differs
    torch.testing.assert_close(alone.posterior.means, together.posterior.means, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", ["randomised", "langevin"])
def test_the_work_of_drawing_is_charged(fitted: Path, kind: str) -> None:
    batch = images(3, seed=4).batch(torch.arange(3))
    plain = nf.Run.load(fitted).infer(batch, samples=2)
    drawn = nf.Run.load(fitted, [f"inference.posterior={kind}"]).infer(batch, samples=2)
    # Adam's ten steps again for each draw, or a hundred moves of three passes
    least = 2 * 10 if kind == "randomised" else 2 * 100 * 3
    assert (drawn.evaluations >= plain.evaluations + least).all()
    assert torch.equal(drawn.latent.mean, plain.latent.mean)
    assert drawn.posterior.means.shape == (3, 2, 4)


def test_chains_of_no_length_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 steps, got 1"):
        Langevin(steps=1)


# posteriors that are not normal


def misfit(drawn: Tensor, z: Tensor, share: Tensor) -> float:
    """Pearson's chi-square of draws in ten cells of equal probability: 9 on average, with a standard deviation of 4.2."""
    edges = z[torch.searchsorted(share.cumsum(0), torch.arange(1, 10).double() / 10)]
    counts = torch.bincount(torch.bucketize(drawn, edges), minlength=10).double()
    return float((counts - len(drawn) / 10).square().sum() / (len(drawn) / 10))


PROBLEMS: dict[str, tuple[Decoder, Likelihood, list[float]]] = {
    "gaussian": (Bent(), Gaussian(0.5), [0.0, 0.2, -0.1]),
    "bernoulli": (Logits(), Bernoulli(), [0.0, 0.5, 1.0]),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_langevins_draws_are_of_the_posterior_itself_where_it_is_skewed(problem: str) -> None:
    decoder, likelihood, values = PROBLEMS[problem]
    observations = on_a_line(torch.tensor([values]).expand(400, -1).contiguous())
    objective, solver = MAP(Points(), likelihood, Isotropic(1)), Levenberg()
    z, share = density(objective, decoder, observations)
    drawn = {
        kind: approximated(kind, objective, decoder, observations, solver, 5, torch.zeros(400, 1))[1].flatten()
        for kind in ("laplace", "langevin")
    }
    # five standard deviations above what draws of the very density have
    assert misfit(drawn["langevin"], z, share) < 30
    assert misfit(drawn["laplace"], z, share) > 2 * 30


def test_a_normal_around_a_mode_misses_the_other_and_several_starts_do_not() -> None:
    decoder, observations = wells(0.02, [-1.0])
    objective, solver = MAP(Points(), Gaussian(0.1), Isotropic(1)), Levenberg()
    z, share = density(objective, decoder, observations)
    starts = torch.tensor([1.5, -1.5])[:, None, None]
    for count, both in ((1, False), (2, True)):
        found = search(solver, objective, decoder, observations, starts[:count], with_posterior=True)
        for approximation in (Laplace(), Randomised(), Langevin(steps=4)):
            posterior, _ = approximation(objective, decoder, observations, found.posterior, solver, 40)
            left = (posterior.sample(40, seeded())[:, 0, 0] < 0).double().mean()
            if both:
                # the components' shares of 40 draws, up to one; Langevin does not cross, and neither do searches
                assert float(left) == pytest.approx(float(share[z < 0].sum()), abs=0.05)
            else:
                assert left == 0


# other likelihoods, other priors


def test_randomised_draws_need_a_gaussian_likelihood_and_say_so_in_one_line() -> None:
    decoder, likelihood, values = PROBLEMS["bernoulli"]
    observations, objective = on_a_line(torch.tensor([values])), MAP(Points(), likelihood, Isotropic(1))
    with pytest.raises(UsageError) as caught:
        approximated("randomised", objective, decoder, observations, Levenberg(), 3, torch.zeros(1, 1))
    message = str(caught.value)
    assert "\n" not in message
    assert '"randomised" needs a Gaussian likelihood, not Bernoulli' in message
    assert "inference.posterior=laplace" in message


@pytest.fixture(scope="module")
def fitted_bernoulli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of images as chances of white."""
    folder = tmp_path_factory.mktemp("runs") / "bernoulli"
    settings = ["likelihood.kind=bernoulli", *(setting for setting in TINY if not setting.startswith("likelihood"))]
    nf.fit(images(), recipe="image", settings=settings, epochs=3, out=folder, device="cpu")
    return folder


@pytest.mark.parametrize("kind", ["laplace", "langevin"])
@pytest.mark.parametrize("solver", ["adam", "levenberg"])
def test_a_run_of_chances_has_bands(fitted_bernoulli: Path, kind: str, solver: str) -> None:
    run = nf.Run.load(fitted_bernoulli, [f"inference.posterior={kind}", f"inference.kind={solver}"])
    completion = nf.complete(run, images(4, seed=3), nf.Visibility(hide=["center:4"]), samples=4)
    for scores in completion.scores.values():
        for name in ("mse", "crps", "width90", "coverage90"):
            assert scores[name].isfinite().all()
    assert (completion.scores["hidden"]["width90"] > 0).all()


def test_a_run_of_chances_refuses_randomised_draws_in_one_line(fitted_bernoulli: Path) -> None:
    run = nf.Run.load(fitted_bernoulli, ["inference.posterior=randomised"])
    with pytest.raises(UsageError, match="not Bernoulli") as caught:
        nf.complete(run, images(2, seed=3), samples=3)
    assert "\n" not in str(caught.value)


class StudentT(Prior):
    """Concave far out: no curvature is left of it there."""

    def cost(self, latent: Latent) -> Tensor:
        return 1.5 * torch.log1p(latent.mean.square() / 2).sum(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(n, 1, generator=generator)

    def fit(self, codes: Tensor, known: object = None) -> "StudentT":
        return self


@pytest.mark.parametrize("kind", ["laplace", "randomised", "langevin"])
def test_where_the_prior_is_concave_there_are_draws(kind: str) -> None:
    decoder, likelihood, _ = PROBLEMS["gaussian"]
    observations = on_a_line(torch.full((3, 4), 10.0))  # whose codes, log 10 = 2.3, are beyond the prior's bend at 1.4
    objective = MAP(Points(), likelihood, StudentT())
    drawn = approximated(kind, objective, decoder, observations, Levenberg(), 4, torch.full((3, 1), 2.0))[1]
    assert drawn.isfinite().all()
    assert (drawn > 1.5).all()


@pytest.mark.parametrize("solver", [Levenberg(), LBFGS(steps=100)], ids=["levenberg", "lbfgs"])
def test_laplaces_normal_has_the_curvature_of_the_objective(solver: Solver) -> None:
    decoder, observations = copies(2)
    objective = MAP(Points(), Gaussian(0.5), correlated())
    estimate = solver.solve(objective, decoder, observations, Latent(torch.zeros(2, 3)))
    posterior, work = around(objective, decoder, observations, estimate)
    exact = LinearSolver().solve(objective, decoder, observations, Latent(torch.zeros(2, 3))).posterior
    torch.testing.assert_close(posterior.covariance(), exact.covariance(), rtol=1e-4, atol=1e-6)
    assert torch.equal(posterior.means[:, 0], estimate.latent.mean)
    assert bool((work > 0).all()) != solver.gives_posterior


# several starts where the answer is exact already


@pytest.mark.parametrize("prior", ["gaussian", "kernel-density"])
def test_several_starts_of_an_exact_solver_change_nothing(fitted_curves: Path, prior: str) -> None:
    one, many = (
        nf.Run.load(fitted_curves, [f"inference.prior={prior}", f"inference.starts={starts}"]).infer(waves(4, seed=7), samples=4)
        for starts in (1, 3)
    )
    torch.testing.assert_close(many.latent.mean, one.latent.mean)
    torch.testing.assert_close(many.posterior.covariance(), one.posterior.covariance())


# what a review has found


class Logarithm(Decoder):
    """f(z, t) = log z: no number where z is negative."""

    def condition(self, z: Tensor) -> Tensor:
        return z

    def evaluate(self, conditioning: Tensor, coords: Tensor) -> Tensor:
        return conditioning[:, :, None].log().expand(-1, coords.shape[1], -1)


def test_a_start_whose_cost_is_no_number_never_wins_and_has_no_share() -> None:
    observations = Observations(torch.arange(2), torch.zeros(1, 4, 1), torch.full((2, 4, 1), 0.3), torch.ones(2, 4))
    starts = torch.tensor([1.5, -1.5])[:, None, None].expand(-1, 2, 1).contiguous()
    found = search(LBFGS(), MAP(Points(), Gaussian(0.1), Isotropic(1)), Logarithm(), observations, starts, with_posterior=True)
    assert (found.latent.mean > 0).all()
    assert found.loss.total.isfinite().all()
    torch.testing.assert_close(found.posterior.log_weights.exp(), torch.tensor([[1.0, 0.0]]).expand(2, -1))
    assert (found.posterior.sample(10, seeded()) > 0).all()


def test_levenbergs_posterior_has_the_curvature_of_the_place_where_it_ends() -> None:
    decoder, draw = Linear(3), seeded(5)
    values = (torch.rand(40, 12, 1, generator=draw) > 0.5).float()
    observations = Observations(torch.arange(40), torch.rand(1, 12, 1, generator=draw), values, torch.ones(40, 12))
    objective = MAP(Points(), Bernoulli(), Isotropic(3, 5.0))
    start = Latent(30 * torch.randn(40, 3, generator=draw))  # so far out that steps are too long, and are rejected
    estimate = Levenberg(steps=5, jacobians=1).solve(objective, decoder, observations, start)
    there = quadratic(objective, decoder, observations, estimate.latent.mean)
    torch.testing.assert_close(estimate.posterior.covariance().double(), torch.linalg.inv(there.curvature), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["randomised", "langevin"])
def test_evidence_that_is_not_trusted_counts_for_every_kind_of_draws(fitted: Path, kind: str) -> None:
    run = nf.Run.load(fitted, ["inference.starts=6", f"inference.posterior={kind}"])
    signals = images(3, seed=5)
    trusted = run.infer(signals, samples=16).posterior.means
    run.calibration.evidence.fill_(0.0)
    assert not torch.equal(run.infer(signals, samples=16).posterior.means, trusted)


def test_signals_that_join_the_bank_are_searched_as_its_own_were(nf_: Nf, run_folder: Path, source: str) -> None:
    plain, hot = (nf.Run.load(run_folder) for _ in range(2))
    hot.calibration.temperature.fill_(64.0)
    signals = nf.load(source, split="test", limit=3)
    found = plain.add(signals).latent.mean
    assert torch.equal(found, nf.Run.load(run_folder).infer(signals).latent.mean)
    hot.save()
    assert torch.equal(found, hot.add(signals).latent.mean)
    nf_("add", run_folder, "--data", source, "--split", "test", "--limit", 3)
    assert torch.equal(found, nf.Run.load(run_folder).codes[-3:])


def test_extra_starts_of_an_exact_solver_are_not_paid_for(fitted_curves: Path) -> None:
    one, four = (nf.Run.load(fitted_curves, [f"inference.starts={count}"]).infer(waves(3, seed=5)).evaluations for count in (1, 4))
    assert torch.equal(one, four)


def test_a_mean_over_draws_holds_no_more_points_at_once_than_a_field(run: nf.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    codes, coords = run.codes[:6].reshape(3, 2, -1), run.domain.grid(20)
    with torch.no_grad():
        whole = run.mean_field(codes)(coords)
        sizes = []
        evaluate = run.decoder.evaluate
        monkeypatch.setattr(run.decoder, "evaluate", lambda c, t: sizes.append(len(run.codes[:6]) * t.shape[1]) or evaluate(c, t))
        monkeypatch.setattr("neuralfield.types.EVALUATED_AT_ONCE", 100)
        torch.testing.assert_close(run.mean_field(codes)(coords), whole)
    assert max(sizes) <= 100
