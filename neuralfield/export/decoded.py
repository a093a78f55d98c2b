"""Signals written at any resolution: pictures, arrays, tables."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

import neuralfield.files as files
from neuralfield.domains.pictures import CELL
from neuralfield.domains.renders import portrait
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.export.meshes import ENDINGS, file_names, write_mesh
from neuralfield.export.tables import write_table
from neuralfield.registry import nearest
from neuralfield.run import Run
from neuralfield.signals.roster import Roster
from neuralfield.types import Field

FRAME = 150
"""Milliseconds that an animation shows each signal."""


def choose_codes(run: Run, signals: tuple[str, ...], file: Path | None) -> tuple[Roster, Float[Tensor, "B D"]]:
    """(who they are, codes) of some signals of the bank, by number or id, or all of a file."""
    if file is not None and signals:
        raise UsageError("say which codes by --signal or by --codes, not by both")
    if file is not None:
        return _read_codes(run, file)
    rows = [row_of(run, signal) for signal in signals or ("0",)]
    return run.roster.rows(rows), run.codes[rows].cpu()


@torch.no_grad()
def write_decoded(run: Run, roster: Roster, codes: Float[Tensor, "B D"], resolution: int | None, out: Path) -> int:
    """Write what `out`'s ending says; returns the number of points evaluated. Of several meshes each gets a file of its own."""
    writers: dict[str, Callable[[Run, Roster, Field, int | None, Path], int]] = {
        ".png": _png,
        ".gif": _gif,
        ".npy": _npy,
        ".csv": _csv,
    }
    if run.domain.solid:
        writers |= dict.fromkeys(ENDINGS, _mesh)
    if out.suffix.lower() not in writers:
        raise UsageError(f'{out}: a domain of kind "{run.recipe.domain.kind}" is written as {", ".join(writers)}')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return writers[out.suffix.lower()](run, roster, run.field(codes), resolution, out)
    except OSError as error:
        raise NeuralfieldError(f"{out} cannot be written: {error.strerror or error}") from error


def _png(run: Run, roster: Roster, field: Field, resolution: int | None, out: Path) -> int:
    pictures, evaluated = _pictures(run, field, resolution)
    Image.fromarray(np.concatenate(pictures, axis=1)).save(out)
    return evaluated


def _gif(run: Run, roster: Roster, field: Field, resolution: int | None, out: Path) -> int:
    """One signal after another, for ever, small pictures enlarged."""
    pictures, evaluated = _pictures(run, field, resolution)
    factor = max(1, round(CELL / max(pictures[0].shape[:2])))
    frames = [Image.fromarray(picture.repeat(factor, 0).repeat(factor, 1)) for picture in pictures]
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=FRAME, loop=0)
    return evaluated


def _pictures(run: Run, field: Field, resolution: int | None) -> tuple[list[np.ndarray], int]:
    """(a picture of each signal, points evaluated)."""
    if run.domain.solid:
        surfaces = [run.domain.surface(field.rows(slice(b, b + 1)), resolution) for b in range(len(field))]
        return [portrait(surface) for surface, _ in surfaces], sum(points for _, points in surfaces)
    return list(run.domain.render(field, resolution)), len(field) * run.domain.grid(resolution).shape[1]


def _in_units(
    run: Run, roster: Roster, field: Field, resolution: int | None
) -> tuple[Float[Tensor, "*B N C"], Float[Tensor, "B N V"]]:
    """(coordinates, values), both in the user's units; coordinates of each signal where each has a frame of its own."""
    grid = run.domain.grid(resolution)
    return roster.unframed(*run.domain.in_units(grid[0], field(grid).cpu()))


def _npy(run: Run, roster: Roster, field: Field, resolution: int | None, out: Path) -> int:
    _, values = _in_units(run, roster, field, resolution)
    np.save(out, values.reshape(len(values), *run.domain.grid_shape(resolution), -1).numpy())
    return values[..., 0].numel()


def _csv(run: Run, roster: Roster, field: Field, resolution: int | None, out: Path) -> int:
    coords, values = _in_units(run, roster, field, resolution)
    write_table(out, run.domain, roster.ids, coords, {"": values})
    return values[..., 0].numel()


def _mesh(run: Run, roster: Roster, field: Field, resolution: int | None, out: Path) -> int:
    evaluated = 0
    for row, name in enumerate(file_names(roster.ids)):
        surface, points = run.domain.surface(field.rows(slice(row, row + 1)), resolution)
        evaluated += points
        if not len(surface):
            raise NeuralfieldError(f"the field of {roster.ids[row]} is nowhere 0 in [-1, 1]^3, so it has no surface")
        file = out if len(roster) == 1 else out.with_name(f"{out.stem}-{name}{out.suffix}")
        write_mesh(file, surface, None if roster.frames is None else roster.frames[row].numpy())
    return evaluated


def row_of(run: Run, signal: str) -> int:
    """The row of the bank that a number or an id names."""
    if signal in run.ids:
        return run.ids.index(signal)
    if signal.isdigit() and int(signal) < len(run.ids):
        return int(signal)
    raise UsageError(
        f'there is no signal "{signal}"{nearest(signal, run.ids)}; say a number from 0 to {len(run.ids) - 1}, or an id'
    )


def _read_codes(run: Run, file: Path) -> tuple[Roster, Float[Tensor, "B D"]]:
    arrays = files.read_npz(file)
    codes = arrays.get("codes")
    if codes is None or codes.ndim != 2 or codes.shape[1] != run.codes.shape[1] or not np.isfinite(codes).all():
        have = "none" if codes is None else f"an array {list(codes.shape)}"
        raise NeuralfieldError(f"{file} must hold finite codes [n, {run.codes.shape[1]}] for this run; it has {have}")
    ids = arrays.get("ids", np.arange(len(codes)))
    if ids.shape != (len(codes),):
        raise NeuralfieldError(f"{file} must hold an id for each of its {len(codes)} codes, or none; it has {list(ids.shape)}")
    frames = arrays.get("frames")
    if frames is not None and (frames.shape != (len(codes), run.domain.coord_dim + 1) or not np.isfinite(frames).all()):
        wanted = f"[{len(codes)}, {run.domain.coord_dim + 1}]"
        raise NeuralfieldError(
            f"{file} must hold finite frames {wanted}, a centre and a scale each, or none; it has {list(frames.shape)}"
        )
    roster = Roster([str(name) for name in ids], frames=None if frames is None else torch.from_numpy(frames))
    return roster, torch.from_numpy(codes.astype(np.float32))
