"""How far a predicted value is from an observed one, in nats."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

LEAST_STD = 1e-4
"""Least noise that is learned, in standard deviations of the values: less drowns in the rounding of float32 decoders."""


class Likelihood(nn.Module, ABC):
    """p(value | predicted), independent over points and value dimensions."""

    pointwise: ClassVar[bool] = True
    """Whether what a point costs depends on that point alone. Kinds that compare signals as a whole say False: they see 0 as the
    difference where nothing was seen, no point is drawn or left out, and Gauss-Newton solvers and posteriors refuse them."""

    @abstractmethod
    def nll(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N"]:
        """-log p(values | predicted), summed over the value dimensions, in nats."""

    @abstractmethod
    def mean(self, predicted: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        """The expected value, in the data's units."""

    def slope(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        """Derivative of the nll by each predicted value."""
        with torch.enable_grad():
            predicted = predicted.detach().requires_grad_()
            return torch.autograd.grad(self.nll(predicted, values).sum(), predicted)[0]

    def curvature(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        """Second derivative of the nll by each predicted value, and nowhere below 0: what Gauss-Newton weighs points with.

        Kinds that are not smooth give that of a parabola above them that touches them here (re-weighted least squares).
        """
        with torch.enable_grad():
            predicted = predicted.detach().requires_grad_()
            slope = torch.autograd.grad(self.nll(predicted, values).sum(), predicted, create_graph=True)[0]
            if not slope.requires_grad:  # flat or straight: no curvature anywhere
                return torch.zeros_like(predicted)
            each = [torch.autograd.grad(part.sum(), predicted, retain_graph=True)[0] for part in slope.unbind(-1)]
        return torch.stack([part[..., v] for v, part in enumerate(each)], -1).clamp(min=0)

    def residual(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        """r with nll = |r|^2 / 2 + constant, for least-squares kinds; the others refuse."""
        raise NotImplementedError(f"{type(self).__name__} is not a least-squares likelihood")

    def quantile(self, mean: Float[Tensor, "*B N V"], level: Float[Tensor, "*#B #N #V"]) -> Float[Tensor, "*B N V"]:
        """What a share `level` of observed values lies below, given their mean; kinds that do not know it return the mean."""
        return mean

    def with_noise(self, std: float) -> "Likelihood":
        """The same with another standard deviation, for kinds that have one; the others stay as they are."""
        return self

    def learn(self, noise: float) -> dict[str, float]:
        """Take the noise variance that a linear model of the data has found; returns the constructor arguments that it changed."""
        return {}


class Gaussian(Likelihood):
    """Normal with a standard deviation `std`, in the units of the values.

    With `noise` "learned", spectral codes replace it by what their linear model leaves over.
    """

    std: Tensor

    def __init__(self, std: float = 0.1, noise: Literal["fixed", "learned"] = "fixed") -> None:
        super().__init__()
        if not std > 0:
            raise ValueError(f"likelihood.std must be positive, got {std}")
        self.noise = noise
        self.register_buffer("std", torch.tensor(float(std)), persistent=False)  # the recipe says it

    def nll(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N"]:
        constant = values.shape[-1] * (self.std.log() + 0.5 * math.log(2 * math.pi))
        return 0.5 * self.residual(predicted, values).square().sum(-1) + constant

    def mean(self, predicted: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        return predicted

    def residual(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        return (predicted - values) / self.std

    def slope(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        return (predicted - values) / self.std.square()

    def curvature(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        return torch.ones_like(predicted) / self.std.square()

    def quantile(self, mean: Float[Tensor, "*B N V"], level: Float[Tensor, "*#B #N #V"]) -> Float[Tensor, "*B N V"]:
        return mean + self.std * torch.special.ndtri(level)

    def with_noise(self, std: float) -> "Likelihood":
        return Gaussian(std).to(self.std.device)

    def learn(self, noise: float) -> dict[str, float]:
        if self.noise == "fixed":
            return {}
        self.std.fill_(max(math.sqrt(noise), LEAST_STD))
        return {"std": float(self.std)}


class Relative(Likelihood):
    """Normal, with a standard deviation that grows with the value: `std` up to `near`, then std * |value| / near.

    For signed distances: what is near the surface counts, what is far away need only be about right, and nothing is clamped.
    """

    std: Tensor

    def __init__(self, std: float = 0.01, near: float = 0.1) -> None:
        super().__init__()
        if not (std > 0 and near > 0):
            raise ValueError(f"likelihood.std and near must be positive, got {std} and {near}")
        self.near = near
        self.register_buffer("std", torch.tensor(float(std)), persistent=False)  # the recipe says it

    def spread(self, values: Float[Tensor, "*B N V"]) -> Float[Tensor, "*B N V"]:
        """The standard deviation at each value."""
        return self.std * (values.abs() / self.near).clamp(min=1)

    def nll(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N"]:
        each = 0.5 * self.residual(predicted, values).square() + self.spread(values).log() + 0.5 * math.log(2 * math.pi)
        return each.sum(-1)

    def mean(self, predicted: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        return predicted

    def residual(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        return (predicted - values) / self.spread(values)

    def slope(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        return (predicted - values) / self.spread(values).square()

    def curvature(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        return 1 / self.spread(values).square()

    def quantile(self, mean: Float[Tensor, "*B N V"], level: Float[Tensor, "*#B #N #V"]) -> Float[Tensor, "*B N V"]:
        return mean + self.spread(mean) * torch.special.ndtri(level)

    def with_noise(self, std: float) -> "Likelihood":
        return Relative(std, self.near).to(self.std.device)


class ClampedL1(Likelihood):
    """|clamp(predicted) - clamp(value)| / `scale`, both clamped to [-clamp, clamp] (Park et al. 2019); inside a Laplace density.

    Beyond the clamp a prediction on the wrong side would feel nothing, and a field that begins there never moves: `leak` is the
    share of the slope that is left there. DeepSDF has 0, and a tanh that saves it.
    """

    def __init__(self, scale: float = 0.01, clamp: float = 0.1, leak: float = 0.01) -> None:
        super().__init__()
        if not (scale > 0 and clamp > 0 and 0 <= leak <= 1):
            raise ValueError(f"likelihood.scale and clamp must be positive and leak in [0, 1], got {scale}, {clamp} and {leak}")
        self.scale, self.clamp, self.leak = scale, clamp, leak

    def nll(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N"]:
        return (self._apart(predicted, values).abs() / self.scale + math.log(2 * self.scale)).sum(-1)

    def mean(self, predicted: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        return predicted

    def curvature(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        # what falls off with the distance lies below the parabola around the value that touches it; at 0 that would have no bound
        far = (predicted - values.clamp(-self.clamp, self.clamp)).abs().clamp(min=1e-2 * self.scale)
        steep = torch.where(predicted.abs() < self.clamp, 1.0, self.leak * (predicted.sign() != values.sign()))
        return steep / (self.scale * far)

    def with_noise(self, std: float) -> "Likelihood":
        return ClampedL1(std / 2**0.5, self.clamp, self.leak)

    def quantile(self, mean: Float[Tensor, "*B N V"], level: Float[Tensor, "*#B #N #V"]) -> Float[Tensor, "*B N V"]:
        off = level - 0.5
        return mean - self.scale * off.sign() * torch.log1p(-2 * off.abs())

    def _apart(self, predicted: Tensor, values: Tensor) -> Tensor:
        held = predicted.clamp(-self.clamp, self.clamp)
        wanted = values.clamp(-self.clamp, self.clamp)
        # what is beyond on the right side is right
        beyond = torch.where((predicted.abs() > self.clamp) & (predicted.sign() != values.sign()), predicted - held, 0.0)
        return held - wanted + self.leak * beyond


class Bernoulli(Likelihood):
    """Values in [0, 1] from logits; for grey values this is the usual cross-entropy (not a normalised density)."""

    def nll(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N"]:
        return binary_cross_entropy_with_logits(predicted, values, reduction="none").sum(-1)

    def curvature(self, predicted: Float[Tensor, "B N V"], values: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        share = torch.sigmoid(predicted)
        return share * (1 - share)

    def mean(self, predicted: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
        return torch.sigmoid(predicted)
