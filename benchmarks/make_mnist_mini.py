"""Makes neuralfield/signals/mnist_mini.npz from the MNIST of the folder $NF_DATA/mnist: the first digits of each class."""

import os
from pathlib import Path

import numpy as np

import neuralfield.signals.mnist_mini
from neuralfield.signals.torchvision_sets import mnist

OF_EACH_CLASS = {"train": 200, "test": 50}


def part(root: str, split: str) -> dict[str, np.ndarray]:
    whole = mnist(root, split)
    assert whole.labels is not None
    labels = whole.labels.numpy()
    index = np.sort(np.concatenate([np.flatnonzero(labels == digit)[: OF_EACH_CLASS[split]] for digit in range(10)]))
    images = whole.pixels[index, :, :, 0].numpy()
    return {f"images_{split}": images, f"labels_{split}": labels[index].astype(np.uint8), f"index_{split}": index.astype(np.uint16)}


if __name__ == "__main__":
    root = f"{os.environ['NF_DATA']}/mnist"
    out = Path(neuralfield.signals.mnist_mini.__file__).with_suffix(".npz")
    np.savez_compressed(out, allow_pickle=False, **part(root, "train"), **part(root, "test"))
    print(f"{out}: {out.stat().st_size} bytes")
