"""MNIST, Fashion-MNIST and CIFAR-10: read as they lie in a folder, or downloaded once into a cache by torchvision.

Nothing is ever written into a folder that the user names, and nothing that is read can run code.
"""

import gzip
import os
import pickle
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from neuralfield.errors import NeuralfieldError
from neuralfield.signals.images import Images, check_split

IDX_PREFIX = {"train": "train", "test": "t10k"}
CIFAR_BATCHES = {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]}
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # as printed on https://www.cs.toronto.edu/~kriz/cifar.html
CIFAR_SHAPE = (3, 32, 32)


def mnist(
    path: str | None = None, split: str = "train", pad: int = 0, resize: list[int] | int | None = None, channels: int | None = None
) -> Images:
    """MNIST, 60,000 + 10,000 digits [28, 28, 1], from `path`/MNIST/raw (idx files or .gz), else the cache."""
    images, labels = _idx_set("mnist", "MNIST", path, split)
    return Images.from_arrays(images, _ids(split, images), labels, pad, resize, channels)


def fashion_mnist(
    path: str | None = None, split: str = "train", pad: int = 0, resize: list[int] | int | None = None, channels: int | None = None
) -> Images:
    """Fashion-MNIST, 60,000 + 10,000 garments [28, 28, 1], from `path`/FashionMNIST/raw (idx files or .gz), else the cache."""
    images, labels = _idx_set("fashion-mnist", "FashionMNIST", path, split)
    return Images.from_arrays(images, _ids(split, images), labels, pad, resize, channels)


def cifar10(
    path: str | None = None, split: str = "train", pad: int = 0, resize: list[int] | int | None = None, channels: int | None = None
) -> Images:
    """CIFAR-10, 50,000 + 10,000 photographs [32, 32, 3], from `path`/cifar-10-batches-bin or -py, else the cache."""
    check_split(split)
    root = _root(path)
    found = _cifar_files(root, split)
    if not found and path is None:
        _download("cifar10", root / "cifar-10-batches-bin", _fetch_cifar)
        found = _cifar_files(root, split)
    if not found:
        raise NeuralfieldError(
            f"{root} does not hold {', '.join(CIFAR_BATCHES[split])} in cifar-10-batches-bin (as .bin) or cifar-10-batches-py; "
            "cifar10:ROOT reads these folders of ROOT"
        )
    images, labels = (np.concatenate(parts) for parts in zip(*map(_read_cifar, found), strict=True))
    return Images.from_arrays(images, _ids(split, images), labels, pad, resize, channels)


def _ids(split: str, images: np.ndarray) -> list[str]:
    return [f"{split}-{i:05d}" for i in range(len(images))]


def _root(path: str | None) -> Path:
    """The folder that the user named, or the cache."""
    if path is None:
        return Path(os.environ.get("NF_CACHE") or "~/.cache/neuralfield").expanduser()
    root = Path(path).expanduser()
    if not root.is_dir():
        raise NeuralfieldError(f"there is no folder {root}; name the one that holds the data, or leave it out to use the cache")
    return root


# idx files


def _idx_set(kind: str, name: str, path: str | None, split: str) -> tuple[np.ndarray, np.ndarray]:
    check_split(split)
    folder = _root(path) / name / "raw"
    files = [f"{IDX_PREFIX[split]}-images-idx3-ubyte", f"{IDX_PREFIX[split]}-labels-idx1-ubyte"]
    if path is None and not all(_idx_file(folder, file) for file in files):
        _download(kind, folder, lambda staging: _fetch_idx(name, staging))
    for file in files:
        if _idx_file(folder, file) is None:
            raise NeuralfieldError(f"{folder} has neither {file} nor {file}.gz; {kind}:ROOT reads ROOT/{name}/raw")
    images, labels = _read_idx(folder / files[0], axes=3), _read_idx(folder / files[1], axes=1)
    if len(images) != len(labels):
        raise NeuralfieldError(f"{folder / files[1]} has {len(labels)} labels for {len(images)} images; fetch both again")
    return images, labels


