"""Encoder, decoder, encoder: an objective on codes alone, which replaces the likelihood as a whole."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

from neuralfield.decoders.decoder import Decoder
from neuralfield.latents.priors import Prior
from neuralfield.latents.source import LatentSource
from neuralfield.likelihoods import Likelihood
from neuralfield.measurements import Measurement
from neuralfield.objective import Objective
from neuralfield.types import Field, Loss, Observations


class EncDec(Objective):
    """Images are compared as the encoder E sees them: their codes, and the codes E(D(E(x))) of what the decoder D makes of those.

    With d the root mean square of the difference of two codes, and as Hadsell et al. (2006) have the two sides of a contrast,
    a signal x costs

        pull  d(E(D(E(x))), E(x))^2: both learn that the decoded signal has the code it was made from;
        push  max(0, margin - d(E(x), E(x')))^2, x' the next signal of the batch: codes of different signals stay apart;
        fake  max(0, margin - d(E(detach D(E(x))), E(x)))^2, times `fake`: the encoder alone learns to tell decoded signals from
              real ones, as a critic does.

    `Loss.total` is the sum of the three, and `data` that times the number of observed values: there is no density of values, so
    nats are not meant. Of the likelihood only its `mean` is taken, which makes values of what the decoder puts out, and the prior
    has no part in the loss. A batch of one signal has nothing to push from.

    `terms` are the means of the three over the batch and `code_length`, that of the root mean square of a code's numbers.
    """

    searchable: ClassVar[bool] = False
    named: ClassVar[tuple[str, ...]] = ("pull", "push", "fake", "code_length")

    def __init__(
        self, measurement: Measurement, likelihood: Likelihood, prior: Prior, margin: float = 1.0, fake: float = 2.0
    ) -> None:
        super().__init__()
        if not margin > 0 or fake < 0:
            raise ValueError(f"objective.margin must be positive and fake 0 or more, got {margin} and {fake}")
        self.measurement, self.likelihood, self.prior, self.margin, self.fake = measurement, likelihood, prior, margin, fake
        self.points = measurement.points

    def refusal(self, source: LatentSource) -> str | None:
        if source.reads and not source.variational:
            return None
        return 'objective "encdec" reads what it has decoded, and compares codes, not distributions; say latents.kind=encoder'

    def forward(
        self, source: LatentSource, decoder: Decoder, observations: Observations, generator: torch.Generator | None = None
    ) -> Loss:
        latent = source(observations)
        z = latent.sample(observations.index, generator)
        if not source.reads:  # codes that are given: nothing tells them apart
            nothing = torch.zeros(len(z), device=z.device)
            return Loss(nothing, nothing, observations.observed, nothing.sum(), {"code_length": length(z).mean().detach()})
        decoded = self.decoded(z, decoder, observations)
        again, watched = (
            source(Observations(observations.index, observations.coords, values, observations.weight)).mean
            for values in (decoded, decoded.detach())
        )
        pull, fake = length(again - z).square(), self.fake * relu(self.margin - length(watched - z)).square()
        push = relu(self.margin - length(z - z.roll(1, 0))).square() if len(z) > 1 else torch.zeros_like(pull)
        terms = {"pull": pull, "push": push, "fake": fake, "code_length": length(z)}
        cost = (pull + push + fake) * observations.observed.clamp(min=1)
        means = {name: term.detach().mean() for name, term in terms.items()}
        return Loss(cost, torch.zeros_like(cost), observations.observed, cost.new_zeros(()), means)

    def decoded(self, z: Float[Tensor, "B D"], decoder: Decoder, observations: Observations) -> Float[Tensor, "B N V"]:
        """What would have been seen of the decoded signals, in the data's units."""
        return self.likelihood.mean(self.measurement.measure(Field(decoder.evaluate, decoder.condition(z)), observations))


def length(codes: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
    """Root mean square of each code's numbers. Where it is 0 so is its gradient: that of a plain square root is no number."""
    square = codes.square().mean(1)
    some = square > 0
    return torch.where(some, torch.where(some, square, 1.0).sqrt(), 0.0)
