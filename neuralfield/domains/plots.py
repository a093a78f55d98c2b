"""A completed curve as a person looks at it: what was seen, the curve with its band, and what was hidden."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
SIZE, DOTS = (3.2, 2.2), 100
"""Of a panel, in inches, and dots per inch."""


@dataclass(frozen=True)
class Curve:
    """Values at times, with the ends of a band where there is one; all in the user's units."""

    times: Float[Tensor, " N"]
    values: Float[Tensor, "N V"]
    low: Float[Tensor, "N V"] | None = None
    high: Float[Tensor, "N V"] | None = None


def panel(
    curve: Curve, observed: tuple[Tensor, Tensor], hidden: tuple[Tensor, Tensor], names: list[str], title: str = ""
) -> UInt8[np.ndarray, "height width 3"]:
    """One picture: a line with its band, dots where values were observed, rings where they were hidden."""
    # imported here: it takes half a second, which commands that draw nothing should not wait for
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(SIZE, dpi=DOTS, layout="constrained")
    axes: Any = figure.subplots()
    for channel, name in enumerate(names):
        colour = COLOURS[channel % len(COLOURS)]
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.times, curve.low[:, channel], curve.high[:, channel], color=colour, alpha=0.2, linewidth=0)
        axes.plot(curve.times, curve.values[:, channel], color=colour, linewidth=1.2, label=name)
        axes.plot(hidden[0], hidden[1][:, channel], "o", color=colour, markersize=2.5, markerfacecolor="none", markeredgewidth=0.6)
        axes.plot(observed[0], observed[1][:, channel], "o", color="black" if len(names) == 1 else colour, markersize=2.5)
    axes.set_title(title, fontsize=7)
    axes.tick_params(labelsize=6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_fontsize(6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        axes.legend(fontsize=6, frameon=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
