"""The fits that pages share: each is made once, and kept in a run folder with its training curve."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

import neuralfield as nf
from experiments.laboratory import Laboratory, decoded, pixels
from neuralfield.files import read_json, write_json
from neuralfield.recipe import RECIPES, Recipe
from neuralfield.training.journal import PROBES
from neuralfield.training.progress import Progress, Report
from neuralfield.types import spread


@dataclass(frozen=True)
class Fit:
    """A recipe with settings, on the training digits, the first `limit` of them, or where `own` on the recipe's own signals.

    `minutes` are about what it takes, so that the longest come first.
    """

    recipe: str
    settings: tuple[str, ...] = ()
    epochs: int | None = None
    own: bool = False
    limit: int | None = None
    minutes: float = 1.0


FITS = {
    # 8 rounds of 20 + 20 epochs, as the seed measured them
    "functions-alternating": Fit("functions-alternating", ("schedule.rounds=8",), own=True, minutes=0.5),
    "functions-joint": Fit("functions-joint", epochs=320, own=True, minutes=0.5),
    # its 50 epochs are not where the published 27.8 dB are: they come after 75 or so
    "autodecoder-mnist": Fit("autodecoder-mnist", epochs=80, minutes=6),
    "image": Fit("image", minutes=1),
    # as many numbers as the encoders have, and about as many seconds of training
    "image-30": Fit("image", ("latents.code_dim=30", "latents.noise=0.1", "training.steps=1900"), minutes=2),
    "image-completion": Fit("image-completion", minutes=3),
    "autoencoder-mlp": Fit("autoencoder-mlp", minutes=2),
    "autoencoder-cnn": Fit("autoencoder-cnn", minutes=2),
    # what the likelihood never scores: the centre of 16 pixels
    "without-centre": Fit(
        "autoencoder-cnn", ("corruption.kind=mask", "corruption.what=center:16", "corruption.scores=seen"), minutes=2
    ),
    "sparse-none": Fit("autoencoder-sparse-kl", ("penalty.weight=0",), minutes=1),
    "sparse-l1": Fit("autoencoder-sparse-l1", minutes=1),
    "sparse-kl": Fit("autoencoder-sparse-kl", minutes=1),
    "contractive-none": Fit("autoencoder-contractive", ("penalty.weight=0",), minutes=1),
    "contractive": Fit("autoencoder-contractive", minutes=2),
    "denoising": Fit("autoencoder-denoising", minutes=2),
    "vae": Fit("vae", minutes=3),
    "vad": Fit("vad", minutes=2),
    "glo": Fit("glo", minutes=3),
    "glo-random": Fit("glo", ("latents.init=normal",), minutes=3),
    "encdec": Fit("encdec", limit=2_000, minutes=4),
}


class Curve(Progress):
    """Of each epoch: the mean loss of its steps, and the probes' score at its beginning (None where nobody looked)."""

    def __init__(self) -> None:
        self.losses: dict[int, list[float]] = {}
        self.scores: dict[int, float | None] = {}
        self.began: float | None = None
        self.seconds: dict[int, float] = {}

    def report(self, report: Report) -> None:
        self.began = time.process_time() if self.began is None else self.began
        self.losses.setdefault(report.epoch, []).append(report.loss)
        self.scores[report.epoch] = report.score
        self.seconds.setdefault(report.epoch, time.process_time() - self.began)

    def rows(self) -> list[tuple[int, float, float | None, float]]:
        """(epoch, loss, score, CPU seconds since the first step), without the last, which has one step alone."""
        epochs = sorted(self.losses)[: -1 or None]
        return [(e, sum(self.losses[e]) / len(self.losses[e]), self.scores[e], self.seconds[e]) for e in epochs]


def folder_of(laboratory: Laboratory, name: str) -> Path:
    return laboratory.runs / name


def fitted(laboratory: Laboratory, name: str, again: bool = False) -> nf.Run:
    """A fit, from its folder where that holds what is asked for."""
    fit, folder = FITS[name], folder_of(laboratory, name)
    recipe, file = Recipe.load(fit.recipe, fit.settings), (RECIPES / f"{fit.recipe}.toml").read_text()
    epochs = fit.epochs if laboratory.epochs is None else laboratory.epochs
    data = (
        {}
        if fit.own
        else {"data": laboratory.source, "limit": min(fit.limit or len(laboratory.training), len(laboratory.training))}
    )
    settings = () if fit.own else ("signals.pad=2",)
    asked = {"recipe": file, "settings": list(fit.settings), "epochs": epochs, "data": data}
    told = folder / "asked.json"
    if not again and told.exists() and read_json(told) == asked:
        return nf.Run.load(folder)
    curve, began = Curve(), time.process_time()
    # from the source's name and not from signals in memory: the run then knows what it was fitted to
    run = nf.fit(**data, recipe=recipe, settings=settings, epochs=epochs, out=folder, overwrite=True, progress=curve)
    seconds = time.process_time() - began
    write_json(folder / "curve.json", {"cpu_seconds": seconds, "rows": curve.rows()})
    write_json(told, asked)
    click.echo(f"{name}: fitted in {seconds:.0f} CPU s, {run.facts['scores']['train']}", err=True)
    return run


def curve_of(laboratory: Laboratory, name: str) -> dict[str, Any]:
    """`cpu_seconds` of the fit, and `rows` of its curve; the fit must be there."""
    found: dict[str, Any] = read_json(folder_of(laboratory, name) / "curve.json")
    return found


def probes_of(laboratory: Laboratory, name: str, epochs: tuple[int, ...]) -> dict[str, Tensor]:
    """Reconstructions [12, points] of a fit's probes: the data, those after some epochs that were kept, and the final ones."""
    run = fitted(laboratory, name)
    index = spread(len(run.ids), PROBES)
    rows = {"data": pixels(laboratory.training.select(index))}
    for epoch in epochs:
        strip = folder_of(laboratory, name) / "figures" / "progress" / f"epoch-{epoch:05d}.png"
        if strip.exists():
            picture = torch.from_numpy(np.asarray(Image.open(strip).convert("L")).copy()).float() / 255
            rows[f"epoch {epoch}"] = rearrange(picture, "h (b w) -> b (h w)", b=len(index))
    return rows | {"final": decoded(run, run.codes[index])}


def scalars(laboratory: Laboratory, name: str) -> dict[str, tuple[list[int], list[float]]]:
    """(epochs, values) of what a fit wrote for TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder_of(laboratory, name)), size_guidance={"scalars": 0})
    events.Reload()
    found = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    return {tag: ([each.step for each in those], [each.value for each in those]) for tag, those in found.items()}


def scores_of(laboratory: Laboratory, name: str, of: str = "epoch") -> tuple[list[float], list[float]]:
    """The probes' scores over epochs or CPU "seconds", and that of the training signals when the fit was over."""
    found, run = curve_of(laboratory, name), nf.Run.load(folder_of(laboratory, name))
    rows = [row for row in found["rows"] if row[2] is not None]
    last = run.facts["epochs"] if of == "epoch" else found["cpu_seconds"]
    final = run.facts["scores"]["train"][run.domain.headline]
    column = 0 if of == "epoch" else 3
    return [row[column] for row in rows] + [last], [row[2] for row in rows] + [final]
