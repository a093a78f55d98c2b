"""Shapes in the cube [-1, 1]^C: signed distance fields of solids (C = 3) or of outlines (C = 2), negative inside."""

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from neuralfield.domains.domain import Domain
from neuralfield.domains.ensembles import band_scores
from neuralfield.domains.renders import portrait, splatted
from neuralfield.domains.surface_scores import POINTS, Cloud, surface_scores
from neuralfield.domains.surfaces import Surface, extracted
from neuralfield.errors import NeuralfieldError
from neuralfield.types import Field, Observations

RESOLUTION, COMPARED = 64, 128
"""Samples along every axis, for pictures, and for scores and meshes: a cell of the second is .016."""
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
        """`sdf_l1`, the mean error of the distance, and `sdf_l1_near` where the true one is below 0.1.

        With samples also `crps`, `width90` and `coverage90`. A signal of which nothing is known has no score: NaN.
        """
        truth = truth.to(field.device)
        values = field(truth.coords)
        error, told = (values - truth.values).abs()[..., 0], truth.told
        near = told * (truth.values[..., 0].abs() < NEAR)
        scores = {name: (error * weight).sum(1) / weight.sum(1) for name, weight in (("sdf_l1", told), ("sdf_l1_near", near))}
        return scores if samples is None else scores | band_scores(samples, truth.values, told)

    def compare(self, field: Field, sides: dict[str, Observations]) -> dict[str, dict[str, Float[Tensor, " B"]]]:
        """`chamfer`, `chamfer_l1`, `fscore`, `normal_consistency` (see `surface_scores`), in units of the cube's half side; `iou`.

        The truth is the samples of the surface. A point of our surface belongs to the side that the nearest of them is on.
        Volumes are compared by the points that lie evenly in the cube.
        """
        scores: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for b in range(len(field)):
            truths = [_on_surface(side.rows(slice(b, b + 1)).to("cpu")) for side in sides.values()]
            if not any(len(truth) for truth in truths):
                for each in scores.values():
                    each.append({})
                continue
            ours = _cloud(self.surface(field.rows(slice(b, b + 1)))[0])
            where = np.repeat(np.arange(len(truths)), [len(truth) for truth in truths])
            nearest = Cloud(np.concatenate([truth.points for truth in truths])).nearest(ours)[1]
            for place, (side, truth) in enumerate(zip(sides, truths, strict=True)):
                part = ours.rows(where[nearest] == place)
                scores[side].append(surface_scores(part, truth) if len(truth) else {})
        volumes = {side: {"iou": self._iou(field, truth.to(field.device))} for side, truth in sides.items() if self.even}
        return {side: volumes.get(side, {}) | _stacked(each) for side, each in scores.items()}

    @torch.no_grad()
    def _iou(self, field: Field, truth: Observations) -> Float[Tensor, " B"]:
        even = truth.span(slice(self.even))
        known = even.told > 0
        ours, theirs = ((each[..., 0] < 0) & known for each in (field(even.coords), even.values))
        return (ours & theirs).sum(1) / (ours | theirs).sum(1)

    @property
    def solid(self) -> bool:
        return self.coord_dim == 3

    def surface(self, field: Field, resolution: int | None = None) -> tuple[Surface, int]:
        return extracted(field, COMPARED if resolution is None else self.grid_shape(resolution)[0], self.coord_dim)

    @torch.no_grad()
    def render(self, field: Field, resolution: int | None = None) -> UInt8[np.ndarray, "B height width 3"]:
        each = (field.rows(slice(b, b + 1)) for b in range(len(field)))
        return np.stack([portrait(self.surface(one, resolution or RESOLUTION)[0]) for one in each])

    def draw(self, observations: Observations) -> UInt8[np.ndarray, "B height width 3"]:
        """The points on the surface that were seen, or near it."""
        seen = observations.to("cpu")
        clouds = (_on_surface(seen.rows(slice(b, b + 1))) for b in range(len(seen)))
        return np.stack([splatted(cloud.points, cloud.normals) for cloud in clouds])


def _on(values: Float[Tensor, "*N"], weight: Float[Tensor, "*N"]) -> Bool[Tensor, "*N"]:
    on = (weight > 0) & (values == 0)
    return on if bool(on.any()) else (weight > 0) & (values.abs() < ON)


def _on_surface(observations: Observations) -> Cloud:
    """The samples on the surface, or near it where none lies on it, of one signal; bounds are no samples."""
    on = _on(observations.values[0, :, 0], observations.told[0])
    normals = None if observations.normals is None else observations.normals[0][on]
    known = normals is not None and bool((normals != 0).any(-1).all())
    return Cloud(observations.coords[0][on].numpy(), normals.numpy() if normals is not None and known else None)


def _cloud(surface: Surface) -> Cloud:
    return Cloud(*surface.sample(POINTS, np.random.default_rng(0))) if len(surface) else Cloud(surface.vertices[:0])


def _stacked(each: list[dict[str, float]]) -> dict[str, Float[Tensor, " B"]]:
    """NaN where a signal has no score."""
    names = list(dict.fromkeys(name for scores in each for name in scores))
    return {name: torch.tensor([scores.get(name, torch.nan) for scores in each]) for name in names}
