"""How far a predicted value is from an observed one, in nats."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


class Likelihood(ABC):
    """p(value | predicted), independent over points and value dimensions."""

    @abstractmethod
    def nll(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N"]:
        """-log p(values | predicted), summed over the value dimensions, in nats."""

    @abstractmethod
    def mean(self, predicted: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        """The expected value, in the data's units."""

    def residual(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        """r with nll = |r|^2 / 2 + constant, for least-squares kinds; the others refuse."""
        raise NotImplementedError(f"{type(self).__name__} is not a least-squares likelihood")


class Gaussian(Likelihood):
    """Normal with a standard deviation `std`, in the units of the values."""

    def __init__(self, std: float = 0.1) -> None:
        if not std > 0:
            raise ValueError(f"likelihood.std must be positive, got {std}")
        self.std = std

    def nll(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N"]:
        constant = values.shape[-1] * (math.log(self.std) + 0.5 * math.log(2 * math.pi))
        return 0.5 * self.residual(predicted, values).square().sum(-1) + constant

    def mean(self, predicted: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        return predicted

    def residual(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        return (predicted - values) / self.std


class Bernoulli(Likelihood):
    """Values in [0, 1] from logits; for grey values this is the usual cross-entropy (not a normalised density)."""

    def nll(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N"]:
        return binary_cross_entropy_with_logits(predicted, values, reduction="none").sum(-1)

    def mean(self, predicted: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        return torch.sigmoid(predicted)
