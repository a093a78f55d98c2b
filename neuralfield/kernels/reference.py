"""The network as torch's own operations: on every device, differentiable as often as wanted. The twin of all other kernels."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import dropout, leaky_relu, linear, relu, silu

from neuralfield.kernels.kernel import NARROW, Kernel, Network

SLOPE = 0.2
"""Of leaky-relu below 0: DCGAN's."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": relu,
    "leaky-relu": lambda x: leaky_relu(x, SLOPE),
    "silu": silu,
    "sine": torch.sin,
}


class Reference(Kernel):
    """Layer by layer."""

    name = "reference"
    differentiable_twice = True

    def refusal(self, network: Network, inputs: Float[Tensor, "G N F"]) -> str | None:
        return None

    def values(self, network: Network, inputs: Float[Tensor, "G N F"]) -> Float[Tensor, "B N V"]:
        h, activation = inputs, ACTIVATIONS[network.activation]
        for weight, again, scale, shift in zip(network.weights, network.entering, network.scales, network.shifts, strict=True):
            h = activation(_layer(h, inputs, weight, again, scale, shift))
            if network.dropout:
                h = dropout(h, network.dropout)
        return linear(h, network.out_weight, network.out_bias).expand(network.signals(inputs), -1, -1)


def _layer(h: Tensor, inputs: Tensor, weight: Tensor, again: Tensor | None, scale: Tensor | float, shift: Tensor) -> Tensor:
    """scale (weight h + again inputs) + shift."""
    if isinstance(scale, float):
        if scale != 1.0:  # a layer's weights are fewer than its values
            weight, again = weight * scale, None if again is None else again * scale
        whole = full_precision(shifted, h, weight, shift) if h.shape[-1] <= NARROW else shifted(h, weight, shift)
        return whole if again is None else whole + linear(inputs, again)
    product = full_precision(linear, h, weight) if h.shape[-1] <= NARROW else linear(h, weight)
    return (product if again is None else product + linear(inputs, again)) * scale + shift


def shifted(inputs: Float[Tensor, "G N K"], weight: Float[Tensor, "M K"], shift: Float[Tensor, "B #N M"]) -> Float[Tensor, "b N M"]:
    """inputs weight' + shift: in one pass where each signal has inputs of its own."""
    if len(shift) == 1 and shift.shape[1] == 1:
        return linear(inputs, weight, shift[0, 0])
    if len(inputs) == len(shift):
        return torch.baddbmm(shift, inputs, weight.T.expand(len(inputs), -1, -1))
    return linear(inputs, weight) + shift


def full_precision(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """The same outside of autocast: coordinates and shifts of 8 bits would be off by .1 rad behind w0 = 30."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        return function(*(tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor for tensor in tensors))
