"""A data folder of DeepSDF (Park et al. 2019): signed distances that its preprocessing took, and its split files."""

import hashlib
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

import neuralfield.files as files
from neuralfield.errors import NeuralfieldError, NeuralfieldWarning
from neuralfield.signals.images import SPLITS, check_split
from neuralfield.signals.kept import CacheError, Samples, cache_folder, kept, watched
from neuralfield.signals.labels import numbered
from neuralfield.signals.shapes import Sampled, Shapes

SAMPLES, FRAMES = "SdfSamples", "NormalizationParameters"
"""Its folders, each with DATASET/CLASS/ID.npz."""
VERSION = 2
"""Of what is kept: another number where the same file would be read otherwise."""
UNCHANGED = [0.0, 0.0, 0.0, 1.0]


@dataclass(frozen=True, order=True)
class Instance:
    """One shape: where its file lies in the folders."""

    dataset: str
    category: str
    name: str

    def below(self, folder: Path) -> Path:
        """Its file in a folder."""
        return folder / self.dataset / self.category / f"{self.name}.npz"


def deepsdf(
    path: str,
    split: str = "train",
    splits: str | None = None,
    balanced: bool = False,
    skip_bad: bool = False,
    cache: str | None = None,
) -> Shapes:
    """The shapes of `path`/SdfSamples/DATASET/CLASS/ID.npz: float32 `pos` and `neg` [n, 4], points and distances on either side.

    Which ones, and in which order, a split file says: JSON {dataset: {class: [ids]}}. That is the file `splits`, here or in `path`
    or `path`/splits; else the one in `path` or `path`/splits that is named `split`.json or *_`split`.json, as in
    sv2_chairs_train.json. Where there is none for any split, all files are read, sorted.

    Labels number the classes. Frames come from `path`/NormalizationParameters, where they are there. Rows with NaN are dropped, as
    DeepSDF does. With `balanced`, a draw of some points takes half of them inside, as DeepSDF's training does. Samples are kept in
    the folder `cache` (as those of meshes) and mapped from there: the first reading takes time, later ones read what they use, and
    nothing is written into `path`. With `skip_bad`, files that are missing or cannot be read are left out.
    """
    check_split(split)
    root = Path(path).expanduser()
    instances = _chosen(root, split, splits)
    found: list[Instance] = []
    held: list[tuple[Sampled, list[float]]] = []
    for instance in watched(instances, "reading samples"):
        try:
            held.append(_held(root, instance, cache_folder(cache)))
        except CacheError:  # no fault of the file
            raise
        except NeuralfieldError as error:
            file = instance.below(root / SAMPLES)
            if not skip_bad:
                raise NeuralfieldError(f"{file}: {error}; mend it, or leave out such files with --skip-bad") from error
            warnings.warn(f"left out {file}: {error}", NeuralfieldWarning, stacklevel=2)
            continue
        found.append(instance)
    if not found:
        raise NeuralfieldError(f"none of the {len(instances)} files of {root / SAMPLES} holds samples")
    classes = {folder.name for folder in (root / SAMPLES).glob("*/*") if folder.is_dir()}
    labels = torch.from_numpy(numbered([one.category for one in found], classes))
    samples, frames = zip(*held, strict=True)
    return Shapes(samples, ids_of(found), torch.tensor(frames, dtype=torch.float64), 0, labels, balanced)


def read_split(file: Path) -> list[Instance]:
    """The shapes that a split file names, in its order."""
    held = files.read_json(file)
    try:
        found = [
            Instance(dataset, category, name)
            for dataset, classes in held.items()
            for category, names in classes.items()
            for name in names
        ]
    except (AttributeError, TypeError):
        found = []
    if not found or not all(isinstance(one.name, str) for one in found):
        raise NeuralfieldError(f"{file} is no split file that names shapes: it must be {{dataset: {{class: [ids]}}}}")
    return found


def ids_of(instances: list[Instance]) -> list[str]:
    """Their names alone where no two are alike, else class/name, else dataset/class/name."""
    names = [one.name for one in instances]
    if len(set(names)) < len(names):
        names = [f"{one.category}/{one.name}" for one in instances]
    if len(set(names)) < len(names):
        names = [f"{one.dataset}/{one.category}/{one.name}" for one in instances]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise NeuralfieldError(f"shape {twice} is named twice; a split file must name each shape once")
    return names


