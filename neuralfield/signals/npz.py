"""Arrays in a numpy .npz file; the names of the arrays say which kind of signals they are."""

from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.signals.curves import Curves
from neuralfield.signals.images import SPLITS, Images, check_split
from neuralfield.signals.labels import numbered
from neuralfield.signals.outlines import outlines
from neuralfield.signals.signals import Signals

SCAN = ("surface", "distances", "depth", "empty")
"""Arrays of which one at least is in every scan, and that nothing else has."""


def npz(
    path: str,
    split: str = "train",
    pad: int = 0,
    resize: list[int] | int | None = None,
    channels: int | None = None,
    log: bool = False,
) -> Signals:
    """Images, curves or closed outlines.

    `images` [n, h, w] or [n, h, w, channels] (uint8 means / 255, floating point as it is) and optionally `labels` [n];
    or times `t` [T] or [n, T], values `x` [n, T] or [n, T, channels] (NaN where not observed) and optionally labels `y` [n], whole
    numbers or words; or outlines `points` [sum n, 2] and `offsets` [count + 1], with `names` [count] if there are any. `pad`,
    `resize` and `channels` are for images; with `log`, a model sees the logarithms of curves.

    `images_train`, `labels_train`, `x_test` and so on hold splits; without them all is `train` and `test` alike.
    """
    check_split(split)
    file = Path(path).expanduser()
    try:
        with _open(file) as archive:
            if key := _key(archive, "images", split):
                if log:
                    raise UsageError("signals.log is for curves, and these are images")
                return _images(archive, key, split, pad, resize, channels)
            if key := _key(archive, "x", split):
                if pad or resize is not None or channels is not None:
                    raise UsageError("signals.pad, resize and channels are for images, and these are curves")
                curves = _curves(archive, key, split)
                return curves.logarithmic() if log else curves
            if "offsets" in archive.files and "points" in archive.files:
                if pad or resize is not None or channels is not None or log:
                    raise UsageError("signals.pad, resize, channels and log are for images and curves, and these are outlines")
                return _outlines(archive, split)
            if found := [name for name in SCAN if name in archive.files]:
                raise NeuralfieldError(f"it holds what was seen of a shape ({', '.join(found)}); read it as scan:{file}")
            wanted = f"images or images_{split} (for curves: t and x or x_{split}; for outlines: points and offsets)"
            raise NeuralfieldError(f"there is no array {wanted}; there are: {', '.join(archive.files) or 'none'}")
    except NeuralfieldError as error:
        raise type(error)(f"{file}: {error}") from error


def _images(archive: NpzFile, key: str, split: str, pad: int, resize: list[int] | int | None, channels: int | None) -> Images:
    images, labels = _array(archive, key), _labels(archive, key.replace("images", "labels"))
    if not len(images):
        raise NeuralfieldError(f'array "{key}" holds no images')
    return Images.from_arrays(images, _ids(len(images), key == "images", split), labels, pad, resize, channels)


def _curves(archive: NpzFile, key: str, split: str) -> Curves:
    times = _key(archive, "t", split)
    if times is None:
        raise NeuralfieldError(f'array "{key}" holds curves, and there is no array t of their times; add one, [T] or [n, T]')
    t, x = _array(archive, times), _array(archive, key)
    if not len(x):
        raise NeuralfieldError(f'array "{key}" holds no curves')
    return Curves.from_arrays(t, x, _ids(len(x), key == "x", split), _classes(archive, key.replace("x", "")))


def _outlines(archive: NpzFile, split: str) -> Signals:
    points, offsets = _array(archive, "points"), _array(archive, "offsets")
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iuf":
        raise NeuralfieldError(f'array "points" must hold points [n, 2] of outlines, got {points.dtype} {list(points.shape)}')
    rising = offsets.dtype.kind in "iu" and offsets.ndim == 1 and bool((offsets[1:] >= offsets[:-1]).all())
    if not rising or len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(points):
        raise NeuralfieldError(
            f'array "offsets" must hold whole numbers that rise from 0 to that of points, {len(points)}, one more than outlines'
        )
    count = len(offsets) - 1
    names = [str(name) for name in _array(archive, "names")] if "names" in archive.files else _ids(count, True, split)
    if len(set(names)) != count or len(names) != count:
        raise NeuralfieldError(f'array "names" must hold a name of its own for each of {count} outlines, got {len(names)}')
    return outlines(points.astype(np.float64), offsets.astype(np.int64), names)


def _ids(count: int, whole: bool, split: str) -> list[str]:
    return [str(i) if whole else f"{split}-{i:05d}" for i in range(count)]


def _labels(archive: NpzFile, key: str) -> np.ndarray | None:
    if key not in archive.files:
        return None
    labels = _array(archive, key)
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise NeuralfieldError(f'array "{key}" must hold whole numbers [n], got {labels.dtype} {list(labels.shape)}')
    return labels


def _classes(archive: NpzFile, ending: str) -> np.ndarray | None:
    """Labels of curves, `y` or `labels` with a split's ending; words are numbered over both splits, so that they agree."""
    name = next((name for name in ("y", "labels") if f"{name}{ending}" in archive.files), "")
    if not name:
        return None
    words = _array(archive, f"{name}{ending}")
    if words.ndim != 1 or words.dtype.kind != "U":
        return _labels(archive, f"{name}{ending}")
    others = (f"{name}_{split}" for split in SPLITS if f"{name}_{split}" in archive.files)
    return numbered(words.tolist(), [*words.tolist(), *(str(word) for key in others for word in _array(archive, key).ravel())])


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
