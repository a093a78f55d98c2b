"""Curves in a CSV file: a row for each curve (wide), or a row for each sample (long)."""

import itertools
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuralfield.errors import NeuralfieldError, NeuralfieldWarning, UsageError
from neuralfield.registry import nearest
from neuralfield.signals.curves import Curves
from neuralfield.signals.images import SPLITS, check_split
from neuralfield.signals.labels import numbered
from neuralfield.signals.samples import Samples
from neuralfield.signals.table import MISSING, Table, as_number, read_table

LAYOUTS = ("wide", "long", "bare")
IDS = ("id", "subject", "curve", "name", "patient", "person", "participant", "individual", "series", "unit")
TIMES = ("t", "time", "times", "age", "hour", "day", "month", "year")
LABELS = ("label", "class")
"""Usual names of columns, in any case, the likeliest first."""


def csv_file(
    path: str,
    split: str = "train",
    id: str | None = None,
    time: str | None = None,
    label: str | None = None,
    layout: str | None = None,
    log: bool = False,
) -> Curves:
    """The curves of a table whose cells are separated by commas, semicolons or tabs; an empty cell, NA or NaN is not observed.

    wide: one row a curve. The header's cells are times; columns `id` and `label` may stand beside them.
    long: one row a sample, in any order: columns `id` (without one, the file is one curve), `t` and one or more of values, which
    are channels and keep their names; optionally `label`. Curves are sorted by id, numbers in it as numbers.
    bare: one row a curve without a header; times are 0, 1, 2 ...

    Unless `layout` says which, a column of times (t, time, age ..., or named by `time`) makes a file long; a first row of numbers
    alone is a header of times where they rise, else it is bare. `id` and `label` name other columns for these. A column `split`
    with train or test in it answers to `split`; without one, all is `train` and `test` alike. Labels may be words. With `log`, a
    model sees the logarithms of the values.
    """
    check_split(split)
    file = Path(path).expanduser()
    try:
        curves = _read(read_table(file), split, id, time, label, layout)
        return curves.logarithmic() if log else curves
    except NeuralfieldError as error:
        raise type(error)(f"{file}: {error}") from error


def _read(table: Table, split: str, id: str | None, time: str | None, label: str | None, layout: str | None) -> Curves:
    chosen = _layout(table, time, layout)
    if chosen == "bare":
        return _bare(table, [("id", id), ("time", time), ("label", label)])
    if not len(table):
        raise NeuralfieldError("it has a header, but no rows below it")
    if chosen == "long":
        return _long(table, split, id, time, label)
    return _wide(table, split, id, label)


def _layout(table: Table, time: str | None, layout: str | None) -> str:
    if layout is not None:
        if layout not in LAYOUTS:
            raise UsageError(f'there is no layout "{layout}"{nearest(layout, list(LAYOUTS))}; known: {", ".join(LAYOUTS)}')
        return layout
    cells = table.header if table.header[0] else table.header[1:]  # without an index, which data frames write below an empty cell
    numbers = [number for number in map(as_number, cells) if number is not None]
    if len(numbers) == len(cells) and len(table.header) > 1 and all(a < b for a, b in itertools.pairwise(numbers)):
        return "wide"
    if len(numbers) + sum(cell in MISSING for cell in cells) == len(cells):
        return "bare"
    return "long" if _find(table, time, TIMES, "time") is not None else "wide"


def _bare(table: Table, named: list[tuple[str, str | None]]) -> Curves:
    for setting, column in named:
        if column is not None:
            raise UsageError(f'signals.{setting} names a column "{column}", but the file has no header')
    length = len(table.header)
    cells = [[first, *column] for first, column in zip(table.header, table.columns, strict=True)]
    whole = Table(table.file, [str(j + 1) for j in range(length)], table.first, [table.first, *table.lines], cells)
    return Curves.from_arrays(np.arange(float(length)), _matrix(whole, range(length)))


def _wide(table: Table, split: str, id: str | None, label: str | None) -> Curves:
    name, labelled, chooses = _find(table, id, IDS, "id"), _find(table, label, LABELS, "label"), _split_column(table)
    if name is None and not table.header[0]:
        name = 0  # as data frames write their index
    columns = [j for j in range(len(table.header)) if j not in (name, labelled, chooses)]
    times = [_time(table.header[j]) for j in columns]
    if not columns:
        raise NeuralfieldError("it has no columns of values, whose headers are times")
    rows = _rows_of(table, chooses, split)
    part = table.rows(rows)
    ids = [str(i) for i in rows] if name is None else _distinct(part, name)
    return Curves.from_arrays(np.array(times), _matrix(part, columns), ids, _labels(table, part, labelled))


