"""benchmarks/gpu.py on a machine without a GPU: it says so, its checks run, and they see kernels that are wrong."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from neuralfield.kernels.kernel import Network
from neuralfield.kernels.reference import Reference

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from gpu import short_name  # noqa: E402
from gpu_checks import Case, cases, compared, poisoned  # noqa: E402
from gpu_times import Workload, measured  # noqa: E402

CPU = torch.device("cpu")


def called(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *map(str, words)]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(BENCHMARKS.parent)}
    return subprocess.run(command, capture_output=True, text=True, env=hidden, timeout=600)


def test_without_a_gpu_it_ends_with_one_line() -> None:
    answer = called()
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1
    assert "--interpret" in answer.stderr


@pytest.mark.slow
def test_the_checks_run_without_a_gpu(tmp_path: Path) -> None:
    answer = called("--interpret", "--out", tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found = json.loads((tmp_path / "gpu_interpreted.json").read_text())
    done = [case for kernel in found["checks"].values() for case in kernel if "errors" in case]
    assert done
    assert not any(case["wrong"] for case in done)
    assert "## Kernels against their twin" in (tmp_path / "gpu_interpreted.md").read_text()


class Forgetful(Reference):
    """Leaves the last value unwritten."""

    def values(self, network: Network, inputs: Tensor) -> Tensor:
        whole = super().values(network, inputs)
        own = torch.empty_like(whole)
        keep = torch.ones_like(whole, dtype=torch.bool)
        keep[-1, -1] = False
        return torch.where(keep, whole, own)


class Shifted(Reference):
    """Takes one layer's shifts from the signal's neighbour unit."""

    def values(self, network: Network, inputs: Tensor) -> Tensor:
        return super().values(replace(network, shifts=(*network.shifts[:-1], network.shifts[-1].roll(1, -1))), inputs)


class Permuted(Reference):
    """The same network with its units in another order: other roundings, and nothing wrong."""

    def values(self, network: Network, inputs: Tensor) -> Tensor:
        order = torch.randperm(len(network.weights[-1]))
        parts = {"out_weight": network.out_weight[:, order]}
        for name in ("weights", "entering", "shifts", "scales"):
            last = getattr(network, name)[-1]
            turned = last[..., order] if name in ("shifts", "scales") and isinstance(last, Tensor) else last
            turned = last[order] if name in ("weights", "entering") and last is not None else turned
            parts[name] = (*getattr(network, name)[:-1], turned)
        return super().values(replace(network, **parts), inputs)


SOME = [case for case in cases(quick=True) if case.points > 1]


@pytest.mark.parametrize("case", SOME, ids=str)
def test_what_is_right_passes_and_what_is_wrong_does_not(case: Case) -> None:
    for kernel, right in ((Reference(), True), (Permuted(), True), (Forgetful(), False), (Shifted(), False)):
        assert (compared(kernel, case, CPU, seed=3)["wrong"] == []) == right, type(kernel).__name__


def test_memory_that_nobody_wrote_is_poisoned_inside_only() -> None:
    with poisoned():
        assert torch.empty(1000).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_every_width_activation_and_precision_is_checked() -> None:
    every = list(cases(quick=False))
    assert {case.width for case in every} == {16, 32, 64, 128, 256}
    assert {case.activation for case in every} == {"relu", "leaky-relu", "silu", "sine"}
    for width in (16, 256):
        assert {(c.precision, c.film, c.own) for c in every if c.width == width} == {
            (precision, film, own) for precision in ("fp32", "bf16", "fp16") for film in (False, True) for own in (False, True)
        }
    assert {case.points for case in every} >= {1, 129}  # one point, and a tile's ragged end


@pytest.mark.parametrize("mode", ["forward", "latents", "all"])
def test_times_are_taken_of_every_mode(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_times.WARM", 1)
    monkeypatch.setattr("gpu_times.REPEATS", 2)
    monkeypatch.setattr("gpu_times.SPAN", 0.0)
    draw = torch.Generator().manual_seed(0)
    weights = torch.randn(8, 2, generator=draw), torch.randn(8, 8, generator=draw)
    shifts = torch.zeros(3, 1, 8), torch.zeros(3, 1, 8)
    network = Network(weights, (None, None), (1.0, 1.0), shifts, torch.ones(1, 8), torch.zeros(1), "relu")
    work = Workload("tiny", network, torch.rand(3, 20, 2))
    assert (work.points, work.multiply_adds) == (60, 16 + 64 + 8)
    found = measured(work, mode, Reference(), torch.bfloat16)
    assert found["points"] > 0
    assert "failed" not in found


@pytest.mark.parametrize(
    ("device", "name"),
    [("NVIDIA H200", "h200"), ("NVIDIA H100 80GB HBM3", "h100_80gb_hbm3"), ("Tesla T4", "t4")],
)
def test_results_are_named_after_the_gpu(device: str, name: str) -> None:
    assert short_name(device) == name
