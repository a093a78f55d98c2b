"""Where a search for codes begins."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from neuralfield.decoders.decoder import Decoder
from neuralfield.inference.solver import points_per_seen
from neuralfield.latents.basis import SpectralBasis
from neuralfield.latents.source import LatentSource
from neuralfield.latents.spectral import spectral_basis
from neuralfield.objective import MAP, Objective
from neuralfield.types import Latent, Observations


class Start(nn.Module, ABC):
    """start(observations, decoder, objective) -> Latent. `codes` [n, D] are those of the fitted bank.

    What `fit` learns is kept in buffers, and so in the run folder.
    """

    codes: Tensor
    reads: ClassVar[bool] = False
    """Whether codes are those of the fit's own encoder."""
    needs_all: ClassVar[bool] = False
    """Whether `fit` needs the codes of all signals, in order; for the others an overview of a large bank will do."""
    shared: bool = True
    """Whether signals share the points of a grid, as those of a domain with a `shape` do."""

    def __init__(self, codes: Float[Tensor, "n D"]) -> None:
        super().__init__()
        self.register_buffer("codes", codes.detach(), persistent=False)

    def bind(self, source: LatentSource) -> None:
        """Look at where the codes of the fit come from; most starts have no need."""

    def fit(self, batches: Callable[[], Iterable[Observations]], generator: torch.Generator) -> None:
        """Learn from the signals of the bank, in order; most starts have nothing to learn."""

    @abstractmethod
    def forward(self, observations: Observations, decoder: Decoder, objective: Objective) -> Latent:
        """A first code for each signal."""

    def several(
        self, observations: Observations, decoder: Decoder, objective: Objective, count: int
    ) -> tuple[Float[Tensor, "S B D"], Float[Tensor, " B"]]:
        """(`count` first codes for each signal, evaluations that they took): its own, then codes of the bank that are near."""
        own, work = self(observations, decoder, objective).mean[None], self.evaluations(observations, decoder)
        if count == 1:
            return own, work
        nearest = Nearest(self.codes)
        nearest.shared = self.shared
        others = nearest.spread(observations, decoder, objective, count - 1)
        return torch.cat([own, others]), work + nearest.evaluations(observations, decoder)

    def evaluations(self, observations: Observations, decoder: Decoder) -> Float[Tensor, " B"]:
        """Decoder work spent, in forward passes over the observed points of a signal."""
        return torch.zeros(len(observations))


class Mean(Start):
    """The mean code of the bank."""

    def forward(self, observations: Observations, decoder: Decoder, objective: Objective) -> Latent:
        return Latent(self.codes.mean(0).expand(len(observations), -1))


class Encoder(Start):
    """What the fit's own encoder reads from what was seen: of a variational one, a distribution."""

    reads: ClassVar[bool] = True

    def bind(self, source: LatentSource) -> None:
        self.sources = [source]  # in a list, so that its weights are not this module's

    def forward(self, observations: Observations, decoder: Decoder, objective: Objective) -> Latent:
        with torch.no_grad():
            latent: Latent = self.sources[0](observations)
        return latent


class Spectral(Start):
    """Principal coefficients of what was seen, then the linear map from coefficients to learned codes."""

    needs_all: ClassVar[bool] = True
    map: Tensor

    def __init__(self, codes: Float[Tensor, "n D"]) -> None:
        super().__init__(codes)
        self.basis = SpectralBasis()
        self.register_buffer("map", torch.zeros(1, codes.shape[1]))

    def fit(self, batches: Callable[[], Iterable[Observations]], generator: torch.Generator) -> None:
        self.basis = spectral_basis(batches, self.codes.shape[1], generator)
        inputs = self._inputs(torch.cat([self.basis.encode(batch) for batch in batches()])).double()
        # a little ridge, relative to the average variance, for banks smaller than their codes
        ridge = 1e-3 * inputs.square().mean() * torch.eye(inputs.shape[1], dtype=inputs.dtype)
        normal = inputs.T @ inputs / len(inputs) + ridge
        found = torch.linalg.solve(normal, inputs.T @ self.codes.cpu().double() / len(inputs))
        self.map = found.to(self.codes).contiguous()  # the layout that it has when it is loaded: sums run in the same order

    def forward(self, observations: Observations, decoder: Decoder, objective: Objective) -> Latent:
        return Latent(self._inputs(self.basis.encode(observations)) @ self.map)

    def _inputs(self, coefficients: Float[Tensor, "B R"]) -> Float[Tensor, "B R+1"]:
        whitened = coefficients / self.basis.variance.sqrt()
        return torch.cat([whitened, torch.ones(len(whitened), 1, device=whitened.device)], 1)


