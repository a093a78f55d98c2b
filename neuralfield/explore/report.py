"""One HTML page on a run: its figures are inside, so that it can be sent, and opened without a network."""

import base64
import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

import neuralfield.files as files
from neuralfield.explore import figures
from neuralfield.explore.interpolation import Density, Linear, interpolate
from neuralfield.explore.lengths import lengths, over_time
from neuralfield.explore.neighbours import Gallery, knn_accuracy, nearest_codes, training_signals
from neuralfield.explore.projection import LEAST, project, umap_installed
from neuralfield.explore.sampling import bank_codes, density_of, sample
from neuralfield.latents.priors import Prior
from neuralfield.run import Run
from neuralfield.seeds import generator
from neuralfield.signals.signals import Signals
from neuralfield.types import spread

SHOWN, SOLIDS = 8, 4
"""Signals in a row of pictures; solids take a second each to draw."""
PROJECTED = 1000
"""Codes that are shown in the plane, evenly spread: t-SNE takes seconds for so many."""
PATHS, NEAR = 3, 5
"""Paths that are shown, and neighbours of each signal; of solids 1 and 2."""
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:64em;margin:2em auto;padding:0 1em;color:#222}"
    "img{max-width:100%}h2{margin-top:2em;border-bottom:1px solid #ccc}pre{background:#f5f5f5;padding:1em;overflow:auto}"
    "td,th{padding:.1em 1em .1em 0;text-align:left}"
)


@dataclass(frozen=True)
class Material:
    """What the sections are made of: the run, what it was fitted to, where that is at hand, and the density of its codes."""

    run: Run
    signals: Signals | None
    gallery: Gallery
    density: Prior
    seed: int

    @property
    def columns(self) -> int:
        """Pictures in a row."""
        return SOLIDS if self.run.domain.solid else SHOWN

    @property
    def paths(self) -> int:
        """Paths that are shown."""
        return 1 if self.run.domain.solid else PATHS

    @property
    def near(self) -> int:
        """Neighbours that are shown of each signal."""
        return 2 if self.run.domain.solid else NEAR

    def some(self) -> Int[Tensor, " s"]:
        """Signals of the bank to look at, evenly spread."""
        return spread(len(self.run.ids), self.columns)

    def decoded(self, codes: Tensor) -> UInt8[np.ndarray, "n height width 3"]:
        """Pictures of codes."""
        return self.run.domain.render(self.run.field(codes))

    def trained(self, rows: Int[Tensor, " n"]) -> UInt8[np.ndarray, "n height width 3"]:
        """Pictures of the gallery's signals: as they are, or as the run decodes them."""
        if self.gallery.real and self.signals is not None:
            return self.run.domain.draw(self.signals.truth(self.gallery.index[rows]))
        return self.decoded(self.run.model.source.rows(self.gallery.index[rows]).cpu())


def write_report(run: Run, out: str | Path | None = None, seed: int = 0) -> Path:
    """Write the page, by default as report.html in the run's folder; returns where it is.

    `seed` is for samples and for which signals paths join. Signals that the run was fitted to are read again where they still
    are; where they are not, its own reconstructions stand for them.
    """
    file = Path(out) if out is not None else (run.path or Path()) / "report.html"
    signals = training_signals(run)
    material = Material(run, signals, Gallery.of(run, signals), density_of(bank_codes(run)), seed)
    sections = [f"<h2>{title}</h2>\n{section(material)}" for title, section in SECTIONS.items()]
    name = html.escape(str(run.path or "a run"))
    page = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{name}</title>\n<style>{STYLE}</style>\n'
    files.write_bytes(file, (page + f"<h1>{name}</h1>\n" + "\n".join(part for part in sections) + "\n</html>\n").encode())
    return file


def _about(of: Material) -> str:
    run, codes = of.run, bank_codes(of.run)
    facts = {
        "signals": f"{len(run.ids)} of domain {run.recipe.domain.kind}",
        "codes": f"{run.codes.shape[1]} numbers each, from {run.recipe.latents.kind}",
        "decoder": run.recipe.decoder.kind,
        "seconds of the fit": _short(run.facts.get("seconds", 0.0)),
    }
    facts |= {f"training {name}": _short(value) for name, value in run.facts.get("scores", {}).get("train", {}).items()}
    if run.labels is not None and len(run.labels.unique()) > 1 and len(codes) == len(run.labels):
        facts["labels by 5 nearest codes"] = f"{knn_accuracy(codes, run.labels):.1%} right, each code left out in turn"
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts.items())
    return f"<table>{rows}</table>\n<pre>{html.escape(run.recipe.to_toml())}</pre>"


