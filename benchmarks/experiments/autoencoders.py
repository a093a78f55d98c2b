"""Autoencoders of 30 numbers, fully connected and convolutional, beside the autodecoders."""

from dataclasses import dataclass

import torch
from torch import Tensor

import neuralfield as nf
from experiments.embedding import SHOWN, accuracy, plane
from experiments.figures import digits, plots, scatter
from experiments.fits import curve_of, fitted, scores_of
from experiments.laboratory import Laboratory, decoded, labels_of, pixels, psnr
from experiments.pages import Claim, Page

FITS = ("autoencoder-mlp", "autoencoder-cnn", "image-30", "image", "autodecoder-mnist")
ENCODERS = FITS[:2]
WANTED = 26.1
FEW = 256
"""New images that the autodecoders search for."""


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "autoencoders")
    found = {name: new_images(laboratory, name) for name in FITS}
    page.table(
        "scores",
        ("recipe", "numbers in a code", "train PSNR, dB", "new images, dB", "BCE of new images, nats a pixel", "CPU s of the fit"),
        [each.cells() for each in found.values()],
    )
    mlp, cnn = (found[name] for name in ENCODERS)
    page.claims(
        [
            Claim("the convolutional one has the lower test BCE", f"{cnn.bce:.4f} against {mlp.bce:.4f}", cnn.bce < mlp.bce),
            Claim("test PSNR of the convolutional one at least 26.1 dB", f"{cnn.new:.2f}", cnn.new >= WANTED),
            Claim(
                "(not in the seed) new images by an autodecoder's search are closer than by an encoder, with 30 numbers each",
                f"{found['image-30'].new:.2f} dB against {cnn.new:.2f}",
                found["image-30"].new > cnn.new,
            ),
        ]
    )
    page.result(f"New images {cnn.new:.2f} dB by convolutions, {mlp.new:.2f} by an MLP; test BCE {cnn.bce:.4f} and {mlp.bce:.4f}.")
    page.figure("curves", _curves(laboratory))
    shown = {"new images": pixels(laboratory.new)[:12]} | {name: each.images[:12] for name, each in found.items()}
    page.figure("digits", digits(shown))
    page.figure("tsne", _planes(laboratory))
    page.close(f"{laboratory.about}; autodecoders search for {min(FEW, len(laboratory.new))} of the test images")


@dataclass(frozen=True)
class Found:
    """What a run makes of new images."""

    name: str
    dims: int
    train: float
    new: float
    bce: float
    seconds: float
    images: Tensor

    def cells(self) -> tuple[str, ...]:
        return f"`{self.name}`", str(self.dims), f"{self.train:.2f}", f"{self.new:.2f}", f"{self.bce:.4f}", f"{self.seconds:.0f}"


def new_images(laboratory: Laboratory, name: str) -> Found:
    """Each by its own inference: encoders encode, autodecoders search."""
    run = fitted(laboratory, name)
    new = laboratory.new if run.model.source.reads else laboratory.new.select(torch.arange(min(FEW, len(laboratory.new))))
    images, truth = decoded(run, run.infer(new).latent.mean), pixels(new)
    train = psnr(decoded(run, run.codes), pixels(laboratory.training)).mean().item()
    seconds = curve_of(laboratory, name)["cpu_seconds"]
    return Found(name, run.codes.shape[1], train, psnr(images, truth).mean().item(), bce(images, truth), seconds, images)


def bce(images: Tensor, truth: Tensor) -> float:
    """Binary cross entropy per pixel, in nats; predictions are kept off 0 and 1, which decoders with a linear output reach."""
    return torch.nn.functional.binary_cross_entropy(images.clamp(1e-3, 1 - 1e-3), truth).item()


def _curves(laboratory: Laboratory):  # type: ignore[no-untyped-def]
    """PSNR of probes while encoders and autodecoders train."""
    figure, axes = plots(2)
    for name in FITS:
        for each, of in zip(axes, ("epoch", "seconds"), strict=True):
            each.plot(*scores_of(laboratory, name, of), ".-", label=name, markersize=4)
    axes[0].set(xlabel="epoch", ylabel="PSNR of training images, dB", xlim=(0, 40))
    axes[1].set(xlabel="CPU seconds of training", xlim=(0, 150))
    axes[0].legend(frameon=False)
    return figure


def _planes(laboratory: Laboratory):  # type: ignore[no-untyped-def]
    """t-SNE of both encoders' codes by class."""
    figure, axes = plots(len(ENCODERS), width=3.6, height=3.6)
    labels = labels_of(laboratory.training)[:SHOWN]
    for each, name in zip(axes, ENCODERS, strict=True):
        points = plane(fitted(laboratory, name).codes[:SHOWN])
        scatter(each, points, labels.numpy(), f"{name}, {accuracy(points, labels):.3f}")
    return figure


def encoded(run: nf.Run, observations: nf.Observations) -> Tensor:
    """Images [n, points] that an autoencoder makes of what it sees."""
    return decoded(run, run.infer(observations).latent.mean)
