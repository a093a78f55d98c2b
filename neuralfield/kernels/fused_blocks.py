"""How large the blocks of the fused kernels are, for each width and number type.

A program holds two or three blocks [tile, width] of float32 in registers, of which a thread has 255: 64 numbers of each block for
each thread are the most that does not spill (compiled for compute capabilities 8.0 and 9.0: tests/test_fused_compiled.py). Wider
layers have more threads and smaller tiles. Matrices take less than 100 KB of shared memory, which every GPU since Ampere has.
"""

from typing import Literal, NamedTuple

import torch


class Block(NamedTuple):
    """One program's."""

    tile: int
    """Points: 64 or more for bfloat16 and float16, or Hopper's large matrix instructions are not used."""
    chunk: int
    """Rows of a layer's matrix that are in shared memory at a time."""
    warps: int
    """32 threads each."""
    stages: int = 1
    """Matrices, or chunks of them, under way at once."""

    @property
    def options(self) -> dict[str, int | bool]:
        """What Triton is told. A product and a sum are one instruction: Triton's own default of that changes with its version."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


HALF = {
    "forward": {32: Block(128, 32, 4, 2), 64: Block(128, 64, 4, 2), 128: Block(64, 128, 4, 2), 256: Block(64, 64, 16, 2)},
    "backward": {32: Block(64, 32, 4, 2), 64: Block(64, 64, 4, 2), 128: Block(64, 128, 8, 2), 256: Block(64, 64, 16, 2)},
}
"""Two stages: the next layer's matrix is on its way while this one's is multiplied."""
FULL = {32: Block(64, 32, 4), 64: Block(32, 16, 4), 128: Block(32, 16, 8), 256: Block(16, 16, 8)}
"""Float32 has no matrix instructions: 16 rows of a matrix are multiplied at a time, or a thread's parts of both factors spill."""

OUTER = {torch.float32: Block(16, 64, 4, 2), torch.bfloat16: Block(64, 64, 4, 2), torch.float16: Block(64, 64, 4, 2)}
"""Of products over all points: `tile` points at a time, for `chunk` x `chunk` numbers of the result."""
PROGRAMS = 264
"""That many at least share the points: two for each of the 132 processors of an H100."""


def blocks(direction: Literal["forward", "backward"], width: int, dtype: torch.dtype) -> Block:
    """Those of one program."""
    return FULL[width] if dtype == torch.float32 else HALF[direction][width]
