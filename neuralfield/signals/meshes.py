"""A folder of meshes, or a single one, as shapes: read, mended, normalised, sampled once and kept."""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from neuralfield.errors import NeuralfieldError, NeuralfieldWarning, UsageError
from neuralfield.signals.distances import Plan
from neuralfield.signals.images import check_split, split_folder
from neuralfield.signals.kept import CacheError, Samples, cache_folder, kept, watched
from neuralfield.signals.mesh_files import PointsOnlyError, Report, chosen_frame, normalised, read_mesh
from neuralfield.signals.scans import scan
from neuralfield.signals.shapes import Sampled, Shapes
from neuralfield.signals.signals import MESHES

VERSION = 5
"""Of what is kept: another number where the same mesh would be sampled otherwise."""
SMALL, LARGE = 0.2, 5.0
"""Ratios of scales within one set beyond which its units are probably mixed."""


class Meshes(Shapes):
    """Shapes of meshes; `reports` says what was found in each file, by its name."""

    reports: Mapping[str, Report] = MappingProxyType({})


def meshes(
    path: str,
    split: str = "train",
    even: int = 4096,
    surface: int = 4096,
    near: int = 16384,
    spread: float = 0.05,
    normalise: bool = True,
    frame: list[float] | None = None,
    strict: bool = False,
    skip_bad: bool = False,
    balanced: bool = False,
    mirror: str | None = None,
    cache: str | None = None,
) -> Shapes:
    """The meshes of the folder or file `path`, in sorted order, each named by its file, without the ending where that is enough.

    With `train/` or `test/` inside, `split` chooses between them; no other subfolder is read. Each mesh is centred and scaled to
    radius 1 / 1.03 where `normalise` is true, or all by one `frame` [x, y, z, scale]: p goes to (p - centre) / scale. Signed
    distances are taken at `even` points of the cube, `surface` points of the surface and `near` points around it (`Plan`). They are
    kept in the folder `cache`, by default below ~/.cache/neuralfield, under a name made of the mesh and of these settings, so that
    they are taken once and a killed run goes on where it was.

    Meshes that are open, inside out or no manifold are reported in one warning; with `strict` they are refused. With `skip_bad`,
    files that hold no surface are left out. With `balanced`, a draw of some points takes half of them inside (`Shapes`).
    With `mirror`, an axis x, y or z, each shape comes a second time, mirrored across it: where the mirror image of a shape could
    be another of them, a fit learns more from the same files. Signals that a run infers are never mirrored.

    A single file that holds points and no faces is a scan (`scan`).
    """
    check_split(split)
    if mirror not in (None, "x", "y", "z"):
        raise UsageError(f'signals.mirror must be an axis, "x", "y" or "z", got {mirror!r}')
    chosen_frame(np.zeros((0, 3)), normalise, frame)  # a wrong one is no fault of the first mesh
    plan = Plan(even, surface, near, spread)
    root, found = Path(path).expanduser(), _find(Path(path).expanduser(), split)
    stems = Counter(file.stem for file in found)
    samples, ids, frames, reports = [], [], [], {}
    for file in watched(found, "sampling meshes"):
        try:
            sampled, own, report = _kept(file, plan, normalise, frame, cache_folder(cache))
        except CacheError:  # no fault of the mesh
            raise
        except NeuralfieldError as error:
            if isinstance(error, PointsOnlyError) and root.is_file():
                return scan(path, normalise, frame)
            if not skip_bad:
                raise NeuralfieldError(f"{file}: {error}; mend it, or leave out such files with --skip-bad") from error
            warnings.warn(f"left out {file}: {error}", NeuralfieldWarning, stacklevel=2)
            continue
        samples.append(sampled)
        ids.append(file.stem if stems[file.stem] == 1 else file.name)
        frames.append(own)
        reports[file.name] = report
    if not samples:
        raise NeuralfieldError(f"none of the {len(found)} meshes of {root} holds a surface")
    _tell(root, reports, strict)
    _tell_of_units(root, ids, frames)
    shapes = Meshes(samples, ids, torch.tensor(frames, dtype=torch.float64), even, balanced=balanced)
    shapes = shapes if mirror is None else shapes.with_mirrored("xyz".index(mirror))
    shapes.reports = reports
    return shapes


def _kept(file: Path, plan: Plan, normalise: bool, frame: list[float] | None, folder: Path) -> tuple[Sampled, list[float], Report]:
    """(samples, frame, report) of a mesh, from the cache where it is there."""
    settings = json.dumps([VERSION, asdict(plan), normalise, frame, file.suffix.lower()]).encode()
    key = hashlib.sha256(_content(file) + settings).hexdigest()[:32]

    def take() -> tuple[list[Samples], dict[str, Any]]:
        surface, report = read_mesh(file)
        inside, own = normalised(surface, normalise, frame)
        # seeded by the mesh itself: the same points whatever folder it is in
        return list(plan.take(inside, np.random.default_rng(int(key, 16)))), {"frame": own, "report": asdict(report)}

    (values, normals), facts = kept(folder, key, take)
    return Sampled(values, normals), facts["frame"], Report(**facts["report"])


def _content(file: Path) -> bytes:
    """The bytes of a file, and of the buffers beside it that a .gltf names."""
    content = file.read_bytes()
    if file.suffix.lower() != ".gltf":
        return content
    try:
        named = [buffer.get("uri", "") for buffer in json.loads(content)["buffers"]]
        beside = [file.parent / uri for uri in named if not uri.startswith("data:")]
    except (ValueError, LookupError, TypeError, AttributeError):  # whoever reads the mesh says what is wrong
        return content
    return b"".join([content, *(buffer.read_bytes() for buffer in beside if buffer.is_file())])


def _find(root: Path, split: str) -> list[Path]:
    if root.is_file():
        return [root]
    folder = split_folder(root, split)
    found = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in MESHES and not entry.name.startswith("."))
    if not found:
        raise NeuralfieldError(f"{folder} holds no meshes ({', '.join(MESHES)}); no subfolder but train/ and test/ is read")
    return found


def _tell(root: Path, reports: dict[str, Report], strict: bool) -> None:
    odd = {name: str(report) for name, report in reports.items() if str(report)}
    if not odd:
        return
    first = ", ".join(f"{name}: {what}" for name, what in list(odd.items())[:3])
    message = f"{len(odd)} of {len(reports)} meshes of {root} have defects ({first}{', ...' if len(odd) > 3 else ''})"
    if strict:
        raise NeuralfieldError(f"{message}; mend them, or say signals.strict=false")
    warnings.warn(message, NeuralfieldWarning, stacklevel=3)


def _tell_of_units(root: Path, ids: list[str], frames: list[list[float]]) -> None:
    scales = np.array([frame[-1] for frame in frames])
    ratio = scales / np.median(scales)
    if ratio.min() < SMALL or ratio.max() > LARGE:
        odd = ids[int(np.abs(np.log(ratio)).argmax())]
        warnings.warn(
            f"the meshes of {root} differ in size by a factor of {scales.max() / scales.min():.3g} (farthest from the others: "
            f"{odd}); each is normalised by its own size",
            NeuralfieldWarning,
            stacklevel=3,
        )
