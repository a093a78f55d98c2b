"""What all experiments share: how many digits of which set, where fits are kept, and where pages lie."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from machine import data_folder
from torch import Tensor

import neuralfield as nf

HELD_OUT = 256
"""Training digits that no fit sees."""


@dataclass(frozen=True)
class Laboratory:
    """`epochs` cuts every fit short, for tests."""

    train: int = 10_000
    test: int = 1_000
    masked: int = 128
    epochs: int | None = None
    runs: Path = Path("runs/experiments")
    pages: Path = Path("docs/experiments")

    @property
    def source(self) -> str:
        """Real MNIST, or the part of it that comes with the package."""
        root = data_folder() / "mnist"
        real = (root / "MNIST").is_dir() and not os.environ.get("NF_EXPERIMENTS_MINI")
        return f"mnist:{root}" if real else "mnist-mini"

    @cached_property
    def training(self) -> nf.Signals:
        """Digits of the fits, padded to 32x32."""
        return self.digits("train", 0, min(self.train, self.all_training - HELD_OUT))

    @cached_property
    def held_out(self) -> nf.Signals:
        """Training digits after those of the fits: what is tuned or calibrated is so on them."""
        return self.digits("train", len(self.training), HELD_OUT)

    @cached_property
    def all_training(self) -> int:
        return len(nf.load(self.source, split="train"))

    @cached_property
    def new(self) -> nf.Signals:
        """Test digits."""
        return self.digits("test", 0, self.test)

    def digits(self, split: str, first: int, count: int) -> nf.Signals:
        """Some digits in a row; as many as there are."""
        signals = nf.load(self.source, split=split, pad=2)
        return signals.select(torch.arange(min(first, len(signals) - 1), min(first + count, len(signals))))

    @property
    def about(self) -> str:
        """A sentence on the data, for the pages."""
        which = "MNIST" if self.source != "mnist-mini" else "the digits that come with the package (no real MNIST was found)"
        return f"{len(self.training):,} training and {len(self.new):,} test images of {which}, padded to 32x32"


def pixels(signals: nf.Signals) -> Tensor:
    """[n, points], of images of one channel."""
    return torch.cat([batch.values[..., 0] for batch in signals.batches(1024)])


def labels_of(signals: nf.Signals) -> Tensor:
    """[n]"""
    assert signals.labels is not None
    return signals.labels


@torch.no_grad()
def decoded(run: nf.Run, codes: Tensor) -> Tensor:
    """Images [n, points] of codes on the run's grid."""
    return torch.cat([run.field(part)(run.domain.grid())[..., 0] for part in codes.split(256)])


def psnr(guess: Tensor, truth: Tensor) -> Tensor:
    """Of every image [n, points], in dB; an exact guess counts as 100 dB."""
    return -10 * torch.log10((guess - truth).square().mean(1).clamp(min=1e-10))


def nearest(images: Tensor, among: Tensor) -> Tensor:
    """Mean squared distance per pixel of each image [n, points] to the nearest of some others."""
    found = [torch.cdist(part, among).amin(1).square() / images.shape[1] for part in images.split(512)]
    return torch.cat(found)
