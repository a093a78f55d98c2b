"""Linear models as oracles: what the linear decoder learns is PCA, what the linear solver finds is a conditional normal mixture.

The contracts of both are in test_decoders.py and test_inference.py.
"""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from synthetic import Linear, Unlike, images
from torch import Tensor
from torch import distributions as d

import neuralfield as nf
from neuralfield.decoders.basis import Basis
from neuralfield.decoders.decoder import Decoder
from neuralfield.decoders.linear import Linear as LinearDecoder
from neuralfield.decoders.modulated import Modulated
from neuralfield.errors import UsageError
from neuralfield.inference.linear import KEPT
from neuralfield.inference.linear import Linear as LinearSolver
from neuralfield.latents.kernel_density import KernelDensity
from neuralfield.latents.priors import Gaussian as GaussianPrior
from neuralfield.latents.priors import Isotropic, Prior
from neuralfield.latents.source import FixedCodes
from neuralfield.likelihoods import Bernoulli, Gaussian
from neuralfield.measurements import Measurement, Points
from neuralfield.objective import MAP, Objective
from neuralfield.training.progress import Progress
from neuralfield.types import Field, Latent, Loss, Observations

SINGULAR = [9.0, 7.5, 6.0, 5.0, 4.0, 2.0, 1.5, 1.0, 0.6, 0.3]
"""Singular values of the signals about zero. A search is slow where two are alike, or one is near the threshold."""
N, POINTS, CHANNELS = 20, 12, 2


# what the linear decoder learns


def low_rank() -> Observations:
    """N signals of rank 10 around a mean that is not zero, on one uneven grid of times, in float64."""
    draw = torch.Generator().manual_seed(0)

    def orthonormal(size: int) -> Tensor:
        return torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))[0][:, : len(SINGULAR)]

    values = orthonormal(N) * torch.tensor(SINGULAR, dtype=torch.float64) @ orthonormal(POINTS * CHANNELS).T
    values = values + torch.randn(1, POINTS * CHANNELS, generator=draw, dtype=torch.float64)
    times = torch.cat([torch.tensor([-1.0, 1.0]), torch.rand(POINTS - 2, generator=draw) * 1.8 - 0.9]).sort().values.double()
    weight = torch.ones(N, POINTS, dtype=torch.float64)
    return Observations(torch.arange(N), times[None, :, None], values.reshape(N, POINTS, CHANNELS), weight)


def trained(observations: Observations, objective: MAP, code_dim: int, start: int = 1) -> tuple[LinearDecoder, Tensor]:
    """A linear decoder and codes at the optimum of the toolkit's own objective, all signals in one batch."""
    decoder = LinearDecoder((POINTS,), observations.coords, CHANNELS, code_dim).double()
    draw = torch.Generator().manual_seed(start)
    source = FixedCodes(torch.randn(len(observations), code_dim, generator=draw, dtype=torch.float64))
    parameters = [*decoder.parameters(), *source.parameters()]

    def closure() -> Tensor:
        for p in parameters:
            p.grad = None
        loss = objective(source, decoder, observations)
        cost = loss.total.mean() + loss.batch
        cost.backward()
        return cost

    # in several rounds: codes may grow where weights shrink, and what LBFGS remembers of that valley holds it up at the end
    for _ in range(6):
        torch.optim.LBFGS(
            parameters, max_iter=200, tolerance_grad=1e-10, tolerance_change=0, history_size=50, line_search_fn="strong_wolfe"
        ).step(closure)
    return decoder, source.z.detach()


