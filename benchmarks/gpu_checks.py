"""Kernels against their twin: values and all gradients, at sizes that fit nowhere, with memory that is not zero by chance."""

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from shape_measures import Report
from torch import Tensor
from torch.utils import deterministic

from neuralfield.kernels.kernel import NARROW, Kernel, Network
from neuralfield.kernels.reference import Reference
from neuralfield.registry import names, resolve

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Half precisions are those of autocast, as in training: weights and conditioning stay float32."""
ROUNDING = {"fp32": 2.0**-23, "bf16": 2.0**-8, "fp16": 2.0**-11}
WORSE = 4.0
ROUNDINGS = 16.0
"""A kernel may be off by so many times what torch's operations are off by in the same precision, and by so many roundings more:
sums go in another order, and the largest of a few thousand errors is a matter of luck. (Correct kernels reach .3 of this: units
in another order, 128 cases. Shifts of one layer in the wrong place go beyond it in every case.)"""
TOLERANCE = (
    "Errors are the largest ones against the twin in float64, as shares of the largest number of the same tensor (or of a tenth of "
    "that of its kind, where it is small itself). "
    f"Allowed are {WORSE:g} times the twin's own error in the same precision, and {ROUNDINGS:g} roundings: "
    "sums go in another order."
)
USUAL = 0.3
"""Values are about 1 here: where a single one is near 0 by cancellation, it is not what errors are shares of."""
AWAY = 6.0
"""Shifts of ReLUs: so far from the kink, none lies on its other side by rounding. Else one gradient is far off, and rightly so."""
W0 = 30.0
"""Of sines of coordinates, SIREN's first frequency."""
LAYERED = ("weights", "entering", "scales", "shifts")
SIZES = ((1, 1), (3, 7), (2, 129), (5, 130), (2, 1000))
"""(signals, points): tiles of 16, 32, 64 or 128 points are never whole, and one point is there too."""


@dataclass(frozen=True)
class Case:
    """One network and its points."""

    width: int
    depth: int
    features: int
    activation: str
    film: bool
    own: bool
    entering: bool
    values: int
    signals: int
    points: int
    precision: str

    def __str__(self) -> str:
        marks = [name for name in ("film", "own", "entering") if getattr(self, name)]
        size = f"{self.depth}x{self.width} {self.activation} F={self.features} V={self.values} B={self.signals} N={self.points}"
        return f"{size} {self.precision} {' '.join(marks)}".strip()


def cases(quick: bool) -> Iterator[Case]:
    """All widths, activations and precisions, with and without scales and points of a signal's own; sizes take turns."""
    widths = (16, 32) if quick else (16, 32, 64, 128, 256)
    activations = ("relu", "sine") if quick else ("relu", "leaky-relu", "silu", "sine")
    sizes = itertools.cycle(SIZES[:3] if quick else SIZES)
    inputs = itertools.cycle((2, 3, 66))  # coordinates, and Fourier features
    for width, activation, film, own in itertools.product(widths, activations, (False, True), (False, True)):
        (signals, points), features = next(sizes), next(inputs)
        for precision in ("fp32", "bf16") if quick else PRECISIONS:
            entering, values = film != own, 1 + 2 * int(own)
            yield Case(width, 2 if quick else 4, features, activation, film, own, entering, values, signals, points, precision)


def made(case: Case, device: torch.device, seed: int) -> tuple[Network, Tensor]:
    """A network whose layers add numbers of size about 1 to their shifts, and its inputs, in float64."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=draw, dtype=torch.float64) * scale).float().double().to(device)

    ins = [case.features] + [case.width] * (case.depth - 1)
    kink = case.activation in ("relu", "leaky-relu")
    gain = 2**0.5 / AWAY if kink else 2**0.5
    weights = tuple(normal(case.width, i, scale=(gain if layer else 1.0) / i**0.5) for layer, i in enumerate(ins))
    again = tuple(
        normal(case.width, case.features, scale=0.5 / case.features**0.5) if case.entering and layer == case.depth // 2 else None
        for layer in range(case.depth)
    )
    shifts = tuple(normal(case.signals, 1, case.width, scale=0.3) for _ in ins)
    if kink:
        shifts = tuple(shift + AWAY * shift.sign() for shift in shifts)
    first = W0 if case.activation == "sine" and case.features <= NARROW else 1.0
    usual = (first, *[1.0] * (case.depth - 1))
    scales = tuple(each + normal(case.signals, 1, case.width, scale=0.2) if case.film else each for each in usual)
    out = normal(case.values, case.width, scale=case.width**-0.5), normal(case.values, scale=0.1)
    inputs = normal(case.signals if case.own else 1, case.points, case.features).clamp(-2, 2)
    return Network(weights, again, scales, shifts, *out, case.activation), inputs


def tensors_of(network: Network, inputs: Tensor) -> dict[str, Tensor]:
    """By name: what values depend on."""
    found = {"points": inputs, "out weight": network.out_weight, "out bias": network.out_bias}
    for name in LAYERED:
        found |= {f"{name} {i}": x for i, x in enumerate(getattr(network, name)) if isinstance(x, Tensor)}
    return found


def cast(network: Network, dtype: torch.dtype) -> Network:
    """The same with leaves of a type, which want gradients."""

    def leaf(x: Any) -> Any:
        return x.detach().to(dtype).clone().requires_grad_() if isinstance(x, Tensor) else x

    parts: dict[str, Any] = {
        name: tuple(leaf(x) for x in getattr(network, name)) for name in ("weights", "entering", "scales", "shifts")
    }
    return replace(network, **parts, out_weight=leaf(network.out_weight), out_bias=leaf(network.out_bias))


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that is asked for without being set holds NaN inside, so that what a kernel forgets to write is seen."""
    before = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        deterministic.fill_uninitialized_memory = before[1]


