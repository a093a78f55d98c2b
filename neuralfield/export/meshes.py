"""Surfaces as mesh files, in the user's units."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from matplotlib import colormaps

from neuralfield.completion import Draws
from neuralfield.domains.surfaces import Surface
from neuralfield.run import Run

ENDINGS = (".ply", ".obj", ".glb", ".stl")
UNSURE = 0.1
"""Standard deviation of the distance, in units of the cube's half side, that has the last colour."""


def file_names(ids: Sequence[str]) -> list[str]:
    """Ids as names of files, each its own."""
    plain = [name.replace("/", "-") for name in ids]
    twice = {name for name, count in Counter(plain).items() if count > 1}
    return [f"{name}-{number}" if name in twice else name for number, name in enumerate(plain)]


def write_mesh(
    file: Path,
    surface: Surface,
    frame: Float[np.ndarray, " _"] | None = None,
    deviation: Float[np.ndarray, " n"] | None = None,
) -> None:
    """Write the format that the file's ending says. `frame` is the centre and scale that the shape was normalised by.

    `deviation` of every vertex colours it, from blue (0) over yellow to red (UNSURE), where the format has colours; PLY files hold
    the numbers too, in the user's units.
    """
    kept = surface if frame is None else surface.framed(frame)
    colours = None if deviation is None else (255 * colormaps["turbo"]((deviation / UNSURE).clip(0, 1))).astype(np.uint8)
    mesh = trimesh.Trimesh(kept.vertices, kept.elements, process=False, vertex_colors=colours)
    if deviation is not None:
        mesh.vertex_attributes["deviation"] = (deviation * (1.0 if frame is None else frame[-1])).astype(np.float32)
    mesh.export(file)


@torch.no_grad()
def deviation_of(run: Run, surface: Surface, draws: Draws) -> Float[np.ndarray, " n"]:
    """Standard deviation, over draws of one signal, of the distance at every vertex."""
    fields = draws.fields(run, torch.from_numpy(surface.vertices.astype(np.float32))[None])
    return fields[:, 0, :, 0].std(0).cpu().double().numpy()
