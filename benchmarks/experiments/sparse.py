"""Sparse autoencoders: 300 logistic units as codes, without a penalty, with L1, and with KL on mean activations."""

import torch
from torch import Tensor

from experiments.figures import digits, plots
from experiments.fits import FITS as ALL
from experiments.fits import fitted
from experiments.laboratory import Laboratory, decoded, pixels, psnr
from experiments.pages import Claim, Page
from neuralfield.recipe import Recipe

FITS = ("sparse-none", "sparse-l1", "sparse-kl")
TITLES = ("no penalty", "L1", "KL")
OFF = 0.1
"""Activations below count as off."""
SEED = (0.21, 0.96, 0.68)
NEAR = 0.1
"""How near a share must be to the seed's to count as the same; both fits depend on their weights."""


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "sparse")
    truth = pixels(laboratory.new)
    codes = {title: _codes(laboratory, name) for title, name in zip(TITLES, FITS, strict=True)}
    images = {title: decoded(fitted(laboratory, name), codes[title]) for title, name in zip(TITLES, FITS, strict=True)}
    shares = {title: (z < OFF).float().mean().item() for title, z in codes.items()}
    wanted = float(Recipe.load(ALL["sparse-kl"].recipe).penalty.arguments["share"])  # type: ignore[union-attr]
    trained = {title: fitted(laboratory, name).codes for title, name in zip(TITLES, FITS, strict=True)}
    off = {title: (z.mean(0) - wanted).abs().mean().item() for title, z in trained.items()}
    page.table(
        "shares",
        ("penalty", "activations below 0.1", "mean activation", f"mean |q - {wanted:g}|", "new images, dB"),
        [
            (t, f"{shares[t]:.1%}", f"{codes[t].mean():.3f}", f"{off[t]:.4f}", f"{psnr(images[t], truth).mean():.2f}")
            for t in TITLES
        ],
    )
    none, l1, kl = (shares[title] for title in TITLES)
    page.claims(
        [
            *(
                Claim(
                    f"share of activations below 0.1, {title}: {seed:.0%}",
                    f"{shares[title]:.0%}",
                    abs(shares[title] - seed) <= NEAR,
                )
                for title, seed in zip(TITLES, SEED, strict=True)
            ),
            Claim("both penalties make codes sparser", f"{none:.0%} without; {l1:.0%}, {kl:.0%}", min(l1, kl) > none),
            Claim("KL: mean |q - p| at most 0.015, training images", f"{off['KL']:.4f}", off["KL"] <= 0.015),
        ]
    )
    page.result(f"Activations below 0.1: {none:.0%} without a penalty, {l1:.0%} with L1, {kl:.0%} with KL.")
    page.figure("activations", _histograms(codes))
    page.figure("codes", digits({"new images": truth[:12], **{title: _squares(z[:12]) for title, z in codes.items()}}))
    page.close(laboratory.about)


def _codes(laboratory: Laboratory, name: str) -> Tensor:
    """Activations [n, 300] for new images."""
    return fitted(laboratory, name).infer(laboratory.new).latent.mean


def _squares(codes: Tensor) -> Tensor:
    """Codes as square pictures [n, 1024] of 18x18 units with an empty rest."""
    side = int(codes.shape[1] ** 0.5 + 0.999)
    squares = torch.nn.functional.pad(codes, (0, side * side - codes.shape[1])).reshape(-1, 1, side, side)
    return torch.nn.functional.interpolate(squares, (32, 32)).flatten(1)


def _histograms(codes: dict[str, Tensor]):  # type: ignore[no-untyped-def]
    """Of all activations, and of the units' means."""
    figure, axes = plots(3, 2, width=3.6, height=2.4)
    for each, below, (title, z) in zip(axes, axes[3:], codes.items(), strict=False):
        each.hist(z.flatten().numpy(), bins=50, range=(0, 1), log=True)
        each.set(title=title, xlabel="activation", ylim=(10, None))
        below.hist(z.mean(0).numpy(), bins=50, range=(0, 1))
        below.set(xlabel="mean activation of a unit")
    axes[0].set(ylabel="how often")
    axes[3].set(ylabel="units")
    return figure
