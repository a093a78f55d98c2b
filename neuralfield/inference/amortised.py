"""A start that is learned: from what the linear model makes of a partly seen signal to the code that its whole would have."""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import ClassVar

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import linear, silu

from neuralfield.decoders.decoder import Decoder
from neuralfield.inference.starts import Start
from neuralfield.latents.basis import SpectralBasis
from neuralfield.latents.spectral import spectral_basis
from neuralfield.objective import Objective
from neuralfield.types import Latent, Observations

WIDTH = 256
STEPS, TOGETHER, RATE = 1500, 64, 2e-3
"""Steps of Adam, signals of a step (they share one mask, so that one linear system serves them all), and the first rate."""
FAR = 10.0
"""Standard deviations beyond which coefficients are cut off: farther out the network knows nothing."""


class Amortised(Start):
    """A network on the posterior mean of the spectral coefficients, and on how well each of them is known; any sampling, any mask.

    It learns the bank's codes from signals that random masks hide something of: points, a box, all but a box, a half-space,
    nothing. The search goes on from there.
    """

    needs_all: ClassVar[bool] = True
    shift: Tensor
    scale: Tensor

    def __init__(self, codes: Float[Tensor, "n D"]) -> None:
        super().__init__(codes)
        self.basis = SpectralBasis()
        dims = codes.shape[1]
        self.register_buffer("shift", torch.zeros(dims))
        self.register_buffer("scale", torch.ones(dims))
        for name in _shapes(1, dims):
            self.register_buffer(name, torch.zeros(0, 0))

    def fit(self, batches: Callable[[], Iterable[Observations]], generator: torch.Generator) -> None:
        self.basis = spectral_basis(batches, self.codes.shape[1], generator)
        targets = self.codes.cpu()
        self.shift, self.scale = targets.mean(0), targets.std(0, correction=0).clamp(min=1e-8)
        shapes = _shapes(2 * self.basis.rank, targets.shape[1])
        weights = {
            name: (torch.randn(shape, generator=generator) * math.sqrt(gain / shape[1])).requires_grad_()
            for name, (shape, gain) in shapes.items()
        }
        optimiser = torch.optim.Adam(weights.values(), lr=RATE, betas=(0.9, 0.99))
        for step, (some, batch) in enumerate(islice(_endless(batches), STEPS)):
            seen = batch.split(_mask(batch, generator))[0]
            wanted = (targets[some] - self.shift) / self.scale
            loss = (_network(weights, self._inputs(seen)) - wanted).square().mean()
            optimiser.param_groups[0]["lr"] = 0.5 * RATE * (1 + math.cos(math.pi * step / STEPS))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        for name, weight in weights.items():
            setattr(self, name, weight.detach())

    def forward(self, observations: Observations, decoder: Decoder, objective: Objective) -> Latent:
        with torch.no_grad():
            weights = {name: self.get_buffer(name) for name in _shapes(1, 1)}
            return Latent(self.shift + self.scale * _network(weights, self._inputs(observations)))

    @torch.no_grad()
    def _inputs(self, observations: Observations) -> Float[Tensor, "B F"]:
        """Whitened coefficients, and the share of each one's prior variance that what was seen takes away by itself."""
        std = self.basis.variance.sqrt()
        functions = self.basis.functions(observations.coords)[1].square().sum(2) / self.basis.noise
        power = einsum(observations.told, functions.expand(len(observations), -1, -1), "b n, b n r -> b r") * self.basis.variance
        return torch.cat([(self.basis.encode(observations) / std).clamp(-FAR, FAR), power / (1 + power)], 1)


def _endless(batches: Callable[[], Iterable[Observations]]) -> Iterator[tuple[Int[Tensor, " b"], Observations]]:
    """(numbers of some signals in the bank, what is known of them), over and over."""
    while True:
        first = 0
        for batch in batches():
            for some in torch.arange(len(batch)).split(TOGETHER):
                yield first + some, batch.rows(some)
            first += len(batch)


def _shapes(inputs: int, outputs: int) -> dict[str, tuple[tuple[int, int], float]]:
    """Of every weight, whose last column is a bias: its shape, and the variance of its rows at first."""
    return {
        "first": ((WIDTH, inputs + 1), 2.0),
        "second": ((WIDTH, WIDTH + 1), 2.0),
        "out": ((outputs, WIDTH + 1), 0.1),
        "straight": ((outputs, inputs + 1), 0.1),
    }


def _network(weights: dict[str, Tensor], inputs: Float[Tensor, "B F"]) -> Float[Tensor, "B D"]:
    """Two hidden layers, beside a linear map."""
    hidden = silu(_affine(weights["second"], silu(_affine(weights["first"], inputs))))
    return _affine(weights["straight"], inputs) + _affine(weights["out"], hidden)


def _affine(weight: Tensor, inputs: Tensor) -> Tensor:
    return linear(inputs, weight[:, :-1], weight[:, -1])


def _mask(observations: Observations, generator: torch.Generator) -> Bool[Tensor, "B N"]:
    """What is seen, alike for all: everything, points at random, all but a box, a box alone, or one side of a plane."""
    coords = observations.coords[0]
    low, high = coords.amin(0), coords.amax(0)
    kind, size = int(torch.randint(0, 6, (1,), generator=generator)), float(torch.rand(1, generator=generator))
    if kind == 0:
        seen = torch.ones(len(coords), dtype=torch.bool)
    elif kind == 1:
        seen = torch.rand(len(coords), generator=generator) < max(0.02, size)
    elif kind == 5:
        direction = torch.randn(coords.shape[1], generator=generator)
        along = ((coords - (low + high) / 2) / (high - low).clamp(min=1e-12)) @ direction
        seen = along < along.quantile(min(0.95, max(0.05, size)))
    else:
        # boxes in the middle as often as anywhere
        middle = 0.5 if kind == 2 else torch.rand(coords.shape[1], generator=generator)
        centre = low + middle * (high - low)
        inside = ((coords - centre).abs() <= 0.5 * size * (high - low)).all(1)
        seen = inside if kind == 4 and bool(inside.any()) else ~inside
    if not bool(seen.any()):
        seen = torch.ones_like(seen)
    return seen.expand(len(observations), -1)
