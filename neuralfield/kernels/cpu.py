"""The network for processors: forward and backward written out, few passes over memory, sines by numpy.

Against `reference` it saves passes (activations and their derivatives work in place) and torch's sines, which take 2.6 times
as long as numpy's on one thread.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import leaky_relu, pad, silu

from neuralfield.kernels.kernel import Kernel, Network, differentiable_once, differentiated_otherwise
from neuralfield.kernels.reference import SLOPE

THREADS = 2
"""Up to so many threads of torch, numpy's sines on one are faster than torch's on all."""
ALIGNED = 16
"""Products whose rows are no multiple of 16 numbers take half as long again: [4096, 128] x [128, 61] 0.84 ms, x [128, 64] 0.63."""
_aten = torch.ops.aten


class CPU(Kernel):
    """Float32 and float64 in a processor's memory."""

    name = "cpu"

    def refusal(self, network: Network, inputs: Float[Tensor, "G N F"]) -> str | None:
        if inputs.device.type != "cpu":
            return f"works in a processor's memory, not on {inputs.device}"
        if inputs.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled("cpu"):
            return "computes in float32 and float64 alone"
        if network.dropout:
            return "leaves no numbers out (decoder.dropout)"
        return "is not seen through by torch.func" if differentiated_otherwise() else None

    def values(self, network: Network, inputs: Float[Tensor, "G N F"]) -> Float[Tensor, "B N V"]:
        network = _aligned(network)
        flat = network.flat(inputs)
        if torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in flat):
            return _Differentiable.apply(network, *flat)
        value = ACTIVATIONS[network.activation].value
        return _forward(network, inputs, lambda product, before: value(before))


def _aligned(network: Network) -> Network:
    """The same with layers whose width is a multiple of ALIGNED: numbers that nobody reads are added, with weights of 0."""
    widths = [len(weight) for weight in network.weights]
    extra = [-width % ALIGNED if width > ALIGNED else 0 for width in widths]
    if not any(extra):
        return network
    columns = [0, *extra]
    return replace(
        network,
        weights=tuple(_padded(weight, columns[i], extra[i]) for i, weight in enumerate(network.weights)),
        entering=tuple(_padded(u, 0, more) for u, more in zip(network.entering, extra, strict=True)),
        scales=tuple(_padded(scale, more) for scale, more in zip(network.scales, extra, strict=True)),
        shifts=tuple(_padded(shift, more) for shift, more in zip(network.shifts, extra, strict=True)),
        out_weight=_padded(network.out_weight, columns[-1]),
    )


def _padded(tensor: Any, columns: int, rows: int = 0) -> Any:
    """With so many more columns and rows of zeros; what is no tensor, or needs none, stays as it is."""
    return (
        pad(tensor, (0, columns, 0, rows) if rows else (0, columns)) if isinstance(tensor, Tensor) and (columns or rows) else tensor
    )


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, network: Network, *flat: Tensor | float | None) -> Tensor:
        kept: list[Tensor | None] = []
        both = ACTIVATIONS[network.activation].both

        def activate(product: Tensor | None, before: Tensor) -> Tensor:
            needed, after = both(before)
            kept.extend((product, needed, after))
            return after

        values = _forward(*network.like(flat), activate)
        ctx.network, ctx.numbers = network, [each if isinstance(each, float) else None for each in flat]
        ctx.save_for_backward(*(each if isinstance(each, Tensor) else None for each in flat), *kept)
        return values

    @staticmethod
    @differentiable_once("cpu")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        saved, count = ctx.saved_tensors, len(ctx.numbers)
        tensors = [t if number is None else number for number, t in zip(ctx.numbers, saved[:count], strict=True)]
        kept = [_Kept(*saved[i : i + 3]) for i in range(count, len(saved), 3)]
        network, inputs = ctx.network.like(tensors)
        return None, *_backward(network, inputs, kept, gradient, ctx.needs_input_grad[1:])


class _Kept(NamedTuple):
    """Of a layer: W h + U x where a scale is multiplied with it, what the activation's slope needs, and its value."""

    product: Any
    needed: Any
    after: Tensor


