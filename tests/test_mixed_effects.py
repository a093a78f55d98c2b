"""Mixed effects, the linear model of signals seen anywhere: its formulas against dense normal distributions, its fit against laws.

The basis of whole images on one grid is in test_latents.py.
"""

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from torch import Tensor
from torch import distributions as d

import neuralfield as nf
from neuralfield.latents import mixed_effects as me
from neuralfield.latents.bank import Bank
from neuralfield.latents.basis import SpectralBasis, fourier
from neuralfield.latents.mixed_effects import Effects, Features, Moments, Process, mixed_effects
from neuralfield.types import Observations

NOISE = 0.05
SCENES = {
    "whole curves": {"count": 60, "points": 30},
    "whole curves of two channels": {"count": 40, "points": 20, "channels": 2},
    "curves with gaps": {"count": 60, "points": 30, "seen": 0.4},
    "curves at times of their own": {"count": 60, "points": 8, "own": True, "seen": 0.7},
    "scattered points in the plane": {"count": 60, "points": 12, "own": True, "seen": 0.7, "coord_dim": 2},
    "scattered points of two channels": {"count": 30, "points": 12, "own": True, "coord_dim": 2, "channels": 2},
}
scenes = pytest.mark.parametrize("scene", SCENES)


def signals(
    count: int, points: int, channels: int = 1, coord_dim: int = 1, own: bool = False, seen: float = 1.0, seed: int = 0
) -> Observations:
    """A mean and four smooth functions with normal coefficients of falling size, and noise of standard deviation NOISE."""
    draw = torch.Generator().manual_seed(seed)
    coords = torch.rand(count, points, coord_dim, generator=draw) * 2 - 1 if own else torch.linspace(-1, 1, points)[None, :, None]
    s = coords.sum(-1)
    functions = torch.stack([torch.cos(2 * s), torch.sin(3 * s + 1), torch.cos(4.5 * s - 0.3), s], -1).expand(count, -1, -1)
    weights = torch.randn(count, 4, channels, generator=draw) * torch.tensor([1.0, 0.6, 0.4, 0.2])[:, None]
    values = 0.5 * torch.sin(1.5 * s)[..., None] + functions @ weights
    values = values + NOISE * torch.randn(values.shape, generator=draw)
    weight = (torch.rand(count, points, generator=draw) < seen).float()
    weight[:, 0] = 1
    return Observations(torch.arange(count), coords, values, weight)


def fitted(observations: Observations, rank: int = 24) -> SpectralBasis:
    return mixed_effects(lambda: iter([observations]), rank, torch.Generator().manual_seed(0))


@cache
def scene_of(name: str) -> tuple[Observations, SpectralBasis]:
    """The signals of a scene and their model, made once."""
    observed = signals(**SCENES[name])  # type: ignore[arg-type]
    return observed, fitted(observed)


def flat(basis: SpectralBasis, coords: Tensor) -> tuple[Tensor, Tensor]:
    """(mean [N V], functions [N V, R]) at the points [N, C] of one signal, in float64."""
    mean, functions = basis.functions(coords[None])
    return mean[0].double().flatten(), functions[0].double().flatten(0, 1)


def seen_of(observations: Observations, i: int) -> tuple[Tensor, Tensor]:
    """(coords [n, C], values [n V] in float64) of what was seen of one signal."""
    known = observations.weight[i] > 0
    return observations.coords[i % len(observations.coords)][known], observations.values[i, known].double().flatten()


def covariance(basis: SpectralBasis, coords: Tensor) -> Tensor:
    _, functions = flat(basis, coords)
    return functions * basis.variance.double() @ functions.T


# its formulas


@pytest.fixture
def model() -> tuple[Effects, Tensor]:
    """Coefficients of seven features of two channels, and the frequencies behind them."""
    draw = torch.Generator().manual_seed(1)
    root = torch.randn(14, 14, generator=draw, dtype=torch.float64)
    mean = torch.randn(14, generator=draw, dtype=torch.float64)
    noise = torch.tensor(0.1, dtype=torch.float64)
    return Effects(mean, 0.1 * root @ root.T, noise), torch.tensor([[0.3, 0.7, 1.1]], dtype=torch.float64)


