"""A table in a text file: cells between commas, semicolons or tabs, with errors that name file, line and column."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from neuralfield.errors import NeuralfieldError

MISSING = {"", "NA", "N/A", "na", "NaN", "nan", "NAN", "null", "NULL"}
"""Cells that mean: not observed."""
DELIMITERS = "\t;,"
"""The first of these in a file's first line separates its cells; a comma comes last, because it may be a decimal one."""


@dataclass(frozen=True)
class Table:
    """Cells by column, without white space around them.

    `lines` holds the line of each row in the file, and `first` that of the header, counted from 1 as editors do.
    """

    file: Path
    header: list[str]
    first: int
    lines: list[int]
    columns: list[list[str]]

    def __len__(self) -> int:
        return len(self.lines)

    def rows(self, which: Iterable[int]) -> "Table":
        """Some of the rows."""
        kept = list(which)
        return replace(self, lines=[self.lines[i] for i in kept], columns=[[column[i] for i in kept] for column in self.columns])

    def where(self, row: int, column: int | None = None) -> str:
        """A place in the file, for people."""
        name = "" if column is None else f', column "{self.header[column]}"'
        return f"line {self.lines[row]}{name}"

    def numbers(self, column: int) -> Float[np.ndarray, " M"]:
        """A column as numbers, NaN where a cell means that nothing was observed."""
        cells = self.columns[column]
        try:
            found = np.array([float("nan" if cell in MISSING else cell) for cell in cells])
        except ValueError:
            found = None
        # Python reads 1_000 as a thousand; in a table it is a word
        if found is None or any("_" in cell for cell in cells):
            row = next(i for i, cell in enumerate(cells) if cell not in MISSING and as_number(cell) is None)
            comma = "; decimals need a point" if re.fullmatch(r"[-+]?\d+,\d+", cells[row]) else ""
            raise NeuralfieldError(f'{self.where(row, column)}: "{cells[row]}" is no number (an empty cell is not observed){comma}')
        return found


def as_number(cell: str) -> float | None:
    """A cell as a finite number; None where it is none."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if np.isfinite(number) and "_" not in cell else None


def read_table(file: Path) -> Table:
    """The first row as the header, and the others, which must have as many cells. Blank lines are passed over."""
    text = _text(file)
    first = re.sub(r'"[^"]*"', "", next((line for line in text.splitlines() if line.strip()), ""))
    delimiter = next((d for d in DELIMITERS if d in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except csv.Error as error:
        raise NeuralfieldError(f"line {reader.line_num}: {error}; is it a table of text?") from None
    while rows and not any(rows[-1][1]):  # spreadsheets leave such at the end
        rows.pop()
    if not rows:
        raise NeuralfieldError("it is empty; a table of curves has one row for each curve, or one for each sample")
    header = rows[0][1]
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise NeuralfieldError(f"line {line} has {len(row)} cells, but line {rows[0][0]} has {len(header)}")
    columns = [list(column) for column in zip(*(row for _, row in rows[1:]), strict=True)] or [[] for _ in header]
    return _without_blank_end(Table(file, header, rows[0][0], [line for line, _ in rows[1:]], columns))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise NeuralfieldError("it is no text in UTF-8; save it as CSV in that encoding") from None
    except OSError as error:
        raise NeuralfieldError("there is no such file" if not file.exists() else f"it cannot be read: {error.strerror}") from None


def _without_blank_end(table: Table) -> Table:
    """Without a last column that a delimiter at the end of every line makes."""
    if len(table.header) > 1 and not table.header[-1] and not any(table.columns[-1]):
        return replace(table, header=table.header[:-1], columns=table.columns[:-1])
    return table
