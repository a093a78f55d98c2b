"""What autoencoders learn where that is known: principal components, and scores of noised densities."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch import distributions as d

import neuralfield as nf
from neuralfield.decoders.decoder import Decoder
from neuralfield.decoders.linear import Linear
from neuralfield.decoders.mlp import MLP
from neuralfield.latents.encoder import Encoder
from neuralfield.latents.penalties import Contractive
from neuralfield.latents.priors import Isotropic
from neuralfield.likelihoods import Gaussian
from neuralfield.measurements import Points
from neuralfield.objective import MAP
from neuralfield.recipe import recipe_names
from neuralfield.seeds import generator
from neuralfield.signals.corruptions import Noise
from neuralfield.types import Observations

WIDE = 1e6
"""Standard deviation of a prior that says nothing."""


def on_a_line(values: Tensor) -> Observations:
    """Signals [n, N] on N even times."""
    n, points = values.shape
    times = torch.linspace(-1, 1, points, dtype=values.dtype)[None, :, None]
    return Observations(torch.arange(n), times, values[..., None], torch.ones_like(values))


# linear


def minimised(source: Encoder, decoder: Decoder, objective: MAP, observations: Observations) -> None:
    """Both at the optimum of the toolkit's own objective, all signals in one batch."""
    parameters = [*source.parameters(), *decoder.parameters()]

    def closure() -> Tensor:
        for p in parameters:
            p.grad = None
        loss = objective(source, decoder, observations)
        cost = loss.total.mean() + loss.batch
        cost.backward()
        return cost

    # in several rounds: encoders may grow where decoders shrink, and what LBFGS remembers of that valley holds it up at the end
    for _ in range(4):
        torch.optim.LBFGS(
            parameters, max_iter=200, tolerance_grad=1e-12, tolerance_change=0, history_size=50, line_search_fn="strong_wolfe"
        ).step(closure)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_linear_autoencoder_spans_the_principal_subspace(seed: int) -> None:
    torch.manual_seed(seed)
    n, points, code_dim = 20, 8, 3
    # an encoder's curvature goes with their squares: it is slow to find where they are far apart
    singular = torch.tensor([6.0, 5.0, 4.5, 2.0, 1.5], dtype=torch.float64)
    left, right = (torch.linalg.qr(torch.randn(size, 5, dtype=torch.float64))[0] for size in (n, points))
    values = left * singular @ right.T + torch.randn(points, dtype=torch.float64)
    observations = on_a_line(values)
    source = Encoder(n, 1, 1, (points,), code_dim, network="linear").double()
    decoder = Linear((points,), observations.coords, 1, code_dim).double()
    minimised(source, decoder, MAP(Points(), Gaussian(0.3), Isotropic(code_dim, WIDE)).double(), observations)
    mean = values.mean(0)
    principal = torch.linalg.svd(values - mean, full_matrices=False).Vh[:code_dim].T
    # the decoder's own span; W2 W1 would be the projector at the optimum only
    span = torch.linalg.qr(decoder.values.weight.detach())[0]
    assert torch.linalg.matrix_norm(span - principal @ (principal.T @ span), 2) <= 1e-4  # sine of the largest principal angle
    rebuilt = decoder(source(observations).mean, observations.coords).detach()[..., 0]
    torch.testing.assert_close(rebuilt, mean + (values - mean) @ principal @ principal.T, rtol=0, atol=1e-4)


# denoising


def two_gaussians(noise: float) -> d.Distribution:
    """Two round clouds in the plane, blurred by noise of this standard deviation."""
    means = torch.tensor([[-1.0, -0.5], [1.0, 0.8]])
    spread = torch.tensor([0.5, 0.3]).square()[:, None] + noise**2
    parts = d.Independent(d.Normal(means, spread.sqrt().expand(2, 2)), 1)
    return d.MixtureSameFamily(d.Categorical(torch.tensor([0.6, 0.4])), parts)


