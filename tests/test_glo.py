"""GLO: codes never leave the ball, whoever moves them; gradient descent touches the rows of the batch alone; PCA starts it."""

import math
from pathlib import Path

import pytest
import torch
from synthetic import Linear
from synthetic import images as blobs_of
from test_training import Watching, identical
from torch import Tensor

import neuralfield as nf
from neuralfield.errors import UsageError
from neuralfield.inference.adam import Adam
from neuralfield.inference.lbfgs import LBFGS
from neuralfield.inference.levenberg import Levenberg
from neuralfield.inference.quadratic import quadratic
from neuralfield.inference.restarts import solved
from neuralfield.inference.solver import Solver
from neuralfield.latents.ball import Ball
from neuralfield.latents.priors import Isotropic
from neuralfield.latents.source import FixedCodes
from neuralfield.likelihoods import Gaussian
from neuralfield.measurements import Points
from neuralfield.objective import MAP
from neuralfield.training.interrupt import InterruptedFitError
from neuralfield.types import Latent, Observations

RADIUS = 1 + 1e-6
"""What a code of the unit ball may measure in float32."""
TINY_GLO = [
    "latents.code_dim=4",
    "latents.std=0.5",
    "decoder.width=4",
    "training.batch=8",
    "training.latent_rate=3.0",
    "training.decoder_rate=0.05",
    "inference.steps=5",
]
"""Rates at which codes are thrown against the bound in every step."""


# the prior


@pytest.mark.parametrize(("dims", "radius"), [(1, 2.0), (2, 1.0), (3, 0.5)])
def test_it_is_the_uniform_density_of_the_ball(dims: int, radius: float) -> None:
    prior, volume = Ball(dims, radius), {1: 2 * radius, 2: math.pi * radius**2, 3: 4 / 3 * math.pi * radius**3}[dims]
    inside, outside = torch.zeros(2, dims), torch.full((1, dims), 1.01 * radius)
    inside[1, 0] = radius  # on the bound is inside
    torch.testing.assert_close(prior.cost(Latent(inside)), torch.full((2,), math.log(volume)))
    assert prior.cost(Latent(outside)).isinf().all()


def test_samples_fill_the_ball_evenly() -> None:
    lengths = Ball(5, 2.0).sample(20_000, torch.Generator().manual_seed(0)).norm(dim=1)
    assert lengths.max() <= 2 * RADIUS
    # (|z| / radius)^D is uniform: mean 1/2 and variance 1/12, of 20,000 draws
    share = (lengths / 2) ** 5
    assert share.mean().item() == pytest.approx(0.5, abs=5 * (1 / 12 / 20_000) ** 0.5)


def test_it_is_fitted_to_hold_all_codes() -> None:
    codes = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    prior = Ball(3).fit(codes)
    assert prior.cost(Latent(codes)).isfinite().all()
    assert prior.cost(Latent(1.01 * codes)).isinf().any()


def test_codes_outside_are_taken_for_the_nearest_inside() -> None:
    z = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    within = Ball(4).within(z)
    inside = z.norm(dim=1) <= 1
    assert inside.any()
    assert torch.equal(within[inside], z[inside])
    torch.testing.assert_close(within[~inside], z[~inside] / z[~inside].norm(dim=1, keepdim=True))
    assert within.norm(dim=1).max() <= RADIUS