class Nearest(Start):
    """The bank's code whose field is nearest to what was seen, in mean square or in nats, over at most POINTS points.

    Where signals have points of their own, every candidate's field is evaluated for every signal: OWN points must do.
    """

    POINTS, OWN = 2048, 32
    CANDIDATES = 4096
    APART = 4
    """Of so many times more near codes than are asked for, every so manieth is taken: the very nearest lead to one optimum."""

    def forward(self, observations: Observations, decoder: Decoder, objective: Objective) -> Latent:
        return Latent(self._candidates()[self._errors(observations, decoder, objective).argmin(1)])

    def spread(self, observations: Observations, decoder: Decoder, objective: Objective, count: int) -> Float[Tensor, "S B D"]:
        """`count` codes for each signal whose fields are near to what was seen, nearest first; a small bank repeats itself."""
        candidates, errors = self._candidates(), self._errors(observations, decoder, objective)
        order = errors.argsort(dim=1, stable=True)[:, : max(count, min(self.APART * count, len(candidates)))]
        places = torch.linspace(0, order.shape[1] - 1, count).round().long()
        return candidates[order[:, places]].transpose(0, 1)

    @torch.no_grad()
    def _errors(self, observations: Observations, decoder: Decoder, objective: Objective) -> Float[Tensor, "B K"]:
        """What was seen costs so much with every candidate: nats, or in domains with a grid the sum of squared errors."""
        part = self._part(observations)
        candidates = self._candidates()
        if (self.shared and part.relation is None) or not isinstance(objective, MAP):
            fields = objective.field(Latent(candidates), decoder)
            return torch.cat([_squares(fields(coords), part, b) for b, coords in enumerate(part.coords)])
        errors = []
        for b in range(len(part)):
            copies = replace(part.rows(torch.full((len(candidates),), b)), coords=part.coords.expand(len(part), -1, -1)[b : b + 1])
            errors.append(objective.nats(objective.predict(candidates, decoder, copies), copies).sum(1))
        return torch.stack(errors)

    def evaluations(self, observations: Observations, decoder: Decoder) -> Float[Tensor, " B"]:
        shared = len(observations) if len(observations.coords) == 1 else 1
        used = self._part(observations).weight.shape[1] / observations.weight.shape[1] * points_per_seen(decoder, observations)
        return len(self._candidates()) / shared * (used if decoder.pointwise else torch.ones_like(used)).cpu()

    def _candidates(self) -> Float[Tensor, "K D"]:
        """Evenly spread over the bank, so that the choice needs no random numbers."""
        count = min(self.CANDIDATES, len(self.codes))
        return self.codes[torch.linspace(0, len(self.codes) - 1, count).long()]

    def _part(self, observations: Observations) -> Observations:
        """Points spread evenly over a grid, or over those that were seen of each signal, whoever else is in the batch."""
        count = observations.weight.shape[1]
        if self.shared:
            return observations.span(torch.linspace(0, count - 1, min(self.POINTS, count)).long())
        seen = observations.weight > 0
        last = (seen.sum(1, keepdim=True) - 1).clamp(min=0)
        places = (torch.linspace(0, 1, min(self.OWN, count), device=last.device) * last).round().long()
        return observations.chosen(seen.int().argsort(dim=1, descending=True, stable=True).gather(1, places))


def _squares(fields: Float[Tensor, "K n V"], observations: Observations, row: int) -> Float[Tensor, "b K"]:
    """|field - value|^2 over what was seen, as |f|^2 - 2 f x: what depends on x alone ranks no candidate.

    Of all signals where they share points, else of one of them.
    """
    some = slice(None) if len(observations.coords) == 1 else slice(row, row + 1)
    values, weight = observations.values[some], observations.weight[some]
    square = einsum(weight, fields.square().sum(-1), "b n, k n -> b k")
    return square - 2 * einsum(weight[..., None] * values, fields, "b n v, k n v -> b k")
