"""Random numbers made from numbers, so that no draw depends on what was drawn before it."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def generator(*numbers: int) -> torch.Generator:
    """A generator for these numbers: (seed, epoch, step), or (seed, signal). Order matters, near numbers are unrelated."""
    # their count belongs to the seed: SeedSequence takes (0, 1) and (0, 1, 0) for the same
    state = np.random.SeedSequence([len(numbers), *(number % 2**32 for number in numbers)]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def uniform(generator: torch.Generator | None, index: Int[Tensor, " B"], count: int) -> Float[Tensor, "B n"]:
    """`count` numbers in [0, 1) for each signal of `index`, float64.

    A number is a function of the generator's state, the signal and the number's place: not of the other signals, their order or the
    device. The generator moves on by one number, however many signals there are.
    """
    return _bits(generator, UNIFORM, index, count).mul_(2.0**-53)


def normal(generator: torch.Generator | None, index: Int[Tensor, " B"], count: int) -> Float[Tensor, "B n"]:
    """The same from N(0, 1), unrelated to those of `uniform`: the normal quantiles of such numbers, float64."""
    # a half more keeps it off 0, whose quantile is infinite, and makes the tails alike
    return torch.special.ndtri(_bits(generator, NORMAL, index, count).add_(0.5).mul_(2.0**-53))


UNIFORM, NORMAL = 1, 2
"""What is drawn: a stream of its own for each."""
GOLDEN, FIRST, SECOND = (number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""Constants of SplitMix64, as signed numbers (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators")."""


def _bits(generator: torch.Generator | None, what: int, index: Int[Tensor, " B"], count: int) -> Float[Tensor, "B n"]:
    """Whole numbers below 2^53, of SplitMix64 streams that begin at a hash of (seed, what, signal)."""
    seed = int(torch.randint(2**62, (), generator=generator))
    key = _mixed(_mixed(torch.full((1,), seed, device=index.device)) + what)
    streams = _mixed(key + GOLDEN * index)
    places = torch.arange(1, count + 1, device=index.device).mul_(GOLDEN)
    return _shifted(_mixed(streams[:, None] + places), 11).double()


def _mixed(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """SplitMix64's finaliser; changes `x`. Products of int64 keep their lowest 64 bits on every device."""
    x.bitwise_xor_(_shifted(x, 30)).mul_(FIRST)
    x.bitwise_xor_(_shifted(x, 27)).mul_(SECOND)
    return x.bitwise_xor_(_shifted(x, 31))


def _shifted(x: Int[Tensor, "..."], by: int) -> Int[Tensor, "..."]:
    """To the right by so many bits, with zeros from the left."""
    return (x >> by).bitwise_and_(2 ** (64 - by) - 1)
