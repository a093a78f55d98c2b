"""Closed outlines in the plane as shapes."""

import numpy as np
import torch
from jaxtyping import Float, Int

from neuralfield.domains.surfaces import Surface
from neuralfield.errors import NeuralfieldError
from neuralfield.signals.distances import Plan
from neuralfield.signals.mesh_files import normalised
from neuralfield.signals.shapes import Sampled, Shapes

PLAN = Plan(even=1024, surface=1024, near=2048)


def outlines(points: Float[np.ndarray, "p 2"], offsets: Int[np.ndarray, " _"], ids: list[str], normalise: bool = True) -> Shapes:
    """Outline i is the polygon through points[offsets[i] : offsets[i + 1]], in either direction; its ends are joined."""
    samples, frames = [], []
    for i, name in enumerate(ids):
        surface, frame = normalised(polygon(points[offsets[i] : offsets[i + 1]], name), normalise)
        samples.append(Sampled(*PLAN.take(surface, np.random.default_rng(i))))
        frames.append(frame)
    return Shapes(samples, ids, torch.tensor(frames, dtype=torch.float64), PLAN.even)


def polygon(points: Float[np.ndarray, "p 2"], name: str) -> Surface:
    """Its edges, outside on their right; repeated points are left out."""
    points = np.asarray(points, np.float64)
    if not np.isfinite(points).all():
        raise NeuralfieldError(f"outline {name} has points that are not finite")
    points = points[np.any(points != np.roll(points, 1, 0), axis=1)]
    if len(points) < 3:
        raise NeuralfieldError(f"outline {name} has {len(points)} different points; it needs at least 3")
    number = np.arange(len(points))
    surface = Surface(points, np.stack([number, np.roll(number, -1)], 1))
    area = Surface(points - points.mean(0), surface.elements).volume  # far from 0 it would drown in rounding
    if abs(area) <= 1e-12 * np.ptp(points, axis=0).max() ** 2:
        raise NeuralfieldError(f"outline {name} encloses nothing")
    return surface if area > 0 else Surface(points, surface.elements[:, ::-1])
