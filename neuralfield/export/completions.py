"""What `nf infer` writes: codes, completed values, scores, and one picture."""

from pathlib import Path

import numpy as np
import torch

import neuralfield.files as files
from neuralfield.completion import Completion, views
from neuralfield.domains.pictures import sheet
from neuralfield.run import Run
from neuralfield.signals.masks import Visibility
from neuralfield.signals.signals import Signals

SHOWN = 12
"""Signals in the picture."""


@torch.no_grad()
def write_completions(folder: Path, run: Run, signals: Signals, visibility: Visibility, completion: Completion) -> Path:
    """Write codes, completed values [n, N, V] at coords [N, C], scores and a picture; returns the picture's path."""
    latent = completion.estimate.latent
    coords = run.domain.grid()[0]
    values = torch.cat([run.field(rows)(coords.to(run.device)).cpu() for rows in latent.mean.split(run.recipe.inference.batch)])
    ids = np.array(signals.ids)
    files.write_npz(folder / "codes.npz", ids=ids, codes=latent.mean.numpy())
    files.write_npz(folder / "completions.npz", ids=ids, coords=coords.numpy(), values=values.numpy())
    each = {f"{side}_{name}": v.numpy() for side, scores in completion.scores.items() for name, v in scores.items()}
    files.write_npz(folder / "scores.npz", ids=ids, **each)
    files.write_json(folder / "metrics.json", completion.means())
    sheet(_rows(run, signals, visibility, completion)).save(folder / "completions.png")
    return folder / "completions.png"


def _rows(run: Run, signals: Signals, visibility: Visibility, completion: Completion) -> dict[str, np.ndarray]:
    """observed, completion, truth."""
    observed, hidden = next(views(run, signals.select(torch.arange(min(SHOWN, len(signals)))), visibility))
    rows = {
        "observed": run.domain.draw(observed),
        "completion": run.domain.render(run.field(completion.estimate.latent.mean[: len(observed)])),
    }
    if bool((hidden.weight > 0).any()):
        rows["truth"] = run.domain.draw(signals.truth(torch.arange(len(observed))))
    return rows
