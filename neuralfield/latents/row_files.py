"""The tables of a mapped bank: numbers for each signal that lie in files, of which memory holds only what was just looked at."""

import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
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
"""Bytes that become resident where one row is read: Linux maps 16 pages around it, if they are in its cache. Counted where a system
does not tell what is resident.
"""
STATM = Path("/proc/self/statm")
PIECE = 2**16
"""Rows of the pieces in which a whole bank is gone over: 16 MiB of 64 dims."""
LONGEST_LOG = 2**30
"""Bytes of an undo log after which a checkpoint is due: a resumed fit reads it in seconds."""


@dataclass
class Table:
    """A file of records, one for each row: `raw` [n, words of four bytes], of which columns are views. An empty one has no map."""

    name: str
    file: IO[bytes]
    map: mmap.mmap | None
    raw: Tensor
    columns: list[Tensor]


class RowFiles:
    """Tables of `count` rows. They lie in unnamed temporary files, which take no room until they are written, until `begin` or
    `reopen` gives them a folder.

    Pages of a mapped file that were touched count as resident memory; `looked_at` lets go of them in time. Nothing is lost: what
    was changed stays in the system's cache until it is on the disk, also if the process is killed.
    """

    def __init__(self, count: int) -> None:
        self.count, self.tables = count, list[Table]()
        self.folder: Path | None = None
        self._log: UndoLog | None = None
        self._looked, self._dropped_at, self._unlogged, self._reserved = 0, _resident() or 0, 0, False

    def table(self, name: str, columns: Sequence[Tensor]) -> Sequence[Tensor]:
        """Let the columns, of so many dims [_, width] of four bytes each, show a new table of zeros: [n, width].

        What lies in one record is read and written together: a row costs one page for each table, not one for each column.
        """
        unnamed = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the table)
        width = sum(column.shape[1] for column in columns)
        table = Table(name, unnamed, *_mapped(unnamed, self.count, width), list(columns))
        _show(table)
        self.tables.append(table)
        self._reserved = False
        return columns

    # where they lie

    def begin(self, folder: Path) -> None:
        """Zeros in new files of a folder, which held no others; the same tensors now show these."""
        shutil.rmtree(folder, ignore_errors=True)
        self._open(folder, "w+b")
        self.reserve()
        # Pages that are only reserved split a file's extents when they are written in any order: millions, which take minutes
        # to remove. And written through their map they lie in the cache one by one: a large block would be resident as a whole.
        for table in self.tables[1:]:  # codes are about to be written in order, by whoever initialises them
            for piece in self.pieces(table.raw):
                piece.zero_()

    def reopen(self, folder: Path) -> None:
        """The files that a fit left in a folder; `roll_back` must follow."""
        for table in self.tables:
            path, size = _path(folder, table.name), table.raw.nbytes
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
            for table in self.tables:
                if table.map is not None:
                    os.posix_fallocate(table.file.fileno(), 0, table.raw.nbytes)
        except OSError as error:
            where, needed = self.folder or Path(tempfile.gettempdir()), sum(table.raw.nbytes for table in self.tables)
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
            for table in self.tables:
                table.file = open(_path(folder, table.name), mode)  # noqa: SIM115 (likewise)
                table.map, table.raw = _mapped(table.file, self.count, table.raw.shape[1])
                _show(table)
        except OSError as error:
            raise NeuralfieldError(f"{folder} cannot hold a mapped bank: {error.strerror}; choose another --out") from None

    # what is resident

    def looked_at(self, count: int) -> None:
        """So many rows are about to be read or written, wherever they lie: let go of what came before, when it is too much."""
        self._looked += count * len(self.tables) * AROUND
        resident = _resident()
        if (self._looked if resident is None else resident - self._dropped_at) > BUDGET:
            self.drop()

    def drop(self) -> None:
        """Let go of all pages."""
        for table in self.tables:
            if table.map is not None and hasattr(mmap, "MADV_DONTNEED"):
                table.map.madvise(mmap.MADV_DONTNEED)
        self._looked, self._dropped_at = 0, _resident() or 0

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
            self._unlogged += len(rows) * sum(4 * table.raw.shape[1] for table in self.tables)
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
        for table in self.tables:
            if table.map is not None:
                table.map.flush()
        number = 0 if self._log is None else self._log.number + 1
        UndoLog.begin(self.folder, number)
        return {"number": number, "boot": _boot()}

    def committed(self, mark: dict[str, Any]) -> None:
        """The new checkpoint is written: its log counts from now on."""
        assert self.folder is not None
        self._log = UndoLog(self.folder, mark["number"], [table.raw for table in self.tables])

    def roll_back(self, mark: dict[str, Any]) -> None:
        """Every row as it was at the checkpoint that says `mark`."""
        self.committed(mark)
        assert self._log is not None
        for count in self._log.roll_back(same_boot=mark["boot"] == _boot()):
            self.looked_at(count)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


def _mapped(file: IO[bytes], count: int, width: int) -> tuple[mmap.mmap | None, Tensor]:
    """(map, words [count, width]) of all of a file."""
    if not count * width:
        return None, torch.zeros(count, width, dtype=torch.int32)
    os.ftruncate(file.fileno(), 4 * count * width)
    held = mmap.mmap(file.fileno(), 4 * count * width)
    with suppress(AttributeError, OSError):
        held.madvise(mmap.MADV_RANDOM)  # a row says nothing of its neighbours: no reading ahead
    return held, torch.frombuffer(held, dtype=torch.int32).view(count, width)


def _show(table: Table) -> None:
    """Let the columns of a table be views of its file; whoever holds them sees the new numbers."""
    first = 0
    for column in table.columns:
        end = first + column.shape[1]
        column.data = table.raw.view(column.dtype)[:, first:end]
        first = end


def _resident() -> int | None:
    """Bytes of mapped files, whichever, that are resident in this process, where the system tells."""
    with suppress(OSError):
        return int(STATM.read_text().split()[2]) * mmap.PAGESIZE
    return None


def _boot() -> str:
    """Which start of the machine this is, where it can be told."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "unknown"
