"""Bounds (free space) and normals among what was seen: what they cost, what they leave alone, and what solvers make of them."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from synthetic import Ball, Linear, balls
from torch import Tensor

from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.inference.adam import Adam
from neuralfield.inference.lbfgs import LBFGS
from neuralfield.inference.levenberg import Levenberg
from neuralfield.inference.linear import Linear as LinearSolver
from neuralfield.inference.oriented import OFFSET, oriented
from neuralfield.inference.quadratic import quadratic
from neuralfield.inference.solver import Solver
from neuralfield.inference.starts import Nearest
from neuralfield.inference.thinning import thinned
from neuralfield.latents.basis import SpectralBasis
from neuralfield.latents.priors import Isotropic
from neuralfield.latents.source import FixedCodes
from neuralfield.likelihoods import ClampedL1, Gaussian, Likelihood, Relative
from neuralfield.measurements import Points
from neuralfield.objective import MAP
from neuralfield.types import AT_LEAST, EQUAL, Latent, Observations

B, N = 4, 40
PARTS = ("index", "coords", "values", "weight", "relation", "normals")
KINDS = [Gaussian(0.05), Relative(0.05), ClampedL1(0.05, clamp=5.0)]  # nothing here lies beyond that clamp
kinds = pytest.mark.parametrize("likelihood", KINDS, ids=lambda kind: type(kind).__name__)


@pytest.fixture
def observations() -> Observations:
    """Four spheres: distances at some points, bounds at others, some points hidden; each has its own points and normals."""
    draw = torch.Generator().manual_seed(0)
    coords = torch.rand(B, N, 3, generator=draw) * 2 - 1
    length = coords.norm(dim=-1, keepdim=True)
    values = length - torch.tensor([0.4, 0.5, 0.6, 0.7])[:, None, None]
    relation = (torch.rand(B, N, generator=draw) < 0.4).long()
    values = torch.where((relation == AT_LEAST)[..., None], 0.0, values)
    weight = (torch.rand(B, N, generator=draw) < 0.7).float() * 2
    return Observations(torch.arange(B), coords, values, weight, relation, coords / length)


@pytest.fixture
def z() -> Tensor:
    return torch.randn(B, 4, generator=torch.Generator().manual_seed(1))


def objective(likelihood: Likelihood | None = None) -> MAP:
    return MAP(Points(), likelihood or Gaussian(0.05), Isotropic(4))


# the noun


@pytest.mark.parametrize("filling", [torch.nan, torch.inf, 1e9])
def test_normals_of_what_is_not_seen_are_zero_whatever_they_were(observations: Observations, filling: float) -> None:
    seen = (observations.weight > 0)[..., None]
    assert observations.normals is not None
    filled = replace(observations, normals=torch.where(seen, observations.normals, filling))
    assert filled.normals is not None
    assert torch.equal(filled.normals, observations.normals)
    assert filled.normals[~seen.expand_as(filled.normals)].eq(0).all()


def test_relation_and_normals_go_wherever_their_points_go(observations: Observations) -> None:
    order = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(i))[:7] for i in range(B)])
    rows = torch.arange(B)[:, None]
    seen = torch.rand(B, N) < 0.5
    cases = {
        "rows": (observations.rows(torch.tensor([2, 0])), lambda x: x[[2, 0]]),
        "slice": (observations.rows(slice(1, 3)), lambda x: x[1:3]),
        "span": (observations.span(slice(3, 9)), lambda x: x[:, 3:9]),
        "points": (observations.points(torch.tensor([5, 1])), lambda x: x[:, [5, 1]]),
        "chosen": (observations.chosen(order), lambda x: x[rows, order]),
        "to": (observations.to("cpu"), lambda x: x),
        "split": (observations.split(seen)[0], lambda x: x),
    }
    for name, (part, cut) in cases.items():
        assert part.relation is not None, name
        assert part.normals is not None, name
        assert torch.equal(part.relation, cut(observations.relation)), name
        known = (part.weight > 0)[..., None]
        assert torch.equal(part.normals, torch.where(known, cut(observations.normals), 0.0)), name
        assert torch.equal(part.coords, cut(observations.coords)), name


def test_both_sides_of_a_mask_make_the_whole(observations: Observations) -> None:
    seen = torch.rand(B, N) < 0.5
    observed, hidden = observations.split(seen)
    assert torch.equal(observed.weight + hidden.weight, observations.weight)
    assert torch.equal(observed.told + hidden.told, observations.told)


def test_what_is_told_is_what_was_seen_of_values(observations: Observations) -> None:
    assert torch.equal(observations.told, observations.weight * (observations.relation == EQUAL))
    assert torch.equal(replace(observations, relation=None).told, observations.weight)


@pytest.mark.parametrize(
    ("name", "shape"), [("relation", [B, 3]), ("relation", [1, N]), ("normals", [B, N, 2]), ("normals", [B, 3, 3])]
)
def test_parts_of_another_shape_are_refused_by_name(
    observations: Observations, name: str, shape: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it: the line must be our own
    with pytest.raises(NeuralfieldError, match=name) as caught:
        replace(observations, **{name: torch.zeros(shape, dtype=torch.long if name == "relation" else torch.float32)})
    assert str(shape) in str(caught.value)
    assert "\n" not in str(caught.value)


# the objective


@kinds
def test_a_prediction_above_its_bound_costs_what_one_equal_to_it_does(observations: Observations, likelihood: Likelihood) -> None:
    bound = observations.relation == AT_LEAST
    at = objective(likelihood).nats(observations.values, observations)
    above = objective(likelihood).nats(observations.values + torch.rand(B, N, 1), observations)
    below = objective(likelihood).nats(observations.values - 0.08, observations)
    seen = observations.weight > 0
    assert torch.equal(above[bound], at[bound])
    assert (above[seen & ~bound] > at[seen & ~bound]).all()
    assert (below[seen] > at[seen]).all()  # of a bound as well as of a value
    equal = objective(likelihood).nats(observations.values - 0.08, replace(observations, relation=None))
    assert torch.equal(below, equal)  # what falls short of a bound costs what it would cost of a value


@kinds
def test_above_its_bound_a_prediction_feels_nothing(observations: Observations, likelihood: Likelihood) -> None:
    bound, one = observations.relation == AT_LEAST, objective(likelihood)
    predicted = (observations.values + 0.05).requires_grad_()
    gradient = torch.autograd.grad(one.nats(predicted, observations).sum(), predicted)[0][..., 0]
    felt = (observations.weight > 0) & ~bound
    assert gradient[bound].eq(0).all()
    assert gradient[felt].ne(0).all()
    with torch.no_grad():
        torch.testing.assert_close(one.slope(predicted, observations)[..., 0], gradient)
        assert one.curvature(predicted, observations)[..., 0][bound].eq(0).all()
        assert (one.curvature(predicted, observations)[..., 0][felt] > 0).all()


@kinds
def test_the_gradient_to_second_order_is_that_of_autograd(observations: Observations, z: Tensor, likelihood: Likelihood) -> None:
    decoder, one = Ball().double(), objective(likelihood).double()
    exact = replace(observations, coords=observations.coords.double(), values=observations.values.double())
    codes = FixedCodes(z.double())
    loss = one(codes, decoder, exact)
    gradient = torch.autograd.grad((loss.data + loss.prior).sum(), codes.z)[0]
    found = quadratic(one, decoder, exact, z.double())
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-5, atol=1e-6)  # weights are float32
    torch.testing.assert_close(found.cost, (loss.data + loss.prior).detach().double())


def test_the_curvature_is_the_hessian_where_the_decoder_is_linear() -> None:
    draw, decoder = torch.Generator().manual_seed(0), Linear(4).double()
    coords, values = torch.rand(B, N, 2, generator=draw).double(), torch.randn(B, N, 1, generator=draw).double()
    relation, weight = (torch.rand(B, N, generator=draw) < 0.5).long(), torch.ones(B, N).double()
    mixed = Observations(torch.arange(B), coords, values, weight, relation)
    z, one = torch.randn(B, 4, generator=draw).double(), objective(Gaussian(0.3)).double()

    def cost(codes: Tensor) -> Tensor:
        return one.nats(decoder(codes, coords), mixed).sum() + codes.square().sum() / 2

    hessian = torch.autograd.functional.hessian(cost, z)
    assert isinstance(hessian, Tensor)
    expected = torch.stack([hessian[b, :, b] for b in range(B)])
    torch.testing.assert_close(quadratic(one, decoder, mixed, z).curvature, expected)
    met = decoder(z, coords) >= values
    assert (met[..., 0] & (relation == AT_LEAST)).any()  # some bounds are kept to


@pytest.mark.parametrize("filling", [torch.nan, torch.inf, 1e9])
@kinds
def test_hidden_values_and_normals_influence_nothing(
    observations: Observations, z: Tensor, likelihood: Likelihood, filling: float
) -> None:
    seen = (observations.weight > 0)[..., None]
    surface = replace(observations, values=torch.zeros_like(observations.values))  # so that normals count
    for given in (observations, surface):
        assert given.normals is not None
        wild = replace(given, values=torch.where(seen, given.values, filling), normals=torch.where(seen, given.normals, filling))
        answers = []
        for some in (given, wild):
            pairs = thinned(oriented(some), 60)
            loss = objective(likelihood)(FixedCodes(z), Ball(), pairs)
            second = quadratic(objective(likelihood), Ball(), pairs, z)
            near = Nearest(z)._errors(pairs, Ball(), objective(likelihood))
            answers.append([loss.data, loss.prior, second.gradient, second.curvature, near])
        assert all(a.isfinite().all() for a in answers[0])
        assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


def test_a_bound_is_no_value_to_a_linear_model(observations: Observations) -> None:
    basis, draw = SpectralBasis(), torch.Generator().manual_seed(0)
    basis.frequencies = torch.rand(3, 5, generator=draw)
    basis.mean, basis.components = torch.randn(11, generator=draw), torch.randn(11, 3, generator=draw)
    basis.variance, basis.noise = torch.ones(3), torch.tensor(0.01)
    values_alone = replace(observations, weight=observations.told, relation=None)
    torch.testing.assert_close(basis.encode(observations), basis.encode(values_alone))


def test_the_linear_solver_refuses_bounds_with_the_way_out(observations: Observations) -> None:
    with pytest.raises(UsageError, match="levenberg"):
        LinearSolver().solve(objective(), Linear(4), observations, Latent(torch.zeros(B, 4)))
    values_alone = replace(observations, relation=torch.zeros(B, N, dtype=torch.long))
    assert LinearSolver().solve(objective(), Linear(4), values_alone, Latent(torch.zeros(B, 4))).converged.all()


# searches

SOLVERS: list[Solver] = [Levenberg(100, 1e-8), LBFGS(300, 1e-8), Adam(1500, 0.05, 1e-9)]
solvers = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)


class Constant(Linear):
    """f(z, t) = z."""

    def basis(self, coords: Tensor) -> Tensor:
        return torch.ones_like(coords[..., :1])


@solvers
@pytest.mark.parametrize(("bound", "kept"), [(0.6, False), (-0.5, True)])
def test_the_optimum_under_bounds_is_that_of_the_closed_form(solver: Solver, bound: float, kept: bool) -> None:
    decoder, values, bounds, std = Constant(1), 6, 4, 0.5
    decoder.weight.data.fill_(1.0)
    relation = torch.tensor([[EQUAL] * values + [AT_LEAST] * bounds])
    seen = torch.where(relation == EQUAL, 0.2, bound)[..., None]
    seen = Observations(torch.arange(1), torch.zeros(1, 10, 1), seen, torch.ones(1, 10), relation)
    one = MAP(Points(), Gaussian(std), Isotropic(1))
    found = solver.solve(one, decoder, seen, Latent(torch.zeros(1, 1))).latent.mean
    felt = values if kept else values + bounds
    expected = (values * 0.2 + (0 if kept else bounds * bound)) / (felt + std**2)
    assert expected >= bound if kept else expected < bound
    assert found.item() == pytest.approx(expected, abs=2e-4)


def front(free: bool = True) -> Observations:
    """The cap of a ball, as flat as one of a ball of radius 0.8 would be, and free space, which leaves room for one of 0.5."""
    draw = torch.Generator().manual_seed(2)
    cap = torch.randn(30, 3, generator=draw) * 0.3 + torch.tensor([0.0, 0.0, 1.0])
    cap = 0.8 * cap / cap.norm(dim=1, keepdim=True) - torch.tensor([0.0, 0.0, 0.3])
    space = torch.rand(300, 3, generator=draw) * 2 - 1
    space = space[space.norm(dim=1) > 0.5][: 200 if free else 0]
    coords = torch.cat([cap, space])[None]
    relation = torch.cat([torch.full((30,), EQUAL), torch.full((len(space),), AT_LEAST)])[None]
    return Observations(torch.arange(1), coords, torch.zeros(*coords.shape[:2], 1), torch.ones(coords.shape[:2]), relation)


@pytest.fixture(scope="module")
def optimum() -> Tensor:
    """By plain gradient descent to the end, in float64, with the cost written out here."""
    seen, z = front(), torch.zeros(4, dtype=torch.float64, requires_grad=True)
    points, bound = seen.coords[0].double(), seen.relation[0] == AT_LEAST  # type: ignore[index]
    search = torch.optim.LBFGS([z], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        search.zero_grad()
        off = (points - 0.1 * z[:3]).norm(dim=1) - 0.5 - 0.1 * z[3]
        nats = (torch.where(bound, off.clamp(max=0), off) / 0.05).square().sum() / 2 + z.square().sum() / 2
        nats.backward()
        return nats

    search.step(cost)
    assert z.grad is not None
    assert z.grad.abs().max() < 1e-6
    return z.detach().float()


@solvers
def test_every_solver_finds_the_same_ball_from_its_front_and_free_space(solver: Solver, optimum: Tensor) -> None:
    estimate = solver.solve(objective(), Ball(), front(), Latent(torch.zeros(1, 4)))
    with torch.no_grad():
        best = objective()(FixedCodes(optimum[None]), Ball(), front())
    assert float(estimate.loss.data + estimate.loss.prior) <= float(best.data + best.prior) + 1e-3  # nats
    torch.testing.assert_close(estimate.latent.mean[0], optimum, rtol=0, atol=0.02)  # what a thousandth of a nat leaves open


def test_free_space_says_something(optimum: Tensor) -> None:
    alone = SOLVERS[0].solve(objective(), Ball(), front(free=False), Latent(torch.zeros(1, 4))).latent.mean[0]
    assert (alone - optimum).norm() > 0.05


# normals as pairs of points


def surface_alone() -> Observations:
    shapes = balls(3, even=0, near=0, surface=50)
    return shapes.truth(torch.arange(3))


def test_normals_become_points_on_both_sides_of_the_surface() -> None:
    seen = surface_alone()
    both = oriented(seen)
    assert both.weight.shape[1] == 3 * 50
    assert both.normals is None
    assert torch.equal(both.span(slice(50)).coords, seen.coords)
    radius = torch.tensor([0.45, 0.51, 0.57])[:, None]
    for first, side in ((50, 1), (100, -1)):
        part = both.span(slice(first, first + 50))
        assert part.values.eq(side * OFFSET).all()
        assert part.told.eq(seen.weight).all()
        torch.testing.assert_close(part.coords.norm(dim=-1), (radius + side * OFFSET).expand(3, 50), rtol=0, atol=1e-6)


def test_a_pair_is_worth_nothing_where_its_point_is_hidden_or_has_no_normal_or_is_a_bound() -> None:
    seen = surface_alone()
    weight, relation = seen.weight.clone(), torch.zeros(3, 50, dtype=torch.long)
    weight[:, 0], relation[:, 1] = 0, AT_LEAST
    assert seen.normals is not None
    normals = seen.normals.clone()
    normals[:, 2] = 0
    both = oriented(replace(seen, weight=weight, relation=relation, normals=normals))
    for first in (50, 100):
        assert both.weight[:, first : first + 3].eq(0).all()
        assert both.weight[:, first + 3 : first + 50].eq(1).all()
    assert torch.equal(both.relation[:, :50], relation)  # type: ignore[index]


def test_distances_off_the_surface_say_more_than_normals() -> None:
    whole = balls(3).truth(torch.arange(3))
    assert oriented(whole) is whole
    without = replace(whole, normals=None)
    assert oriented(without) is without
    hidden = whole.split(whole.values[..., 0] == 0)[0]  # of them nothing is seen off the surface
    assert oriented(hidden).weight.shape[1] == 3 * whole.weight.shape[1]


class Facing(Linear):
    """f(z, t) = z t_z: the plane t_z = 0 whatever z is, and its distance, upward or downward, for z = 1 or -1."""

    def basis(self, coords: Tensor) -> Tensor:
        return coords[..., 2:]


@solvers
@pytest.mark.parametrize("up", [1.0, -1.0])
def test_normals_say_on_which_side_of_a_surface_is_outside(solver: Solver, up: float) -> None:
    decoder, count, std = Facing(1), 20, 0.02
    decoder.weight.data.fill_(1.0)
    points = torch.rand(1, count, 3) * torch.tensor([1.0, 1.0, 0.0])
    normals = torch.tensor([0.0, 0.0, up]).expand(1, count, 3)
    seen = Observations(torch.arange(1), points, torch.zeros(1, count, 1), torch.ones(1, count), None, normals)
    one, start = MAP(Points(), Gaussian(std), Isotropic(1)), Latent(torch.full((1, 1), 0.1))
    without = solver.solve(one, decoder, replace(seen, normals=None), start).latent.mean.item()
    found = solver.solve(one, decoder, oriented(seen), start).latent.mean.item()
    assert without == pytest.approx(0, abs=0.02)
    pull = 2 * count * OFFSET**2 / std**2  # ridge regression in closed form
    assert found == pytest.approx(up * pull / (pull + 1), abs=0.02)


def test_thinning_keeps_relations_and_normals_with_their_points(observations: Observations) -> None:
    part = thinned(observations, 10)
    assert part.weight.shape == (B, 10)
    assert part.relation is not None
    assert part.normals is not None
    assert observations.relation is not None
    assert observations.normals is not None
    for b in range(B):
        where = torch.cdist(part.coords[b], observations.coords[b]).argmin(1)
        assert torch.equal(part.relation[b], observations.relation[b, where])
        assert torch.equal(part.normals[b], observations.normals[b, where])
        assert (observations.weight[b, where] > 0).all()
    torch.testing.assert_close(part.weight.sum(1), observations.weight.sum(1))
    assert thinned(observations, N) is observations


def test_normals_count_signal_by_signal_whatever_others_have_seen() -> None:
    coords, normals = torch.rand(2, 5, 3) - 0.5, torch.eye(3)[torch.tensor([0, 1, 2, 0, 1])].repeat(2, 1, 1)
    values = torch.zeros(2, 5, 1)
    values[0, 4] = 0.3  # off the surface: it says more than normals do
    both = oriented(Observations(torch.arange(2), coords, values, torch.ones(2, 5), normals=normals))
    alone = oriented(Observations(torch.tensor([1]), coords[1:], values[1:], torch.ones(1, 5), normals=normals[1:]))
    assert torch.equal(both.coords[1], alone.coords[0])
    assert torch.equal(both.weight[1], alone.weight[0])
    assert both.weight[0].tolist() == [1] * 5 + [0] * 10