def design(coords: Tensor, frequencies: Tensor) -> Tensor:
    """Features of two channels, [n V, F V]: both channels of a feature stand together."""
    return torch.kron(fourier(coords.double()[None], frequencies)[0], torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("scene", ["whole curves of two channels", "curves with gaps", "curves at times of their own"])
def test_the_likelihood_and_the_posterior_are_those_of_the_dense_normal_distribution(
    scene: str, model: tuple[Effects, Tensor]
) -> None:
    effects, frequencies = model
    observed = signals(**SCENES[scene] | {"count": 6, "channels": 2})  # type: ignore[arg-type]
    moments = Features(frequencies, 2).moments([observed.rows(slice(0, 4)), observed.rows(slice(4, 6))])
    likelihood, (means, spreads) = effects.log_likelihood(moments), effects.posterior(moments)
    for i in range(6):
        coords, x = seen_of(observed, i)
        phi = design(coords, frequencies)
        whole = phi @ effects.covariance @ phi.T + effects.noise * torch.eye(len(x), dtype=torch.float64)
        expected = d.MultivariateNormal(phi @ effects.mean, whole).log_prob(x)
        assert float(likelihood[i]) == pytest.approx(float(expected), rel=1e-8, abs=1e-8)
        gain = effects.covariance @ phi.T @ torch.linalg.inv(whole)
        torch.testing.assert_close(means[i], effects.mean + gain @ (x - phi @ effects.mean), rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(
            spreads[i % len(spreads)], effects.covariance - gain @ phi @ effects.covariance, rtol=1e-7, atol=1e-8
        )
    assert float(likelihood.sum()) == pytest.approx(float(effects.log_likelihood(moments.rows(torch.arange(6))).sum()))


def test_a_signal_of_which_nothing_was_seen_has_the_likelihood_1_and_the_prior_as_posterior(
    model: tuple[Effects, Tensor],
) -> None:
    effects, frequencies = model
    observed = signals(3, 5, channels=2, own=True)
    blind = observed.split(torch.zeros(3, 5, dtype=torch.bool))[0]
    moments = Features(frequencies, 2).moments([blind])
    means, spreads = effects.posterior(moments)
    assert effects.log_likelihood(moments).abs().max() < 1e-8
    torch.testing.assert_close(means, effects.mean.expand(3, -1), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(spreads, effects.covariance.expand(len(spreads), -1, -1), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("scene", ["whole curves", "curves at times of their own"])
def test_expectation_and_maximisation_never_lower_the_likelihood(scene: str) -> None:
    observed = signals(**SCENES[scene])  # type: ignore[arg-type]
    features = Features.of([observed], torch.Generator())
    moments = features.moments([observed])
    gram = moments.square.sum(0) * (len(moments.cross) / len(moments.square)) / moments.count.sum()
    process = Process(features, gram, moments.energy.sum() / moments.count.sum())
    start = Effects(torch.zeros(len(gram), dtype=torch.float64), process.covariance(0.2), torch.tensor(0.1, dtype=torch.float64))

    def objective(model: Effects) -> float:
        """Likelihood of the signals, and the smoothness that is asked of the mean."""
        return float(model.log_likelihood(moments).sum() - 0.5 * model.mean @ process.smoothness @ model.mean)

    # with hardly any trust in the stationary process, EM maximises that alone
    reached = [objective(me._expect_and_maximise(moments, start, 1e-9, process, steps) if steps else start) for steps in range(13)]
    gains = torch.tensor(reached).diff()
    assert gains.min() > -1e-6 * abs(reached[-1])  # rounding of inverses of condition numbers up to 1e8
    assert gains[0] > 1
    assert reached[-1] - reached[0] > 100


# what it finds


def test_of_many_whole_curves_it_finds_the_mean_the_covariance_and_the_noise() -> None:
    observed = signals(250, 30)
    basis = fitted(observed, rank=40)
    coords, data = observed.coords[0], observed.values.double().flatten(1)
    mean, _ = flat(basis, coords)
    apart = data - data.mean(0)
    sample = apart.T @ apart / len(data)
    found = covariance(basis, coords) + basis.noise.double() * torch.eye(30, dtype=torch.float64)
    # ten signals' worth of trust in a stationary process at most, among 250: a share of 4 %
    assert (found - sample).norm() < 0.05 * sample.norm()
    # the sample's mean has the noise of 30 points in it, which the smooth one has not: five standard errors
    assert (mean - data.mean(0)).abs().max() < 5 * NOISE / 250**0.5
    assert float(basis.noise) == pytest.approx(NOISE**2, rel=0.2)


@scenes
def test_codes_are_the_conditional_mean_in_the_space_of_the_data(scene: str) -> None:
    observed, basis = scene_of(scene)
    codes, variance = basis.encode(observed).double(), basis.variance.double()
    for i in range(len(observed)):
        coords, x = seen_of(observed, i)
        mean, functions = flat(basis, coords)
        whole = functions * variance @ functions.T + basis.noise.double() * torch.eye(len(x), dtype=torch.float64)
        expected = variance * (functions.T @ torch.linalg.solve(whole, x - mean))
        torch.testing.assert_close(codes[i], expected, rtol=1e-5, atol=1e-5)


@scenes
def test_functions_are_orthonormal_over_the_points_by_falling_variance(scene: str) -> None:
    observed, basis = scene_of(scene)
    known = [flat(basis, seen_of(observed, i)[0])[1] for i in range(len(observed))]
    square = sum(functions.T @ functions for functions in known) / observed.weight.sum()
    # functions of small variance are differences of large features, held in float32
    torch.testing.assert_close(square, torch.eye(basis.rank, dtype=torch.float64), rtol=0, atol=0.02)
    assert (basis.variance.diff() <= 0).all()
    assert basis.variance.min() > 0
    assert basis.noise > 0


@scenes
def test_new_signals_are_completed_far_better_than_by_the_mean(scene: str) -> None:
    basis = fitted(signals(**SCENES[scene] | {"count": 100}))  # type: ignore[arg-type]
    new = signals(**SCENES[scene] | {"seed": 1, "points": 20, "seen": 1.0})  # type: ignore[arg-type]
    observed, hidden = new.split(torch.arange(20).expand(len(new), -1) % 2 == 0)
    mean, functions = basis.functions(new.coords)
    completed = mean + torch.einsum("bnvr,br->bnv", functions.expand(len(new), -1, -1, -1), basis.encode(observed))
    error = ((completed - new.values).square() * hidden.weight[..., None]).sum()
    alone = ((mean - new.values).square() * hidden.weight[..., None]).sum()
    assert error < 0.25 * alone  # half the distance


def test_a_signal_of_which_nothing_was_seen_has_the_code_of_the_mean() -> None:
    observed = signals(20, 12, own=True)
    basis = fitted(observed)
    blind = observed.split((torch.arange(20)[:, None] != 7).expand(-1, 12))[0]
    codes = basis.encode(blind)
    assert codes[7].eq(0).all()
    assert torch.equal(codes[6], basis.encode(observed)[6])


def test_less_seen_is_nearer_to_the_mean() -> None:
    observed = signals(40, 20)
    basis = fitted(observed)
    sizes = [
        float((basis.encode(observed.split(torch.arange(20).expand(40, -1) < n)[0]).square() / basis.variance).sum())
        for n in (1, 5, 20)
    ]
    assert sizes[0] < sizes[1] < sizes[2]


# equivariance


def same_model(a: SpectralBasis, b: SpectralBasis, tolerance: float) -> None:
    """Functions may change signs, and mix where variances are equal: what they are as a model may not."""
    coords = torch.rand(25, a.frequencies.shape[0], generator=torch.Generator().manual_seed(5)) * 2 - 1
    (mean, _), (other, _) = flat(a, coords), flat(b, coords)
    scale = covariance(a, coords).diagonal().mean()
    torch.testing.assert_close(mean, other, rtol=0, atol=tolerance * float(scale.sqrt()))
    torch.testing.assert_close(covariance(a, coords), covariance(b, coords), rtol=0, atol=tolerance * float(scale))
    assert float(a.noise) == pytest.approx(float(b.noise), rel=10 * tolerance)


@scenes
def test_points_in_another_order_change_nothing(scene: str) -> None:
    observed, one = scene_of(scene)
    order = torch.randperm(observed.values.shape[1], generator=torch.Generator().manual_seed(0))
    moved = Observations(observed.index, observed.coords[:, order], observed.values[:, order], observed.weight[:, order])
    same_model(one, fitted(moved), 1e-4)  # sums of float64 numbers in another order, through inverses
    torch.testing.assert_close(one.encode(moved), one.encode(observed), rtol=1e-6, atol=1e-6)


@scenes
def test_signals_in_another_order_have_the_same_model(scene: str) -> None:
    # five signals: of more, those that choose lengths would be others
    observed = signals(**SCENES[scene] | {"count": 5})  # type: ignore[arg-type]
    same_model(fitted(observed), fitted(observed.rows(torch.tensor([3, 0, 4, 2, 1]))), 1e-4)


@scenes
def test_batches_change_nothing(scene: str) -> None:
    observed = signals(**SCENES[scene] | {"count": 20})  # type: ignore[arg-type]

    def batches(size: int) -> Callable[[], Iterator[Observations]]:
        return lambda: (observed.rows(rows) for rows in torch.arange(20).split(size))

    one, other = (mixed_effects(batches(size), 12, torch.Generator().manual_seed(0)) for size in (20, 3))
    same_model(one, other, 1e-4)


def test_only_so_many_signals_are_looked_at_evenly_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(me, "SIGNALS", 10)
    observed = signals(91, 12, own=True)
    some = observed.rows(torch.arange(0, 91, 10))
    same_model(fitted(observed), fitted(some), 1e-6)


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_values_in_other_units_scale_the_model(factor: float) -> None:
    observed = signals(30, 12, own=True)
    scaled = Observations(observed.index, observed.coords, observed.values * factor, observed.weight)
    one, other = fitted(observed), fitted(scaled)
    coords = torch.linspace(-1, 1, 25)[:, None]
    size = covariance(one, coords).diagonal().mean()
    torch.testing.assert_close(covariance(other, coords) / factor**2, covariance(one, coords), rtol=0, atol=1e-3 * float(size))
    assert float(other.noise) / factor**2 == pytest.approx(float(one.noise), rel=1e-2)


# few signals, and odd ones


def odd(name: str) -> Observations:
    values, weight = signals(4, 9, own=True), torch.ones(4, 9)
    if name.startswith("one point"):
        weight[:, 1:] = 0
    if name == "one point of one curve":
        return Observations(torch.arange(1), values.coords[:1], values.values[:1], weight[:1])
    levels = {"zeros": torch.zeros(4, 9, 1), "one constant": torch.full((4, 9, 1), 3.0)}
    levels["constants"] = torch.arange(4.0)[:, None, None].expand(4, 9, 1)
    levels["equal curves"] = torch.sin(3 * values.coords)
    if name == "all points at one time":
        return Observations(values.index, torch.zeros(4, 9, 1), values.values, weight)
    if name in ("1 curve", "2 curves", "3 curves"):
        return values.rows(slice(0, int(name[0])))
    if name == "a curve of nothing":
        weight[2] = 0
    return Observations(values.index, values.coords, levels.get(name, values.values), weight)


ODD = ["1 curve", "2 curves", "3 curves", "one point each", "one point of one curve", "zeros", "one constant", "constants"]
SPECIAL = ["all points at one time", "a curve of nothing"]
"""Of which sets of curves warn before anything is fitted."""
ODD += ["equal curves", *SPECIAL]


@pytest.mark.parametrize("name", ODD)
def test_few_and_odd_signals_have_finite_models_and_codes(name: str) -> None:
    observed = odd(name)
    basis = fitted(observed)
    assert basis.rank >= 1
    for buffer in ("mean", "components", "variance", "noise"):
        assert basis.get_buffer(buffer).isfinite().all(), buffer
    assert basis.variance.min() > 0
    assert basis.noise > 0
    assert basis.encode(observed).isfinite().all()
    mean, functions = basis.functions(torch.linspace(-1, 1, 50)[None, :, None])
    assert functions.isfinite().all()
    assert mean.abs().max() < 10 * observed.values.abs().max() + 1e-3  # it does not run away where nothing was seen
    bank = Bank(len(observed), 30)
    bank.initialise(lambda: iter([observed]), torch.Generator().manual_seed(0))
    assert bank.codes.isfinite().all()


@pytest.mark.parametrize("name", [name for name in ODD if name not in SPECIAL])
def test_few_and_odd_curves_are_fitted_by_the_default_recipe_and_read_back(name: str) -> None:
    observed = odd(name)
    given = [
        (observed.coords[i, k, 0].numpy(), observed.values[i, k, 0].numpy())
        for i in range(len(observed))
        for k in [observed.weight[i] > 0]
    ]
    data = nf.Curves.from_list(given)
    run = nf.fit(data, recipe="function", settings=["latents.code_dim=12"])
    assert run.codes.isfinite().all()
    completion = nf.complete(run, data, samples=8)
    for scores in completion.scores.values():
        assert all(value.isfinite().all() for value in scores.values())


def test_a_moment_of_equal_points_is_held_once() -> None:
    observed = signals(50, 10)
    frequencies = torch.tensor([[0.5, 1.0]], dtype=torch.float64)
    moments: Moments = Features(frequencies, 1).moments([observed.rows(slice(0, 20)), observed.rows(slice(20, 50))])
    assert len(moments.square) == 1
    assert len(Features(frequencies, 1).moments([signals(50, 10, seen=0.5)]).square) == 50
