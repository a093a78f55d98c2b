"""Arrays in a numpy .npz file; the names of the arrays say which kind of signals they are."""

from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from neuralfield.errors import NeuralfieldError
from neuralfield.signals.images import Images, check_split
from neuralfield.signals.signals import Signals


def npz(
    path: str, split: str = "train", pad: int = 0, resize: list[int] | int | None = None, channels: int | None = None
) -> Signals:
    """`images` [n, h, w] or [n, h, w, channels] (uint8 means / 255, floating point as it is) and optionally `labels` [n].

    `images_train`, `labels_train`, `images_test` and so on hold splits; without them all is `train` and `test` alike.
    """
    check_split(split)
    file = Path(path).expanduser()
    try:
        with _open(file) as archive:
            if key := _key(archive, "images", split):
                return _images(archive, key, split, pad, resize, channels)
            raise NeuralfieldError(f"there is no array images or images_{split}; there are: {', '.join(archive.files) or 'none'}")
    except NeuralfieldError as error:
        raise type(error)(f"{file}: {error}") from error


def _images(archive: NpzFile, key: str, split: str, pad: int, resize: list[int] | int | None, channels: int | None) -> Images:
    images, labels = _array(archive, key), _labels(archive, key.replace("images", "labels"))
    if not len(images):
        raise NeuralfieldError(f'array "{key}" holds no images')
    ids = [str(i) if key == "images" else f"{split}-{i:05d}" for i in range(len(images))]
    return Images.from_arrays(images, ids, labels, pad, resize, channels)


def _labels(archive: NpzFile, key: str) -> np.ndarray | None:
    if key not in archive.files:
        return None
    labels = _array(archive, key)
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise NeuralfieldError(f'array "{key}" must hold whole numbers [n], got {labels.dtype} {list(labels.shape)}')
    return labels


def _open(file: Path) -> NpzFile:
    if not file.is_file():
        raise NeuralfieldError("there is no such file")
    try:
        archive = np.load(file, allow_pickle=False)
    except Exception as error:  # zip and numpy meet a broken file with any of several kinds
        raise NeuralfieldError("it is not an .npz file, or is truncated; write it with numpy.savez_compressed") from error
    if not isinstance(archive, NpzFile):
        raise NeuralfieldError("it holds one array without a name; write it with numpy.savez_compressed(file, images=array)")
    return archive


def _key(archive: NpzFile, name: str, split: str) -> str | None:
    """The array `name` of a split: its own where there is one, else that of all splits."""
    return next((key for key in (f"{name}_{split}", name) if key in archive.files), None)


def _array(archive: NpzFile, key: str) -> np.ndarray:
    try:
        array: np.ndarray = archive[key]
    except Exception as error:  # as above; arrays of Python objects are a ValueError, because loading them could run code
        cause = " ".join(str(error).split())
        raise NeuralfieldError(f'array "{key}" cannot be read ({cause}); save it again, as numbers') from error
    if not array.ndim:
        raise NeuralfieldError(f'array "{key}" is a single value')
    return array
