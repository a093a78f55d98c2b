"""Signals written at any resolution: pictures, arrays, tables."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

import neuralfield.files as files
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.export.tables import write_table
from neuralfield.registry import nearest
from neuralfield.run import Run
from neuralfield.types import Field


def choose_codes(run: Run, signals: tuple[str, ...], file: Path | None) -> tuple[list[str], Float[Tensor, "B D"]]:
    """(ids, codes) of some signals of the bank, by number or id, or all of a file."""
    if file is not None and signals:
        raise UsageError("say which codes by --signal or by --codes, not by both")
    if file is not None:
        return _read_codes(run, file)
    rows = [_row(run, signal) for signal in signals or ("0",)]
    return [run.ids[row] for row in rows], run.codes[rows].cpu()


def write_decoded(run: Run, ids: list[str], codes: Float[Tensor, "B D"], resolution: int | None, out: Path) -> int:
    """Write what `out`'s ending says; returns the number of points evaluated."""
    writers: dict[str, Callable[[Run, list[str], Field, int | None, Path], None]] = {".png": _png, ".npy": _npy, ".csv": _csv}
    if out.suffix.lower() not in writers:
        raise UsageError(f'{out}: a domain of kind "{run.recipe.domain.kind}" is written as {", ".join(writers)}')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        writers[out.suffix.lower()](run, ids, run.field(codes), resolution, out)
    except OSError as error:
        raise NeuralfieldError(f"{out} cannot be written: {error.strerror or error}") from error
    return len(codes) * run.domain.grid(resolution).shape[1]


def _png(run: Run, ids: list[str], field: Field, resolution: int | None, out: Path) -> None:
    with torch.no_grad():
        Image.fromarray(np.concatenate(list(run.domain.render(field, resolution)), axis=1)).save(out)


def _in_units(run: Run, field: Field, resolution: int | None) -> tuple[Float[Tensor, "N C"], Float[Tensor, "B N V"]]:
    """(coordinates, values), both in the user's units."""
    grid = run.domain.grid(resolution)
    with torch.no_grad():
        return run.domain.in_units(grid[0], field(grid).cpu())


def _npy(run: Run, ids: list[str], field: Field, resolution: int | None, out: Path) -> None:
    _, values = _in_units(run, field, resolution)
    np.save(out, values.reshape(len(values), *run.domain.grid_shape(resolution), -1).numpy())


def _csv(run: Run, ids: list[str], field: Field, resolution: int | None, out: Path) -> None:
    coords, values = _in_units(run, field, resolution)
    write_table(out, run.domain, ids, coords, {"": values})


def _row(run: Run, signal: str) -> int:
    if signal in run.ids:
        return run.ids.index(signal)
    if signal.isdigit() and int(signal) < len(run.ids):
        return int(signal)
    raise UsageError(
        f'there is no signal "{signal}"{nearest(signal, run.ids)}; say a number from 0 to {len(run.ids) - 1}, or an id'
    )


def _read_codes(run: Run, file: Path) -> tuple[list[str], Float[Tensor, "B D"]]:
    arrays = files.read_npz(file)
    codes = arrays.get("codes")
    if codes is None or codes.ndim != 2 or codes.shape[1] != run.codes.shape[1] or not np.isfinite(codes).all():
        have = "none" if codes is None else f"an array {list(codes.shape)}"
        raise NeuralfieldError(f"{file} must hold finite codes [n, {run.codes.shape[1]}] for this run; it has {have}")
    ids = arrays.get("ids", np.arange(len(codes)))
    if ids.shape != (len(codes),):
        raise NeuralfieldError(f"{file} must hold an id for each of its {len(codes)} codes, or none; it has {list(ids.shape)}")
    return [str(name) for name in ids], torch.from_numpy(codes.astype(np.float32))
