"""A part of MNIST that ships with the package: 2,000 digits to learn from and 500 to test on, without a download."""

from pathlib import Path

import numpy as np

from neuralfield.signals.images import Images, check_split


def mnist_mini(split: str = "train", pad: int = 0, resize: list[int] | int | None = None, channels: int | None = None) -> Images:
    """The first 200 (test: 50) digits of each class of MNIST [28, 28, 1], in the original order.

    An id like `train-00012` holds the digit's place in the original file. Made by benchmarks/make_mnist_mini.py; its licence is
    in mnist_mini.LICENSE.md.
    """
    check_split(split)
    with np.load(Path(__file__).with_suffix(".npz"), allow_pickle=False) as file:
        images, labels, index = (file[f"{name}_{split}"] for name in ("images", "labels", "index"))
    return Images.from_arrays(images, [f"{split}-{i:05d}" for i in index], labels, pad, resize, channels)
