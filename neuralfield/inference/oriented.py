"""Normals of a surface, said by distances: what every solver understands."""

import torch

from neuralfield.types import EQUAL, Observations

OFFSET = 0.01
"""Distance of the pairs from the surface, in the cube [-1, 1]^C: less than half of the thinnest sheets of usual data (.023)."""


def oriented(observations: Observations) -> Observations:
    """Beside each seen point of a surface with a normal two more, OFFSET outside and OFFSET inside (Park et al. 2019, section 6.3).

    Where distances off the surface were seen as well, they say more than normals do, and all stays as it is.
    """
    normals, values = observations.normals, observations.values
    if normals is None:
        return observations
    told = observations.told > 0
    known = told & (normals != 0).any(-1) & ~(told & (values != 0).any(-1)).any(1, keepdim=True)
    if not bool(known.any()):
        return observations
    coords = observations.coords.expand(len(observations), -1, -1)
    weight = observations.weight * known
    relation = observations.relation if observations.relation is not None else torch.full_like(weight, EQUAL, dtype=torch.long)
    return Observations(
        observations.index,
        torch.cat([coords, *(coords + side * OFFSET * normals for side in (1, -1))], 1),
        torch.cat([values, *(torch.full_like(values, side * OFFSET) for side in (1, -1))], 1),
        torch.cat([observations.weight, weight, weight], 1),
        torch.cat([relation, torch.full_like(relation, EQUAL), torch.full_like(relation, EQUAL)], 1),
    )
