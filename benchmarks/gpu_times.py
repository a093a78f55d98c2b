"""How fast points go through kernels, torch.compile and torch's own operations, against what the GPU could do."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from gpu_checks import fused, tensors_of
from shape_measures import Report
from torch import Tensor

import neuralfield as nf
from neuralfield.kernels.kernel import Kernel, Network
from neuralfield.kernels.reference import Reference

ANCHOR = {"NVIDIA H200": (790e12, 4.3e12)}
"""Dense bf16 and copies as measured before (ANCHORS.md): what the same chip gave another day."""
MODES = ("forward", "latents", "all")
"""Values alone; with gradients to conditioning, weights frozen; with gradients to weights and conditioning."""
PASSES = {"forward": 1, "latents": 2, "all": 3}
"""Products of a pass, as many as those of a forward pass: one more for what goes back, and one more for weights."""
WARM, REPEATS, SPAN = 5, 15, 0.02
"""Runs before, repeats of which the median counts, and seconds that each repeat takes at least."""


@dataclass(frozen=True)
class Workload:
    """A network at points, as it stands inside a decoder."""

    name: str
    network: Network
    inputs: Tensor

    @property
    def points(self) -> int:
        return self.network.signals(self.inputs) * self.inputs.shape[1]

    @property
    def multiply_adds(self) -> int:
        """Of one point."""
        layers = [*self.network.weights, *(u for u in self.network.entering if u is not None), self.network.out_weight]
        return sum(layer.numel() for layer in layers)

    def bytes_of(self, mode: str) -> int:
        """That must move whatever the kernel: inputs and values once in a forward pass; with gradients, all once more."""
        numbers = self.inputs.numel() + self.points * len(self.network.out_weight)
        return 4 * numbers * (1 if mode == "forward" else 2)


@dataclass(frozen=True)
class Limits:
    """What the GPU did when nothing else was asked of it."""

    flops: float
    copied: float

    def bound(self, work: Workload, mode: str) -> float:
        """Most points a second."""
        return self.flops / (2 * work.multiply_adds * PASSES[mode])


class Seen(Kernel):
    """The twin, which remembers what a decoder asked of it."""

    name = "seen"
    network: Network
    inputs: Tensor

    def refusal(self, network: Network, inputs: Tensor) -> str | None:
        return None

    def values(self, network: Network, inputs: Tensor) -> Tensor:
        self.network, self.inputs = network, inputs
        return Reference().values(network, inputs)


def workloads(device: torch.device, quick: bool) -> Iterator[Workload]:
    """The networks that people train, at points of each signal's own, as in training."""
    signals, points = (8, 1024) if quick else (64, 16384)
    modulated = {"coord_dim": 3, "value_dim": 1, "code_dim": 64}
    yield _seen("4x64", nf.Modulated(**modulated, width=64, depth=4, frequencies=0), 64, signals, points, device)
    fourier = nf.Modulated(**modulated, width=128, depth=4, frequencies=64)
    yield _seen("4x128 Fourier", fourier, 64, signals, points, device)
    siren = nf.Modulated(coord_dim=2, value_dim=3, code_dim=256, width=256, depth=5, basis="siren")
    yield _seen("SIREN 5x256", siren, 256, signals, points // 4, device)
    deepsdf = nf.Concat(coord_dim=3, value_dim=1, code_dim=256, width=512, depth=8, skip=4)
    yield _seen("DeepSDF 8x512", deepsdf, 256, signals, points // 4, device)
    yield plain(device, signals * points)


def _seen(name: str, decoder: nf.Modulated | nf.Concat, code_dim: int, signals: int, points: int, device: torch.device) -> Workload:
    draw, seen = torch.Generator().manual_seed(0), Seen()
    decoder.to(device).kernel = seen
    codes = torch.randn(signals, code_dim, generator=draw).to(device)
    coords = (2 * torch.rand(signals, points, decoder.features.frequencies.shape[0], generator=draw) - 1).to(device)
    with torch.no_grad():
        decoder(codes, coords)
    return Workload(name, seen.network, seen.inputs)


def plain(device: torch.device, points: int) -> Workload:
    """4x64 with ReLU and neither biases nor conditioning, the one form of network that tinycudann has too."""
    draw = torch.Generator().manual_seed(0)
    weights = tuple((torch.randn(64, i, generator=draw) * (2 / i) ** 0.5).to(device) for i in (32, 64, 64, 64))
    zeros = tuple(torch.zeros(1, 1, 64, device=device) for _ in weights)
    out = (torch.randn(1, 64, generator=draw) / 8).to(device), torch.zeros(1, device=device)
    inputs = (2 * torch.rand(1, points, 32, generator=draw) - 1).to(device)
    return Workload("4x64 plain", Network(weights, (None,) * 4, (1.0,) * 4, zeros, *out, "relu"), inputs)


def ways(device: torch.device) -> dict[str, tuple[Kernel, torch.dtype | None]]:
    """Ways to compute, with the precision of autocast."""
    found: dict[str, tuple[Kernel, torch.dtype | None]] = {
        "eager fp32": (Reference(), None),
        "eager bf16": (Reference(), torch.bfloat16),
        "compile bf16": (Compiled(), torch.bfloat16),
    }
    for name, kernel in fused(device).items():
        half = torch.float16 if name == "tinycudann" else None if name == "cpu" else torch.bfloat16
        found[f"{name} {'fp32' if half is None else 'fp16' if half is torch.float16 else 'bf16'}"] = kernel, half
    return found


class Compiled(Kernel):
    """The twin by torch.compile."""

    name = "compile"

    def __init__(self) -> None:
        torch.compiler.reset()  # else the twin is compiled anew for some networks only, and then no more
        self.compiled = torch.compile(Reference().values, dynamic=False)

    def refusal(self, network: Network, inputs: Tensor) -> str | None:
        return None

    def values(self, network: Network, inputs: Tensor) -> Tensor:
        return self.compiled(network, inputs)


def run_of(work: Workload, kernel: Kernel, half: torch.dtype | None, mode: str) -> Callable[[], Any] | str:
    """One pass, to be called again and again; or why it cannot be."""
    network, leaves = _leaves(work, mode)
    device = work.inputs.device.type

    def evaluated() -> Tensor:
        with torch.autocast(device, half or torch.bfloat16, enabled=half is not None):
            return kernel.values(network, work.inputs)

    with torch.autocast(device, half or torch.bfloat16, enabled=half is not None):
        if (reason := kernel.refusal(network, work.inputs)) is not None:
            return reason
    if mode == "forward":
        return torch.no_grad()(evaluated)
    with torch.no_grad():
        pull = torch.randn_like(evaluated())
    return lambda: torch.autograd.grad(evaluated(), leaves, pull)


def _leaves(work: Workload, mode: str) -> tuple[Network, list[Tensor]]:
    """The network with those leaves that the mode asks gradients of."""

    def leaf(x: Any, wanted: bool) -> Any:
        return x.detach().clone().requires_grad_(wanted) if isinstance(x, Tensor) else x

    own, trained = work.network, mode == "all"
    network = replace(
        own,
        weights=tuple(leaf(x, trained) for x in own.weights),
        entering=tuple(leaf(x, trained) for x in own.entering),
        scales=tuple(leaf(x, mode != "forward") for x in own.scales),
        shifts=tuple(leaf(x, mode != "forward") for x in own.shifts),
        out_weight=leaf(own.out_weight, trained),
        out_bias=leaf(own.out_bias, trained),
    )
    return network, [x for x in tensors_of(network, work.inputs).values() if x.requires_grad]


def median_seconds(run: Callable[[], Any]) -> float:
    """Of one call, by CUDA events: the median of repeats that are long enough for the events' resolution."""
    for _ in range(WARM):
        run()
    calls = max(1, round(SPAN / max(_seconds(run, 1), 1e-6)))
    return statistics.median(_seconds(run, calls) for _ in range(REPEATS))


def _seconds(run: Callable[[], Any], calls: int) -> float:
    if not torch.cuda.is_available():  # the script itself is tried on a CPU
        started = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - started) / calls
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    for _ in range(calls):
        run()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1e3 / calls


def replayed(run: Callable[[], Any]) -> Callable[[], Any]:
    """The same work as a CUDA graph."""
    if not torch.cuda.is_available():
        raise RuntimeError("there are no CUDA graphs without a GPU")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        run()
    return graph.replay


def measured(work: Workload, mode: str, kernel: Kernel, half: torch.dtype | None) -> dict[str, Any]:
    """{"points": a second as launched, "replayed": a second by a graph}; or {"failed": why}."""
    try:
        run = run_of(work, kernel, half, mode)
        if isinstance(run, str):
            return {"refused": run}
        launched = work.points / median_seconds(run)
    except Exception as error:  # one way that fails leaves the others
        torch.cuda.empty_cache()
        return {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}"}
    try:
        return {"points": launched, "replayed": work.points / median_seconds(replayed(run))}
    except RuntimeError as error:
        return {"points": launched, "not replayed": (str(error).splitlines() or [""])[0][:150]}


def limits(device: torch.device, quick: bool) -> Limits:
    """A large product in bf16, and a copy of memory."""
    side, count = (2048, 2**26) if quick else (8192, 2**30)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    flops = 2 * side**3 / median_seconds(lambda: a @ b)
    source = torch.empty(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Limits(flops, 2 * count / median_seconds(lambda: target.copy_(source)))


def times(device: torch.device, quick: bool, report: Report) -> dict[str, Any]:
    """A table for each network and mode, then the targets."""
    found: dict[str, Any] = {}
    best = limits(device, quick)
    report.say("## Speed", "")
    report.say(f"Measured here: {best.flops / 1e12:.0f} TFLOP/s in bf16, {best.copied / 1e12:.2f} TB/s of copies.")
    anchor = ANCHOR.get(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if anchor:
        report.say(f"Before: {anchor[0] / 1e12:.0f} TFLOP/s, {anchor[1] / 1e12:.2f} TB/s.")
    report.say("", "Million points a second: as launched, and replayed as a CUDA graph; shares are of the faster one.", "")
    bounds: dict[str, float] = {}
    for work in workloads(device, quick):
        for mode in MODES:
            bounds[f"{work.name}, {mode}"] = best.bound(work, mode)
            rows = {name: measured(work, mode, *way) for name, way in ways(device).items()}
            found[f"{work.name}, {mode}"] = rows
            _tell(work, mode, rows, best, anchor, report)
    found["limits"] = {"flops": best.flops, "copied": best.copied}
    found["bounds"] = bounds
    targets(found, report)
    return found


def fastest(row: dict[str, Any]) -> float:
    """Points a second; 0 where there are none."""
    return float(max(row.get("points", 0.0), row.get("replayed", 0.0)))


def _tell(
    work: Workload, mode: str, rows: dict[str, dict[str, Any]], best: Limits, anchor: tuple[float, float] | None, report: Report
) -> None:
    bound = best.bound(work, mode)
    report.say(f"### {work.name}, {mode}", "")
    report.say(f"{work.multiply_adds:,} multiply-adds a point, {work.points:,} points; bound {bound / 1e6:,.0f} M points/s.", "")
    lines = []
    for name, row in rows.items():
        speed = fastest(row)
        launched, again = (f"{row[key] / 1e6:,.1f}" if key in row else "" for key in ("points", "replayed"))
        memory = speed * work.bytes_of(mode) / work.points / best.copied
        before = f"{speed / (bound * anchor[0] / best.flops):.0%}" if anchor else ""
        note = row.get("refused") or row.get("failed") or row.get("not replayed") or ""
        lines.append((name, launched, again, f"{speed / bound:.1%}", before, f"{memory:.1%}", note))
    report.table(("way", "launched", "replayed", "of the bound", "of the bound before", "of the copies", ""), lines)


def targets(found: dict[str, Any], report: Report) -> None:
    """What was wanted, and whether it is so."""
    report.say("## Targets", "")
    for network in ("4x64", "SIREN 5x256"):
        rows = found[f"{network}, all"]
        ours, eager = fastest(rows.get("triton bf16", {})), fastest(rows["eager bf16"])
        times_eager = ours / eager if eager else 0.0
        report.target(
            f"{network}, forward and backward: fused at least 3 times eager bf16.", f"{times_eager:.2f} times:", times_eager >= 3
        )
        other = fastest(rows["compile bf16"])
        report.target(f"{network}: fused ahead of torch.compile.", _against(ours, other), ours > other > 0)
    rows = found["4x64 plain, all"]
    ours, other = fastest(rows.get("triton bf16", {})), fastest(rows.get("tinycudann fp16", {}))
    report.target("4x64: fused ahead of tinycudann, on the network that both have.", _against(ours, other), ours > other > 0)
    name = "SIREN 5x256, latents"
    share = fastest(found[name].get("triton bf16", {})) / found["bounds"][name]
    report.target("SIREN 5x256, latents only: at least half of the compute bound.", f"{share:.1%}:", share >= 0.5)


def _against(ours: float, other: float) -> str:
    return f"{ours / 1e6:,.1f} M points/s, against {other / 1e6:,.1f}:" if other else "not measured here:"
