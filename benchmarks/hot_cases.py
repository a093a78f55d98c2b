"""The networks whose hot paths are timed, and our own loops over them: train step, latents-only step, Jacobian, dense decode."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from deepsdf_reference import CLAMP
from jaxtyping import Float
from torch import Tensor
from turns import KEPT, Step

from neuralfield.decoders.concat import Concat
from neuralfield.decoders.decoder import Decoder
from neuralfield.decoders.modulated import Modulated
from neuralfield.domains.shape import Shape
from neuralfield.inference.quadratic import quadratic
from neuralfield.kernels.kernel import Kernel, Network
from neuralfield.kernels.memory import freed_memory_kept
from neuralfield.kernels.reference import Reference
from neuralfield.latents.bank import Bank
from neuralfield.latents.priors import Isotropic
from neuralfield.likelihoods import ClampedL1, Gaussian, Likelihood
from neuralfield.measurements import Points
from neuralfield.objective import MAP
from neuralfield.recipe import Model
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.training.schedules.schedule import Optimisers, descend
from neuralfield.types import Field, Observations

BANK = 1000
"""Signals in the bank."""


@dataclass(frozen=True)
class Case:
    """A network, and a batch of `signals` times `points` [points, coord_dim], shared by all or not."""

    name: str
    signals: int
    points: int
    coord_dim: int
    value_dim: int
    code_dim: int
    width: int
    depth: int
    make: Callable[[], Decoder]
    likelihood: Callable[[], Likelihood]
    shared: bool = False
    dense: int = 2**16
    """Points of a dense decode."""

    def decoder(self, kernel: Kernel | None = None) -> Decoder:
        KEPT.enter_context(freed_memory_kept())  # as in every process of nf
        torch.manual_seed(0)
        made: Any = self.make()
        if kernel is not None:
            made.kernel = kernel
        return made

    def batch(self) -> Observations:
        random = torch.Generator().manual_seed(0)
        coords = torch.rand(1 if self.shared else self.signals, self.points, self.coord_dim, generator=random) * 2 - 1
        values = 0.5 * torch.randn(self.signals, self.points, self.value_dim, generator=random)
        return Observations(torch.arange(self.signals), coords, values, torch.ones(self.signals, self.points))


def _clamped() -> Likelihood:
    return ClampedL1(clamp=CLAMP, leak=0.0)


def _deepsdf(code_dim: int, width: int, depth: int, skip: int) -> Decoder:
    return Concat(3, 1, code_dim, width, depth, skip, weight_norm=True, bounded=True)


def _siren() -> Decoder:
    return Modulated(2, 3, 128, 256, 5, basis="siren")


CASES = {
    case.name: case
    for case in (
        Case("DeepSDF 8x512", 8, 2048, 3, 1, 256, 512, 8, lambda: _deepsdf(256, 512, 8, 4), _clamped),
        Case("DeepSDF 4x128", 8, 2048, 3, 1, 64, 128, 4, lambda: _deepsdf(64, 128, 4, 2), _clamped),
        Case(
            "SIREN 5x256",
            16,
            1024,
            2,
            3,
            128,
            256,
            5,
            lambda: Modulated(2, 3, 128, 256, 5, basis="siren"),
            lambda: Gaussian(3),
            True,
        ),
        Case("shapes 4x128", 16, 1024, 3, 1, 64, 128, 4, lambda: Modulated(3, 1, 64, 128, 4, frequencies=32), lambda: Gaussian(1)),
        Case("functions 3x64", 256, 30, 1, 1, 8, 64, 3, lambda: Concat(1, 1, 8, 64, 3, activation="silu"), lambda: Gaussian(1)),
    )
}


def train(case: str) -> Step:
    """A step of codes and decoder, as `nf fit` makes it."""
    return _descent(CASES[case], CASES[case].decoder(), ("latents", "decoder"))


def latents(case: str) -> Step:
    """A step of codes alone."""
    return _descent(CASES[case], CASES[case].decoder(), ("latents",))


def twin(case: str) -> Step:
    """The train step with the reference kernel."""
    return _descent(CASES[case], CASES[case].decoder(Reference()), ("latents", "decoder"))


def compiled(case: str) -> Step:
    """The train step with the reference kernel, its decoder compiled by torch."""
    decoder = CASES[case].decoder(Reference())
    decoder.evaluate = torch.compile(decoder.evaluate)  # type: ignore[method-assign]
    return _descent(CASES[case], decoder, ("latents", "decoder"))


def jacobian(case: str) -> Step:
    """Objective, gradient and curvature at some codes: one step of Levenberg-Marquardt."""
    chosen = CASES[case]
    decoder, seen, objective = chosen.decoder(), chosen.batch(), _objective(chosen)
    z = 0.1 * torch.randn(chosen.signals, chosen.code_dim, generator=torch.Generator().manual_seed(1))
    return lambda: quadratic(objective, decoder, seen, z)


def decode(case: str) -> Step:
    """One signal at many points."""
    chosen = CASES[case]
    decoder = chosen.decoder().requires_grad_(False).eval()
    coords = torch.rand(chosen.dense, chosen.coord_dim, generator=torch.Generator().manual_seed(1)) * 2 - 1
    field = Field(decoder.evaluate, decoder.condition(torch.zeros(1, chosen.code_dim)))
    return lambda: field(coords)


def _objective(case: Case) -> MAP:
    return MAP(Points(), case.likelihood(), Isotropic(case.code_dim))


def _descent(case: Case, decoder: Decoder, moves: tuple[str, ...]) -> Step:
    bank = Bank(BANK, case.code_dim, "normal", case.code_dim**-0.5)
    random = torch.Generator().manual_seed(0)
    bank.initialise(lambda: iter(()), random)
    model = Model(Shape(), bank, decoder, _objective(case))
    optimisers = Optimisers(RowAdam(bank.parameters(), 1e-3), torch.optim.Adam(decoder.parameters(), 5e-4))
    seen = case.batch()
    return lambda: descend(model, optimisers, seen, random, moves)


def gemm(width: int, points: int) -> Step:
    """The three products of a layer: values, gradients of values, gradients of weights."""
    h, weight, out, gradient = (torch.randn(rows, width) for rows in (points, width, points, width))

    def products() -> None:
        torch.mm(h, weight.T, out=out)
        torch.mm(h, weight, out=out)
        torch.mm(h.T, out, out=gradient)

    return products


def gemm_flops(width: int, points: int) -> int:
    """Of those three."""
    return 3 * 2 * points * width * width


def copy(numbers: int) -> Step:
    """A copy of so many float32."""
    here, there = torch.randn(numbers), torch.empty(numbers)
    return lambda: there.copy_(here)


class _Counting(Kernel):
    """Notes what it is asked to evaluate."""

    name = "counting"

    def __init__(self) -> None:
        self.network: Network | None = None

    def refusal(self, network: Network, inputs: Float[Tensor, "G N F"]) -> str | None:
        return None

    def values(self, network: Network, inputs: Float[Tensor, "G N F"]) -> Float[Tensor, "B N V"]:
        self.network = network
        return Reference().values(network, inputs)


def flops(case: Case) -> dict[str, float]:
    """Of every path for one point: what the products that it needs take, conditioned once."""
    counting = _Counting()
    decoder = case.decoder(counting)
    decoder(torch.zeros(1, case.code_dim), torch.zeros(1, 1, case.coord_dim))
    network = counting.network
    assert network is not None
    first = network.weights[0].numel() / (case.signals if case.shared else 1)
    again = sum(u.numel() for u in network.entering if u is not None)
    hidden = sum(w.numel() for w in network.weights[1:]) + network.out_weight.numel()
    forward, inward, outer = first + again + hidden, hidden, first + again + hidden
    by_code = case.code_dim * sum(len(shift) for shift in network.weights) if network.per_point else 0
    return {
        "train": 2 * (forward + inward + outer),
        "latents": 2 * (forward + inward),
        "jacobian": 2 * (forward + case.value_dim * (inward + by_code)),
        "decode": 2 * (network.weights[0].numel() + again + hidden),
    }
