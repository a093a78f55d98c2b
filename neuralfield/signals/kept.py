"""Samples of shapes that are taken once, kept in a folder of the user's cache, and mapped from there."""

import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track

import neuralfield.files as files
from neuralfield.errors import NeuralfieldError

Samples = Float[np.ndarray, "N _"]


class CacheError(NeuralfieldError):
    """A folder where samples cannot be kept."""


def cache_folder(named: str | None) -> Path:
    """Where samples are kept: the folder `named`, by default one below ~/.cache/neuralfield."""
    if named is not None:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "neuralfield" / "shapes"


def kept(folder: Path, key: str, take: Callable[[], tuple[list[Samples], Any]]) -> tuple[list[Samples], Any]:
    """(float32 arrays, JSON about them) by a `key` that says all that they depend on; `take` makes them the first time."""
    about = folder / f"{key}.json"
    if not _whole(about):
        arrays, facts = take()
        try:
            for number, array in enumerate(arrays):
                files.write_npy(folder / f"{key}-{number}.npy", array)
            files.write_json(about, [len(arrays), facts])
        except NeuralfieldError as error:
            said = f"samples of shapes cannot be kept in {folder} ({error}); say another folder with signals.cache=FOLDER"
            raise CacheError(said) from error
    count, facts = files.read_json(about)
    return [mapped(folder / f"{key}-{number}.npy") for number in range(count)], facts


def _whole(about: Path) -> bool:
    """Whether all is there that a file about arrays, which is written last, says."""
    try:
        count = files.read_json(about)[0]
        for number in range(count):
            file = about.with_name(f"{about.stem}-{number}.npy")
            skipped, shape = _header(file)
            if file.stat().st_size != 4 * (skipped + math.prod(shape)):
                return False
    except (NeuralfieldError, OSError, ValueError, TypeError, LookupError):
        return False
    return True


def mapped(file: Path) -> Samples:
    """The float32 array of a .npy file, of which only the rows that are used are read.

    torch's maps close their file; numpy's keep it open, and a process may open only about a thousand.
    """
    skipped, shape = _header(file)
    whole = torch.from_file(str(file), size=skipped + math.prod(shape), dtype=torch.float32)
    return whole[skipped:].reshape(shape).numpy()


def _header(file: Path) -> tuple[int, tuple[int, ...]]:
    """(its length, in float32 numbers; the array's shape)."""
    with open(file, "rb") as head:
        np.lib.format.read_magic(head)
        shape = np.lib.format.read_array_header_1_0(head)[0]
        return head.tell() // 4, shape  # the header's length is a multiple of 64


def watched(found: list[Any], doing: str) -> Iterator[Any]:
    """The same, with a bar on a terminal."""
    console = Console(stderr=True)
    return iter(track(found, doing, console=console, transient=True, disable=not sys.stderr.isatty()))
