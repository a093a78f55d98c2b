"""The only place where a loss is assembled; training and inference use it unchanged."""

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuralfield.decoders.decoder import Decoder
from neuralfield.latents.penalties import Penalty
from neuralfield.latents.priors import Prior
from neuralfield.latents.source import LatentSource
from neuralfield.likelihoods import Likelihood
from neuralfield.measurements import Measurement
from neuralfield.signals.corruptions import Corruption
from neuralfield.types import Field, Latent, Loss, Observations


class Objective(nn.Module, ABC):
    """objective(source, decoder, observations, generator) -> Loss, one row per signal."""

    likelihood: Likelihood
    prior: Prior

    temperature: float = 1.0
    ramp: float | Tensor = 1.0
    """Share of the prior that counts. The loop sets it in a step of training, and only there: searches see the whole prior."""
    precision: torch.dtype = torch.float32
    """What the decoder computes in. The loop sets it as `ramp`: searches, Jacobians and pictures are float32."""
    separable: bool = False
    """Whether a batch costs what its parts cost together, `batch` weighed by their shares: a step may then take them one by one."""
    capturable: ClassVar[bool] = False
    """Whether its steps may be captured as CUDA graphs: nothing in them waits for the GPU or draws numbers but the codes' noise."""
    searchable: ClassVar[bool] = True
    """Whether it says of any codes what they cost, so that they can be searched."""
    named: ClassVar[tuple[str, ...]] = ()
    """The `Loss.terms` that there may be."""
    points: int = 1
    """Points of the field that each observed place takes."""

    def refusal(self, source: LatentSource) -> str | None:
        """Why it cannot take codes from this source; None where it can."""
        return None

    @abstractmethod
    def forward(
        self, source: LatentSource, decoder: Decoder, observations: Observations, generator: torch.Generator | None = None
    ) -> Loss:
        """What the batch costs, in nats."""

    def within(self, latent: Latent) -> Latent:
        """The codes that these are taken for: themselves, but where the prior is bounded the nearest that have a probability."""
        return latent

    def field(self, latent: Latent, decoder: Decoder) -> Field:
        """The field of some codes, in the data's units."""
        return Field(decoder.evaluate, decoder.condition(latent.mean), self.likelihood.mean)


