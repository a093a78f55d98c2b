"""What codes cost beside their prior: how they change with what was observed, or how many of them are at work."""

import re
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuralfield.latents.source import LatentSource
from neuralfield.seeds import uniform
from neuralfield.types import Latent, Observations


class Penalty(nn.Module, ABC):
    """Nats for each signal that a fit adds to those of the prior; `weight` says how many."""

    separable: ClassVar[bool] = True
    """Whether a batch costs what its parts cost together."""
    searched: ClassVar[bool] = False
    """Whether it also counts while codes are searched with the decoder frozen."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"penalty.weight must be 0 or more, got {weight}")
        self.weight = weight

    def refusal(self, source: LatentSource) -> str | None:
        """Why it cannot serve this source, and what can; None where it can."""
        return None

    @abstractmethod
    def cost(
        self, latent: Latent, source: LatentSource, observations: Observations, generator: torch.Generator | None = None
    ) -> Float[Tensor, " B"]:
        """Nats for each signal of the batch, whose codes `latent` the source gave for `observations`."""


class Contractive(Penalty):
    """weight * |J|^2 (Frobenius), J the Jacobian of a signal's mean code by its observed values (Rifai et al. 2011).

    Exact with 0 `probes`, in as many backward passes as codes have numbers; else the mean of |v' J|^2 over so many vectors v of
    random signs (Hutchinson), which is |J|^2 in expectation. Vectors depend on the generator and the signal alone.
    """

    def __init__(self, weight: float = 0.1, probes: int = 0) -> None:
        super().__init__(weight)
        if probes < 0:
            raise ValueError(f"penalty.probes must be 0 (exact) or more, got {probes}")
        self.probes = probes

    def refusal(self, source: LatentSource) -> str | None:
        if source.reads:
            return None
        return f"a {kind_of(source)} does not read what was observed, so its codes do not change with it; use an encoder"

    def cost(
        self, latent: Latent, source: LatentSource, observations: Observations, generator: torch.Generator | None = None
    ) -> Float[Tensor, " B"]:
        trained = torch.is_grad_enabled()
        with torch.enable_grad():
            values = observations.values.detach().requires_grad_()
            mean = source(replace(observations, values=values)).mean.flatten(1)
            # each signal's code depends on its own values alone, so a batch takes no more passes than one signal
            (rows,) = torch.autograd.grad(
                mean, values, self._directions(mean, observations, generator), create_graph=trained, is_grads_batched=True
            )
        squares = rows.square().sum((2, 3))
        return self.weight * (squares.mean(0) if self.probes else squares.sum(0))

    def _directions(
        self, mean: Float[Tensor, "B D"], observations: Observations, generator: torch.Generator | None
    ) -> Float[Tensor, "K B D"]:
        """The directions in code space along which rows of J are taken: all axes, or random signs."""
        b, d = mean.shape
        if not self.probes:
            return torch.eye(d, dtype=mean.dtype, device=mean.device)[:, None].expand(d, b, d)
        signs = 1 - 2 * (uniform(generator, observations.index, self.probes * d) < 0.5).to(mean)
        return signs.reshape(b, self.probes, d).transpose(0, 1)


class L1(Penalty):
    """weight * |z|_1 of the mean codes: a Laplace prior of scale 1 / weight, up to its constant."""

    searched: ClassVar[bool] = True

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def cost(
        self, latent: Latent, source: LatentSource, observations: Observations, generator: torch.Generator | None = None
    ) -> Float[Tensor, " B"]:
        return self.weight * latent.mean.flatten(1).abs().sum(1)


NEVER = 1e-6
"""A mean activation that counts as never or always at work: keeps logarithms finite where float32 rounds to 0 or 1."""


class KLSparsity(Penalty):
    """weight * sum_k KL(p || q_k), q_k the mean activation of code unit k over the batch, in (0, 1), and p the `share` wanted
    (Ng 2011, "Sparse autoencoder"). Every signal costs the same: that of its batch.
    """

    separable: ClassVar[bool] = False

    def __init__(self, weight: float = 1.0, share: float = 0.05) -> None:
        super().__init__(weight)
        if not 0 < share < 1:
            raise ValueError(f"penalty.share must lie between 0 and 1, got {share}")
        self.share = share

    def refusal(self, source: LatentSource) -> str | None:
        if source.logistic:
            return None
        return (
            f"the codes of this {kind_of(source)} do not lie between 0 and 1; use latents.kind=encoder with latents.output=logistic"
        )

    def cost(
        self, latent: Latent, source: LatentSource, observations: Observations, generator: torch.Generator | None = None
    ) -> Float[Tensor, " B"]:
        p, q = torch.tensor(self.share).to(latent.mean), latent.mean.flatten(1).mean(0).clamp(NEVER, 1 - NEVER)
        apart = p * (p.log() - q.log()) + (1 - p) * ((1 - p).log() - (1 - q).log())
        return self.weight * apart.sum().expand(len(latent))


def kind_of(source: LatentSource) -> str:
    """What a recipe calls a source: "variational-bank" of a VariationalBank."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(source).__name__).lower()