def score(density: d.Distribution, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(density.log_prob(x).sum(), x)[0]


@pytest.mark.slow
def test_what_a_denoising_autoencoder_changes_is_the_score_of_the_noised_density() -> None:
    # The best answer to a noised point is E[x | x~], and E[x | x~] - x~ = noise^2 grad log p_noised(x~) (Tweedie; Vincent 2011).
    noise, steps, rate = 0.5, 2000, 1e-2
    # a point of the plane is a signal of two times; its code may be wide, as nothing is to be compressed
    source = Encoder(1, 1, 1, (2,), code_dim=32, network="mlp", width=64, depth=2, activation="silu")
    decoder = MLP((2,), torch.tensor([[[-1.0], [1.0]]]), 1, 32, width=64, depth=1, activation="silu")
    objective = MAP(Points(), Gaussian(noise), Isotropic(32, WIDE), corruption=Noise(noise)).train()
    optimiser = torch.optim.Adam([*source.parameters(), *decoder.parameters()], lr=rate)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch = on_a_line(two_gaussians(0.0).sample((512,)))
        optimiser.zero_grad()
        objective(source, decoder, batch, generator(0, step)).total.mean().backward()
        optimiser.step()
    noised = two_gaussians(noise).sample((20_000,))
    seen = on_a_line(noised)
    with torch.no_grad():
        residual = (decoder(source(seen).mean, seen.coords)[..., 0] - noised) / noise**2
    expected = score(two_gaussians(noise), noised)
    apart = ((residual - expected).square().mean() / expected.square().mean()).sqrt()
    assert apart <= 0.05
    # and not that of the clean density, which it is often taken for
    clean = score(two_gaussians(0.0), noised)
    assert ((residual - clean).square().mean() / clean.square().mean()).sqrt() > 0.5


# recipes

AUTOENCODERS = [name for name in recipe_names() if name.startswith("autoencoder-")]
SMALL = ["training.epochs=1", "training.batch=32", "signals.limit=64"]
NARROW = {"mlp": ["latents.width=16", "decoder.width=16"], "convolutional": ["latents.width=4", "decoder.width=4"]}


def small(name: str, epochs: int = 1) -> nf.Run:
    recipe = nf.Recipe.load(name, SMALL)
    return nf.fit(recipe=recipe.changed(NARROW.get(recipe.latents.arguments["network"], [])), epochs=epochs)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_an_autoencoder_encodes_signals_that_it_has_never_met(name: str, tmp_path: Path) -> None:
    run = small(name)
    run.save(tmp_path)
    signals = nf.load("mnist-mini", split="test", pad=2, limit=6)
    observations = signals.batch(torch.arange(6))
    found, again = (each.infer(observations).latent.mean for each in (run, nf.Run.load(tmp_path)))
    assert torch.pdist(found).gt(0).all()
    assert torch.equal(found, again)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_training_an_autoencoder_brings_its_images_nearer(name: str) -> None:
    begun, further = (small(name, epochs).facts["scores"]["train"]["mse"] for epochs in (1, 12))
    assert further < 0.95 * begun


def test_the_linear_autodecoder_rebuilds_images_as_well_as_principal_components() -> None:
    run = nf.fit(recipe="autodecoder-linear", limit=500)
    images = nf.load("mnist-mini", pad=2, limit=500).truth(torch.arange(500)).values[..., 0].double()
    singular = torch.linalg.svdvals(images - images.mean(0))
    least = singular[30:].square().sum() / images.numel()
    # codes shrink a little towards 0, by what is left over against what each component explains
    assert 1 - 1e-4 < run.facts["scores"]["train"]["mse"] / least < 1.01


def test_contraction_makes_codes_change_less_with_what_is_seen() -> None:
    recipe = nf.Recipe.load("autoencoder-contractive", [*SMALL, "signals.limit=200", *NARROW["mlp"]])
    images = nf.load("mnist-mini", split="test", pad=2, limit=50).batch(torch.arange(50))
    slopes = []
    for weight in (0.0, 1.0):
        source = nf.fit(recipe=recipe.changed([f"penalty.weight={weight}"]), epochs=20).model.source
        with torch.no_grad():
            codes, squares = source(images), Contractive(1.0).cost(source(images), source, images)
        # against the codes' own spread: shrinking all codes, and stretching the decoder, makes every slope smaller
        slopes.append(float(squares.mean() / codes.mean.var(0).sum()))
    assert slopes[1] < 0.8 * slopes[0]


# on real digits, 32x32, with the recipes as they are


def fitted(recipe: str, data_root: Path, settings: list[str] | None = None) -> tuple[nf.Run, nf.Observations]:
    """A fit to 10,000 digits, and 1,000 others."""
    train, test = (
        nf.load(f"mnist:{data_root}/mnist", split=split, limit=limit, pad=2) for split, limit in (("train", 10_000), ("test", 1000))
    )
    return nf.fit(train, recipe=recipe, settings=settings or []), test.batch(torch.arange(1000))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.real_data
def test_penalties_leave_few_of_300_units_at_work(data_root: Path) -> None:
    l1, kl, plain = (
        fitted(name, data_root, settings)[0].codes
        for name, settings in (
            ("autoencoder-sparse-l1", []),
            ("autoencoder-sparse-kl", []),
            ("autoencoder-sparse-l1", ["penalty.kind=none"]),
        )
    )
    at_rest = [float((codes < 0.1).float().mean()) for codes in (plain, kl, l1)]
    # .16, .70 and .96 when this was written; the seeds' own scripts had .21, .68 and .96
    assert at_rest[0] < 0.3
    assert at_rest[1] > 0.6
    assert at_rest[2] > 0.94
    assert (kl.mean(0) - 0.1).abs().mean() <= 0.015  # each unit works as much as was asked for


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.real_data
def test_convolutions_say_more_in_30_numbers_than_layers_that_know_nothing_of_images(data_root: Path) -> None:
    nats, psnr = [], []
    for name in ("autoencoder-cnn", "autoencoder-mlp"):
        run, test = fitted(name, data_root)
        estimate = run.infer(test)
        nats.append(float(estimate.loss.data.mean()))
        psnr.append(float(run.domain.score(run.field(estimate.latent), test)["psnr"].mean()))
    assert nats[0] < nats[1] - 3
    assert psnr[0] >= 26.1
