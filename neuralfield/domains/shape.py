"""Shapes in the cube [-1, 1]^C: signed distance fields of solids (C = 3) or of outlines (C = 2), negative inside."""

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from neuralfield.domains.domain import Domain
from neuralfield.domains.ensembles import band_scores
from neuralfield.domains.renders import portrait, splatted
from neuralfield.domains.surfaces import extracted
from neuralfield.errors import NeuralfieldError
from neuralfield.types import Field, Observations

RESOLUTION = 64
NEAR = 0.1
"""A point whose true distance is less than this is near: DeepSDF's clamp."""
ON = 0.02
"""Without points on the surface itself, samples this near are drawn instead."""


class Shape(Domain):
    """`dims` is 2 or 3; the first `even` samples of each signal lie evenly in the cube, and volumes are compared by them."""

    value_dim = 1
    likelihood = "relative"
    headline = "sdf_l1"
    sides: ClassVar[dict[str, tuple[int, int]]] = {
        "left": (0, -1),
        "right": (0, 1),
        "bottom": (1, -1),
        "top": (1, 1),
        "back": (2, -1),
        "front": (2, 1),
    }

    def __init__(self, dims: int = 3, even: int = 0) -> None:
        if dims not in (2, 3):
            raise NeuralfieldError(f"shapes have 2 or 3 dimensions, got {dims}")
        self.coord_dim, self.even = dims, even

    def grid_shape(self, resolution: int | None = None) -> tuple[int, ...]:
        """Samples along every axis, both ends of the cube among them."""
        if resolution is not None and resolution < 2:
            raise NeuralfieldError(f"a resolution must be at least 2 samples, got {resolution}")
        return (resolution or RESOLUTION,) * self.coord_dim

    def grid(self, resolution: int | None = None) -> Float[Tensor, "1 N C"]:
        axis = torch.linspace(-1, 1, self.grid_shape(resolution)[0])
        # x varies fastest, as in a picture
        return torch.stack(torch.meshgrid(*[axis] * self.coord_dim, indexing="ij")[::-1], -1).reshape(1, -1, self.coord_dim)

    @property
    def columns(self) -> tuple[list[str], list[str]]:
        return list("xyz"[: self.coord_dim]), ["distance"]

    @torch.no_grad()
    def score(
        self, field: Field, truth: Observations, samples: Float[Tensor, "S B N V"] | None = None
    ) -> dict[str, Float[Tensor, " B"]]:
        """`sdf_l1`, the mean error of the distance; `sdf_l1_near` where the true one is below 0.1; `iou` of the volumes.

        With samples also `crps`, `width90` and `coverage90`. A signal of which nothing is known has no score: NaN.
        """
        truth = truth.to(field.device)
        values = field(truth.coords)
        error = (values - truth.values).abs()[..., 0]

        def mean(of: Tensor, weight: Tensor) -> Float[Tensor, " B"]:
            return (of * weight).sum(1) / weight.sum(1)

        near = truth.weight * (truth.values[..., 0].abs() < NEAR)
        scores = {"sdf_l1": mean(error, truth.weight), "sdf_l1_near": mean(error, near)}
        if self.even:
            known = truth.weight[:, : self.even] > 0
            ours, theirs = ((each[:, : self.even, 0] < 0) & known for each in (values, truth.values))
            scores["iou"] = (ours & theirs).sum(1) / (ours | theirs).sum(1)
        return scores if samples is None else scores | band_scores(samples, truth.values, truth.weight)

    @torch.no_grad()
    def render(self, field: Field, resolution: int | None = None) -> UInt8[np.ndarray, "B height width 3"]:
        each = (field.rows(slice(b, b + 1)) for b in range(len(field)))
        return np.stack([portrait(extracted(one, resolution or RESOLUTION)[0]) for one in each])

    def draw(self, observations: Observations) -> UInt8[np.ndarray, "B height width 3"]:
        """The points on the surface that were seen, or near it."""
        seen = observations.to("cpu")
        coords = seen.coords.expand(len(seen), -1, -1)
        pictures = []
        for points, values, weight in zip(coords, seen.values[..., 0], seen.weight, strict=True):
            on = (weight > 0) & (values == 0)
            on = on if on.any() else (weight > 0) & (values.abs() < ON)
            pictures.append(splatted(points[on].numpy()))
        return np.stack(pictures)