@pytest.mark.parametrize("start", [1, 2])
def test_without_priors_the_linear_decoder_spans_the_principal_subspace(start: int) -> None:
    observations, code_dim = low_rank(), 5  # the singular values fall from 4 to 2 behind the fifth
    # a prior too wide to say anything: a narrower one moves nothing either, but draws codes to 0 and weights to infinity
    objective = MAP(Points(), Gaussian(0.3), Isotropic(code_dim, 1e6)).double()
    decoder, codes = trained(observations, objective, code_dim, start)
    data = observations.values.flatten(1)
    mean = data.mean(0)
    principal = torch.linalg.svd(data - mean, full_matrices=False).Vh[:code_dim].T

    def left(x: Tensor) -> Tensor:
        return x - principal @ (principal.T @ x)

    span = torch.linalg.qr(decoder.values.weight.detach())[0]
    assert torch.linalg.matrix_norm(left(span), 2) <= 1e-5  # the sine of the largest principal angle
    assert left(decoder.values.bias.detach() - mean).norm() <= 1e-5 * mean.norm()
    fields = decoder(codes, observations.coords).detach().flatten(1)
    torch.testing.assert_close(fields, mean + (data - mean) @ principal @ principal.T, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("std", "prior_std", "weight_l2"), [(1.0, 0.5, 2.3e-3), (0.5, 0.2, 1e-3)])
def test_with_priors_on_codes_and_weights_singular_values_are_soft_thresholded(
    std: float, prior_std: float, weight_l2: float
) -> None:
    # The mean of Loss.total over all n signals of M values each, plus Loss.batch, is up to constants
    #
    #   1/n sum_i 1/M (|x_i - b - W z_i|^2 / 2 std^2 + |z_i|^2 / 2 prior_std^2) + weight_l2 |W|^2 .
    #
    # Times 2 std^2 n M, with X = (x_i), Z = (z_i) as rows:  |X - 1 b' - Z W'|^2 + a |Z|^2 + c |W|^2,
    #
    #   a = std^2 / prior_std^2,   c = 2 std^2 n M weight_l2 .
    #
    # Over all Z, W with the same product L = Z W', the least a |Z|^2 + c |W|^2 is 2 sqrt(a c) times the sum of the singular values
    # of L (Srebro et al. 2004), as long as codes have as many dimensions as L has rank. The bias is free, so b = mean(x) and L is
    # centred; what is left, |X - 1 b' - L|^2 + 2 t |L|_*, has its optimum where each singular value s of the centred X became
    #
    #   max(s - t, 0),   t = sqrt(a c) = std^2 / prior_std * sqrt(2 n M weight_l2) .
    observations = low_rank()
    objective = MAP(Points(), Gaussian(std), Isotropic(10, prior_std), weight_l2).double()
    decoder, codes = trained(observations, objective, 10)
    data = observations.values.flatten(1)
    mean = data.mean(0)
    singular = torch.linalg.svdvals(data - mean)[:10]
    threshold = std**2 / prior_std * math.sqrt(2 * N * POINTS * CHANNELS * weight_l2)
    assert (singular > threshold).any()
    fitted = torch.linalg.svdvals(codes @ decoder.values.weight.detach().T)[:10]
    torch.testing.assert_close(fitted, (singular - threshold).clamp(min=0), rtol=1e-5, atol=1e-5 * float(singular[0]))
    torch.testing.assert_close(decoder.values.bias.detach(), mean, rtol=0, atol=1e-5)
    # at the optimum both sides carry the same: a |Z|^2 = c |W|^2
    codes_side = codes.square().sum() * std**2 / prior_std**2
    weights_side = decoder.values.weight.detach().square().sum() * 2 * std**2 * N * POINTS * CHANNELS * weight_l2
    torch.testing.assert_close(codes_side, weights_side, rtol=1e-5, atol=0)


def shrunken_pca(data: Tensor, rank: int) -> Tensor:
    """Reconstructions [n, M] by probabilistic PCA: the noise is what is left over, and each direction shrinks by it."""
    mean = data.mean(0)
    _, singular, directions = torch.linalg.svd(data - mean, full_matrices=False)
    variance = singular.square() / len(data)
    noise = variance[rank:].sum() / data.shape[1]
    shrinking = variance[:rank] / (variance[:rank] + noise)
    return mean + (data - mean) @ directions[:rank].T * shrinking @ directions[:rank]


