"""How figures of the pages look."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from neuralfield.domains.image import as_picture
from neuralfield.domains.pictures import sheet


def plots(columns: int, rows: int = 1, width: float = 4.2, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """A figure of axes, row by row, without the frames that say nothing."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def digits(rows: Mapping[str, Tensor]) -> Image.Image:
    """A titled row of square grey images [n, points] per entry."""
    return sheet({title.replace("`", ""): pictures(images) for title, images in rows.items()})


def pictures(images: Tensor) -> np.ndarray:
    """[n, points] as 8-bit pictures [n, side, side, 3]."""
    side = round(images.shape[1] ** 0.5)
    return as_picture(torch.as_tensor(images).reshape(-1, side, side, 1))


def scatter(axes: Axes, points: np.ndarray, labels: np.ndarray, title: str) -> None:
    """Points in the plane, coloured by digit; a digit's number stands in the middle of its points."""
    axes.scatter(points[:, 0], points[:, 1], c=labels, s=2, cmap="tab10", linewidths=0, vmin=0, vmax=9)
    for digit in np.unique(labels):
        at = np.median(points[labels == digit], 0)
        axes.text(*at, str(digit), fontsize=12, fontweight="bold", ha="center", va="center")
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
