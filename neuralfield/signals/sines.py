"""Sines of four parameters each: the embedded data set of functions, made when it is asked for."""

import numpy as np
import torch
from jaxtyping import Float

from neuralfield.errors import UsageError
from neuralfield.seeds import generator
from neuralfield.signals.curves import Curves
from neuralfield.signals.images import SPLITS, check_split

COUNTS = {"train": 500, "test": 200}
LOW, HIGH = np.array([0.5, 0.5, 0.0, -0.5]), np.array([1.5, 1.5, 2 * np.pi, 0.5])
"""Ranges of amplitude, frequency, phase and offset."""
SHAPE, TIMES, NOISE = range(3)  # the last number of a draw's seed, so that the sine does not depend on where it is seen


def sines(
    split: str = "train", count: int | None = None, points: int = 30, even: bool = False, noise: float = 0.0, seed: int = 0
) -> Curves:
    """x(t) = amplitude sin(2 pi frequency t + phase) + offset over [0, 1].

    Amplitude and frequency are uniform in [0.5, 1.5], the phase in [0, 2 pi], the offset in [-0.5, 0.5]. Each curve is seen at
    `points` uniformly random times of its own or, where `even`, at evenly spaced ones that all share, with Gaussian noise of
    standard deviation `noise`. A curve is the same whatever `count`, `points`, `even` and `noise` are.
    """
    check_split(split)
    count = COUNTS[split] if count is None else count
    for name, value, least in (("count", count, 1), ("points", points, 1), ("noise", noise, 0)):
        if not value >= least:
            raise UsageError(f"signals.{name} must be at least {least}, got {value}")
    parameters = LOW + (HIGH - LOW) * _uniform(count, 4, seed, split, SHAPE)
    own = np.sort(_uniform(count, points, seed, split, TIMES), 1)
    t = np.broadcast_to(np.linspace(0, 1, points), own.shape) if even else own
    amplitude, frequency, phase, offset = (column[:, None] for column in parameters.T)
    x = amplitude * np.sin(2 * np.pi * frequency * t + phase) + offset
    if noise:
        x = x + noise * np.stack([torch.randn(points, generator=_draw(seed, split, i, NOISE)).numpy() for i in range(count)])
    return Curves.from_arrays(t, x, [f"{split}-{i:04d}" for i in range(count)], over=(0.0, 1.0))


def _draw(seed: int, split: str, curve: int, what: int) -> torch.Generator:
    return generator(seed, SPLITS.index(split), curve, what)


def _uniform(count: int, size: int, seed: int, split: str, what: int) -> Float[np.ndarray, "count size"]:
    """Numbers in [0, 1), a generator for each curve."""
    draws = [torch.rand(size, dtype=torch.float64, generator=_draw(seed, split, i, what)) for i in range(count)]
    return torch.stack(draws).numpy()
