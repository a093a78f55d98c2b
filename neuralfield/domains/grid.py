"""Regular grids over [-1, 1]^2."""

import torch
from jaxtyping import Float
from torch import Tensor


def pixel_centres(height: int, width: int, device: torch.device | None = None) -> Float[Tensor, "1 N 2"]:
    """(x, y) of every pixel centre, x to the right and y down, row by row: x_j = (2j + 1) / width - 1."""
    y, x = ((2 * torch.arange(n, device=device) + 1) / n - 1 for n in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(1, -1, 2)