def _idx_file(folder: Path, file: str) -> Path | None:
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)


def _read_idx(path: Path, axes: int) -> np.ndarray:
    """An array of bytes in the idx format, unpacked or .gz: 0, 0, 8 (unsigned byte), number of axes, big-endian sizes, values."""
    found = _idx_file(path.parent, path.name) or path
    try:
        data = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
        if data[:4] != bytes([0, 0, 8, axes]):
            raise ValueError(f"it does not begin as an idx file of bytes with {axes} axes")
        shape = [int(side) for side in np.frombuffer(data, ">u4", count=axes, offset=4)]
        return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise NeuralfieldError(f"{found} is damaged ({_line(error)}); fetch it again") from error


# CIFAR-10


def _cifar_files(root: Path, split: str) -> list[Path]:
    """All batches of a split: the binary version where it is there, else the Python one, else none."""
    for folder, ending in (("cifar-10-batches-bin", ".bin"), ("cifar-10-batches-py", "")):
        files = [root / folder / f"{batch}{ending}" for batch in CIFAR_BATCHES[split]]
        if all(file.is_file() for file in files):
            return files
    return []


def _read_cifar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(images [n, 32, 32, 3], labels [n]) of one batch."""
    try:
        planes, labels = _cifar_binary(path) if path.suffix == ".bin" else _cifar_python(path)
        if labels.shape != planes.shape[:1] or not labels.size:
            raise ValueError(f"it has {labels.size} labels for {len(planes)} images")
        return planes.reshape(-1, *CIFAR_SHAPE).transpose(0, 2, 3, 1), labels
    except Exception as error:  # a damaged pickle may raise anything, says its documentation
        raise NeuralfieldError(f"{path} is damaged ({_line(error)}); fetch it again") from error


def _cifar_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    records = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 1 + int(np.prod(CIFAR_SHAPE)))  # a label, then the pixels
    return records[:, 1:], records[:, 0]


def _cifar_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with path.open("rb") as file:
        batch = _InertUnpickler(file, encoding="latin1").load()  # written by Python 2: latin1 keeps its bytes as they are
    raw = batch["data"].state[4]  # an array's state: version, shape, dtype, column-major, bytes
    data = np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, np.uint8)
    return data.reshape(-1, int(np.prod(CIFAR_SHAPE))), np.array(batch["labels"], np.uint8)


class _Inert:
    """Stands in for every class and function that a pickle names: keeps what it is given and does nothing with it."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _InertUnpickler(pickle.Unpickler):
    """Reads the plain contents of a pickle. Not even numpy's own classes are called: a forged dtype can reach into memory."""

    def find_class(self, module: str, name: str) -> type[_Inert]:
        return _Inert


# the cache


def _download(kind: str, folder: Path, fetch: Callable[[Path], Path]) -> None:
    """Fill `folder` of the cache. Files move there once all of them are complete, so an interruption leaves no half file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as staging:
            for file in fetch(Path(staging)).iterdir():
                os.replace(file, folder / file.name)
    except (OSError, RuntimeError, HTTPException) as error:  # URLError is an OSError; torchvision raises RuntimeError
        raise NeuralfieldError(
            f'"{kind}" is not in {folder} and cannot be downloaded ({_line(error)}); use the embedded set mnist-mini, '
            f"or {kind}:ROOT where you have the files"
        ) from error


def _fetch_idx(name: str, staging: Path) -> Path:
    from torchvision import datasets  # takes a second or two to import, and only a download needs it

    getattr(datasets, name)(staging, download=True)
    return staging / name / "raw"


def _fetch_cifar(staging: Path) -> Path:
    from torchvision.datasets.utils import download_and_extract_archive

    # not torchvision's CIFAR10: it downloads the Python version, which is made of pickles
    download_and_extract_archive(CIFAR_URL, staging, md5=CIFAR_MD5, remove_finished=True)
    return staging / "cifar-10-batches-bin"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
