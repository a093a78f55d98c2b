"""What the rows of a mapped bank held at the last checkpoint: a log that takes a killed fit back to it, bit for bit."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Int, Int32
from torch import Tensor

from neuralfield.errors import NeuralfieldError, NeuralfieldWarning

AT_ONCE = 2**14
"""Records that are read at once: 13 MB of codes of 64 dims and their optimiser's state."""
INDEX = 2  # words of four bytes of a row's number


class UndoLog:
    """Records (row, what its tables held), each appended before the row moves for the first time since checkpoint `number`.

    The number is in the file's name: a kill between the writing of a checkpoint and the removal of the log before it leaves two
    logs, of which the checkpoint knows its own.
    """

    def __init__(self, folder: Path, number: int, tables: list[Int32[Tensor, "n _"]]) -> None:
        self.number, self.tables = number, tables
        self.path = _path(folder, number)
        if not self.path.exists():
            raise NeuralfieldError(f"{self.path} is missing, so the fit cannot be resumed; fit again with --overwrite")
        self.touched = torch.zeros(len(tables[0]), dtype=torch.bool)
        self.size = self.path.stat().st_size
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (appended to as long as the fit lasts)
        for other in set(folder.glob("undo-*")) - {self.path}:
            other.unlink()

    @staticmethod
    def begin(folder: Path, number: int) -> None:
        """An empty log beside the one that still counts."""
        try:
            _path(folder, number).write_bytes(b"")
        except OSError as error:
            raise NeuralfieldError(f"{_path(folder, number)} cannot be written: {error.strerror}") from None

    def keep(self, rows: Int[Tensor, " b"]) -> None:
        """Append those of the rows that were not touched before."""
        fresh = rows[~self.touched[rows]].unique()
        if not len(fresh):
            return
        parts = [fresh[:, None].view(torch.int32), *(table[fresh] for table in self.tables)]
        self._append(memoryview(torch.cat(parts, 1).numpy().data).cast("B"))
        self.touched[fresh] = True

    def roll_back(self, same_boot: bool) -> Iterator[int]:
        """Put back what the records say; yields how many before each piece. They stay, and their rows count as touched.

        A record that a kill has cut off belongs to a row that had not moved yet.
        """
        self.size -= self.size % self._record
        os.truncate(self.path, self.size)
        if self.size and not same_boot:
            warnings.warn(
                f"the machine was restarted while {self.path.parent} was in use: some codes may be ahead of the checkpoint by some "
                "steps; the fit goes on, but need not end bit for bit as one that was not interrupted",
                NeuralfieldWarning,
                stacklevel=2,
            )
        with open(self.path, "rb") as file:
            while held := bytearray(file.read(AT_ONCE * self._record)):
                records = torch.frombuffer(held, dtype=torch.int32).view(-1, self._record // 4)
                yield len(records)
                self._put_back(records)

    def _put_back(self, records: Int32[Tensor, "k words"]) -> None:
        rows, *held = records.split([INDEX, *(table.shape[1] for table in self.tables)], 1)
        index = rows.contiguous().view(torch.int64)[:, 0]
        for table, part in zip(self.tables, held, strict=True):
            table.index_copy_(0, index, part)
        self.touched[index] = True

    def _append(self, content: memoryview) -> None:
        try:
            while content:  # a disk that is nearly full takes a part
                written = self._file.write(content)
                self.size, content = self.size + written, content[written:]
        except OSError as error:
            raise NeuralfieldError(
                f"{self.path} cannot be written: {error.strerror}; make room and go on with nf fit --resume"
            ) from None

    @property
    def _record(self) -> int:
        """Its bytes."""
        return 4 * (INDEX + sum(table.shape[1] for table in self.tables))


def _path(folder: Path, number: int) -> Path:
    return folder / f"undo-{number}"