@pytest.mark.parametrize("code_dim", [3, 12])
def test_a_linear_decoder_begins_as_pca_of_images(code_dim: int) -> None:
    signals = images(60)
    settings = ["decoder.kind=linear", f"latents.code_dim={code_dim}", "latents.noise=0", "training.steps=0", "training.polish=0"]
    run = nf.fit(signals, recipe="image", settings=settings)
    found = run.field(run.codes)(run.domain.grid()).double().flatten(1)
    expected = shrunken_pca(signals.truth(torch.arange(60)).values.double().flatten(1), code_dim)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def smooth_curves(count: int = 40) -> nf.Curves:
    """Of rank 3 around a mean, without noise, on one grid of times."""
    t = np.linspace(0, 5, 30)
    weights = np.random.default_rng(0).standard_normal((count, 3))
    return nf.Curves.from_arrays(t, 2 + np.exp(-t) + weights @ np.stack([np.sin(t), np.cos(2 * t), t / 5]))


@pytest.mark.parametrize("kind", ["linear", "basis"])
def test_decoders_that_are_linear_begin_as_pca_of_curves_on_a_grid(kind: str) -> None:
    signals = smooth_curves()
    run = nf.fit(signals, recipe="function", settings=[f"decoder.kind={kind}", "latents.code_dim=16"])
    found = run.field(run.codes)(run.domain.grid()).double().flatten(1)
    data = signals.truth(torch.arange(40)).values.double().flatten(1)
    # mixed effects see curves between the points of the grid too, and what is smooth there is seen by all; values are of size 1
    torch.testing.assert_close(found, shrunken_pca(data, 3), rtol=0, atol=1e-4)
    searched = run.field(run.infer(signals).latent)(run.domain.grid()).double().flatten(1)
    torch.testing.assert_close(searched, shrunken_pca(data, 3), rtol=0, atol=1e-4)


# what the linear solver finds

STD = 0.2


def line_of_two_channels() -> Decoder:
    return Basis(1, 2, 3, frequencies=2, bandwidth=0.7)


def grid_of_a_line() -> Decoder:
    return LinearDecoder((9,), torch.linspace(-1, 1, 9)[None, :, None], 1, 3)


DECODERS = {"basis": line_of_two_channels, "linear": grid_of_a_line, "a users own": lambda: Linear(3)}
decoders = pytest.mark.parametrize("kind", DECODERS)


def decoder_of(kind: str) -> Decoder:
    torch.manual_seed(0)
    return DECODERS[kind]()


def observations_of(decoder: Decoder, shared: bool = False, count: int = 6, points: int = 9) -> Observations:
    """Signals near the decoder's own, each with its own points (or all with the same) and its own ones of them hidden."""
    draw = torch.Generator().manual_seed(3)
    dim = 1 if isinstance(decoder, Basis | LinearDecoder) else 2
    coords = torch.rand(1 if shared else count, points, dim, generator=draw) * 2 - 1
    with torch.no_grad():
        values = decoder(torch.randn(count, 3, generator=draw), coords)
    values = values + STD * torch.randn(values.shape, generator=draw)
    return Observations(torch.arange(count), coords, values, (torch.rand(count, points, generator=draw) < 0.6).float())


def mixture(count: int, leading: int = 8) -> Prior:
    """A prior of `count` components, in four clusters."""
    draw = torch.Generator().manual_seed(4)
    codes = torch.randn(4, 3, generator=draw)[torch.arange(count) % 4] * 1.5 + 0.2 * torch.randn(count, 3, generator=draw)
    return KernelDensity(3, leading).fit(codes)


def normal() -> Prior:
    draw = torch.Generator().manual_seed(5)
    return GaussianPrior(3).fit(torch.randn(50, 3, generator=draw) @ torch.randn(3, 3, generator=draw) + 0.5)


def affine(decoder: Decoder, coords: Tensor) -> tuple[Tensor, Tensor]:
    """(m [n V], A [n V, 3]) of values = m + A z at points [n, C], in float64."""
    exact = copy.deepcopy(decoder).double()
    values = exact(torch.cat([torch.zeros(1, 3), torch.eye(3)]).double(), coords.double()[None]).detach().flatten(1)
    return values[0], (values[1:] - values[0]).T


