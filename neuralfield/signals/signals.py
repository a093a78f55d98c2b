"""Where samples come from: the interface of every data set, and how `name:path` becomes one."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuralfield.devices import room
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.registry import names, nearest, resolve
from neuralfield.signals.roster import Numbered, Roster
from neuralfield.types import Observations

MESHES = (".ply", ".obj", ".stl", ".off", ".glb", ".gltf")
"""Endings of meshes: those that trimesh reads without other packages."""
ENDINGS = {".png": "images", ".jpg": "images", ".jpeg": "images", ".npz": "npz", ".csv": "csv"}
ENDINGS |= dict.fromkeys(MESHES, "meshes") | {".xyz": "scan"}
"""A path to a single file is a source too; its ending names the kind."""

CHOOSING = ("path", "split", "splits", "limit", "skip_bad", "mirror")
"""Settings that choose signals; the others prepare them, and a run hands those on to the signals it infers."""


class UnlikeError(NeuralfieldError):
    """Signals that do not fit a domain's arguments; `name` is the first argument that differs."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


class Signals(ABC):
    """A data set of signals. `ids` names each one; `labels` [n] ride along where a set has them.

    So do `frames` [n, C + 1], the centre and scale that each was normalised by.
    """

    domain: str
    """Name of the domain that these are signals of."""
    ids: Sequence[str]
    labels: Int[Tensor, " n"] | None
    frames: Float[Tensor, "n F"] | None = None
    held: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors that batches are cut from, of sets in memory."""

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self.facts().items())
        return f"{type(self).__name__}({len(self)} signals of domain {self.domain}: {facts})"

    @property
    def roster(self) -> Roster:
        """Who they are."""
        return Roster(self.ids if isinstance(self.ids, Numbered) else list(self.ids), self.labels, self.frames)

    @property
    @abstractmethod
    def domain_arguments(self) -> dict[str, Any]:
        """What the domain's constructor must know of these signals (an image's height, width and channels)."""

    @abstractmethod
    def batch(self, index: Int[Tensor, " B"], points: int | None = None, generator: torch.Generator | None = None) -> Observations:
        """Observations of some signals: all that is known of them, or `points` points drawn at random."""

    @abstractmethod
    def select(self, index: Int[Tensor, " m"]) -> Self:
        """Some of the signals, as a data set of their own."""

    def like(self, arguments: dict[str, Any]) -> "Signals":
        """These signals as a run sees them whose domain has `arguments`; those that it cannot hold are refused."""
        for name, have in self.domain_arguments.items():
            if have != arguments.get(name):
                raise UnlikeError(
                    f"the run was fitted to signals of {name} {arguments.get(name)}, but the data have {name} {have}", name
                )
        return self

    def facts(self) -> dict[str, Any]:
        """What a person is told of their form. `values` [lowest, highest] are there where they are not those of the batches."""
        return self.domain_arguments

    def truth(self, index: Int[Tensor, " B"]) -> Observations:
        """All that is known of some signals."""
        return self.batch(index)

    @property
    def held_bytes(self) -> int:
        """Bytes of what `on` moves; 0 where there is nothing to move."""
        return sum(getattr(self, name).nbytes for name in self.held)

    def on(self, device: torch.device | str) -> Self:
        """The same signals, whose batches are cut on a device; what is drawn at random is drawn on the CPU, and so is the same."""
        moved = copy.copy(self)
        for name in self.held:
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def batches(self, size: int) -> Iterator[Observations]:
        """All signals in order, `size` at a time."""
        for index in torch.arange(len(self)).split(size):
            yield self.batch(index)


def placed(signals: Signals, device: torch.device) -> Signals:
    """The signals on a GPU that has room for them; else as they are, and each batch is sent there."""
    return signals.on(device) if 0 < signals.held_bytes <= room(device) else signals


def load(source: str, **settings: Any) -> Signals:
    """The data set that `source` names: `name`, `name:path`, or the path of a file with a known ending.

    `settings`: `split`, `limit`, and arguments of the source's own (padding, resizing); what it does not take is refused by name.
    """
    kind, path = parse(source)
    return build(kind, {"path": path, **settings})


def parse(source: str) -> tuple[str, str | None]:
    """(kind, path or None) of a source."""
    kind, _, path = source.partition(":")
    if kind in names("signals"):
        return kind, path or None
    if Path(source).suffix.lower() in ENDINGS:
        return ENDINGS[Path(source).suffix.lower()], source
    if Path(source).is_dir():
        return "images", source
    known = ", ".join(names("signals"))
    raise UsageError(
        f'"{source}" is no data source{nearest(kind, names("signals"))}; known: {known}, as name, name:path, or a path'
    )


def build(kind: str, settings: dict[str, Any]) -> Signals:
    """The data set of a source's name and settings; those that are None count as not given."""
    maker = resolve("signals", kind)
    takes = accepted(kind)
    given = {key: value for key, value in settings.items() if value is not None}
    limit = given.pop("limit", None)
    if "path" in given and "path" not in takes:
        raise UsageError(f'data source "{kind}" takes no path, got {kind}:{given["path"]}')
    for key in sorted(given.keys() - set(takes) - {"split"}):  # a source without splits is train and test alike
        raise UsageError(f'[signals] of kind "{kind}" has no key "{key}"{nearest(key, takes)}; known: {", ".join(takes)}')
    needed = [name for name, p in inspect.signature(maker).parameters.items() if p.default is p.empty and name not in given]
    if needed:
        raise UsageError(f'data source "{kind}" needs a {needed[0]}, as in {kind}:{needed[0].upper()}')
    for name, p in inspect.signature(maker).parameters.items():
        if p.annotation is bool and not isinstance(given.get(name, False), bool):
            raise UsageError(f"signals.{name} must be true or false, got {given[name]}")
    signals: Signals = maker(**{key: value for key, value in given.items() if key in takes})
    if limit is not None and limit < 1:
        raise UsageError(f"a limit must be at least 1 signal, got {limit}")
    if not len(signals):
        raise NeuralfieldError(f'data source "{kind}" is empty: there is nothing to fit')
    return signals.select(torch.arange(len(signals))[:limit]) if limit else signals


def inherited(own: str, settings: dict[str, Any], kind: str) -> dict[str, Any]:
    """Those settings of the source `own` that prepare signals, for another source: what neither takes is refused by name."""
    known = {*accepted(own), *accepted(kind), *CHOOSING}
    for key in settings.keys() - known:
        raise UsageError(
            f'[signals] of kind "{kind}" has no key "{key}"{nearest(key, sorted(known))}; known: {", ".join(accepted(kind))}'
        )
    return {key: value for key, value in settings.items() if key in accepted(kind) and (key not in CHOOSING or key == "skip_bad")}


def absolute(path: str | None) -> str | None:
    """The path of a source as any folder would name it; what is no file stays as it is."""
    full = Path(path).expanduser() if path else None
    return str(full.resolve()) if full is not None and full.exists() else path


def accepted(kind: str) -> list[str]:
    """The settings that a source takes."""
    return list(inspect.signature(resolve("signals", kind)).parameters)
