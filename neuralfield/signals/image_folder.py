"""A folder of PNG or JPEG files, or a single one, as images."""

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from neuralfield.errors import NeuralfieldError, NeuralfieldWarning
from neuralfield.signals.images import SPLITS, Images, check_split, resized, split_folder, with_channels

ENDINGS = (".png", ".jpg", ".jpeg")
NAMED = 5  # files in a warning: enough to see what they have in common, few enough for a line
SIXTEEN_BIT = 65535


def image_folder(
    path: str,
    split: str = "train",
    pad: int = 0,
    resize: list[int] | int | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
) -> Images:
    """The images of the folder or file `path`, in sorted order, each named by its path without the ending.

    With `train/` or `test/` inside, `split` chooses between them. A folder that holds no images itself may hold one folder per
    class (as torchvision's ImageFolder): labels number these by name. No other subfolder is read, and never one called `raw`.

    Grey, grey with alpha, RGB and RGBA have 1, 2, 3 and 4 channels; palettes become RGB (RGBA where transparent), 16-bit grey
    becomes floating point in [0, 1], and a camera's orientation tag is obeyed. `channels` and `resize` make mixed files alike.
    With `skip_bad`, files that cannot be read are left out with a warning; else they are an error.
    """
    check_split(split)
    root = Path(path).expanduser()
    files, classes = _find(root, split)
    images: dict[Path, Tensor] = {}
    for file, pixels in _readable(root, files, skip_bad):
        images[file] = resized(with_channels(pixels, channels), resize)
        _refuse_mixture(root, images, file)
    labels = torch.tensor([classes.index(file.parent.name) for file in images]) if classes else None
    return Images(_stack(list(images.values())), _ids(root, list(images)), labels, pad)


# which files


def _find(root: Path, split: str) -> tuple[list[Path], list[str]]:
    """(files, names of classes, which may be none) of a split."""
    if root.is_file():
        return [root], []
    folder = split_folder(root, split)
    folders = [root / name for name in SPLITS if (root / name).is_dir()]
    files = _images_in(folder)
    # both splits count, so that a class has the same label in each
    classes = [] if files else sorted({name for each in folders or [root] for name in _subfolders(each)})
    files = files or [file for name in classes for file in _images_in(folder / name)]
    if not files:
        raise NeuralfieldError(f"{folder} holds no PNG or JPEG images, nor folders of them (one per class; raw/ is never read)")
    return files, classes


def _subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name != "raw" and not entry.name.startswith(".")]


def _images_in(folder: Path) -> list[Path]:
    """Sorted; without hidden files, which on some systems end in .png and are no images."""
    if not folder.is_dir():
        return []
    files = [entry for entry in folder.iterdir() if entry.suffix.lower() in ENDINGS and not entry.name.startswith(".")]
    return sorted(file for file in files if not file.is_dir())


def _ids(root: Path, files: list[Path]) -> list[str]:
    """Paths without the ending, which stays where two files differ in nothing else."""
    paths = [file.relative_to(root if file != root else root.parent) for file in files]
    count = Counter(path.with_suffix("") for path in paths)
    return [(path.with_suffix("") if count[path.with_suffix("")] == 1 else path).as_posix() for path in paths]


# what is in them


def _readable(root: Path, files: list[Path], skip_bad: bool) -> Iterator[tuple[Path, Tensor]]:
    """(file, pixels [1, h, w, v]) of every file that can be read; the first other one is an error, or all are one warning."""
    bad: dict[Path, str] = {}
    for file in files:
        try:
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                pixels = torch.from_numpy(_pixels(ImageOps.exif_transpose(image)))[None]
        except Exception as error:  # Pillow meets broken files with any of a dozen kinds
            bad[file] = _cause(file, error)
            if not skip_bad:
                raise NeuralfieldError(
                    f"{file} cannot be read as an image: {bad[file]}; mend it, or leave out such files with --skip-bad"
                ) from error
        else:
            yield file, pixels
    if bad:
        _report(root, bad, len(files))


def _pixels(image: Image.Image) -> UInt8[np.ndarray, "h w v"] | Float[np.ndarray, "h w v"]:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow calls I;16 or, in some versions, I
        return np.asarray(image, np.float32)[..., None] / SIXTEEN_BIT
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    pixels = np.array(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _cause(file: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own words are the path again
        return "it is neither PNG nor JPEG" if file.stat().st_size else "it is empty"
    return " ".join(str(error).split()) or type(error).__name__


def _refuse_mixture(root: Path, images: dict[Path, Tensor], file: Path) -> None:
    """The last image must have the shape of the first."""
    first = next(iter(images))
    if images[first].shape == images[file].shape:
        return
    (_, h, w, v), (_, height, width, channels) = images[first].shape, images[file].shape
    one, other = first.relative_to(root), file.relative_to(root)
    if channels != v:
        raise NeuralfieldError(
            f"{root} mixes channels: {one} has {v}, {other} has {channels}; make all alike with --set signals.channels=1 (or 3)"
        )
    raise NeuralfieldError(
        f"{root} mixes sizes: {one} is {h} pixels high and {w} wide, {other} is {height} high and {width} wide; "
        f"make all alike with --set signals.resize=[{h},{w}]"
    )


def _stack(images: list[Tensor]) -> Tensor:
    """One tensor, 8 bit where all of them are."""
    if all(pixels.dtype == torch.uint8 for pixels in images):
        return torch.cat(images)
    return torch.cat([pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels for pixels in images])


def _report(root: Path, bad: dict[Path, str], of: int) -> None:
    """One warning that names the first few bad files; an error where nothing else is left."""
    if len(bad) == of:
        raise NeuralfieldError(f"none of the {of} images of {root} can be read; {next(iter(bad))}: {next(iter(bad.values()))}")
    named = ", ".join(str(file.relative_to(root)) for file in list(bad)[:NAMED])
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    warnings.warn(
        f"left out {len(bad)} of {of} images of {root}, which cannot be read: {named}{more}", NeuralfieldWarning, stacklevel=2
    )
