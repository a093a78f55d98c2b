"""Launches of the fused kernels, and what torch's autograd is told of them. Imports Triton, so `fused.py` loads it when needed."""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from neuralfield.kernels.fused_backward import backward, outer
from neuralfield.kernels.fused_blocks import OUTER, PROGRAMS, Block, blocks
from neuralfield.kernels.fused_forward import forward
from neuralfield.kernels.fused_network import Packed, Plan
from neuralfield.kernels.kernel import differentiable_once
from neuralfield.kernels.reference import SLOPE

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
INTERPRETED = triton.knobs.runtime.interpret


def evaluated(plan: Plan, network: Packed, kept: Tensor | None = None) -> Float[Tensor, "B N V"]:
    """The values; `kept`, if given, is filled with what `backward` needs."""
    block = blocks("forward", network.width, plan.dtype)
    values = network.inputs.new_empty(network.signals, network.points, len(network.out_weight), dtype=plan.dtype)
    forward[(network.signals * triton.cdiv(network.points, block.tile),)](
        values, _pointer(kept, values), _scratch(plan, network, block), *network,
        network.points, network.signals, plan.depth, plan.again, *network.steps,
        **_constants(plan, network), VALUES=len(network.out_weight), AGAIN=plan.again > 0, KEEPS=kept is not None,
        TILE=block.tile, CHUNK=block.chunk, **block.options,
    )  # fmt: skip
    return values


class Differentiable(torch.autograd.Function):
    """`evaluated`, with gradients."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor | None) -> Tensor:
        network = Packed(*tensors)  # type: ignore[arg-type]
        kept = _points(network, plan.dtype, plan.depth - network.narrow)
        network = network._replace(weights=network.weights.to(plan.dtype))
        ctx.plan = plan
        ctx.save_for_backward(*network, kept)
        return evaluated(plan, network, kept)

    @staticmethod
    @differentiable_once("triton")
    def backward(ctx: Any, gradient: Tensor) -> Any:
        *network, kept = ctx.saved_tensors
        return None, *_gradients(ctx.plan, Packed(*network), kept, gradient.contiguous(), Packed(*ctx.needs_input_grad[1:]))


def _gradients(plan: Plan, network: Packed, kept: Any, gradient: Tensor, needed: Any) -> tuple[Tensor | None, ...]:
    """By those tensors of the network that `needed` marks. Sums over tiles and signals are torch's, always in the same order."""
    to_weights = needed.entering or needed.weights or needed.out_weight or needed.out_bias
    block = blocks("backward", network.width, plan.dtype)
    tiles, values = triton.cdiv(network.points, block.tile), len(network.out_weight)

    def sums(*shape: int) -> Tensor:
        return network.shifts.new_empty(network.signals, tiles, *shape)

    to_shifts = sums(plan.depth, network.width)
    to_scales = None if network.scales is None else sums(plan.depth, network.width)
    to_inputs = network.shifts.new_zeros(network.signals, *network.inputs.shape[1:]) if needed.inputs else None
    to_entering = sums(*network.entering.shape) if to_weights and network.narrow else None
    if to_entering is not None and plan.again:
        to_entering.zero_()  # of layers that no inputs enter
    to_out = sums(values, network.width) if to_weights else None
    deltas = torch.empty_like(kept) if to_weights else None
    others = (to_scales, to_inputs, to_entering, to_out, deltas)
    backward[(network.signals * tiles,)](
        to_shifts, *(_pointer(tensor, to_shifts) for tensor in others), _scratch(plan, network, block),
        gradient, kept, *network[:-1],
        network.points, network.signals, plan.depth, plan.again, *network.steps,
        **_constants(plan, network), VALUES=values, AGAIN=plan.again > 0, TO_INPUTS=needed.inputs, TO_WEIGHTS=to_weights,
        TILE=block.tile, CHUNK=block.chunk, **block.options,
    )  # fmt: skip
    return (
        _like(to_inputs, len(network.inputs)),
        _to_entering(plan, network, to_entering, kept, deltas) if needed.entering else None,
        _to_weights(plan, network, kept, deltas) if needed.weights else None,
        None if to_scales is None else _like(to_scales.sum(1), len(network.shifts)),
        _like(to_shifts.sum(1), len(network.shifts)),
        None if to_out is None else to_out.sum((0, 1)),
        gradient.float().sum((0, 1)) if needed.out_bias else None,
    )


def _to_entering(plan: Plan, network: Packed, by_tile: Tensor | None, kept: Any, deltas: Any) -> Float[Tensor, "E F P"]:
    """delta_l' x, which the backward pass itself sums where x are coordinates."""
    if by_tile is not None:
        return by_tile.sum((0, 1))
    return _outer(plan, network, kept, deltas, "inputs", 0, len(network.entering)).mT


def _to_weights(plan: Plan, network: Packed, kept: Any, deltas: Any) -> Float[Tensor, "K P P"]:
    """delta_l' h_(l-1) of the layers after the first."""
    parts, first = [network.shifts.new_empty(0, network.width, network.width)], 1
    if network.narrow and plan.depth > 1:
        parts.append(_outer(plan, network, kept, deltas, "first", 1, 1))
        first = 2
    if plan.depth > first:
        parts.append(_outer(plan, network, kept, deltas, "kept", first, plan.depth - first))
    return torch.cat(parts)


def _outer(plan: Plan, network: Packed, kept: Any, deltas: Any, source: str, first: int, layers: int) -> Float[Tensor, "E P K"]:
    """delta_l' x for some layers, in parts of all points."""
    block, columns = OUTER[plan.dtype], network.features if source == "inputs" else network.width
    side, across = min(network.width, block.chunk), min(block.chunk, max(16, triton.next_power_of_2(columns)))
    tiles = triton.cdiv(network.width, side) * triton.cdiv(columns, across)
    splits = max(1, min(network.signals * triton.cdiv(network.points, block.tile), PROGRAMS // (tiles * layers)))
    result = network.shifts.new_empty(splits, layers, network.width, columns)
    outer[(tiles, splits, layers)](
        result, deltas, kept, network.inputs, network.entering, network.scales, network.shifts,
        network.points, network.signals, first, splits, *network.steps,
        **_constants(plan, network), SOURCE=source, POINTS=block.tile, SIDE=side, ACROSS=across, **block.options,
    )  # fmt: skip
    return result.sum(0)


def _like(gradient: Tensor | None, signals: int) -> Tensor | None:
    """Summed over signals that share."""
    return gradient if gradient is None or len(gradient) == signals else gradient.sum(0, keepdim=True)


def _points(network: Packed, dtype: torch.dtype, layers: int) -> Float[Tensor, "L B N P"]:
    return network.inputs.new_empty(layers, network.signals, network.points, network.width, dtype=dtype)


def _scratch(plan: Plan, network: Packed, block: Block) -> Tensor:
    return network.shifts if block.chunk == network.width or plan.depth == 1 else _points(network, plan.dtype, 1)


def _pointer(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel computes addresses in tensors that it never reads or writes; so there must be some tensor."""
    return other if tensor is None else tensor


def _constants(plan: Plan, network: Packed) -> dict[str, Any]:
    return {
        "FEATURES": network.features,
        "NARROW": int(network.narrow),
        "WIDTH": network.width,
        "ACTIVATION": plan.activation,
        "SLOPE": SLOPE,
        "SCALED": network.scales is not None,
        "DTYPE": DTYPES[plan.dtype],
        "INTERPRETED": INTERPRETED,
    }
