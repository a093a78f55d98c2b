"""A part of what was seen, where all of it would say little more and cost much."""

import torch

from neuralfield.seeds import generator
from neuralfield.types import Observations

THINNING = 1007  # the seed's first number


def thinned(observations: Observations, most: int | None) -> Observations:
    """At most so many points of each signal, drawn from those that were seen, which stand for all of them.

    Which ones depends on the signal's number and on how many points it has, not on the batch that it is in.
    """
    b, n = observations.weight.shape
    if most is None or n <= most:
        return observations
    chance = torch.stack([torch.rand(n, generator=generator(THINNING, i)) for i in observations.index.tolist()])
    chance = chance.masked_fill(observations.weight.cpu() <= 0, -1.0)
    which = chance.topk(most, 1).indices.to(observations.weight.device)
    rows = torch.arange(b, device=which.device)[:, None]
    weight = observations.weight[rows, which]
    weight = weight * (observations.weight.sum(1) / weight.sum(1).clamp(min=1e-12))[:, None]
    coords = observations.coords.expand(b, -1, -1)[rows, which]
    return Observations(observations.index, coords, observations.values[rows, which], weight)