def test_gradients_are_finite_at_the_centre_and_pass_unchanged_inside() -> None:
    z = torch.tensor([[0.0, 0.0], [0.5, 0.2], [3.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad((Ball(2).within(z) * torch.tensor([2.0, 3.0])).sum(), z)
    assert torch.equal(gradient[:2], torch.tensor([[2.0, 3.0], [2.0, 3.0]]))
    torch.testing.assert_close(gradient[2], torch.tensor([0.0, 1.0]))  # along the bound, over a length of 3


def test_a_radius_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prior.radius must be positive, got 0"):
        Ball(3, 0.0)


# searches


@pytest.fixture
def decoder() -> Linear:
    return Linear(2)


@pytest.fixture
def observations(decoder: Linear) -> Observations:
    """Three signals whose codes lie outside the unit ball, and one inside."""
    coords = torch.rand(1, 30, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = torch.tensor([[3.0, 1.0], [-2.0, 2.0], [0.0, -5.0], [0.3, 0.4]])
    return Observations(torch.arange(4), coords, decoder(z, coords).detach(), torch.ones(4, 30))


@pytest.mark.parametrize("solver", [Adam(400, tolerance=1e-2), LBFGS(100, tolerance=1e-6)], ids=["adam", "lbfgs"])
@pytest.mark.parametrize("start", [0.0, 4.0])
def test_a_search_ends_at_the_best_code_of_the_ball(
    solver: Solver, start: float, decoder: Linear, observations: Observations
) -> None:
    objective = MAP(Points(), Gaussian(0.3), Ball(2))
    found = solved(solver, objective, decoder, observations, Latent(torch.full((4, 2), start)))
    assert found.latent.mean.norm(dim=1).max() <= RADIUS
    # by trial: a fine circle, the bound, and a grid inside it
    angle, radius = torch.meshgrid(torch.linspace(0, 2 * math.pi, 721), torch.linspace(0, 1, 51), indexing="ij")
    tried = torch.stack([radius * angle.cos(), radius * angle.sin()], -1).reshape(-1, 2)
    with torch.no_grad():
        error = (decoder(tried, observations.coords)[:, None] - observations.values).square().sum((2, 3))
    best = error.min(0).values / (2 * 0.3**2)
    constant = 30 * math.log(0.3 * math.sqrt(2 * math.pi))
    # nats of 30 values, against a grid of half degrees; what the search finds may be lower, and higher by no more than this
    assert (found.loss.data - constant - best).max() < 0.02 * best.max() + 0.1


def test_the_cost_of_a_code_outside_is_that_of_the_nearest_inside(decoder: Linear, observations: Observations) -> None:
    objective, z = MAP(Points(), Gaussian(0.3), Ball(2)), torch.tensor([[3.0, 4.0]]).expand(4, -1)
    outside, inside = (objective(FixedCodes(each), decoder, observations) for each in (z, z / 5))
    torch.testing.assert_close(outside.total, inside.total)
    assert outside.total.isfinite().all()


def test_what_knows_no_bounds_refuses_it(decoder: Linear, observations: Observations) -> None:
    objective = MAP(Points(), Gaussian(0.3), Ball(2))
    with pytest.raises(UsageError, match='solver "levenberg" knows no bounds, and the prior Ball has one'):
        Levenberg().check(objective, decoder)
    with pytest.raises(UsageError, match="knows no bounds"):
        quadratic(objective, decoder, observations, torch.zeros(4, 2))


# the bank

Kept = dict[int, Tensor]


def longest(run: nf.Run) -> float:
    return float(run.codes.norm(dim=1).max())


@pytest.mark.parametrize("settings", [[], ["training.polish=3"], ["training.latent_optimiser=rows"], ["latents.mapped=true"]])
def test_all_codes_of_a_run_lie_in_the_ball(images: nf.Images, tmp_path: Path, settings: list[str]) -> None:
    nf.fit(images, recipe="glo", settings=[*TINY_GLO, *settings], epochs=3, out=tmp_path / "run")
    run = nf.Run.load(tmp_path / "run")
    assert 0.999 < longest(run) <= RADIUS  # the bound was met
    estimate = run.add(blobs_of(5, seed=3))
    assert estimate.latent.mean.norm(dim=1).max() <= RADIUS
    assert len(run.codes) == 29
    assert longest(run) <= RADIUS


def test_first_codes_are_principal_coefficients_in_the_ball(images: nf.Images) -> None:
    plain, bounded = (nf.Bank(24, 4, std=0.5, bound=bound) for bound in (None, 1.0))
    for bank in (plain, bounded):
        bank.initialise(lambda: [images.batch(torch.arange(24))], torch.Generator().manual_seed(0))
    assert plain.codes.norm(dim=1).max() > 1
    torch.testing.assert_close(bounded.codes, Ball(4).within(plain.codes))


def test_a_polish_by_an_unbounded_prior_is_brought_back(images: nf.Images) -> None:
    settings = [*TINY_GLO, "prior.kind=isotropic", "prior.std=10.0", "training.polish=5"]
    assert longest(nf.fit(images, recipe="glo", settings=settings, epochs=2)) <= RADIUS


# plain gradient descent


@pytest.mark.parametrize("mapped", [False, True])
def test_rows_absent_from_the_batch_stay_bit_identical(mapped: bool) -> None:
    bank = nf.Bank(24, 4, mapped=mapped)
    bank.put(torch.arange(24), torch.randn(24, 4, generator=torch.Generator().manual_seed(0)))
    before = bank.codes.detach().clone()
    optimiser = torch.optim.SGD(bank.parameters(), lr=0.5)
    seen = Observations(torch.tensor([5, 11, 5]), torch.zeros(1, 1, 2), torch.zeros(3, 1, 1), torch.ones(3, 1))
    bank(seen).mean.square().sum().backward()
    optimiser.step()
    absent = [i for i in range(24) if i not in (5, 11)]
    assert torch.equal(bank.codes[absent], before[absent])
    torch.testing.assert_close(bank.codes[11], before[11] - 0.5 * 2 * before[11])
    torch.testing.assert_close(bank.codes[5], before[5] - 0.5 * 4 * before[5])  # met twice


@pytest.mark.parametrize("stop", [2, 6])
@pytest.mark.parametrize("settings", [[], ["latents.mapped=true"]])
def test_a_fit_that_is_interrupted_and_resumed_ends_bit_identical(tmp_path: Path, stop: int, settings: list[str]) -> None:
    arguments = {"recipe": "glo", "settings": [*TINY_GLO, *settings], "epochs": 3}
    whole = nf.fit(blobs_of(), **arguments)
    with pytest.raises(InterruptedFitError):
        nf.fit(blobs_of(), **arguments, out=tmp_path / "run", progress=Watching(stop))
    assert identical(nf.fit(blobs_of(), out=tmp_path / "run", resume=True), whole)


# what it is worth


@pytest.mark.slow
def test_principal_components_are_a_better_start_than_random_codes() -> None:
    settings = ["decoder.width=8", "training.epochs=20", "training.batch=4"]
    psnr = {
        start: nf.fit("mnist-mini", recipe="glo", limit=200, settings=[*settings, f"latents.init={start}"]).facts["scores"][
            "train"
        ]["psnr"]
        for start in ("spectral", "normal")
    }
    assert psnr["spectral"] > psnr["normal"] + 1  # dB, at equal epochs; 15.8 and 12.2, of the same std, dimensions, seed and rates


def test_isotropic_priors_leave_codes_alone() -> None:
    z = 100 * torch.ones(2, 3)
    assert torch.equal(Isotropic(3).within(z), z)
