"""How good a band is: scores of samples drawn from what is believed of values, against the values."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Drawn:
    """Draws of completions on a domain's own grid: the `fields` alone, and `values` as they might be seen, with noise."""

    fields: Float[Tensor, "S B N V"]
    values: Float[Tensor, "S B N V"]


LEVEL = 0.9
"""Share of values that a band should hold."""


def crps(samples: Float[Tensor, "S *N"], values: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Continuous ranked probability score, E|X - y| - E|X - X'| / 2, in the units of the values; unbiased in the number of samples.

    Gneiting and Raftery 2007, eq. 21, with the second mean over different samples (Ferro 2014). Of one sample it is |X - y|.
    """
    count = len(samples)
    far = (samples - values).abs().mean(0)
    if count == 1:
        return far
    # the sum over pairs of |x_s - x_t| from sorted samples: the r-th of S is added 2 r - S + 1 times
    order = torch.arange(count, device=samples.device, dtype=samples.dtype) * 2 - count + 1
    apart = torch.tensordot(order, samples.sort(0).values, 1) / (count * (count - 1))
    return far - apart


def band(samples: Float[Tensor, "S *N"]) -> tuple[Float[Tensor, "*N"], Float[Tensor, "*N"]]:
    """(lower, upper) ends of the central band that holds LEVEL of the samples."""
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(samples, torch.tensor([tail, 1 - tail], dtype=samples.dtype, device=samples.device), 0)
    return low, high


def band_scores(
    samples: Float[Tensor, "S B N V"], values: Float[Tensor, "B N V"], weight: Float[Tensor, "B N"]
) -> dict[str, Float[Tensor, " B"]]:
    """`crps`, the mean width of the bands `width90`, and the share of values in them `coverage90`, over what is known of each."""
    lower, upper = band(samples)
    each = {
        "crps": crps(samples, values),
        "width90": upper - lower,
        "coverage90": ((values >= lower) & (values <= upper)).float(),
    }
    share = weight[..., None] / (weight.sum(1) * values.shape[-1])[:, None, None]
    # not a product where the share is 0: logarithms of what was not observed may be drawn too large for their exponential
    return {name: torch.where(share == 0, share, score * share).sum((1, 2)).float() for name, score in each.items()}
