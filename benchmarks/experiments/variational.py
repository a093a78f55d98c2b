"""Variational models: samples from noise, paths that are smoother, and what the divergence is."""

import torch
from torch import Tensor

import neuralfield as nf
from experiments.classifier import classifier
from experiments.figures import digits, plots
from experiments.fits import fitted
from experiments.laboratory import Laboratory, decoded, labels_of, nearest, pixels, psnr
from experiments.pages import Claim, Page

FITS = ("autoencoder-cnn", "vae", "image", "vad")
SAMPLES, PAIRS, STEPS, FEW = 500, 100, 33, 256
DRAWN = 1_000_000


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "variational")
    runs = {name: fitted(laboratory, name) for name in FITS}
    recogniser, training = classifier(laboratory), pixels(laboratory.training)
    samples = {name: decoded(run, from_noise(run)).clamp(0, 1) for name, run in runs.items()}
    rough = {name: roughness(run, laboratory) for name, run in runs.items()}
    new = {name: _new(run, laboratory) for name, run in runs.items()}
    middles = {name: _middles(run, laboratory) for name, run in runs.items()}
    between = {name: recogniser.confidence(images) for name, images in middles.items()}
    sure = {name: recogniser.confidence(images) for name, images in samples.items()}
    rows = [
        (
            f"`{n}`",
            f"{new[n]:.2f}",
            f"{sure[n]:.2f}",
            f"{nearest(samples[n], training).mean():.4f}",
            f"{rough[n]:.2f}",
            f"{between[n]:.2f}",
        )
        for n in FITS
    ]
    real = pixels(laboratory.new)[:SAMPLES]
    rows.append(("real test images", "", f"{recogniser.confidence(real):.2f}", f"{nearest(real, training).mean():.4f}", "", ""))
    head = (
        "recipe",
        "new images, dB",
        "confidence of samples",
        "samples: MSE to the nearest training image",
        "roughness of paths",
        "confidence half way",
    )
    page.table("models", head, rows)
    errors = _divergence()
    page.claims(_claims(errors, rough, sure, between))
    page.result(
        f"Paths of the VAE have roughness {rough['vae']:.2f}, of the plain autoencoder {rough['autoencoder-cnn']:.2f}; "
        f"its samples are taken for digits with confidence {sure['vae']:.2f}."
    )
    page.figure("samples", digits({name: images[:12] for name, images in samples.items()}))
    page.figure("paths", digits({name: _path(run, laboratory) for name, run in runs.items()}))
    page.figure("spreads", _spreads(runs))
    page.close(f"{laboratory.about}; {SAMPLES} samples, {PAIRS} paths of {STEPS} steps")


def from_noise(run: nf.Run) -> Tensor:
    """Codes for samples: of a variational model from its prior, else independent numbers with the spread of the bank's."""
    draw = torch.Generator().manual_seed(0)
    if run.model.source.variational:
        return run.model.objective.prior.sample(SAMPLES, draw)
    return run.codes.mean(0) + run.codes.std(0) * torch.randn(SAMPLES, run.codes.shape[1], generator=draw)


def roughness(run: nf.Run, laboratory: Laboratory) -> float:
    """How unevenly images change along straight paths between training codes of different digits: the largest step in image
    space / the mean step, averaged over paths. 1 is a path that changes evenly.
    """
    start, end = unlike_pairs(labels_of(laboratory.training), PAIRS)
    shares = torch.linspace(0, 1, STEPS)[:, None, None]
    codes = torch.lerp(run.codes[start][None], run.codes[end][None], shares)
    images = decoded(run, codes.flatten(0, 1)).unflatten(0, (STEPS, -1))
    steps = images.diff(dim=0).square().mean(2).sqrt()
    return (steps.amax(0) / steps.mean(0)).mean().item()


def unlike_pairs(labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rows of signals of different labels, drawn with a fixed seed."""
    draw = torch.Generator().manual_seed(1)
    start, end = torch.randint(len(labels), (2, 8 * count), generator=draw)
    unlike = labels[start] != labels[end]
    return start[unlike][:count], end[unlike][:count]


def _new(run: nf.Run, laboratory: Laboratory) -> float:
    new = laboratory.new.select(torch.arange(min(FEW, len(laboratory.new))))
    return psnr(decoded(run, run.infer(new).latent.mean), pixels(new)).mean().item()


def _middles(run: nf.Run, laboratory: Laboratory) -> Tensor:
    """Images half way between training codes of different digits."""
    start, end = unlike_pairs(labels_of(laboratory.training), PAIRS)
    return decoded(run, (run.codes[start] + run.codes[end]) / 2).clamp(0, 1)


def _divergence() -> float:
    """How many standard errors the mean of log q - log p over draws lies from -1/2 sum(1 + log s^2 - mu^2 - s^2)."""
    torch.manual_seed(0)
    mean, log_std = torch.randn(1, 3, dtype=torch.float64), torch.randn(1, 3, dtype=torch.float64) / 2
    closed = nf.IsotropicPrior(3).double().divergence(nf.Latent(mean, log_std))[0]
    q, p = torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0)
    z = q.sample((DRAWN,))
    draws = (q.log_prob(z) - p.log_prob(z)).sum((1, 2))
    return ((draws.mean() - closed).abs() / (draws.std() / DRAWN**0.5)).item()


def _claims(errors: float, rough: dict[str, float], sure: dict[str, float], between: dict[str, float]) -> list[Claim]:
    vae, plain, vad, bank = (rough[name] for name in ("vae", "autoencoder-cnn", "vad", "image"))
    return [
        Claim("closed-form KL within 3 standard errors of 10^6 samples", f"{errors:.2f} of them", errors <= 3),
        Claim(
            "smoother paths than the plain autoencoder: images change more evenly", f"roughness {vae:.2f}, {plain:.2f}", vae < plain
        ),
        Claim(
            "- what lies half way is more like a digit",
            f"confidence {between['vae']:.2f}, {between['autoencoder-cnn']:.2f}",
            between["vae"] > between["autoencoder-cnn"],
        ),
        Claim("the first of these for the variational autodecoder and the plain one", f"{vad:.2f}, {bank:.2f}", vad < bank),
        Claim(
            "samples from noise: more like digits than a plain autoencoder's",
            f"confidence {sure['vae']:.2f}, {sure['autoencoder-cnn']:.2f}",
            sure["vae"] > sure["autoencoder-cnn"],
        ),
    ]


def _path(run: nf.Run, laboratory: Laboratory) -> Tensor:
    """Twelve images along the straight line between two training codes of different digits."""
    start, end = unlike_pairs(labels_of(laboratory.training), 3)
    codes = torch.lerp(run.codes[start[2]], run.codes[end[2]], torch.linspace(0, 1, 12)[:, None])
    return decoded(run, codes).clamp(0, 1)


def _spreads(runs: dict[str, nf.Run]):  # type: ignore[no-untyped-def]
    """Mean standard deviation of each dimension's codes, sorted: 1 where a dimension says nothing of the image."""
    figure, (axes,) = plots(1, width=6)
    for name in ("vae", "vad"):
        std = runs[name].std
        assert std is not None
        axes.plot(range(1, std.shape[1] + 1), std.mean(0).sort().values, ".-", label=name)
    axes.set(xlabel="dimension, sorted", ylabel="mean standard deviation of codes", ylim=(0, 1.1))
    axes.legend(frameon=False)
    return figure