class MAP(Objective):
    """-log p(values | z) - log p(z): nats are summed over what was seen, and the prior counts once per signal.

    `weight_l2` adds weight_l2 * |decoder weights|^2 to the mean of `Loss.total` over a batch, as `Loss.batch`; while a decoder
    trains, `eikonal` adds eikonal * the mean of (|gradient of the field by its coordinates| - 1)^2 over the batch's points (Gropp
    et al. 2020): fields of signed distances have slope 1.
    `temperature` divides the nats of what was seen: more than 1 where points err together, and say less than they seem to.

    Of a variational source it is the negative evidence lower bound: expected nats, and `beta` times the divergence from the prior
    (Higgins et al. 2017). The expectation is that over one draw of each code ("sample"), or over 2 D points that integrate cubic
    functions of a code exactly ("cubature", Stroud 1957), as the nats of a decoder linear in the code are.

    While it trains, a `corruption` stands between the data and an encoder, and a `penalty` is added to the prior.
    """

    separable: bool = True
    named: ClassVar[tuple[str, ...]] = ("divergence", "penalty")
    capturable: ClassVar[bool] = True

    def __init__(
        self,
        measurement: Measurement,
        likelihood: Likelihood,
        prior: Prior,
        weight_l2: float = 0.0,
        temperature: float = 1.0,
        eikonal: float = 0.0,
        beta: float = 1.0,
        expectation: Literal["sample", "cubature"] = "sample",
        penalty: Penalty | None = None,
        corruption: Corruption | None = None,
    ) -> None:
        super().__init__()
        if beta < 0:
            raise ValueError(f"objective.beta must be 0 or more, got {beta}")
        if not temperature > 0:
            raise ValueError(f"objective.temperature must be positive, got {temperature}")
        if weight_l2 < 0 or eikonal < 0:
            raise ValueError(f"objective.weight_l2 and eikonal must be 0 or more, got {weight_l2} and {eikonal}")
        self.temperature, self.eikonal = temperature, eikonal
        self.measurement, self.likelihood, self.prior, self.weight_l2 = measurement, likelihood, prior, weight_l2
        self.beta, self.expectation, self.penalty, self.corruption = beta, expectation, penalty, corruption
        if penalty is not None and not penalty.separable:
            self.separable = False
        self.points = measurement.points
        self.shift: Float[Tensor, "n D"] | None = None

    def forward(
        self, source: LatentSource, decoder: Decoder, observations: Observations, generator: torch.Generator | None = None
    ) -> Loss:
        read, observations = self._corrupted(observations, generator)
        latent = self.within(source(read))
        if source.variational and self.expectation == "cubature":
            data, z = self._integrated(latent, decoder, observations), latent.mean
        else:
            z = latent.sample(observations.index, generator)
            data = self.nats(self.predict(z, decoder, observations), observations).sum(1)
        terms: dict[str, Tensor] = {}
        if source.variational:
            terms["divergence"] = self.prior.divergence(latent)
            prior = self.ramp * self.beta * terms["divergence"]
        else:
            prior = self.ramp * self.prior.cost(self.moved(latent, observations))
        if self.penalty is not None and (self.training or self.penalty.searched):
            terms["penalty"] = self.penalty.cost(latent, source, read, generator)
            prior = prior + terms["penalty"]
        batch = self._decoder_penalty(z, decoder, observations)
        return Loss(data, prior, observations.observed, batch, {name: term.detach().mean() for name, term in terms.items()})

    def _corrupted(self, observations: Observations, generator: torch.Generator | None) -> tuple[Observations, Observations]:
        """(what an encoder reads, what the likelihood scores)."""
        if self.corruption is None or not self.training:
            return observations, observations
        read = self.corruption(observations, generator)
        return read, read if self.corruption.scores == "seen" else observations

    def _integrated(self, latent: Latent, decoder: Decoder, observations: Observations) -> Float[Tensor, " B"]:
        """Nats expected over each Gaussian: their mean at mean +- sqrt(D) standard deviations along every axis."""
        assert latent.log_std is not None
        (count, dims), device = latent.mean.shape, latent.mean.device
        steps = math.sqrt(dims) * torch.diag_embed(latent.log_std.exp())
        z = latent.mean[:, None] + torch.cat([steps, -steps], 1)
        copies = observations.rows(torch.arange(count, device=device).repeat_interleave(2 * dims))
        data = self.nats(self.predict(z.flatten(0, 1), decoder, copies), copies).sum(1)
        return data.view(count, 2 * dims).mean(1)

    def within(self, latent: Latent) -> Latent:
        return replace(latent, mean=self.prior.within(latent.mean)) if self.prior.bounded else latent

    def moved(self, latent: Latent, observations: Observations) -> Latent:
        """Codes as the prior sees them: less `shift[index]`, where draws perturb each signal's prior."""
        return latent if self.shift is None else replace(latent, mean=latent.mean - self.shift[observations.index])

    def predict(self, z: Float[Tensor, "B D"], decoder: Decoder, observations: Observations) -> Float[Tensor, "B N V"]:
        """What should have been seen, as the likelihood takes it: in the codes' own precision, whatever the decoder computes in."""
        if self.precision == torch.float32:
            return self.measurement.measure(Field(decoder.evaluate, decoder.condition(z)), observations)
        with torch.autocast(z.device.type, self.precision):
            predicted = self.measurement.measure(Field(decoder.evaluate, decoder.condition(z)), observations)
        return predicted.to(z)

    def nats(self, predicted: Float[Tensor, "B N V"], observations: Observations) -> Float[Tensor, "B N"]:
        """What each point costs. A prediction that keeps to its bound costs what one equal to it would."""
        unmet = observations.unmet(predicted)
        compared = predicted if unmet is None else torch.where(unmet, predicted, observations.values)
        if not self.likelihood.pointwise:  # what nobody has seen is 0 among the values too: no difference
            compared = torch.where((observations.weight > 0)[..., None], compared, observations.values)
        return self.likelihood.nll(compared, observations.values) * (observations.weight / self.temperature)

    def slope(self, predicted: Float[Tensor, "B N V"], observations: Observations) -> Float[Tensor, "B N V"]:
        """Derivative of `nats` by each predicted value."""
        return self._weighed(self.likelihood.slope(predicted, observations.values), predicted, observations)

    def curvature(self, predicted: Float[Tensor, "B N V"], observations: Observations) -> Float[Tensor, "B N V"]:
        """What Gauss-Newton weighs each predicted value with (`Likelihood.curvature`)."""
        return self._weighed(self.likelihood.curvature(predicted, observations.values), predicted, observations)

    def _weighed(self, each: Float[Tensor, "B N V"], predicted: Tensor, observations: Observations) -> Float[Tensor, "B N V"]:
        unmet = observations.unmet(predicted)
        each = each if unmet is None else each * unmet
        return each * (observations.weight / self.temperature)[..., None]

    def _decoder_penalty(self, z: Float[Tensor, "B D"], decoder: Decoder, observations: Observations) -> Float[Tensor, ""]:
        """What a decoder that trains pays beside the data."""
        trained = [p for p in decoder.parameters() if p.requires_grad and p.ndim > 1]
        penalty = torch.zeros((), device=z.device)
        if self.weight_l2 and trained:
            penalty = penalty + self.weight_l2 * torch.stack([p.square().sum() for p in trained]).sum()
        if self.eikonal and trained and torch.is_grad_enabled():
            penalty = penalty + self.eikonal * (self._steepness(z, decoder, observations) - 1).square().mean()
        return penalty

    def _steepness(self, z: Float[Tensor, "B D"], decoder: Decoder, observations: Observations) -> Float[Tensor, "B N"]:
        """|gradient of the field's first value by its coordinates| at the observed points."""
        coords = observations.coords.detach().expand(len(z), -1, -1).clone().requires_grad_()
        values = decoder.evaluate(decoder.condition(z), coords)[..., 0]
        return torch.autograd.grad(values.sum(), coords, create_graph=True)[0].norm(dim=-1)