def _forward(
    network: Network, inputs: Float[Tensor, "G N F"], activate: Callable[[Tensor | None, Tensor], Tensor]
) -> Float[Tensor, "B N V"]:
    h = inputs
    for weight, again, scale, shift in zip(network.weights, network.entering, network.scales, network.shifts, strict=True):
        h = activate(*_before(h, inputs, weight, again, scale, shift))
    values = torch.addmm(network.out_bias, h.flatten(0, 1), network.out_weight.T).unflatten(0, h.shape[:2])
    return values.expand(network.signals(inputs), -1, -1)


def _before(
    h: Tensor, inputs: Tensor, weight: Tensor, again: Tensor | None, scale: Tensor | float, shift: Tensor
) -> tuple[Tensor | None, Tensor]:
    """(W h + U x where it has to be kept, scale (W h + U x) + shift in memory of its own)."""
    if isinstance(scale, Tensor):
        product = _product(h, inputs, weight, again)
        return product, torch.addcmul(shift, product, scale)
    if scale != 1.0:
        weight, again = weight * scale, None if again is None else again * scale
    if shift.shape[:2] == (1, 1) and len(h) > 1:
        before = torch.addmm(shift[0, 0], h.flatten(0, 1), weight.T).unflatten(0, h.shape[:2])
    elif len(h) == len(shift):
        before = torch.baddbmm(shift, h, weight.T.expand(len(h), -1, -1))
    else:  # points that all signals share are multiplied once
        before = _product(h, inputs, weight, None) + shift
    if again is not None:
        before = _added(before, inputs, again)
    return None, before


def _product(h: Tensor, inputs: Tensor, weight: Tensor, again: Tensor | None) -> Tensor:
    product = torch.mm(h.flatten(0, 1), weight.T).unflatten(0, h.shape[:2])
    return product if again is None else _added(product, inputs, again)


def _added(before: Tensor, inputs: Tensor, again: Tensor) -> Tensor:
    """before + U x, in place where it can be."""
    if len(inputs) == len(before):
        before.flatten(0, 1).addmm_(inputs.flatten(0, 1), again.T)
        return before
    return before + torch.mm(inputs.flatten(0, 1), again.T).unflatten(0, inputs.shape[:2])


