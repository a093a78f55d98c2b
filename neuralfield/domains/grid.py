"""Regular grids over [-1, 1]^2."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


@lru_cache(maxsize=64)  # a decoder asks for the same few in every step
def pixel_centres(height: int, width: int, device: torch.device | None = None) -> Float[Tensor, "1 N 2"]:
    """(x, y) of every pixel centre, x to the right and y down, row by row: x_j = (2j + 1) / width - 1. Not to be changed."""
    # computed on the CPU for every device: a GPU rounds the division differently, and centres must be equal bit for bit
    y, x = ((2 * torch.arange(n) + 1) / n - 1 for n in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(1, -1, 2).to(device)