def evaluated(kernel: Kernel, network: Network, inputs: Tensor, precision: str, to_points: bool) -> dict[str, Tensor] | str:
    """Values and gradients by name, in float64; or why the kernel refuses."""
    dtype = torch.float64 if precision == "fp64" else torch.float32
    network, inputs = cast(network, dtype), inputs.to(dtype).clone().requires_grad_(to_points)
    half = PRECISIONS.get(precision, torch.float32)
    with torch.autocast(inputs.device.type, half, enabled=half != torch.float32):
        if (reason := kernel.refusal(network, inputs)) is not None:
            return reason
        values = kernel(network, inputs)
    pull = torch.randn(values.shape, generator=torch.Generator().manual_seed(7)).bfloat16().to(values)  # the same in all precisions
    wanted = {name: x for name, x in tensors_of(network, inputs).items() if x.requires_grad}
    gradients = torch.autograd.grad(values, list(wanted.values()), pull)
    return {"values": values.detach().double()} | {f"by {name}": x.double() for name, x in zip(wanted, gradients, strict=True)}


def kind(name: str) -> str:
    """Of a tensor, less its layer."""
    return name.rstrip("0123456789 ")


def apart(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """The largest error of each kind of tensor, as `TOLERANCE` says; infinite where a number is none."""
    sizes = {name: float(x.abs().max()) for name, x in exact.items()}
    errors: dict[str, float] = {}
    for name, x in exact.items():
        alike = max(each for other, each in sizes.items() if kind(other) == kind(name))
        scale = max(sizes[name], 0.1 * alike, USUAL if name == "values" else 1e-30)
        error = float((found[name] - x).abs().max()) / scale if bool(found[name].isfinite().all()) else float("inf")
        errors[kind(name)] = max(errors.get(kind(name), 0.0), error)
    return errors


def compared(kernel: Kernel, case: Case, device: torch.device, seed: int) -> dict[str, Any]:
    """One case: {"refused": why}, or errors with what is allowed, and whether gradients by the points were there."""
    network, inputs = made(case, device, seed)
    for to_points in (True, False):
        with poisoned():
            found = evaluated(kernel, network, inputs, case.precision, to_points)
        if not isinstance(found, str):
            break
    if isinstance(found, str):
        return {"case": str(case), "refused": found}
    exact, twin = (evaluated(Reference(), network, inputs, p, to_points) for p in ("fp64", case.precision))
    assert not isinstance(exact, str)
    assert not isinstance(twin, str)
    errors, usual = apart(found, exact), apart(twin, exact)
    allowed = {name: WORSE * usual[name] + ROUNDINGS * ROUNDING[case.precision] for name in errors}
    wrong = [name for name, error in errors.items() if not error <= allowed[name]]
    return {
        "case": str(case),
        "precision": case.precision,
        "errors": errors,
        "allowed": allowed,
        "wrong": wrong,
        "points": to_points,
    }


def fused(device: torch.device) -> dict[str, Kernel]:
    """Kernels that work here, less the twin itself and those of another kind of device."""
    others = {"reference", "auto"} | ({"cpu"} if device.type == "cuda" else set())
    classes = {name: resolve("kernels", name) for name in names("kernels") if name not in others}
    return {name: kind() for name, kind in classes.items() if kind.missing() is None}


def checks(device: torch.device, quick: bool, report: Report) -> dict[str, Any]:
    """A table of the largest errors for each kernel and precision; what is wrong is named."""
    report.say("## Kernels against their twin", "", TOLERANCE, "")
    found: dict[str, Any] = {}
    for name, kernel in fused(device).items():
        found[name] = [compared(kernel, case, device, seed) for seed, case in enumerate(cases(quick))]
        _tell(name, found[name], report)
    if not found:
        report.say("No kernel but the twin works here.", "")
    return found


def _tell(name: str, results: list[dict[str, Any]], report: Report) -> None:
    done = [result for result in results if "errors" in result]
    rows = []
    for precision in PRECISIONS:
        own = [result for result in done if result["precision"] == precision]
        for tensor in sorted({tensor for result in own for tensor in result["errors"]}):
            there = [result for result in own if tensor in result["errors"]]
            worst = max(there, key=lambda result: result["errors"][tensor] / result["allowed"][tensor])
            share = f"{worst['errors'][tensor]:.1e} of {worst['allowed'][tensor]:.1e}"
            rows.append((precision, tensor, len(there), share, "wrong" if tensor in worst["wrong"] else "ok"))
    report.say(f"### {name}", "", f"{len(done)} cases, {len(results) - len(done)} refused.", "")
    report.table(("precision", "of", "cases", "largest error, of what is allowed", ""), rows)
    for reason in sorted({result["refused"] for result in results if "refused" in result}):
        report.say(f"- refused: {reason}")
    wrong = [result for result in done if result["wrong"]]
    for result in wrong[:10]:
        report.say(f"- WRONG: {result['case']}: {', '.join(result['wrong'])}")
    report.target(f"{name} computes what its twin does.", f"{len(wrong)} of {len(done)} cases are wrong:", not wrong)