def brute_force(prior: Prior, decoder: Decoder, observed: Observations, i: int) -> tuple[Tensor, Tensor, Tensor]:
    """(weights [K], means [K, D], covariances [K, D, D]) of one signal's posterior, each component conditioned in data space."""
    components = prior.components()
    known = observed.weight[i] > 0
    mean, jacobian = affine(decoder, observed.coords[i % len(observed.coords)][known])
    x, centres = observed.values[i, known].double().flatten(), components.means.double()
    means, covariances, evidence = [], [], []
    for centre, inner in zip(centres, components.covariance.double().expand(len(centres), -1, -1), strict=True):
        whole = jacobian @ inner @ jacobian.T + STD**2 * torch.eye(len(x), dtype=torch.float64)
        gain = inner @ jacobian.T @ torch.linalg.inv(whole)
        expected = mean + jacobian @ centre
        means.append(centre + gain @ (x - expected))
        covariances.append(inner - gain @ jacobian @ inner)
        evidence.append(d.MultivariateNormal(expected, whole).log_prob(x))
    weights = torch.softmax(components.log_weights.double() + torch.stack(evidence), 0)
    return weights, torch.stack(means), torch.stack(covariances)


def solve(prior: Prior, decoder: Decoder, observed: Observations, std: float = STD) -> nf.Estimate:
    objective = MAP(Points(), Gaussian(std), prior)
    return LinearSolver().solve(objective, decoder, observed, Latent(torch.zeros(len(observed), 3)))