def _chosen(root: Path, split: str, splits: str | None) -> list[Instance]:
    if not (root / SAMPLES).is_dir():
        raise NeuralfieldError(f"{root} is no data folder of DeepSDF: it has no folder {SAMPLES}/")
    file = _named(root, splits) if splits is not None else _split_file(root, split)
    if file is not None:
        return read_split(file)
    found = [Instance(*path.relative_to(root / SAMPLES).with_suffix("").parts) for path in (root / SAMPLES).glob("*/*/*.npz")]
    if not found:
        raise NeuralfieldError(f"{root / SAMPLES} holds no samples: no DATASET/CLASS/ID.npz")
    return sorted(found)


def _named(root: Path, splits: str) -> Path:
    places = [Path(splits).expanduser(), root / splits, root / "splits" / splits]
    for place in places:
        if place.is_file():
            return place
    raise NeuralfieldError(f"there is no split file {splits}, neither here nor in {root} or {root / 'splits'}")


def _split_file(root: Path, split: str) -> Path | None:
    """The file of a split, None where there are none at all."""
    every = sorted([*root.glob("*.json"), *(root / "splits").glob("*.json")])
    found = {name: [file for file in every if file.stem == name or file.stem.endswith(f"_{name}")] for name in SPLITS}
    if not any(found.values()):
        return None
    if len(found[split]) == 1:
        return found[split][0]
    if found[split]:
        names = ", ".join(str(file.relative_to(root)) for file in found[split])
        raise NeuralfieldError(f'{root} has several split files for "{split}" ({names}); say which: --set signals.splits=FILE')
    other = next(files[0] for files in found.values() if files)
    raise NeuralfieldError(
        f"{root} has {other.relative_to(root)}, but no {split}.json or *_{split}.json; name one with --set signals.splits=FILE"
    )


def _held(root: Path, instance: Instance, folder: Path) -> tuple[Sampled, list[float]]:
    """(samples, frame) of a shape."""
    file = instance.below(root / SAMPLES)
    frame = frame_of(root, instance)
    (samples,), outside = kept(folder, _key(file), lambda: _read(file))
    return Sampled(samples, outside=outside), frame


def _key(file: Path) -> str:
    """Names what a file holds by the checksums in its directory, so that files that are kept need not be read again."""
    try:
        with zipfile.ZipFile(file) as archive:
            held = [(part.filename, part.CRC, part.file_size) for part in archive.infolist()]
    except FileNotFoundError:
        raise NeuralfieldError("it does not exist") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise NeuralfieldError(f"it cannot be read as npz ({error})") from None
    return hashlib.sha256(repr(("deepsdf", VERSION, held)).encode()).hexdigest()[:32]


def _read(file: Path) -> tuple[list[Samples], int]:
    """([samples, those outside first], how many are outside)."""
    arrays: dict[str, Any] = files.read_npz(file)
    sides = []
    for name in ("pos", "neg"):
        side = arrays.get(name)
        if side is None:
            raise NeuralfieldError(f'it holds no array "{name}"; there are: {", ".join(arrays) or "none"}')
        if side.ndim != 2 or side.shape[1] != 4 or not np.issubdtype(side.dtype, np.floating):
            raise NeuralfieldError(f'its array "{name}" must be floating point [n, 4] (x, y, z, distance), got {_said(side)}')
        sides.append(side[np.isfinite(side).all(1)].astype(np.float32))
    if not sum(map(len, sides)):
        raise NeuralfieldError("it holds no samples, or all are NaN")
    return [np.concatenate(sides)], len(sides[0])


def _said(array: Float[np.ndarray, "..."] | np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def frame_of(root: Path, instance: Instance) -> list[float]:
    """Centre and scale of a shape, those of the cube where nothing is known: its points there are (p + offset) scale."""
    file = instance.below(root / FRAMES)
    if not file.is_file():
        return UNCHANGED
    arrays = files.read_npz(file)
    if not {"offset", "scale"} <= arrays.keys() or arrays["offset"].size != 3 or arrays["scale"].size != 1:
        raise NeuralfieldError(f"its normalisation {file} does not hold offset [3] and scale")
    offset, scale = arrays["offset"].astype(float).reshape(3), float(arrays["scale"].reshape(()))
    if not np.isfinite(offset).all() or not 0 < scale < np.inf:
        raise NeuralfieldError(f"its normalisation {file} must be finite with a positive scale, got {offset.tolist()} and {scale}")
    return [*(-offset).tolist(), 1 / scale]
