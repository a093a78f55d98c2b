"""What `nf infer` writes: codes, completed values, scores, and one picture."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import neuralfield.files as files
from neuralfield.completion import DRAWN_AT_ONCE, Completion, Draws, completed, views
from neuralfield.domains.ensembles import Drawn, band
from neuralfield.domains.pictures import sheet
from neuralfield.export.meshes import deviation_of, file_names, write_mesh
from neuralfield.export.tables import write_table
from neuralfield.run import Run, fitting
from neuralfield.signals.masks import Visibility
from neuralfield.signals.signals import Signals

SHOWN = 12
"""Signals in the picture."""


@torch.no_grad()
def write_completions(folder: Path, run: Run, signals: Signals, visibility: Visibility, completion: Completion) -> Path:
    """Write codes, completions, scores and a picture; returns the picture's path.

    Completions are values [n, N, V] at coords [N, C], in the user's units, with the ends of the 90 % bands where there are samples;
    curves come as a CSV table too. Those of solids are meshes, coloured by their deviation where there are samples.
    """
    latent, signals = completion.estimate.latent, fitting(signals, run)
    framed = {} if signals.frames is None else {"frames": signals.frames.numpy()}
    files.write_npz(folder / "codes.npz", ids=np.array(signals.ids), codes=latent.mean.numpy(), **framed)
    if run.domain.solid:
        _write_meshes(folder / "meshes", run, signals, completion)
    else:
        _write_values(folder, run, signals, completion)
    each = {f"{side}_{name}": v.numpy() for side, scores in completion.scores.items() for name, v in scores.items()}
    files.write_npz(folder / "scores.npz", ids=np.array(signals.ids), **each)
    files.write_json(folder / "metrics.json", completion.means())
    sheet(_panels(run, signals, visibility, completion)).save(folder / "completions.png")
    return folder / "completions.png"


def _write_meshes(folder: Path, run: Run, signals: Signals, completion: Completion) -> None:
    """ID.ply of every completion that has a surface."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = signals.roster.frames
    for row, name in enumerate(file_names(signals.ids)):
        rows = torch.tensor([row])
        surface, _ = run.domain.surface(run.field(completion.estimate.latent.mean[rows]))
        draws = completion.draws(rows)
        if len(surface):
            deviation = None if draws is None else deviation_of(run, surface, draws)
            frame = None if frames is None else frames[row].numpy()
            write_mesh(folder / f"{name}.ply", surface, frame, deviation)


def _write_values(folder: Path, run: Run, signals: Signals, completion: Completion) -> None:
    grid = run.domain.grid()
    coords, values = run.domain.in_units(
        grid[0], _by_parts(run, completion, grid, lambda rows, draws: completed(run, completion.estimate, rows, draws)(grid).cpu())
    )
    bands = _bands(run, completion, grid)
    told = {name: signals.roster.unframed(coords, each) for name, each in {"values": values, **bands}.items()}
    places = told["values"][0]
    arrays = {"coords": places.numpy(), **{name: each.numpy() for name, (_, each) in told.items()}}
    files.write_npz(folder / "completions.npz", ids=np.array(signals.ids), **arrays)
    if run.domain.coord_dim == 1:
        ends = {f"_{name}": band for name, band in bands.items()}
        write_table(folder / "completions.csv", run.domain, signals.ids, coords, {"": values, **ends})


def _by_parts(
    run: Run, completion: Completion, grid: Float[Tensor, "1 N C"], make: Callable[[Tensor, Draws | None], Tensor]
) -> Tensor:
    """What is made of some signals and their draws, of all signals."""
    numbers = max(1, completion.samples) * grid.shape[1] * run.domain.value_dim
    parts = torch.arange(len(completion.estimate.latent)).split(max(1, DRAWN_AT_ONCE // numbers))
    return torch.cat([make(rows, completion.draws(rows)) for rows in parts])


def _bands(run: Run, completion: Completion, grid: Float[Tensor, "1 N C"]) -> dict[str, Tensor]:
    """Lower and upper ends in the user's units, where there are samples."""
    if not completion.samples:
        return {}

    def ends(rows: Tensor, draws: Draws | None) -> Tensor:
        assert draws is not None
        return torch.stack(band(draws.values(run, grid).cpu()), -1)

    both = _by_parts(run, completion, grid, ends)
    return {name: run.domain.in_units(grid[0], both[..., end])[1] for end, name in enumerate(("lower", "upper"))}


def _panels(run: Run, signals: Signals, visibility: Visibility, completion: Completion) -> dict[str, np.ndarray]:
    """The first signals: what was seen, their completion, and what is known of the truth."""
    rows = torch.arange(min(SHOWN, len(signals)))
    observed, hidden = next(views(run, signals.select(rows), visibility))
    draws, grid = completion.draws(rows), run.domain.grid()
    drawn = None if draws is None or run.domain.solid else Drawn(draws.fields(run, grid).cpu(), draws.values(run, grid).cpu())
    field = completed(run, completion.estimate, rows, None if run.domain.solid else draws)
    return run.domain.panels(observed, hidden, field, drawn, list(signals.ids[: len(rows)]))
