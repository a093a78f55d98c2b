"""The fused kernels are compiled for GPUs on machines that have none: they fit registers and shared memory."""

import re
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from neuralfield.kernels.fused_blocks import OUTER, blocks

if find_spec("triton") is None:
    pytest.skip("no Triton here", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (TOOLS / "ptxas").is_file(), reason="this Triton brings no ptxas"),
    pytest.mark.skipif(triton.knobs.runtime.interpret, reason="what is interpreted is not compiled"),
]
INTEGERS = {"points", "signals", "depth", "again", "inputs_step", "conditioning_step", "first", "splits"}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHARED = 99 * 1024
"""Bytes of shared memory that a program may have on every GPU since Ampere; the consumer ones have least."""
SPILLED = 128
"""Bytes of a thread's numbers that may leave registers: of 1024 bytes there are in all, some at their busiest moment."""


def resources(kernel: Any, kind: str, **constants: Any) -> tuple[int, int]:
    """(bytes of shared memory of a program, bytes of stack of a thread) for compute capability `capability`."""
    capability, block = constants.pop("capability"), constants.pop("block")
    constants |= {"SLOPE": 0.2, "DTYPE": getattr(triton.language, {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[kind])}
    halves = {"values", "kept", "scratch", "deltas", "gradient", "weights", "right"}
    signature = {
        name: "constexpr"
        if name in constants | {"INTERPRETED": False}
        else ("i32" if name in INTEGERS else f"*{kind if name in halves else 'fp32'}")
        for name in kernel.arg_names
    }
    aligned = [name for name, kind in signature.items() if kind.startswith("*")]
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in [*aligned, "conditioning_step"]}
    source = ASTSource(kernel, signature, {**constants, "INTERPRETED": False}, attributes)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=block.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(made.asm["cubin"])
        words = [str(TOOLS / "cuobjdump"), "--dump-resource-usage", file.name]
        usage = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    (stack,) = re.findall(r"STACK:(\d+)", usage)
    return made.metadata.shared, int(stack)


VARIANTS = {
    "siren": {"FEATURES": 2, "NARROW": 1, "ACTIVATION": "sine", "SCALED": False, "AGAIN": False, "VALUES": 1},
    "film of Fourier features": {"FEATURES": 131, "NARROW": 0, "ACTIVATION": "silu", "SCALED": True, "AGAIN": False, "VALUES": 3},
    "coordinates that enter again": {"FEATURES": 3, "NARROW": 1, "ACTIVATION": "relu", "SCALED": False, "AGAIN": True, "VALUES": 1},
}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("variant", "kind", "width"),
    [
        ("siren", "bf16", 64),
        ("siren", "bf16", 128),
        ("siren", "bf16", 256),
        ("siren", "fp32", 128),
        ("film of Fourier features", "fp16", 128),
        ("film of Fourier features", "fp32", 256),
        ("coordinates that enter again", "bf16", 128),
    ],
)
def test_a_program_fits_its_registers_and_the_shared_memory_of_every_gpu(
    capability: int, variant: str, kind: str, width: int
) -> None:
    from neuralfield.kernels.fused_backward import backward, outer
    from neuralfield.kernels.fused_forward import forward

    network = {**VARIANTS[variant], "WIDTH": width, "capability": capability}
    found = {}
    for direction, kernel, flags in (
        ("forward", forward, {"KEEPS": True}),
        ("backward", backward, {"TO_INPUTS": False, "TO_WEIGHTS": True}),
    ):
        block = blocks(direction, width, TYPES[kind])
        found[direction] = resources(kernel, kind, **network, **flags, TILE=block.tile, CHUNK=block.chunk, block=block)
    block = OUTER[TYPES[kind]]
    plain = {name: value for name, value in network.items() if name not in ("AGAIN", "VALUES")}
    sides = {"POINTS": block.tile, "SIDE": block.chunk, "ACROSS": block.chunk}
    found["outer"] = resources(outer, kind, **plain, SOURCE="kept", **sides, block=block)
    for name, (shared, stack) in found.items():
        assert shared <= SHARED, name
        assert stack <= SPILLED, name
