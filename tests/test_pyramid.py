"""The Laplacian pyramid: it inverts, constants have no detail, and what it costs is the published sum."""

import math

import pytest
import torch
from contracts.likelihood import LikelihoodContract
from synthetic import Linear, waves
from torch import Tensor
from torch.nn.functional import conv1d

import neuralfield as nf
from neuralfield.domains.grid import pixel_centres
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.inference.adam import Adam
from neuralfield.inference.lbfgs import LBFGS
from neuralfield.inference.levenberg import Levenberg
from neuralfield.inference.linear import Linear as LinearSolver
from neuralfield.inference.quadratic import quadratic
from neuralfield.inference.solver import Solver
from neuralfield.latents.priors import Isotropic
from neuralfield.latents.source import FixedCodes
from neuralfield.likelihoods import Likelihood
from neuralfield.measurements import Points
from neuralfield.objective import MAP
from neuralfield.pyramid import LaplacianPyramid, Pyramid
from neuralfield.types import Latent, Observations

SIZES = [(32, 32), (28, 28), (7, 5), (1, 9), (1, 1), (33, 18)]


def drawn(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# the pyramid


@pytest.mark.parametrize("levels", [0, 1, 3, 6])
@pytest.mark.parametrize("shape", SIZES)
def test_it_inverts(shape: tuple[int, int], levels: int) -> None:
    pyramid, images = Pyramid(shape, levels), drawn((3, 2, *shape))
    found = pyramid(images)
    assert len(found) == levels + 1
    assert [level.shape[2:] for level in found] == [tuple(math.ceil(side / 2**j) for side in shape) for j in range(levels + 1)]
    assert (pyramid.inverse(found) - images).abs().max() < 1e-10  # of numbers around 1, in float64


@pytest.mark.parametrize("shape", SIZES)
def test_a_constant_image_has_its_coarsest_level_alone(shape: tuple[int, int]) -> None:
    *details, coarsest = Pyramid(shape, 3)(torch.full((1, 1, *shape), 0.7, dtype=torch.float64))
    assert all(detail.abs().max() < 1e-14 for detail in details)
    torch.testing.assert_close(coarsest, torch.full_like(coarsest, 0.7))


def test_away_from_the_borders_it_is_burt_and_adelsons() -> None:
    signal = drawn((1, 1, 1, 40))
    detail, coarse = Pyramid((1, 40), 1)(signal)
    taps = torch.tensor([[[1.0, 4.0, 6.0, 4.0, 1.0]]], dtype=torch.float64) / 16
    blurred = conv1d(signal[0], taps, padding=2)[..., ::2]
    torch.testing.assert_close(coarse[0, ..., 1:-1], blurred[..., 1:-1])
    between = torch.zeros_like(signal[0])
    between[..., ::2] = coarse[0]
    torch.testing.assert_close(detail[0, ..., 4:-4], (signal[0] - conv1d(between, 2 * taps, padding=2))[..., 4:-4])


# the likelihood


def lap1(likelihood: LaplacianPyramid, predicted: Tensor, values: Tensor) -> Tensor:
    """sum_j 4^j |L_j(predicted) - L_j(values)|_1 of each signal, from the two pyramids."""
    shape = (likelihood.height, likelihood.width)
    both = [likelihood.pyramid(each.mT.unflatten(2, shape)) for each in (predicted, values)]
    return torch.stack([4**j * (a - b).abs().sum((1, 2, 3)) for j, (a, b) in enumerate(zip(*both, strict=True))]).sum(0)


class TestLaplacianPyramid(LikelihoodContract):
    least_squares = False
    knows_quantiles = False
    smooth = False
    shape = (5, 1)

    @pytest.fixture
    def likelihood(self) -> Likelihood:
        return LaplacianPyramid(self.shape, scale=0.3, levels=2)


class TestLaplacianPyramidOfRows(TestLaplacianPyramid):
    shape = (1, 5)


@pytest.mark.parametrize("shape", SIZES)
def test_it_is_the_published_sum_and_each_pixel_has_its_share(shape: tuple[int, int]) -> None:
    likelihood = LaplacianPyramid(shape, scale=0.3, levels=3)
    predicted, values = (drawn((4, shape[0] * shape[1], 2), seed) for seed in (1, 2))
    each = likelihood.nll(predicted, values) - 2 * math.log(2 * 0.3)
    torch.testing.assert_close(each.sum(1), lap1(likelihood, predicted, values) / 0.3)
    assert (each >= 0).all()


def test_without_levels_it_is_laplaces_density() -> None:
    predicted, values = drawn((3, 12, 2), 1), drawn((3, 12, 2), 2)
    expected = -torch.distributions.Laplace(predicted, 0.3).log_prob(values).sum(-1)
    torch.testing.assert_close(LaplacianPyramid((3, 4), 0.3, 0).nll(predicted, values), expected)


def test_the_same_error_costs_more_where_it_is_smooth() -> None:
    # what L1 cannot tell apart: a constant error costs 4^levels in the coarsest level for each of its coefficients
    likelihood, values = LaplacianPyramid((16, 16), 1.0, 3), torch.zeros(1, 256, 1)
    smooth = torch.ones(1, 16, 16)
    rough = torch.tensor([1.0, -1.0]).repeat(8).outer(torch.tensor([1.0, -1.0]).repeat(8))[None]
    costs = [likelihood.nll(error.reshape(1, 256, 1), values).sum() for error in (smooth, rough)]
    constant = 256 * math.log(2)
    torch.testing.assert_close(costs[0] - constant, torch.tensor(256.0))  # in no level but the last
    assert costs[1] - constant > 255  # all of it in the finest, but for the borders
    assert (likelihood.nll(0.5 * (smooth + rough).reshape(1, 256, 1), values).sum() - constant) > 255


@pytest.mark.parametrize(
    ("shape", "scale", "levels", "line"),
    [
        ((4, 4), 0.0, 2, "scale must be positive"),
        ((4, 4), 0.1, -1, "levels 0 or more"),
        ((4,), 0.1, 2, "a grid of 1 axes"),
        ((4, 4, 4), 0.1, 2, "a grid of 3 axes"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(shape: tuple[int, ...], scale: float, levels: int, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        LaplacianPyramid(shape, scale, levels)


# in an objective, on images of 6 x 5 pixels

SHAPE, CODE = (6, 5), 3


@pytest.fixture
def objective() -> MAP:
    return MAP(Points(), LaplacianPyramid(SHAPE, 0.3, 2), Isotropic(CODE))


@pytest.fixture
def decoder() -> Linear:
    return Linear(CODE)


@pytest.fixture
def observations(decoder: Linear) -> Observations:
    """Four images, of which each has its own holes."""
    draw = torch.Generator().manual_seed(3)
    coords, z = pixel_centres(*SHAPE), torch.randn(4, CODE, generator=draw)
    weight = (torch.rand(4, 30, generator=draw) < 0.6).float()
    return Observations(torch.arange(4), coords, decoder(z, coords).detach(), weight)


def test_predictions_of_what_was_not_seen_have_no_influence_bit_for_bit(objective: MAP, observations: Observations) -> None:
    predicted = torch.randn(4, 30, 1, generator=torch.Generator().manual_seed(4))
    seen = (observations.weight > 0)[..., None]
    costs, slopes = [], []
    for behind in (torch.zeros(4, 30, 1), torch.full((4, 30, 1), 1e9), torch.randn(4, 30, 1)):
        filled = torch.where(seen, predicted, behind).requires_grad_()
        nats = objective.nats(filled, observations)
        costs.append(nats.detach())
        slopes.append(torch.autograd.grad(nats.sum(), filled)[0])
    assert all(torch.equal(cost, costs[0]) for cost in costs)
    assert all(torch.equal(slope, slopes[0]) for slope in slopes)
    assert slopes[0][~seen].eq(0).all()
    assert costs[0][observations.weight == 0].eq(0).all()


def test_a_signal_costs_the_same_alone_and_among_others_with_other_holes(
    objective: MAP, decoder: Linear, observations: Observations
) -> None:
    z = torch.randn(4, CODE, generator=torch.Generator().manual_seed(5))
    whole = objective(FixedCodes(z), decoder, observations).data
    for b in range(4):
        alone = objective(FixedCodes(z[b : b + 1]), decoder, observations.rows(slice(b, b + 1)))
        torch.testing.assert_close(alone.data, whole[b : b + 1])


def test_adam_finds_the_code_that_made_the_image(decoder: Linear, observations: Observations) -> None:
    objective = MAP(Points(), LaplacianPyramid(SHAPE, 1e-3, 2), Isotropic(CODE))
    found = Adam(200).solve(objective, decoder, observations, Latent(torch.zeros(4, CODE)))
    off = (decoder(found.latent.mean, observations.coords) - observations.values)[observations.weight > 0]
    assert off.abs().max() < 0.05  # of values around 1, which the code explains exactly; steps of Adam end where its rate does


def test_lbfgs_takes_it_too(objective: MAP, decoder: Linear, observations: Observations) -> None:
    # L1 has kinks, at which it may stop early: it is asked for most of the way
    solver, start = LBFGS(60), Latent(torch.zeros(4, CODE))
    solver.prepare(objective, decoder, torch.randn(20, CODE, generator=torch.Generator().manual_seed(1)), pixel_centres(*SHAPE))
    found = solver.solve(objective, decoder, observations, start)
    best = Adam(400).solve(objective, decoder, observations, start).loss
    before = objective(FixedCodes(start.mean), decoder, observations)
    cost, least, most = (loss.data + loss.prior for loss in (found.loss, best, before))
    assert ((cost - least) <= 0.2 * (most - least)).all()


@pytest.mark.parametrize("solver", [Levenberg(), LinearSolver()], ids=["levenberg", "linear"])
def test_solvers_that_need_independent_points_refuse_it(solver: Solver, objective: MAP, decoder: Linear) -> None:
    with pytest.raises(UsageError, match=r"likelihood.*, not LaplacianPyramid"):
        solver.check(objective, decoder)


def test_there_is_no_curvature_of_a_posterior(objective: MAP, decoder: Linear, observations: Observations) -> None:
    with pytest.raises(UsageError, match="whose points are independent, not LaplacianPyramid"):
        quadratic(objective, decoder, observations, torch.zeros(4, CODE))


def test_a_part_of_the_points_is_refused(objective: MAP, decoder: Linear, observations: Observations) -> None:
    with pytest.raises(NeuralfieldError, match="6 x 5 pixels as a whole, but got 7 points"):
        objective(FixedCodes(torch.zeros(4, CODE)), decoder, observations.points(torch.arange(7)))


# in a fit

TINY_GLO = ["latents.code_dim=4", "latents.std=0.5", "decoder.width=4", "training.batch=8", "inference.steps=5"]


@pytest.mark.parametrize("setting", ["training.points=10", "training.draw=samples", "inference.points=10", "inference.coarse=10"])
def test_a_fit_that_would_draw_points_is_refused_before_it_begins(images: nf.Images, setting: str) -> None:
    table_key = setting.partition("=")[0]
    with pytest.raises(UsageError, match=f"compares signals as a whole, so no points can be drawn; say --set {table_key}="):
        nf.fit(images, recipe="glo", settings=[*TINY_GLO, setting])


def test_signals_without_a_grid_of_two_axes_are_refused() -> None:
    with pytest.raises(UsageError, match="laplacian-pyramid"):
        nf.fit(waves(6), recipe="function", settings=["likelihood.kind=laplacian-pyramid"])


def test_partly_seen_signals_are_not_cut_to_what_was_seen(images: nf.Images) -> None:
    # a coordinate network would be spared the points that nobody sees
    settings = [*TINY_GLO, "decoder.kind=modulated", "decoder.width=8", "decoder.depth=2", "decoder.frequencies=4"]
    run = nf.fit(images, recipe="glo", settings=settings, epochs=2)
    whole = images.batch(torch.arange(5))
    half = whole.split(torch.arange(64).expand(5, -1) < 32)[0]
    estimate = run.infer(half)
    assert estimate.latent.mean.isfinite().all()
    assert estimate.loss.observed.eq(32).all()
