"""The whole network in one kernel on NVIDIA GPUs, by Triton: a tile of points goes through all layers without leaving the chip.

The backward pass goes back through the layers in one kernel as well, and sums gradients of conditioning over points where they
arise: a search for codes writes nothing else. Gradients of weights are products over all points, in a kernel of their own.
"""

import importlib.util
import os
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from neuralfield.kernels.fused_network import WIDEST, Plan, bits, packed, tensors, width
from neuralfield.kernels.kernel import Kernel, Network, differentiated_otherwise

VALUES = 16
"""Values at a point, each of which is a sum of its own."""
OLDEST = (8, 0)
"""Compute capability (Ampere): older GPUs have neither bfloat16 nor enough shared memory."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Triton(Kernel):
    """float32, and bfloat16 or float16 with float32 sums; under autocast the type that it says."""

    name = "triton"

    @classmethod
    def missing(cls) -> str | None:
        return _missing()

    def refusal(self, network: Network, inputs: Float[Tensor, "G N F"]) -> str | None:
        if reason := _refused_place(inputs):
            return reason
        if network.dropout:
            return "leaves no numbers out (decoder.dropout)"
        if network.per_point:
            return "takes one conditioning for each signal, not for each point"
        if width(network) > WIDEST:
            return f"takes layers of up to {WIDEST} numbers, not {max(len(weight) for weight in network.weights)}"
        if len(network.out_weight) > VALUES:
            return f"gives up to {VALUES} values at a point, not {len(network.out_weight)}"
        if (dtype := _dtype(inputs)) not in DTYPES:
            return f"computes in float32, bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
        return "is not seen through by torch.func" if differentiated_otherwise() else None

    def values(self, network: Network, inputs: Float[Tensor, "G N F"]) -> Float[Tensor, "B N V"]:
        from neuralfield.kernels.fused_launch import Differentiable, evaluated

        plan = Plan(network.activation, len(network.weights), bits(network), _dtype(inputs))
        with torch.autocast(inputs.device.type, enabled=False), torch.cuda.device_of(inputs):
            call = packed(network, inputs.contiguous())
            if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors(network, inputs)):
                return Differentiable.apply(plan, *call)
            return evaluated(plan, call._replace(weights=call.weights.to(plan.dtype)))


def _dtype(inputs: Tensor) -> torch.dtype:
    """In which it is computed."""
    kind = inputs.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) and inputs.dtype != torch.float64 else inputs.dtype


def _refused_place(inputs: Tensor) -> str | None:
    device = "cpu" if _interpreted() else "cuda"
    if inputs.device.type != device:
        return f"works on {device}, not on {inputs.device}"
    if inputs.device.type == "cuda" and torch.cuda.get_device_capability(inputs.device) < OLDEST:
        return f"needs a GPU of compute capability {OLDEST[0]}.{OLDEST[1]} or more"
    return None


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _missing() -> str | None:
    """Without importing Triton, which takes a second."""
    if importlib.util.find_spec("triton") is None:
        return "needs Triton, which comes with torch on Linux: pip install triton"
    if _interpreted() or (torch.version.cuda is not None and torch.cuda.is_available()):
        return None
    return "needs an NVIDIA GPU, and torch sees none"