@decoders
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    "prior",
    [lambda: Isotropic(3, 0.7), normal, lambda: mixture(12), lambda: mixture(20, 2), Unlike],
    ids=["isotropic", "normal", "12", "20", "unlike"],
)
def test_the_posterior_is_that_of_dense_normals_in_data_space(kind: str, shared: bool, prior: Callable[[], Prior]) -> None:
    decoder, made = decoder_of(kind), prior()
    observed = observations_of(decoder, shared)
    estimate = solve(made, decoder, observed)
    for i in range(len(observed)):
        weights, means, covariances = brute_force(made, decoder, observed, i)
        torch.testing.assert_close(estimate.latent.mean[i].double(), weights @ means, rtol=1e-5, atol=1e-5)
        posterior = estimate.posterior.rows(slice(i, i + 1))
        averaged = torch.einsum("k,kde->de", weights, covariances)
        torch.testing.assert_close(posterior.covariance()[0].double(), averaged, rtol=1e-4, atol=1e-6)
        order = weights.argsort(descending=True)
        found = posterior.log_weights[0].double().exp()
        torch.testing.assert_close(found, weights[order], rtol=0, atol=1e-5)
        sure = weights[order] > 1e-3  # of those that weigh nothing, the order is rounding
        torch.testing.assert_close(posterior.means[0, sure].double(), means[order][sure], rtol=1e-5, atol=1e-5)
        if posterior.factor.shape[1] == 1:
            continue
        each = (posterior.factor[0] @ posterior.factor[0].mT).double()
        torch.testing.assert_close(each[sure], covariances[order][sure], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("many", [mixture, Unlike])
def test_of_many_components_the_estimate_is_over_all_and_the_heaviest_are_kept(many: Callable[[int], Prior]) -> None:
    decoder, prior = decoder_of("basis"), many(3 * KEPT)
    observed = observations_of(decoder)
    one = torch.zeros(6, 9)
    one[:, 4] = 1  # so little seen that many stay possible
    observed = Observations(observed.index, observed.coords, observed.values, one)
    estimate = solve(prior, decoder, observed)
    assert estimate.posterior.means.shape == (6, KEPT, 3)
    torch.testing.assert_close(estimate.posterior.log_weights.exp().sum(1), torch.ones(6))
    for i in range(6):
        weights, means, _ = brute_force(prior, decoder, observed, i)
        torch.testing.assert_close(estimate.latent.mean[i].double(), weights @ means, rtol=1e-5, atol=1e-5)
        heaviest = weights.sort(descending=True).values[:KEPT]
        found = estimate.posterior.log_weights[i].double().exp()
        torch.testing.assert_close(found, heaviest / heaviest.sum(), rtol=0, atol=1e-5)


def test_the_estimate_under_one_normal_prior_is_the_optimum_of_the_objective() -> None:
    decoder, prior = decoder_of("basis"), normal()
    observed = observations_of(decoder)
    objective = MAP(Points(), Gaussian(STD), prior)
    codes = FixedCodes(solve(prior, decoder, observed).latent.mean)
    objective(codes, decoder, observed).total.sum().backward()
    assert codes.z.grad is not None
    # gradients of sums of squares over .2^2, in float32: those of other codes are 1 and more
    assert codes.z.grad.abs().max() < 1e-4


mixtures = pytest.mark.parametrize("prior", [lambda: mixture(20), Unlike], ids=["one covariance", "covariances of their own"])


@mixtures
@decoders
def test_one_by_one_is_as_in_a_batch_and_in_any_order(kind: str, prior: Callable[[], Prior]) -> None:
    decoder, made = decoder_of(kind), prior()
    for shared in (True, False):
        observed = observations_of(decoder, shared)
        together = solve(made, decoder, observed)
        for i in range(6):
            alone = solve(made, decoder, observed.rows(torch.tensor([i])))
            torch.testing.assert_close(alone.latent.mean[0], together.latent.mean[i], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(alone.posterior.log_weights[0], together.posterior.log_weights[i], rtol=1e-4, atol=1e-4)
        order = torch.tensor([4, 2, 0, 5, 1, 3])
        torch.testing.assert_close(solve(made, decoder, observed.rows(order)).latent.mean, together.latent.mean[order])


@mixtures
def test_signals_that_do_not_fit_into_memory_at_once_are_solved_in_parts(
    monkeypatch: pytest.MonkeyPatch, prior: Callable[[], Prior]
) -> None:
    decoder, made = decoder_of("basis"), prior()
    observed = observations_of(decoder)
    whole = solve(made, decoder, observed)
    monkeypatch.setattr("neuralfield.inference.linear.AT_ONCE", 2 * 9 * 2 * 4)  # two signals of 9 points, 2 values, 3 + 1 codes
    parts = solve(made, decoder, observed)
    torch.testing.assert_close(parts.latent.mean, whole.latent.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(parts.posterior.covariance(), whole.posterior.covariance(), rtol=1e-5, atol=1e-7)
    assert torch.equal(parts.evaluations, whole.evaluations)


@decoders
@pytest.mark.parametrize("shared", [True, False])
def test_what_is_hidden_has_no_influence_bit_for_bit(kind: str, shared: bool) -> None:
    decoder, prior = decoder_of(kind), mixture(20)
    observed = observations_of(decoder, shared)
    plain = solve(prior, decoder, observed)
    for filling in (torch.nan, torch.inf, 1e9):
        values = torch.where((observed.weight > 0)[..., None], observed.values, torch.tensor(filling))
        filled = solve(prior, decoder, Observations(observed.index, observed.coords, values, observed.weight))
        assert torch.equal(filled.latent.mean, plain.latent.mean)
        assert torch.equal(filled.posterior.log_weights, plain.posterior.log_weights)


@pytest.mark.parametrize(
    "prior",
    [lambda: Isotropic(3, 0.7), normal, lambda: mixture(20), Unlike],
    ids=["isotropic", "normal", "mixture", "unlike"],
)
def test_a_signal_of_which_nothing_was_seen_gets_the_prior(prior: Callable[[], Prior]) -> None:
    decoder, made = decoder_of("basis"), prior()
    observed = observations_of(decoder)
    blind = observed.split((torch.arange(6) != 2)[:, None].expand(-1, 9))[0]
    estimate, components = solve(made, decoder, blind), made.components()
    expected = components.log_weights.double().exp() @ components.means.double()
    torch.testing.assert_close(estimate.latent.mean[2].double(), expected, rtol=1e-5, atol=1e-6)
    weights, spread = components.log_weights.exp(), components.covariance.expand(len(components.means), -1, -1)
    averaged = torch.einsum("k,kde->de", weights, spread)
    torch.testing.assert_close(estimate.posterior.covariance()[2], averaged, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(estimate.latent.mean[3], solve(made, decoder, observed).latent.mean[3])


@pytest.mark.parametrize("shared", [True, False])
def test_draws_scatter_as_the_dense_mixture_also_where_its_components_differ(shared: bool) -> None:
    decoder, prior = decoder_of("basis"), Unlike()
    observed = observations_of(decoder, shared)
    count = 40_000
    samples = solve(prior, decoder, observed).posterior.sample(count, torch.Generator().manual_seed(0)).double()
    for i in range(len(observed)):
        weights, means, covariances = brute_force(prior, decoder, observed, i)
        apart = means - weights @ means
        expected = torch.einsum("k,kde->de", weights, covariances + apart[:, :, None] * apart[:, None])
        each = samples[:, i] - weights @ means
        squares = each[:, :, None] * each[:, None]
        error = squares.std(0) / count**0.5
        assert ((squares.mean(0) - expected).abs() < 5 * error).all()  # five standard errors of a fixed draw


def test_points_that_stand_for_several_count_as_several() -> None:
    decoder, prior = decoder_of("basis"), normal()
    observed = observations_of(decoder)
    twice = Observations(
        observed.index, observed.coords.repeat(1, 2, 1), observed.values.repeat(1, 2, 1), observed.weight.repeat(1, 2)
    )
    weighted = Observations(observed.index, observed.coords, observed.values, 2 * observed.weight)
    one, other = solve(prior, decoder, twice), solve(prior, decoder, weighted)
    torch.testing.assert_close(one.latent.mean, other.latent.mean, rtol=1e-5, atol=1e-6)


# what it refuses


class Doubled(Measurement):
    def measure(self, field: Field, observations: Observations) -> Tensor:
        return 2 * field(observations.coords)


class Cubic(Prior):
    def cost(self, latent: Latent) -> Tensor:
        return latent.mean.abs().pow(3).sum(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.zeros(n, 3)

    def fit(self, codes: Tensor, known: object = None) -> "Cubic":
        return self


class Other(Objective):
    def forward(self, *arguments: object) -> Loss:
        raise NotImplementedError


def plain(likelihood: object = None, prior: object = None, measurement: object = None) -> MAP:
    return MAP(measurement or Points(), likelihood or Gaussian(), prior or Isotropic(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("objective", "decoder", "words"),
    [
        (plain, lambda: Modulated(1, 1, 3, width=4, depth=2), "linear in the code, not Modulated"),
        (plain, lambda: Basis(1, 1, 3, branch_depth=1), "linear in the code, not Basis"),
        (lambda: plain(likelihood=Bernoulli()), line_of_two_channels, "Gaussian likelihood, not Bernoulli"),
        (lambda: plain(prior=Cubic()), line_of_two_channels, "Cubic is not a mixture of Gaussians"),
        (lambda: plain(measurement=Doubled()), line_of_two_channels, '"points"'),
        (Other, line_of_two_channels, '"map"'),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line_with_the_way_out(
    objective: Callable[[], Objective], decoder: Callable[[], Decoder], words: str
) -> None:
    observed = observations_of(line_of_two_channels())
    solver, start = LinearSolver(), Latent(torch.zeros(6, 3))
    for call in (
        lambda: solver.solve(objective(), decoder(), observed, start),
        lambda: solver.check(objective(), decoder()),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        message = str(caught.value)
        assert "\n" not in message
        assert words in message
        assert "adam" in message


@pytest.mark.parametrize("settings", [["decoder.kind=modulated"], ["decoder.branch_depth=1"], ["likelihood.kind=bernoulli"]])
def test_a_model_that_the_solver_cannot_solve_ends_a_fit_before_its_first_step(settings: list[str]) -> None:
    stages: list[str] = []

    class Listening(Progress):
        def stage(self, name: str) -> None:
            stages.append(name)

    with pytest.raises(UsageError, match="adam"):
        nf.fit(smooth_curves(), recipe="function", settings=["training.steps=20", *settings], progress=Listening())
    assert "training" not in stages
