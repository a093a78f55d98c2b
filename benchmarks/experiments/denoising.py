"""The denoising autoencoder: what it changes of a noised point is the score of the noised density."""

import math

import torch
from torch import Tensor
from torch import distributions as d

import neuralfield as nf
from experiments.figures import digits, plots
from experiments.fits import fitted
from experiments.laboratory import Laboratory, decoded, pixels, psnr
from experiments.pages import Claim, Page
from neuralfield.decoders.mlp import MLP
from neuralfield.latents.encoder import Encoder
from neuralfield.objective import MAP
from neuralfield.seeds import generator
from neuralfield.signals.corruptions import Noise

FITS = ("denoising", "autoencoder-mlp")
NOISE, STEPS, RATE, BATCH, WIDTH = 0.5, 2000, 1e-2, 512, 32
WANTED = 0.05
PIXEL_NOISE = 0.4
"""Standard deviation of the noise on new images; their values lie in [0, 1]."""


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "denoising")
    source, decoder = trained(STEPS if laboratory.epochs is None else 20)
    noised = two_gaussians(NOISE).sample((20_000,))
    found = field(source, decoder, noised)
    errors = {name: off(found, score(two_gaussians(noise), noised)) for name, noise in (("noised", NOISE), ("clean", 0.0))}
    page.table(
        "field", ("density", "relative error of (r(x) - x) / s^2 as its score"), [(n, f"{e:.1%}") for n, e in errors.items()]
    )
    rows, scores = denoised(laboratory)
    page.table("digits", ("", "PSNR of new images seen with noise, dB", "seen without, dB"), scores)
    page.claims(
        [
            Claim(
                "within 5 % of the score of the NOISED density (measured: 3.2 %)",
                f"{errors['noised']:.1%}",
                errors["noised"] <= WANTED,
            ),
            Claim("and not of the clean one, which it is often taken for", f"{errors['clean']:.0%} off", errors["clean"] > 0.5),
        ]
    )
    page.result(
        f"The vector field is within {errors['noised']:.1%} of the score of the noised density, "
        f"and {errors['clean']:.0%} off the clean one's."
    )
    page.figure("field", _figure(source, decoder))
    page.figure("digits", digits(rows))
    page.close(f"two Gaussians in the plane, noise {NOISE}; digits: {laboratory.about}, noise {PIXEL_NOISE}")


def two_gaussians(noise: float) -> d.Distribution:
    """Two round clouds in the plane, blurred by noise of this standard deviation."""
    means = torch.tensor([[-1.0, -0.5], [1.0, 0.8]])
    spread = torch.tensor([0.5, 0.3]).square()[:, None] + noise**2
    parts = d.Independent(d.Normal(means, spread.sqrt().expand(2, 2)), 1)
    return d.MixtureSameFamily(d.Categorical(torch.tensor([0.6, 0.4])), parts)


def points(values: Tensor) -> nf.Observations:
    """Points of the plane [n, 2] as signals of two times."""
    times = torch.tensor([[[-1.0], [1.0]]])
    return nf.Observations(torch.arange(len(values)), times, values[..., None], torch.ones_like(values))


def trained(steps: int) -> tuple[Encoder, MLP]:
    """The toolkit's own parts and objective; codes are wide, for nothing is to be compressed."""
    torch.manual_seed(0)
    source = Encoder(1, 1, 1, (2,), code_dim=WIDTH, network="mlp", width=64, depth=2, activation="silu")
    decoder = MLP((2,), torch.tensor([[[-1.0], [1.0]]]), 1, WIDTH, width=64, depth=1, activation="silu")
    prior = nf.IsotropicPrior(WIDTH, 1e6)  # so wide that it says nothing
    objective = MAP(nf.Points(), nf.GaussianLikelihood(NOISE), prior, corruption=Noise(NOISE)).train()
    optimiser = torch.optim.Adam([*source.parameters(), *decoder.parameters()], lr=RATE)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        objective(source, decoder, points(two_gaussians(0.0).sample((BATCH,))), generator(0, step)).total.mean().backward()
        optimiser.step()
    return source, decoder


@torch.no_grad()
def field(source: Encoder, decoder: MLP, at: Tensor) -> Tensor:
    """(r(x) - x) / s^2 at points [n, 2]."""
    seen = points(at)
    return (decoder(source(seen).mean, seen.coords)[..., 0] - at) / NOISE**2


def score(density: d.Distribution, x: Tensor) -> Tensor:
    """Gradient of the log density."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(density.log_prob(x).sum(), x)[0]


def off(found: Tensor, expected: Tensor) -> float:
    """Root mean square error, relative to what was expected."""
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


def denoised(laboratory: Laboratory) -> tuple[dict[str, Tensor], list[tuple[str, ...]]]:
    """What autoencoders make of noisy digits: pictures, and PSNR of the clean ones."""
    new, truth = laboratory.new.batch(torch.arange(len(laboratory.new))), pixels(laboratory.new)
    noisy = Noise(PIXEL_NOISE)(new, generator(0))
    rows, scores = (
        {"seen": noisy.values[:12, :, 0].clamp(0, 1)},
        [("what is seen", f"{psnr(noisy.values[..., 0], truth).mean():.2f}", "")],
    )
    for title, name in (("trained with noise", "denoising"), ("trained without", "autoencoder-mlp")):
        run = fitted(laboratory, name)
        images, clean = (decoded(run, run.infer(seen).latent.mean) for seen in (noisy, new))
        rows[title] = images[:12]
        scores.append((title, *(f"{psnr(part, truth).mean():.2f}" for part in (images, clean))))
    return rows | {"truth": truth[:12]}, scores


def _figure(source: Encoder, decoder: MLP):  # type: ignore[no-untyped-def]
    """Arrows of the autoencoder and of the score of the noised density, over the clean and the noised density."""
    figure, axes = plots(2, width=4.6, height=4.2)
    line, fine = torch.linspace(-3, 3, 17), torch.linspace(-3, 3, 121)
    at, ground = torch.cartesian_prod(line, line), torch.cartesian_prod(fine, fine)
    titles = {"(r(x) - x) / s^2": field(source, decoder, at), "score of the noised density": score(two_gaussians(NOISE), at)}
    for each, (title, arrows) in zip(axes, titles.items(), strict=True):
        shade = two_gaussians(NOISE).log_prob(ground).exp().reshape(121, 121).T
        each.contourf(fine, fine, shade, levels=12, cmap="Blues")
        each.quiver(*at.T, *arrows.T, angles="xy", scale_units="xy", scale=8, width=0.004)
        each.set(title=title, aspect="equal")
    return figure
