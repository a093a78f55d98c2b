"""What a signal is a function of, how it is scored, and how a person looks at it."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from neuralfield.domains.ensembles import Drawn
from neuralfield.domains.surfaces import Surface
from neuralfield.errors import UsageError
from neuralfield.registry import nearest
from neuralfield.types import Field, Observations


class Domain(ABC):
    """One kind of signal. Constructor arguments are what a run must remember of its data (an image's shape, say)."""

    coord_dim: int
    value_dim: int
    likelihood: str
    """Name of the likelihood used where the recipe names none."""
    headline: str
    """Name of the score that is shown while a fit runs."""
    sides: ClassVar[dict[str, tuple[int, int]]] = {}
    """Everyday names of sides, as (coordinate axis, sign), beside x (where x < 0) and -x."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The grid that signals are sampled on, slowest axis first; None where there is no such grid."""
        return None

    @abstractmethod
    def grid_shape(self, resolution: int | None = None) -> tuple[int, ...]:
        """Samples along every axis of `grid`, slowest first."""

    @abstractmethod
    def grid(self, resolution: int | None = None) -> Float[Tensor, "1 N C"]:
        """Coordinates that cover the domain, at the signals' own resolution or another."""

    @abstractmethod
    def score(
        self, field: Field, truth: Observations, samples: Float[Tensor, "S B N V"] | None = None
    ) -> dict[str, Float[Tensor, " B"]]:
        """How close a field is to what is known of the signals: one value per signal and score.

        `samples` are draws of the values at the truth's points, noise included, where something draws them.
        """

    def compare(self, field: Field, sides: dict[str, Observations]) -> dict[str, dict[str, Float[Tensor, " B"]]]:
        """Scores that take too long for every epoch, of whole signals against what is known on each side of a mask; here none."""
        return {}

    @property
    def solid(self) -> bool:
        """Whether signals are solids in space, which are looked at by their `surface`."""
        return False

    def surface(self, field: Field, resolution: int | None = None) -> tuple[Surface, int]:
        """(where the field of one signal is 0, points evaluated); of solids alone."""
        raise UsageError(f"signals of domain {type(self).__name__} have no surface")

    @abstractmethod
    def render(self, field: Field, resolution: int | None = None) -> UInt8[np.ndarray, "B height width 3"]:
        """A picture of each signal."""

    @abstractmethod
    def draw(self, observations: Observations) -> UInt8[np.ndarray, "B height width 3"]:
        """A picture of what was seen of each signal."""

    def panels(
        self,
        observed: Observations,
        hidden: Observations,
        field: Field,
        drawn: Drawn | None = None,
        ids: list[str] | None = None,
    ) -> dict[str, UInt8[np.ndarray, "_ height width 3"]]:
        """Titled rows of pictures of completed signals, called `ids`; `drawn` are draws of them."""
        rows = {"observed": self.draw(observed), "completion": self.render(field)}
        if bool((hidden.weight > 0).any()):
            told = (observed.told > 0)[..., None]
            whole = torch.where(told, observed.values, hidden.values)
            normals = None if hidden.normals is None or observed.normals is None else observed.normals + hidden.normals
            rows["truth"] = self.draw(replace(hidden, values=whole, weight=observed.told + hidden.weight, normals=normals))
        return rows

    # in the user's units

    @property
    def columns(self) -> tuple[list[str], list[str]]:
        """Names of the coordinates and of the values, as a table is headed."""
        return list("xyz"[: self.coord_dim]), [f"value{v}" for v in range(self.value_dim)]

    def in_units(self, coords: Float[Tensor, "*N C"], values: Float[Tensor, "*M V"]) -> tuple[Tensor, Tensor]:
        """Coordinates and values in the units that the user gave them in; here those inside."""
        return coords, values

    def axis(self, side: str) -> tuple[int, int]:
        """(coordinate axis, sign) of a named side, as in `half:x`, the half where x < 0."""
        names = "xyz"[: self.coord_dim]
        sides = {name: side for name, side in self.sides.items() if side[0] < self.coord_dim}
        known = sides | {name: (i, -1) for i, name in enumerate(names)} | {f"-{name}": (i, 1) for i, name in enumerate(names)}
        if side not in known:
            raise UsageError(f'there is no side "{side}" here{nearest(side, list(known))}; known: {", ".join(known)}')
        return known[side]