def _reconstructions(of: Material) -> str:
    kept = of.run.path and of.run.path / "figures" / "reconstructions.png"
    if kept and kept.exists():
        return _figure(kept.read_bytes(), "the data, its reconstructions after some epochs, and in the end")
    rows = {"in the end": of.decoded(of.run.model.source.rows(of.some()).cpu())}
    return _figure(figures.pictures(rows), "some signals of the bank; a run without a folder keeps none over time")


def _plane(of: Material) -> str:
    codes = bank_codes(of.run)
    rows = spread(len(codes), PROJECTED)
    labels = of.run.labels[rows] if of.run.labels is not None and len(of.run.labels) == len(codes) else None
    maps = {"principal components": "pca"}
    if len(rows) >= LEAST:
        maps |= {"t-SNE": "tsne"} | ({"UMAP": "umap"} if umap_installed() else {})
    planes = {name: project(codes[rows], how) for name, how in maps.items()}
    return "".join(_figure(figures.scatter(plane, labels), name) for name, plane in planes.items())


def _samples(of: Material) -> str:
    codes = sample(of.run, of.columns, of.density, of.seed)
    distances, rows = of.gallery.nearest(Gallery.of_codes(of.run, codes))
    shown = figures.pictures({"sample": of.decoded(codes), "nearest": of.trained(rows)})
    told = ", ".join(_short(distance) for distance in distances.tolist())
    return _figure(
        shown, f"drawn from a mixture fitted to the codes, and the nearest training signals; mean squared differences {told}"
    )


def _paths(of: Material) -> str:
    codes, steps = bank_codes(of.run), of.columns + 1
    ways = {"straight": Linear(codes), "by density": Density(codes, of.density)}
    rows = {}
    for number, (start, end) in enumerate(_pairs(of)):
        for name, way in ways.items():
            rows[f"{name}{' ' * number}"] = of.decoded(interpolate(of.run, start, end, way, steps))
    return _figure(
        figures.pictures(rows), "between signals of the bank: straight, and where the density of codes is that of a typical one"
    )


def _pairs(of: Material) -> list[tuple[int, int]]:
    """Signals of different labels, where there are labels."""
    count, labels = len(of.run.ids), of.run.labels
    draws = torch.randint(count, (64, 2), generator=generator(of.seed, 0)).tolist()
    unlike = [(i, j) for i, j in draws if i != j and (labels is None or labels[i] != labels[j])]
    return (unlike or [(0, count - 1)])[: of.paths]


def _neighbours(of: Material) -> str:
    codes, some = of.run.model.source.rows(of.some()).cpu(), of.some()
    bank = bank_codes(of.run)
    near = nearest_codes(codes, bank, of.near + 1)
    if len(bank) == len(of.run.ids):  # the signals themselves are among them
        near = torch.stack([row[row != own][: of.near] for row, own in zip(near, some, strict=True)])
    rows = {"signal": of.decoded(codes)}
    for place in range(min(of.near, near.shape[1])):
        rows[f"near {place + 1}"] = of.decoded(bank[near[:, place]])
    names = ", ".join(html.escape(of.run.ids[row]) for row in some.tolist())
    return _figure(figures.pictures(rows), f"signals {names}, and those whose codes are nearest")


def _lengths(of: Material) -> str:
    found = _figure(figures.histogram(lengths(bank_codes(of.run)), "length of a code"), "in the end")
    moments = over_time(of.run)
    if len(moments):
        found += _figure(figures.curve(moments, "length of a code"), "over time, of the signals whose pictures are kept")
    return found


SECTIONS: dict[str, Callable[[Material], str]] = {
    "What it is": _about,
    "Reconstructions over time": _reconstructions,
    "Codes in the plane": _plane,
    "New signals": _samples,
    "Between signals": _paths,
    "Nearest neighbours": _neighbours,
    "Lengths of codes": _lengths,
}


def _figure(png: bytes, caption: str) -> str:
    inside = base64.b64encode(png).decode()
    return f'<figure><img alt="" src="data:image/png;base64,{inside}"><figcaption>{caption}</figcaption></figure>\n'


def _short(value: float) -> str:
    return f"{value:.4g}"
