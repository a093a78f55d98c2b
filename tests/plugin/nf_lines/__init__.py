"""Curves over [-1, 1], a decoder of Gaussian bumps, and zigzags to fit."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuralfield.decoders.decoder import Decoder
from neuralfield.domains.domain import Domain
from neuralfield.signals.signals import Signals
from neuralfield.types import Field, Observations

HEIGHT = 16


class Line(Domain):
    """One value over one coordinate, on a grid of `samples`."""

    coord_dim, value_dim, likelihood, headline = 1, 1, "gaussian", "rmse"

    def __init__(self, samples: int) -> None:
        self.samples = samples

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.samples,)

    def grid_shape(self, resolution: int | None = None) -> tuple[int, ...]:
        return (resolution or self.samples,)

    def grid(self, resolution: int | None = None) -> Tensor:
        (n,) = self.grid_shape(resolution)
        return ((2 * torch.arange(n) + 1) / n - 1).reshape(1, n, 1)

    @torch.no_grad()
    def score(self, field: Field, truth: Observations, samples: Any = None) -> dict[str, Tensor]:
        squared = (field(truth.coords) - truth.values)[..., 0].square() * truth.weight
        return {"rmse": (squared.sum(1) / truth.observed).sqrt()}

    @torch.no_grad()
    def render(self, field: Field, resolution: int | None = None) -> np.ndarray:
        return plot(field(self.grid(resolution))[..., 0])

    def draw(self, observations: Observations) -> np.ndarray:
        return np.where((observations.weight > 0).numpy()[:, None, :, None], plot(observations.values[..., 0]), np.uint8(128))


def plot(values: Tensor) -> np.ndarray:
    """White below each curve [B, n], black above: [B, 16, n, 3]."""
    levels = torch.linspace(1, -1, HEIGHT)[:, None]
    return ((values[:, None] > levels).to(torch.uint8) * 255)[..., None].repeat(1, 1, 1, 3).numpy()


class Bumps(Decoder):
    """Bumps at fixed places, whose heights are linear in the code."""

    def __init__(self, code_dim: int, bumps: int = 8) -> None:
        super().__init__()
        self.heights = nn.Linear(code_dim, bumps)
        self.register_buffer("places", torch.linspace(-1, 1, bumps))

    def condition(self, z: Tensor) -> Tensor:
        return self.heights(z)

    def evaluate(self, conditioning: Tensor, coords: Tensor) -> Tensor:
        bumps = torch.exp(-((coords - self.places) * len(self.places) / 2).square())
        return (conditioning[:, None] * bumps).sum(-1, keepdim=True)


class Zigzag(Signals):
    """Triangle waves of random phase."""

    domain, labels = "line", None

    def __init__(self, phases: Tensor, samples: int, ids: list[str]) -> None:
        self.phases, self.samples, self.ids = phases, samples, ids

    @property
    def domain_arguments(self) -> dict[str, Any]:
        return {"samples": self.samples}

    def batch(self, index: Tensor, points: int | None = None, generator: torch.Generator | None = None) -> Observations:
        coords = Line(self.samples).grid()
        values = ((coords + self.phases[index, None, None]) % 1 - 0.5).abs() * 4 - 1
        whole = Observations(index, coords, values, torch.ones(values.shape[:2]))
        if points is None or points >= self.samples:
            return whole
        return whole.points(torch.randperm(self.samples, generator=generator)[:points])

    def select(self, index: Tensor) -> "Zigzag":
        return Zigzag(self.phases[index], self.samples, [self.ids[i] for i in index.tolist()])


def zigzag(count: int = 12, samples: int = 20) -> Zigzag:
    """`count` waves."""
    return Zigzag(torch.arange(count) / count, samples, [f"zigzag-{i}" for i in range(count)])