def _long(table: Table, split: str, id: str | None, time: str | None, label: str | None) -> Curves:
    name, labelled, chooses = _find(table, id, IDS, "id"), _find(table, label, LABELS, "label"), _split_column(table)
    when = _find(table, time, TIMES, "time")
    if when is None:
        raise NeuralfieldError(f"a long table needs a column of times; say which with --set signals.time=NAME ({_known(table)})")
    index = None if table.header[0] else 0  # as data frames write theirs
    columns = [j for j in range(len(table.header)) if j not in (name, when, labelled, chooses, index)]
    if not columns:
        raise NeuralfieldError(f"a long table needs a column of values ({_known(table)})")
    part = table.rows(_rows_of(table, chooses, split))
    if name is None:
        _refuse_several(table, part.numbers(when), [table.header[j] for j in columns])
    owners = [table.file.stem] * len(part) if name is None else _named(part, name)
    ids = sorted(set(owners), key=_natural)
    number = {owner: i for i, owner in enumerate(ids)}
    times, values = part.numbers(when), _matrix(part, columns)
    timeless = np.isnan(times) & np.isfinite(values).any(1)
    if timeless.any():
        raise NeuralfieldError(f"{part.where(int(timeless.argmax()), when)}: there is a value, but no time")
    curve = np.array([number[owner] for owner in owners])
    samples = Samples(curve, times, values, ids, [table.header[j] for j in columns])
    return Curves.from_samples(samples, _labels(table, _firsts(part, curve, labelled), labelled))


def _refuse_several(table: Table, times: np.ndarray, columns: list[str]) -> None:
    """A long table without an id is one curve, so its times differ; several columns may be curves rather than channels."""
    if len(np.unique(times)) < len(times):
        raise NeuralfieldError(
            f"times repeat, and no column says which curve a row belongs to; name one with --set signals.id=NAME ({_known(table)})"
        )
    if len(columns) > 1:
        warnings.warn(
            f"{table.file}: no column names the curves, so this is one curve with the channels {', '.join(columns)}; if each "
            "column is a curve, turn the table (one row a curve)",
            NeuralfieldWarning,
            stacklevel=5,
        )


# columns by their part


def _find(table: Table, wanted: str | None, usual: Sequence[str], setting: str) -> int | None:
    """The column of a name that was asked for, or the first of the usual ones; None where there is none."""
    lower = [cell.lower() for cell in table.header]
    if wanted is None:
        return next((lower.index(name) for name in usual if name in lower), None)
    if wanted in table.header:
        return table.header.index(wanted)
    if wanted.lower() in lower:
        return lower.index(wanted.lower())
    raise UsageError(f'signals.{setting}: there is no column "{wanted}"{nearest(wanted, table.header)} ({_known(table)})')


def _known(table: Table) -> str:
    shown = table.header[:8]
    return f"columns: {', '.join(shown)}{' ...' if len(table.header) > len(shown) else ''}"


def _split_column(table: Table) -> int | None:
    lower = [cell.lower() for cell in table.header]
    if "split" not in lower:
        return None
    column = lower.index("split")
    return column if set(SPLITS) & {cell.lower() for cell in table.columns[column]} else None


def _rows_of(table: Table, chooses: int | None, split: str) -> list[int]:
    """The rows of a split."""
    if chooses is None:
        return list(range(len(table)))
    cells = [cell.lower() for cell in table.columns[chooses]]
    rows = [i for i, cell in enumerate(cells) if cell == split]
    if not rows:
        raise NeuralfieldError(f'no row is of split "{split}"; there are: {", ".join(sorted(set(cells)))}')
    return rows


def _time(cell: str) -> float:
    time = as_number(cell)
    if time is None:
        raise NeuralfieldError(
            f'the header of column "{cell}" is no time, which the values of a wide table need; leave the column out, or say '
            f"what it is with --set signals.id={cell} or signals.label={cell} (signals.time=NAME: one row a sample)"
        )
    return time


# what is in them


def _matrix(table: Table, columns: Sequence[int]) -> np.ndarray:
    return np.stack([table.numbers(j) for j in columns], 1)


def _named(table: Table, column: int) -> list[str]:
    """A column of ids, none of them empty."""
    cells = table.columns[column]
    if "" in cells:
        raise NeuralfieldError(f"{table.where(cells.index(''), column)}: there is no id")
    return cells


def _distinct(table: Table, column: int) -> list[str]:
    first: dict[str, int] = {}
    for row, name in enumerate(_named(table, column)):
        if name in first:
            raise NeuralfieldError(f'two curves have the id "{name}", in lines {table.lines[first[name]]} and {table.lines[row]}')
        first[name] = row
    return list(first)


def _labels(table: Table, part: Table, column: int | None) -> np.ndarray | None:
    """Labels of rows; words are numbered over the whole file, so that its splits agree."""
    if column is None or not any(table.columns[column]):
        return None
    return numbered(part.columns[column], table.columns[column])


def _firsts(table: Table, curve: np.ndarray, labelled: int | None) -> Table:
    """The first row of each curve, in the curves' order; labels that change within one are refused."""
    rows = np.unique(curve, return_index=True)[1]
    if labelled is not None:
        cells = table.columns[labelled]
        for row, i in enumerate(curve.tolist()):
            if cells[row] != cells[rows[i]]:
                first = f'"{cells[rows[i]]}" in line {table.lines[rows[i]]}'
                raise NeuralfieldError(f'{table.where(row, labelled)}: its curve has label "{cells[row]}" here, but {first}')
    return table.rows(rows.tolist())


def _natural(name: str) -> Any:
    """A key that sorts numbers within names as numbers: a2 before a10."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
