"""The objective to second order: exact Jacobians, gradients and curvature, against autograd and closed forms."""

from collections.abc import Callable

import pytest
import torch
from synthetic import Counting, Linear
from torch import Tensor, nn
from torch.func import hessian

from neuralfield.decoders.basis import Basis
from neuralfield.decoders.concat import Concat
from neuralfield.decoders.convolutional import Convolutional
from neuralfield.decoders.decoder import Decoder
from neuralfield.decoders.linear import Linear as PlainLinear
from neuralfield.decoders.modulated import Modulated
from neuralfield.domains.grid import pixel_centres
from neuralfield.inference.quadratic import Quadratic, evaluations, jacobians, quadratic, secant, slope
from neuralfield.latents.kernel_density import KernelDensity
from neuralfield.latents.priors import Gaussian as GaussianPrior
from neuralfield.latents.priors import Isotropic, Prior
from neuralfield.latents.source import FixedCodes
from neuralfield.likelihoods import Bernoulli, Gaussian, Likelihood
from neuralfield.measurements import Measurement, Points
from neuralfield.objective import MAP
from neuralfield.types import Conditioning, Field, Latent, Observations

SIGNALS, POINTS, CODE_DIM = 4, 9, 3
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.float64: {"rtol": 1e-10, "atol": 1e-10}}
"""Both sides multiply the same numbers in another order: rounding of values and derivatives of size 1, and nothing more."""
TINY = "neuralfield.inference.quadratic.AT_ONCE"


# users' own decoders


class Hyper(Decoder):
    """Pointwise, with a matrix and a vector [B, K] for every signal, bent in the code: no tensor of it is [B, 1, K]."""

    def __init__(self, value_dim: int = 1) -> None:
        super().__init__()
        self.value_dim = value_dim
        self.weights, self.bias = nn.Linear(CODE_DIM, 2 * 5), nn.Linear(CODE_DIM, 5)
        self.out = nn.Linear(5, value_dim)

    def condition(self, z: Tensor) -> Conditioning:
        return {"matrix": torch.tanh(self.weights(z)).reshape(-1, 2, 5), "bias": self.bias(z).sin()}

    def evaluate(self, conditioning: Conditioning, coords: Tensor) -> Tensor:
        return self.out(torch.tanh(coords @ conditioning["matrix"] + conditioning["bias"][:, None]))


class Product(Decoder):
    """Pointwise, and its conditioning is nothing but a number for every signal."""

    def __init__(self, value_dim: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, value_dim))

    def condition(self, z: Tensor) -> Tensor:
        return z.square().sum(1)

    def evaluate(self, conditioning: Tensor, coords: Tensor) -> Tensor:
        return torch.sin(conditioning[:, None, None] * (coords @ self.weight))


class BentConcat(Decoder):
    """Its conditioning is [B, 1, K], but not affine in the code."""

    def __init__(self, value_dim: int = 1) -> None:
        super().__init__()
        self.first, self.at, self.out = nn.Linear(CODE_DIM, 6), nn.Linear(2, 6), nn.Linear(6, value_dim)

    def condition(self, z: Tensor) -> tuple[Tensor, ...]:
        return (torch.sin(self.first(z))[:, None],)

    def evaluate(self, conditioning: tuple[Tensor, ...], coords: Tensor) -> Tensor:
        return self.out(torch.tanh(self.at(coords) + conditioning[0]))


class WithoutPoints(Decoder):
    """Not pointwise: every value depends on all points of its signal."""

    pointwise = False

    def __init__(self, value_dim: int = 1) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(CODE_DIM + 2, 6), nn.Linear(6, value_dim)

    def condition(self, z: Tensor) -> Tensor:
        return z

    def evaluate(self, conditioning: Tensor, coords: Tensor) -> Tensor:
        around = (coords - coords.mean(1, keepdim=True)).expand(len(conditioning), -1, -1)
        joined = torch.cat([conditioning[:, None].expand(-1, coords.shape[1], -1), around], -1)
        return self.out(torch.tanh(self.first(joined)))


