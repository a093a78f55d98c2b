"""Figures as PNG: codes in the plane, lengths, and rows of pictures."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from neuralfield.domains.pictures import sheet
from neuralfield.signals.roster import UNKNOWN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS = 100
"""Per inch."""
NAMED = 20
"""Labels that a legend lists; of more, it would be larger than the figure."""


def pictures(rows: Mapping[str, np.ndarray]) -> bytes:
    """Titled rows of pictures [n, height, width, 3]."""
    return _png(sheet(rows))


def scatter(points: Float[Tensor, "n 2"], labels: Int[Tensor, " n"] | None) -> bytes:
    """Points in the plane, coloured by label where they have any."""
    figure, axes = _axes(6.0, 5.0)
    for label, colour in _colours(labels):
        chosen = slice(None) if labels is None else labels == label
        x, y = points[chosen].T.numpy()
        axes.plot(x, y, ".", markersize=3, color=colour, label="none" if label == UNKNOWN else str(label))
    if labels is not None and len(labels.unique()) <= NAMED:
        axes.legend(fontsize=7, markerscale=3, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xticks([])
    axes.set_yticks([])
    return _drawn(figure)


def histogram(values: Float[Tensor, " n"], name: str) -> bytes:
    """How often each value occurs."""
    figure, axes = _axes(4.0, 2.5)
    axes.hist(values.numpy(), bins=40, color="#1f77b4")
    axes.set_xlabel(name, fontsize=8)
    return _drawn(figure)


def curve(moments: Float[Tensor, "epochs 2"], name: str) -> bytes:
    """A mean over the epochs, with a band of one standard deviation."""
    figure, axes = _axes(4.0, 2.5)
    epochs, (mean, deviation) = np.arange(1, len(moments) + 1), moments.T.numpy()
    axes.fill_between(epochs, mean - deviation, mean + deviation, alpha=0.2, linewidth=0)
    axes.plot(epochs, mean)
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylabel(name, fontsize=8)
    return _drawn(figure)


def _axes(width: float, height: float) -> "tuple[Figure, Any]":
    # imported here: it takes half a second, which commands that draw nothing should not wait for
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _colours(labels: Int[Tensor, " n"] | None) -> list[tuple[int, Any]]:
    if labels is None:
        return [(UNKNOWN, "#1f77b4")]
    from matplotlib import colormaps

    known = labels.unique().tolist()
    table = colormaps["tab10" if len(known) <= 10 else "tab20"]
    return [(label, "#bbbbbb" if label == UNKNOWN else table(place % table.N)) for place, label in enumerate(known)]


def _drawn(figure: "Figure") -> bytes:
    held = io.BytesIO()
    figure.savefig(held, format="png")
    return held.getvalue()


def _png(picture: Image.Image) -> bytes:
    held = io.BytesIO()
    picture.save(held, format="PNG", optimize=True)
    return held.getvalue()
