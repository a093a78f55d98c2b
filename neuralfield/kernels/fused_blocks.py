"""How large the blocks of the fused kernels are, for each width and number type."""

from typing import Literal, NamedTuple

import torch


class Block(NamedTuple):
    """One program's."""

    tile: int
    """Points."""
    chunk: int
    """Rows of a layer's matrix that are in shared memory at a time."""
    warps: int
    stages: int = 1
    """Chunks under way at once."""


HALF = {32: Block(128, 32, 4), 64: Block(128, 64, 4), 128: Block(64, 128, 4), 256: Block(64, 256, 8)}
SMALL = {**HALF, 256: Block(64, 64, 8)}
FULL = {32: Block(64, 32, 4), 64: Block(64, 16, 4), 128: Block(64, 16, 8), 256: Block(32, 16, 8)}

POINTS = 64
"""Of one step of a product over all points."""
ACROSS = 64
"""Side of its tiles."""
PROGRAMS = 264
"""Two for each of the 132 processors of an H100."""


def blocks(direction: Literal["forward", "backward"], width: int, dtype: torch.dtype, device: torch.device) -> Block:
    """Those for a device with its shared memory."""
    if dtype == torch.float32:
        return FULL[width]
    return HALF[width]