def bent_basis(value_dim: int) -> Decoder:
    """Its network begins at zero; here it has been trained a little."""
    made = Basis(2, value_dim, CODE_DIM, functions=5, frequencies=4, branch_depth=1, branch_width=6)
    assert made.bend is not None
    nn.init.normal_(made.bend.weight)
    return made


KINDS: dict[str, Callable[[int], Decoder]] = {
    "shifted fourier": lambda v: Modulated(2, v, CODE_DIM, width=6, depth=2, frequencies=3, bandwidth=0.5),
    "film fourier": lambda v: Modulated(2, v, CODE_DIM, width=6, depth=2, modulation="film", frequencies=3, bandwidth=0.5),
    "shifted siren": lambda v: Modulated(2, v, CODE_DIM, width=6, depth=2, basis="siren", w0=3.0),
    "film siren": lambda v: Modulated(2, v, CODE_DIM, width=6, depth=2, modulation="film", basis="siren", w0=3.0),
    "concat": lambda v: Concat(2, v, CODE_DIM, width=8, depth=3, activation="silu"),
    "concat with kinks": lambda v: Concat(2, v, CODE_DIM, width=8, depth=3, activation="relu"),
    "concat with skip": lambda v: Concat(2, v, CODE_DIM, width=20, depth=4, skip=2, activation="silu", frequencies=3),
    "basis": lambda v: Basis(2, v, CODE_DIM, frequencies=4, bandwidth=0.5),
    "basis of an MLP": lambda v: Basis(2, v, CODE_DIM, frequencies=4, bandwidth=0.5, trunk_depth=1, trunk_width=6),
    "bent basis": bent_basis,
    "linear": lambda v: PlainLinear((4, 5), pixel_centres(4, 5), v, CODE_DIM),
    "convolutional": lambda v: Convolutional((4, 5), v, CODE_DIM, width=3),
    "a users own, affine": lambda v: Linear(CODE_DIM, v),
    "a users own, of matrices": Hyper,
    "a users own, of numbers": Product,
    "a users own, bent": BentConcat,
    "a users own, not pointwise": WithoutPoints,
}
kinds = pytest.mark.parametrize("kind", KINDS)
shared_or_own = pytest.mark.parametrize("shared", [True, False], ids=["shared points", "own points"])


class Doubled(Measurement):
    """Twice the field, less its mean over the points: no value is that of its own point alone."""

    def measure(self, field: Field, observations: Observations) -> Tensor:
        values = field(observations.coords)
        return 2 * values - values.mean(1, keepdim=True)


