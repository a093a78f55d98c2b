"""Random generators made from numbers, so that no draw depends on what was drawn before it."""

import numpy as np
import torch


def generator(*numbers: int) -> torch.Generator:
    """A generator for these numbers: (seed, epoch, step), or (seed, signal). Order matters, near numbers are unrelated."""
    # their count belongs to the seed: SeedSequence takes (0, 1) and (0, 1, 0) for the same
    state = np.random.SeedSequence([len(numbers), *(number % 2**32 for number in numbers)]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
