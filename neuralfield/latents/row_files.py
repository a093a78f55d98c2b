"""The columns of a mapped bank: numbers for each signal that lie in files, of which memory holds only what was just looked at."""

import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from jaxtyping import Int
from torch import Tensor

from neuralfield.errors import NeuralfieldError
from neuralfield.latents.undo import UndoLog

BUDGET = 2**28
"""Bytes of the files that may be resident before they are let go of: 256 MiB."""
AROUND = 2**16
"""Bytes that become resident where one row is read: Linux maps 16 pages around it, if they are in its cache."""
PIECE = 2**16
"""Rows of the pieces in which a whole bank is gone over: 16 MiB of 64 dims."""
LONGEST_LOG = 2**30
"""Bytes of an undo log after which a checkpoint is due: a resumed fit reads it in seconds."""


@dataclass
class Column:
    """A tensor [n, width] over a file; an empty one has no map."""

    name: str
    tensor: Tensor
    file: IO[bytes]
    map: mmap.mmap | None


class RowFiles:
    """Columns of `count` rows. They lie in unnamed temporary files, which take no room until they are written, until `begin` or
    `reopen` gives them a folder.

    Pages of a mapped file that were touched count as resident memory; `looked_at` lets go of them in time. Nothing is lost: what
    was changed stays in the system's cache until it is on the disk, also if the process is killed.
    """

    def __init__(self, count: int) -> None:
        self.count, self.columns = count, list[Column]()
        self.folder: Path | None = None
        self._log: UndoLog | None = None
        self._resident, self._unlogged, self._reserved = 0, 0, False

    def column(
        self, name: str, width: int, dtype: torch.dtype = torch.float32, wrap: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """A new column of zeros [n, width]; `wrap` makes a parameter of it."""
        unnamed = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the column)
        zeros, file, mapped = _mapped(unnamed, self.count, width, dtype)
        column = Column(name, zeros if wrap is None else wrap(zeros), file, mapped)
        self.columns.append(column)
        self._reserved = False
        return column.tensor

    # where they lie

    def begin(self, folder: Path) -> None:
        """Zeros in new files of a folder, which held no others; the same tensors now show these."""
        shutil.rmtree(folder, ignore_errors=True)
        self._open(folder, "w+b")
        self.reserve()

    def reopen(self, folder: Path) -> None:
        """The files that a fit left in a folder; `roll_back` must follow."""
        for column in self.columns:
            path, size = _path(folder, column.name), column.tensor.nbytes
            have = path.stat().st_size if path.exists() else None
            if have != size:
                what = "is missing" if have is None else f"holds {have} bytes, not {size}"
                raise NeuralfieldError(f"{path} {what}, so the fit cannot be resumed; fit again with --overwrite")
        self._open(folder, "r+b")
        self._reserved = True

    def reserve(self) -> None:
        """Take the room on the disk now: a page that finds none later would end the process without a word."""
        if self._reserved or not hasattr(os, "posix_fallocate"):
            return
        try:
            for column in self.columns:
                if column.map is not None:
                    os.posix_fallocate(column.file.fileno(), 0, column.tensor.nbytes)
        except OSError as error:
            where, needed = self.folder or Path(tempfile.gettempdir()), sum(column.tensor.nbytes for column in self.columns)
            room = f"{needed / 1e9:.2f} GB are needed, {shutil.disk_usage(where).free / 1e9:.2f} GB are free"
            raise NeuralfieldError(
                f"{where} has no room for a mapped bank of {self.count} signals ({error.strerror}): {room}; choose another --out "
                "or a smaller latents.code_dim"
            ) from None
        self._reserved = True

    def discard(self) -> None:
        """Remove the files, for the fit is over. The codes can still be read; their room is free when nobody holds them."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder, self._log = None, None

    def _open(self, folder: Path, mode: str) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for column in self.columns:
                old = column.tensor
                file = open(_path(folder, column.name), mode)  # noqa: SIM115 (likewise)
                fresh, column.file, column.map = _mapped(file, old.shape[0], old.shape[1], old.dtype)
                old.data = fresh
        except OSError as error:
            raise NeuralfieldError(f"{folder} cannot hold a mapped bank: {error.strerror}; choose another --out") from None

    # what is resident

    def looked_at(self, count: int) -> None:
        """So many rows are about to be read or written, wherever they lie: let go of what came before, when it is too much."""
        self._resident += count * len(self.columns) * AROUND
        if self._resident > BUDGET:
            self.drop()

    def drop(self) -> None:
        """Let go of all pages."""
        self._resident = 0
        for column in self.columns:
            if column.map is not None and hasattr(mmap, "MADV_DONTNEED"):
                column.map.madvise(mmap.MADV_DONTNEED)

    def pieces(self, column: Tensor) -> Iterator[Tensor]:
        """All rows of a column in order, some at a time, each let go of when the next is asked for.

        None is shorter than 16 rows, unless it is alone: normal numbers drawn for each are then those drawn for all at once.
        """
        firsts = list(range(0, max(self.count - 15, 1), PIECE))
        for first, end in zip(firsts, [*firsts[1:], self.count], strict=True):
            yield column[first:end]
            self.drop()

    # checkpoints

    def moves(self, rows: Int[Tensor, " b"]) -> None:
        """These rows are about to move: what a checkpoint needs of them is kept."""
        self.reserve()
        if self._log is None:
            self._unlogged += len(rows) * sum(column.tensor[:1].nbytes for column in self.columns)
        else:
            self._log.keep(rows)

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint: the undo log has grown long, or would have if there were one."""
        return (self._unlogged if self._log is None else self._log.size) > LONGEST_LOG

    def flushed(self) -> dict[str, Any]:
        """Put all that has moved on the disk, and begin a log beside the old one; returns what the checkpoint must say of them.

        Until `committed`, the old checkpoint and its log hold.
        """
        assert self.folder is not None
        for column in self.columns:
            if column.map is not None:
                column.map.flush()
        number = 0 if self._log is None else self._log.number + 1
        UndoLog.begin(self.folder, number)
        return {"number": number, "boot": _boot()}

    def committed(self, mark: dict[str, Any]) -> None:
        """The new checkpoint is written: its log counts from now on."""
        assert self.folder is not None
        self._log = UndoLog(self.folder, mark["number"], self.count, [column.tensor for column in self.columns])

    def roll_back(self, mark: dict[str, Any]) -> None:
        """Every row as it was at the checkpoint that says `mark`."""
        self.committed(mark)
        assert self._log is not None
        for count in self._log.roll_back(same_boot=mark["boot"] == _boot()):
            self.looked_at(count)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


def _mapped(file: IO[bytes], count: int, width: int, dtype: torch.dtype) -> tuple[Tensor, IO[bytes], mmap.mmap | None]:
    """(tensor [count, width] over all of a file, the file, its map)."""
    size = count * width * dtype.itemsize
    if not size:
        return torch.zeros(count, width, dtype=dtype), file, None
    os.ftruncate(file.fileno(), size)
    held = mmap.mmap(file.fileno(), size)
    with suppress(AttributeError, OSError):
        held.madvise(mmap.MADV_RANDOM)  # a row says nothing of its neighbours: no reading ahead
    return torch.frombuffer(held, dtype=dtype).view(count, width), file, held


def _boot() -> str:
    """Which start of the machine this is, where it can be told."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "unknown"