class StudentT(Prior):
    """Concave beyond sqrt(2): no mixture of Gaussians, and not convex."""

    def cost(self, latent: Latent) -> Tensor:
        return 1.5 * torch.log1p(latent.mean.square() / 2).sum(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(n, CODE_DIM, generator=generator)

    def fit(self, codes: Tensor, known: object = None) -> "StudentT":
        return self


def decoder_of(kind: str, value_dim: int = 1, dtype: torch.dtype = torch.float64) -> Decoder:
    torch.manual_seed(0)
    return KINDS[kind](value_dim).to(dtype)


def codes(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(SIGNALS, CODE_DIM, generator=torch.Generator().manual_seed(1)).to(dtype)


def observations_of(
    value_dim: int = 1, shared: bool = True, dtype: torch.dtype = torch.float64, points: int = POINTS
) -> Observations:
    """Values in [0, 1]; each signal has its own points hidden, and some that stand for several."""
    draw = torch.Generator().manual_seed(2)
    coords = (torch.rand(1 if shared else SIGNALS, points, 2, generator=draw) * 2 - 1).to(dtype)
    values = torch.rand(SIGNALS, points, value_dim, generator=draw).to(dtype)
    weight = torch.tensor([0.0, 1.0, 1.0, 2.5])[torch.randint(0, 4, (SIGNALS, points), generator=draw)].to(dtype)
    return Observations(torch.arange(SIGNALS), coords, values, weight)


def objective_of(likelihood: Likelihood | None = None, prior: Prior | None = None, temperature: float = 1.0) -> MAP:
    return MAP(Points(), likelihood or Gaussian(0.4), prior or Isotropic(CODE_DIM, 0.8), temperature=temperature).double()


def normal() -> Prior:
    draw = torch.Generator().manual_seed(3)
    return GaussianPrior(CODE_DIM).fit(torch.randn(40, CODE_DIM, generator=draw) @ torch.randn(CODE_DIM, CODE_DIM, generator=draw))


def kernels() -> Prior:
    return KernelDensity(CODE_DIM).fit(torch.randn(12, CODE_DIM, generator=torch.Generator().manual_seed(4)))


def whole(objective: MAP, decoder: Decoder, observations: Observations, z: Tensor) -> tuple[Tensor, Tensor]:
    """Of all parts as one: (predictions [B, N, V], Jacobians [B, N, V, D])."""
    predicted: list[list[Tensor]] = [[] for _ in z]
    found: list[list[Tensor]] = [[] for _ in z]
    for rows, part, values, jacobian in jacobians(objective, decoder, observations, z):
        assert values.shape == part.values.shape
        for i, each, by_code in zip(range(len(z))[rows], values, jacobian.expand(len(values), -1, -1, -1), strict=True):
            predicted[i].append(each)
            found[i].append(by_code)
    return tuple(torch.stack([torch.cat(parts) for parts in each]) for each in (predicted, found))  # type: ignore[return-value]


def by_autograd(objective: MAP, decoder: Decoder, observations: Observations, z: Tensor) -> Tensor:
    """[B, N, V, D] by reverse-mode autograd, a row at a time."""
    every = torch.autograd.functional.jacobian(lambda at: objective.predict(at, decoder, observations), z)
    return torch.stack([every[i, :, :, i] for i in range(len(z))])


def cost(objective: MAP, decoder: Decoder, observations: Observations) -> Callable[[Tensor], Tensor]:
    """z [B, D] -> the sum over signals of what the objective minimises, for autograd."""

    def summed(z: Tensor) -> Tensor:
        predicted = objective.predict(z, decoder, observations)
        return objective.nats(predicted, observations).sum() + objective.prior.cost(Latent(z)).sum()

    return summed


# Jacobians


@kinds
@shared_or_own
@pytest.mark.parametrize("value_dim", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_jacobians_are_those_of_autograd_for_every_kind_of_decoder(
    kind: str, shared: bool, value_dim: int, dtype: torch.dtype
) -> None:
    decoder, observations, z = decoder_of(kind, value_dim, dtype), observations_of(value_dim, shared, dtype), codes(dtype)
    objective = objective_of().to(dtype)
    predicted, found = whole(objective, decoder, observations, z)
    assert found.dtype == dtype
    torch.testing.assert_close(predicted, objective.predict(z, decoder, observations).detach(), **CLOSE[dtype])
    torch.testing.assert_close(found, by_autograd(objective, decoder, observations, z), **CLOSE[dtype])


@kinds
@pytest.mark.parametrize("points", [1, 2])
def test_jacobians_at_a_single_point_of_a_single_signal_are_those_of_autograd(kind: str, points: int) -> None:
    decoder, observations, z = decoder_of(kind), observations_of(points=points).rows(slice(0, 1)), codes()[:1]
    found = whole(objective_of(), decoder, observations, z)[1]
    torch.testing.assert_close(found, by_autograd(objective_of(), decoder, observations, z), **CLOSE[torch.float64])


@pytest.mark.parametrize("kind", ["linear", "convolutional"])
def test_jacobians_on_the_decoders_own_pixels_are_those_of_autograd(kind: str) -> None:
    decoder, z, grid = decoder_of(kind), codes(), pixel_centres(4, 5).double()
    observations = Observations(torch.arange(SIGNALS), grid, torch.zeros(SIGNALS, 20, 1).double(), torch.ones(SIGNALS, 20).double())
    found = whole(objective_of(), decoder, observations, z)[1]
    torch.testing.assert_close(found, by_autograd(objective_of(), decoder, observations, z), **CLOSE[torch.float64])


@pytest.mark.parametrize("kind", ["shifted fourier", "bent basis", "basis", "convolutional"])
@shared_or_own
def test_a_measurement_that_mixes_points_has_its_own_jacobian(kind: str, shared: bool) -> None:
    decoder, observations, z = decoder_of(kind, 3), observations_of(3, shared), codes()
    objective = MAP(Doubled(), Gaussian(0.4), Isotropic(CODE_DIM)).double()
    found = whole(objective, decoder, observations, z)[1]
    torch.testing.assert_close(found, by_autograd(objective, decoder, observations, z), **CLOSE[torch.float64])


@kinds
@shared_or_own
@pytest.mark.parametrize("at_once", [1, 150])
def test_how_much_is_held_at_once_changes_nothing(kind: str, shared: bool, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, observations, z, objective = decoder_of(kind, 3), observations_of(3, shared), codes(), objective_of()
    predicted, jacobian = whole(objective, decoder, observations, z)
    around = quadratic(objective, decoder, observations, z)
    monkeypatch.setattr(TINY, at_once)
    again = whole(objective, decoder, observations, z)
    torch.testing.assert_close(again, (predicted, jacobian), **CLOSE[torch.float64])
    parts = quadratic(objective, decoder, observations, z)
    for name in ("data", "prior", "gradient", "curvature"):
        torch.testing.assert_close(getattr(parts, name), getattr(around, name), **CLOSE[torch.float64])


def test_no_part_is_larger_than_what_may_be_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TINY, 2 * CODE_DIM * 3)
    for kind in KINDS:
        # where the conditioning reaches every point, those points' gradients by it count too: fewer points, never more
        at_most = 3 * POINTS if kind in ("convolutional", "a users own, not pointwise") else 2
        if decoder_of(kind).linear_in_code:
            at_most = POINTS
        parts = list(jacobians(objective_of(), decoder_of(kind, 3), observations_of(3, shared=False), codes()))
        assert len(parts) > 1
        assert all(part.weight.numel() <= at_most for _, part, _, _ in parts), kind


def test_a_shared_jacobian_is_as_small_as_its_copies_that_signals_weigh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TINY, 3 * CODE_DIM * 3)
    decoder = decoder_of("linear", 3)
    parts = list(jacobians(objective_of(), decoder, observations_of(3, shared=True), codes()))
    assert len(parts) == POINTS
    assert sum(part.weight.shape[1] for _, part, _, _ in parts) == POINTS


@kinds
def test_taking_derivatives_leaves_the_decoder_and_the_codes_as_they_were(kind: str) -> None:
    decoder, z = decoder_of(kind), codes()
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    quadratic(objective_of(), decoder, observations_of(), z)
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in decoder.parameters())
    assert torch.equal(z, codes())
    assert not z.requires_grad


@kinds
def test_derivatives_are_the_same_where_gradients_are_switched_off(kind: str) -> None:
    decoder, observations, z = decoder_of(kind), observations_of(), codes()
    plain = quadratic(objective_of(), decoder, observations, z)
    with torch.no_grad():
        again = quadratic(objective_of(), decoder, observations, z)
    assert torch.equal(again.gradient, plain.gradient)
    assert torch.equal(again.curvature, plain.curvature)


@pytest.mark.parametrize("kind", ["shifted fourier", "film siren", "concat with skip", "basis", "bent basis", "linear"])
@pytest.mark.parametrize("value_dim", [1, 3])
@shared_or_own
def test_a_quadratic_costs_the_evaluations_that_it_says(kind: str, value_dim: int, shared: bool) -> None:
    decoder, observations = Counting(decoder_of(kind, value_dim)), observations_of(value_dim, shared)
    quadratic(objective_of(), decoder, observations, codes())
    said = evaluations(objective_of(), decoder, observations, CODE_DIM) * (observations.weight > 0).sum(1)
    assert float(said.sum()) == pytest.approx(decoder.work, rel=1e-6)


# gradient, curvature, cost


likelihoods = pytest.mark.parametrize("likelihood", [lambda: Gaussian(0.4), Bernoulli], ids=["gaussian", "bernoulli"])
temperatures = pytest.mark.parametrize("temperature", [1.0, 7.5])
priors = pytest.mark.parametrize(
    "prior", [lambda: Isotropic(CODE_DIM, 0.8), normal, kernels, StudentT], ids=["isotropic", "normal", "kernels", "student"]
)


@kinds
@likelihoods
@temperatures
@pytest.mark.parametrize("value_dim", [1, 3])
def test_the_gradient_is_that_of_autograd_and_the_costs_are_those_of_the_objective(
    kind: str, likelihood: Callable[[], Likelihood], temperature: float, value_dim: int
) -> None:
    decoder, observations, z = decoder_of(kind, value_dim), observations_of(value_dim), codes()
    objective = objective_of(likelihood(), normal(), temperature)
    around = quadratic(objective, decoder, observations, z)
    leaf = z.clone().requires_grad_()
    expected = torch.autograd.grad(cost(objective, decoder, observations)(leaf), leaf)[0]
    torch.testing.assert_close(around.gradient, expected, **CLOSE[torch.float64])
    loss = objective(FixedCodes(z), decoder, observations)
    torch.testing.assert_close(around.data, loss.data.detach(), **CLOSE[torch.float64])
    torch.testing.assert_close(around.prior, loss.prior.detach(), **CLOSE[torch.float64])
    assert torch.equal(around.cost, around.data + around.prior)


@kinds
@likelihoods
@temperatures
@shared_or_own
def test_the_slope_alone_is_that_of_the_quadratic(
    kind: str, likelihood: Callable[[], Likelihood], temperature: float, shared: bool
) -> None:
    decoder, observations, z = decoder_of(kind, 3), observations_of(3, shared), codes()
    objective = objective_of(likelihood(), kernels(), temperature)
    around = quadratic(objective, decoder, observations, z)
    expected = (around.data, around.prior, around.gradient)
    torch.testing.assert_close(slope(objective, decoder, observations, z), expected, **CLOSE[torch.float64])


@pytest.mark.parametrize("at_once", [1, 2 * POINTS])
def test_slopes_of_a_few_signals_at_once_are_those_of_all(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, observations, z = decoder_of("film siren"), observations_of(shared=False), codes()
    expected = slope(objective_of(), decoder, observations, z)
    monkeypatch.setattr("neuralfield.inference.quadratic.GRADIENTS_AT_ONCE", at_once)
    torch.testing.assert_close(slope(objective_of(), decoder, observations, z), expected, **CLOSE[torch.float64])


@kinds
@likelihoods
@priors
def test_the_curvature_is_that_of_gauss_and_newton_and_of_the_prior(
    kind: str, likelihood: Callable[[], Likelihood], prior: Callable[[], Prior]
) -> None:
    decoder, observations, z, temperature = decoder_of(kind, 3), observations_of(3, shared=False), codes(), 7.5
    objective = objective_of(likelihood(), prior(), temperature)
    found = quadratic(objective, decoder, observations, z).curvature
    predicted, jacobian = objective.predict(z, decoder, observations).detach(), by_autograd(objective, decoder, observations, z)

    def nats(values: Tensor) -> Tensor:
        return objective.likelihood.nll(values, observations.values).sum()

    each = torch.autograd.functional.hessian(nats, predicted)
    assert isinstance(each, Tensor)
    bend = each.reshape(predicted.numel(), -1).diagonal().reshape(predicted.shape) * observations.weight[..., None] / temperature
    expected = torch.einsum("bnvd,bnv,bnve->bde", jacobian, bend, jacobian) + objective.prior.curvature(Latent(z))
    torch.testing.assert_close(found, expected, **CLOSE[torch.float64])
    torch.testing.assert_close(found, found.mT, rtol=0, atol=1e-12)
    assert torch.linalg.eigvalsh(found).min() > -1e-12


@likelihoods
@temperatures
def test_of_decoders_affine_in_the_code_the_curvature_is_the_hessian(
    likelihood: Callable[[], Likelihood], temperature: float
) -> None:
    decoder, observations, z = decoder_of("basis", 3), observations_of(3), codes()
    objective = objective_of(likelihood(), normal(), temperature)
    around = quadratic(objective, decoder, observations, z)
    exact = torch.autograd.functional.hessian(cost(objective, decoder, observations), z)
    assert isinstance(exact, Tensor)
    expected = torch.stack([exact[i, :, i] for i in range(SIGNALS)])
    torch.testing.assert_close(around.curvature, expected, **CLOSE[torch.float64])


@kinds
def test_hidden_points_have_no_part_in_it_bit_for_bit(kind: str) -> None:
    decoder, observations, z, objective = decoder_of(kind), observations_of(), codes(), objective_of()
    plain = quadratic(objective, decoder, observations, z)
    values = torch.where((observations.weight > 0)[..., None], observations.values, torch.nan)
    filled = quadratic(objective, decoder, Observations(observations.index, observations.coords, values, observations.weight), z)
    for name in ("data", "prior", "gradient", "curvature"):
        assert torch.equal(getattr(filled, name), getattr(plain, name))


@kinds
def test_of_a_signal_of_which_nothing_was_seen_the_prior_is_left(kind: str) -> None:
    decoder, observations, z, prior = decoder_of(kind), observations_of(), codes(), normal().double()
    blind = observations.split(torch.zeros(SIGNALS, POINTS, dtype=torch.bool))[0]
    around = quadratic(objective_of(prior=prior), decoder, blind, z)
    assert around.data.eq(0).all()
    torch.testing.assert_close(around.curvature, prior.curvature(Latent(z)).expand(SIGNALS, -1, -1))
    torch.testing.assert_close(around.prior, prior.cost(Latent(z)))


def test_a_step_should_lower_the_cost_by_what_the_model_says_it_does() -> None:
    # of a quadratic cost the model is exact
    decoder, observations, z, objective = decoder_of("basis"), observations_of(), codes(), objective_of(prior=normal())
    around, step = quadratic(objective, decoder, observations, z), 0.7 * codes().flip(0)
    there = quadratic(objective, decoder, observations, z + step)
    torch.testing.assert_close(around.fall(step), around.cost - there.cost)


def test_rows_are_those_of_their_signals() -> None:
    decoder, observations, z, objective = decoder_of("concat"), observations_of(shared=False), codes(), objective_of()
    which = torch.tensor([2, 0])
    some = quadratic(objective, decoder, observations, z).rows(which)
    alone = quadratic(objective, decoder, observations.rows(which), z[which])
    for name in ("data", "prior", "gradient", "curvature"):
        torch.testing.assert_close(getattr(some, name), getattr(alone, name), **CLOSE[torch.float64])


@pytest.mark.parametrize("learned", [True, False])
def test_a_signal_goes_where_it_is_better_and_keeps_what_it_has_learned(learned: bool) -> None:
    decoder, observations, z, objective = decoder_of("concat"), observations_of(), codes(), objective_of()
    at, there = (quadratic(objective, decoder, observations, codes) for codes in (z, z + 0.5))
    before = at.rows(torch.arange(SIGNALS))
    rows, better = torch.tensor([3, 1]), torch.tensor([True, False])
    at.move(rows, there.rows(rows), better, learned)
    for name in ("data", "prior", "gradient"):
        assert torch.equal(getattr(at, name)[3], getattr(there, name)[3])
        assert torch.equal(getattr(at, name)[:3], getattr(before, name)[:3])
    assert torch.equal(at.curvature[3], there.curvature[3])
    assert torch.equal(at.curvature[1], (there if learned else before).curvature[1])
    assert torch.equal(at.curvature[[0, 2]], before.curvature[[0, 2]])


# secants


def stepped(kind: str, length: float, likelihood: Likelihood | None = None) -> tuple[Quadratic, Quadratic, Tensor]:
    """(before, after, step) of random steps."""
    decoder, observations, z = decoder_of(kind, 3), observations_of(3), codes()
    objective = objective_of(likelihood, StudentT())
    before = quadratic(objective, decoder, observations, z)
    step = length * torch.randn(SIGNALS, CODE_DIM, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return before, secant(objective, decoder, observations, z + step, before, step), step


@kinds
@likelihoods
@pytest.mark.parametrize("length", [1e-3, 0.3, 3.0, 30.0])
def test_a_secant_explains_how_the_gradient_changed_and_stays_positive(
    kind: str, likelihood: Callable[[], Likelihood], length: float
) -> None:
    before, after, step = stepped(kind, length, likelihood())
    change = after.gradient - before.gradient
    along = torch.einsum("bd,bd->b", step, change)
    promised = torch.einsum("bd,bde,be->b", step, before.curvature, step)
    explained = torch.einsum("bde,be->bd", after.curvature, step)
    # relative to the largest number of the sums that cancel
    rounding = 1e-9 * (before.curvature.abs().amax((1, 2)) * step.norm(dim=1) + change.norm(dim=1))
    gap = (explained - change).norm(dim=1)
    assert (gap <= rounding)[along >= 0.2 * promised].all()
    # Powell's damping: where the curvature along the step is not positive, or far less than before, a fifth of it is left
    left = torch.einsum("bd,bd->b", step, explained)
    torch.testing.assert_close(left, along.maximum(0.2 * promised), rtol=1e-8, atol=0)
    values = torch.linalg.eigvalsh(after.curvature)
    assert (values[:, 0] > 0).all()
    assert (after.curvature - after.curvature.mT).abs().max() <= 1e-12 * after.curvature.abs().max()


def test_random_steps_meet_both_sides_of_a_secant() -> None:
    """That the law above is about something: some steps have positive curvature, others have not."""
    signs = []
    for length in (0.3, 3.0, 30.0):
        before, after, step = stepped("shifted siren", length)
        signs.append((step * (after.gradient - before.gradient)).sum(1) > 0)
    assert torch.cat(signs).any()
    assert not torch.cat(signs).all()


@kinds
def test_a_secant_has_the_costs_and_the_gradient_of_where_it_is(kind: str) -> None:
    decoder, observations, z, objective = decoder_of(kind), observations_of(), codes(), objective_of()
    step = torch.full_like(z, 0.2)
    before = quadratic(objective, decoder, observations, z)
    after, exact = (
        secant(objective, decoder, observations, z + step, before, step),
        quadratic(objective, decoder, observations, z + step),
    )
    for name in ("data", "prior", "gradient"):
        torch.testing.assert_close(getattr(after, name), getattr(exact, name), **CLOSE[torch.float64])


def test_of_a_quadratic_cost_secants_along_conjugate_steps_end_at_the_hessian() -> None:
    # BFGS with exact steps (Nocedal and Wright, theorem 6.4): after as many independent conjugate steps as dimensions
    decoder, observations, z, objective = decoder_of("basis"), observations_of(), codes(), objective_of(prior=normal())
    exact = quadratic(objective, decoder, observations, z)
    at = Quadratic(exact.data, exact.prior, exact.gradient, torch.eye(CODE_DIM).double().expand(SIGNALS, -1, -1).clone())
    directions = torch.linalg.eigh(exact.curvature)[1]  # orthogonal, so conjugate
    for number in range(CODE_DIM):
        step = directions[:, :, number]
        z = z + step
        at = secant(objective, decoder, observations, z, at, step)
    torch.testing.assert_close(at.curvature, exact.curvature, rtol=1e-8, atol=1e-8)


def test_no_step_and_a_gradient_that_is_not_a_number_teach_a_secant_nothing() -> None:
    decoder, observations, z, objective = decoder_of("concat"), observations_of(), codes(), objective_of()
    before = quadratic(objective, decoder, observations, z)
    assert torch.equal(secant(objective, decoder, observations, z, before, torch.zeros_like(z)).curvature, before.curvature)
    lost = torch.full_like(z, torch.nan)
    assert torch.equal(secant(objective, decoder, observations, lost, before, torch.ones_like(z)).curvature, before.curvature)


# priors that are no mixtures


def exact_hessian(prior: Prior, z: Tensor) -> Tensor:
    return torch.stack([hessian(lambda at: prior.cost(Latent(at[None]))[0])(each) for each in z])


def test_a_prior_that_is_no_mixture_has_the_curvature_of_its_hessian_where_that_is_positive() -> None:
    near, far = 0.5 * codes().tanh(), 5 + codes().abs()  # Student's t is convex within sqrt(2), and concave beyond
    prior = StudentT()
    torch.testing.assert_close(prior.curvature(Latent(near)), exact_hessian(prior, near), rtol=0, atol=1e-12)
    assert torch.linalg.eigvalsh(exact_hessian(prior, far)).max() < 0
    assert prior.curvature(Latent(far)).abs().max() < 1e-12


def test_a_prior_that_is_no_mixture_loses_the_negative_part_of_its_hessian_and_nothing_else() -> None:
    prior, z = StudentT(), codes() * 2
    found, exact = prior.curvature(Latent(z)), exact_hessian(prior, z)
    assert (exact.diagonal(dim1=1, dim2=2) < 0).any()  # of independent numbers the Hessian is diagonal
    torch.testing.assert_close(found, torch.diag_embed(exact.diagonal(dim1=1, dim2=2).clamp(min=0)), rtol=0, atol=1e-12)
    assert torch.linalg.eigvalsh(found).min() > -1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_quadratic_counts_in_float64_whatever_the_codes_are(dtype: torch.dtype) -> None:
    decoder, observations, z = decoder_of("concat", dtype=dtype), observations_of(dtype=dtype), codes(dtype)
    around = quadratic(objective_of().to(dtype), decoder, observations, z)
    assert {around.data.dtype, around.prior.dtype, around.gradient.dtype, around.curvature.dtype} == {torch.float64}
    exact = quadratic(objective_of(), decoder.double(), observations_of(), codes())
    torch.testing.assert_close(
        around.gradient, exact.gradient, rtol=1e-4, atol=1e-4
    )  # sums over points of the codes' own precision
    torch.testing.assert_close(around.curvature, exact.curvature, rtol=1e-4, atol=1e-4)


# users' parts that are like no part of ours


class Whitened(StudentT):
    """Its cost multiplies codes by a matrix of its own, as most priors with a scale do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(CODE_DIM) + 0.3)

    def cost(self, latent: Latent) -> Tensor:
        return torch.log1p((latent.mean @ self.matrix).square()).sum(1)


class WithSpare(Hyper):
    """Its conditioning carries along what no value depends on."""

    def condition(self, z: Tensor) -> Conditioning:
        return {**super().condition(z), "code": z}


class OneRow(Decoder):
    """A matrix for each signal that has one row, because signals lie on a line: [B, 1, K], but not one row for every point."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.out = nn.Linear(CODE_DIM, 5), nn.Linear(5, 1)

    def condition(self, z: Tensor) -> Tensor:
        return self.weights(z)[:, None]

    def evaluate(self, conditioning: Tensor, coords: Tensor) -> Tensor:
        return self.out(torch.tanh(coords @ conditioning))


def test_a_prior_that_is_no_mixture_may_have_matrices_in_float32() -> None:
    prior, z = Whitened(), codes(torch.float32)
    expected = exact_hessian(Whitened().double(), codes())
    values, vectors = torch.linalg.eigh(expected)
    expected = vectors * values.clamp(min=0)[:, None] @ vectors.mT
    torch.testing.assert_close(prior.curvature(Latent(z)).double(), expected, rtol=1e-4, atol=1e-4)


def test_a_conditioning_may_hold_what_no_value_depends_on() -> None:
    torch.manual_seed(0)
    decoder, observations, z, objective = WithSpare().double(), observations_of(), codes(), objective_of()
    found = whole(objective, decoder, observations, z)[1]
    torch.testing.assert_close(found, by_autograd(objective, decoder, observations, z), **CLOSE[torch.float64])


def test_a_conditioning_may_be_a_matrix_of_one_row() -> None:
    torch.manual_seed(0)
    decoder, z, objective, plane = OneRow().double(), codes(), objective_of(), observations_of()
    observations = Observations(plane.index, plane.coords[..., :1], plane.values, plane.weight)
    found = whole(objective, decoder, observations, z)[1]
    torch.testing.assert_close(found, by_autograd(objective, decoder, observations, z), **CLOSE[torch.float64])