def _backward(
    network: Network, inputs: Tensor, kept: list[_Kept], gradient: Tensor, needed: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients by inputs, out_weight, out_bias, weights, entering, shifts and scales, of those needed."""
    depth, pull = len(network.weights), ACTIVATIONS[network.activation].pull
    weights, entering, shifts, scales = (needed[3 + i * depth : 3 + (i + 1) * depth] for i in range(4))
    last = kept[-1].after
    gradient = _like(gradient, len(last))
    found: dict[str, list[Tensor | None]] = {name: [None] * depth for name in ("weights", "entering", "shifts", "scales")}
    to_inputs = torch.zeros_like(inputs) if needed[0] else None
    delta = _outward(gradient, network.out_weight)
    for layer in reversed(range(depth)):
        held, weight, again, scale = kept[layer], network.weights[layer], network.entering[layer], network.scales[layer]
        delta = pull(delta, held.needed, held.after)
        if shifts[layer]:
            found["shifts"][layer] = _like(delta, *network.shifts[layer].shape[:2])
        if isinstance(scale, Tensor):
            if scales[layer]:
                found["scales"][layer] = _like(delta * held.product, *scale.shape[:2])
            delta = delta * scale
        before = kept[layer - 1].after if layer else inputs
        factor = scale if isinstance(scale, float) else 1.0
        if weights[layer]:
            found["weights"][layer] = _outer(delta, before, factor)
        if again is not None and entering[layer]:
            found["entering"][layer] = _outer(delta, inputs, factor)
        if to_inputs is not None and again is not None:
            to_inputs += _inward(delta, again, factor, len(inputs))
        if layer:
            delta = _inward(delta, weight, factor, len(before))
        elif to_inputs is not None:
            to_inputs += _inward(delta, weight, factor, len(inputs))
    out_weight = _outer(gradient, last, 1.0) if needed[1] else None
    out_bias = gradient.sum((0, 1)) if needed[2] else None
    return [to_inputs, out_weight, out_bias, *found["weights"], *found["entering"], *found["shifts"], *found["scales"]]


def _like(gradient: Float[Tensor, "B N K"], signals: int, points: int | None = None) -> Float[Tensor, "b n K"]:
    """Summed over what was broadcast: to `signals` rows of `points` points (as many as there are, where None)."""
    if points == 1 and gradient.shape[1] > 1:
        gradient = gradient.sum(1, keepdim=True)
    return gradient if signals == len(gradient) else gradient.sum(0, keepdim=True)


def _outward(gradient: Float[Tensor, "B N V"], weight: Float[Tensor, "V M"]) -> Float[Tensor, "B N M"]:
    """gradient W; of one value, without a matrix product."""
    if len(weight) == 1:
        return gradient * weight[0]
    return torch.mm(gradient.flatten(0, 1), weight).unflatten(0, gradient.shape[:2])


def _inward(delta: Float[Tensor, "B N M"], weight: Float[Tensor, "M K"], factor: float, signals: int) -> Float[Tensor, "b N K"]:
    """factor delta W, for as many signals as the layer's inputs are of."""
    delta = _like(delta, signals)
    return torch.mm(delta.flatten(0, 1), weight if factor == 1.0 else weight * factor).unflatten(0, delta.shape[:2])


def _outer(delta: Float[Tensor, "B N M"], before: Float[Tensor, "b N K"], factor: float) -> Float[Tensor, "M K"]:
    """factor delta' h over all points, summed over signals first where they share h."""
    delta, before = _like(delta, len(before)).flatten(0, 1), before.flatten(0, 1)
    # rows of the product should be long and aligned: [128, 4096] x [4096, 3] takes ten times as long as its transpose
    across = before.shape[1] % ALIGNED != 0 and delta.shape[1] % ALIGNED == 0
    product = torch.mm(before.T, delta).T if across else torch.mm(delta.T, before)
    return product if factor == 1.0 else product.mul_(factor)


def _by_numpy(theirs: Callable[..., Any], ours: Callable[..., Tensor], before: Tensor, into: Tensor) -> Tensor:
    if torch.get_num_threads() > THREADS:
        return ours(before, out=into)
    theirs(before.numpy(), out=into.numpy())
    return into


def _sine(before: Tensor) -> Tensor:
    return _by_numpy(np.sin, torch.sin, before, before)


def _sine_and_cosine(before: Tensor) -> tuple[Tensor, Tensor]:
    """(cosine, sine): together, while the argument is in the cache."""
    after = _by_numpy(np.sin, torch.sin, before, torch.empty_like(before))
    return _by_numpy(np.cos, torch.cos, before, before), after


@dataclass(frozen=True)
class _Activation:
    """`value` and `both` may work in the memory of their argument, `pull` in that of delta; nobody else holds them."""

    value: Callable[[Tensor], Tensor]
    both: Callable[[Tensor], tuple[Tensor | None, Tensor]]
    """(what the slope needs beside the value, value)."""
    pull: Callable[[Tensor, Any, Tensor], Tensor]
    """(delta, those two) -> delta times the slope."""


ACTIVATIONS: dict[str, _Activation] = {
    "relu": _Activation(
        lambda before: before.relu_(),
        lambda before: (None, before.relu_()),
        lambda delta, _, after: _aten.threshold_backward.grad_input(delta, after, 0.0, grad_input=delta),
    ),
    "leaky-relu": _Activation(
        lambda before: leaky_relu(before, SLOPE, inplace=True),
        lambda before: (None, leaky_relu(before, SLOPE, inplace=True)),
        lambda delta, _, after: _aten.leaky_relu_backward(delta, after, SLOPE, True),
    ),
    "silu": _Activation(
        lambda before: silu(before, inplace=True),
        lambda before: (before, silu(before)),
        lambda delta, before, _: _aten.silu_backward.grad_input(delta, before, grad_input=delta),
    ),
    "sine": _Activation(_sine, _sine_and_cosine, lambda delta, cosine, _: delta.mul_(cosine)),
}
