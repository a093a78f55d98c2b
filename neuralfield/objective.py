"""The only place where a loss is assembled; training and inference use it unchanged."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from neuralfield.decoders.decoder import Decoder
from neuralfield.latents.priors import Prior
from neuralfield.latents.source import LatentSource
from neuralfield.likelihoods import Likelihood
from neuralfield.measurements import Measurement
from neuralfield.types import Field, Latent, Loss, Observations


class Objective(nn.Module, ABC):
    """objective(source, decoder, observations, generator) -> Loss, one row per signal."""

    likelihood: Likelihood
    prior: Prior

    @abstractmethod
    def forward(
        self, source: LatentSource, decoder: Decoder, observations: Observations, generator: torch.Generator | None = None
    ) -> Loss:
        """What the batch costs, in nats."""

    def field(self, latent: Latent, decoder: Decoder) -> Field:
        """The field of some codes, in the data's units."""
        return Field(decoder.evaluate, decoder.condition(latent.mean), self.likelihood.mean)


class MAP(Objective):
    """-log p(values | z) - log p(z): nats are summed over what was seen, and the prior counts once per signal.

    `weight_l2` adds weight_l2 * |decoder weights|^2 to the mean of `Loss.total` over a batch, as `Loss.batch`.
    """

    def __init__(self, measurement: Measurement, likelihood: Likelihood, prior: Prior, weight_l2: float = 0.0) -> None:
        super().__init__()
        self.measurement, self.likelihood, self.prior, self.weight_l2 = measurement, likelihood, prior, weight_l2

    def forward(
        self, source: LatentSource, decoder: Decoder, observations: Observations, generator: torch.Generator | None = None
    ) -> Loss:
        latent = source(observations)
        conditioning = decoder.condition(latent.sample(generator))
        predicted = self.measurement.measure(Field(decoder.evaluate, conditioning), observations)
        nll = self.likelihood.nll(predicted, observations.values) * observations.weight
        return Loss(nll.sum(1), self.prior.cost(latent), observations.observed, self._weight_penalty(decoder))

    def _weight_penalty(self, decoder: Decoder) -> torch.Tensor:
        trained = [p for p in decoder.parameters() if p.requires_grad and p.ndim > 1]
        if not self.weight_l2 or not trained:
            return torch.zeros(())
        return self.weight_l2 * torch.stack([p.square().sum() for p in trained]).sum()
