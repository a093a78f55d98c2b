"""What is observed of a field: by default its own values at the points."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from neuralfield.types import Field, Observations


class Measurement(ABC):
    """From a field and the places of the observations to what should have been seen there."""

    @abstractmethod
    def measure(self, field: Field, observations: Observations) -> Float[Tensor, "B N V"]:
        """Predicted values, one row for each of `observations.values`."""


class Points(Measurement):
    """The field's own values at the observed coordinates."""

    def measure(self, field: Field, observations: Observations) -> Float[Tensor, "B N V"]:
        return field(observations.coords)
