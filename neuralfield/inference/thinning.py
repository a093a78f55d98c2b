"""A part of what was seen, where all of it would say little more and cost much."""

from dataclasses import replace

import torch

from neuralfield.domains.domain import Domain
from neuralfield.seeds import generator
from neuralfield.types import Observations

THINNING = 1007  # the seed's first number
GLANCE = 4096
"""Points of a signal that tell how well a field fits it."""


def thinned(observations: Observations, most: int | None) -> Observations:
    """At most so many points of each signal, drawn from those that were seen, which stand for all of them.

    Which ones depends on the signal's number and on how many points it has, not on the batch that it is in.
    """
    n = observations.weight.shape[1]
    if most is None or n <= most:
        return observations
    chance = torch.stack([torch.rand(n, generator=generator(THINNING, i)) for i in observations.index.tolist()])
    chance = chance.masked_fill(observations.weight.cpu() <= 0, -1.0)
    part = observations.chosen(chance.topk(most, 1).indices.to(observations.weight.device))
    stands_for = observations.weight.sum(1) / part.weight.sum(1).clamp(min=1e-12)
    return replace(part, weight=part.weight * stands_for[:, None])


def glanced_at(observations: Observations, domain: Domain) -> Observations:
    """Enough for a score: GLANCE points of signals that have points of their own, all of those that share a grid."""
    return observations if domain.shape is not None else thinned(observations, GLANCE)
