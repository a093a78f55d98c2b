"""The fused kernels are compiled, as they would be launched, for GPUs that are not here: they fit registers and shared memory."""

import re
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts.kernel import Case

from neuralfield.kernels.fused import Triton

if find_spec("triton") is None:
    pytest.skip("no Triton here", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (TOOLS / "ptxas").is_file(), reason="this Triton brings no ptxas"),
    pytest.mark.skipif(triton.knobs.runtime.interpret, reason="what is interpreted is not compiled"),
]
SHARED = 99 * 1024
"""Bytes of shared memory that a program may have on every GPU since Ampere; the consumer ones have least."""
SPILLED = 128
"""Bytes of a thread's 1020 bytes of registers that may be out of them at the busiest moment, where nothing is multiplied."""


class Absent:
    """What Triton asks of a GPU that it compiles for. It remembers what it has compiled by the device's number."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


class Compiled:
    """A kernel that is compiled where it would be launched. `made` collects what came of it."""

    def __init__(self, kernel: Any, made: list[Any]) -> None:
        self.kernel, self.made = kernel, made

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.made.append(self.kernel.warmup(*args, grid=grid, **options))


@pytest.fixture(params=[80, 90])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All programs that are launched by the test, compiled for a compute capability of 8.0 or 9.0."""
    import neuralfield.kernels.fused_launch as launch

    made: list[Any] = []
    for name in ("forward", "backward", "outer"):
        monkeypatch.setattr(launch, name, Compiled(getattr(launch, name), made))
    monkeypatch.setattr(driver, "_active", Absent(request.param))
    return made


def stack(program: Any, folder: Path) -> int:
    """Bytes of a thread's memory beside its registers."""
    file = folder / "program.cubin"
    file.write_bytes(program.asm["cubin"])
    words = [str(TOOLS / "cuobjdump"), "--dump-resource-usage", str(file)]
    usage = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    (found,) = re.findall(r"STACK:(\d+)", usage)
    return int(found)


HALF = [
    Case(2, 70, 2, 1, (width,) * 3, "sine") for width in (32, 64, 128, 256)
] + [
    Case(2, 70, 131, 3, (128, 128), "silu", scaled=True, shared_points=False),
    Case(2, 70, 131, 3, (128, 128), "silu", again=(1,)),
    Case(2, 70, 3, 1, (100, 128, 70), "relu", scaled=True, again=(1,)),
    Case(1, 1, 1, 1, (64, 64, 64), "leaky-relu"),  # counts of 1 would be constants, if Triton were not told otherwise
]  # fmt: skip
FULL = [HALF[1], HALF[3], HALF[6]]


@pytest.mark.parametrize(
    ("case", "dtype"), [*((case, torch.bfloat16) for case in HALF), *((case, torch.float32) for case in FULL)], ids=str
)
def test_programs_fit_the_registers_and_the_shared_memory_of_every_gpu(
    case: Case, dtype: torch.dtype, made: list[Any], tmp_path: Path
) -> None:
    call = case.make(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        call.gradients(Triton().values(call.network, call.inputs))
    found = {program.name: (program.metadata.shared, stack(program, tmp_path)) for program in made}
    assert {"forward", "backward"} <= found.keys()
    assert ("outer" in found) == (len(case.widths) > 1)
    for name, (shared, spilled) in found.items():
        assert shared <= SHARED, f"{name}: {shared} bytes of shared memory"
        assert spilled <= SPILLED, f"{name}: {spilled} bytes of stack"
