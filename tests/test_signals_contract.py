"""The contract of data sets, for every source of images; their own laws are in test_signals.py."""

from pathlib import Path

import pytest
import torch
from contracts.signals import SignalsContract
from PIL import Image
from synthetic import blobs, images, write_npz

from neuralfield.signals.signals import Signals, load


class TestImages(SignalsContract):
    @pytest.fixture
    def signals(self) -> Signals:
        return images(7, 6, 9, 3)


class TestImagesWithoutLabels(SignalsContract):
    @pytest.fixture
    def signals(self) -> Signals:
        return images(5, 4, 4, labelled=False)


class TestMnistMini(SignalsContract):
    @pytest.fixture
    def signals(self) -> Signals:
        return load("mnist-mini", split="test", limit=20, pad=2)


class TestNpz(SignalsContract):
    @pytest.fixture
    def signals(self, tmp_path: Path) -> Signals:
        return load(f"npz:{write_npz(tmp_path / 'blobs.npz')}")


class TestFolder(SignalsContract):
    @pytest.fixture
    def signals(self, tmp_path: Path) -> Signals:
        for i, pixels in enumerate((blobs(6, 5, 7, 3) * 255).to(torch.uint8).numpy()):
            Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        return load(f"images:{tmp_path}")
