"""Networks whose conditioning all signals share, by tiny-cuda-nn (Müller et al. 2021), in float16 on NVIDIA GPUs.

tiny-cuda-nn has no biases. But it fills inputs up with ones, to a multiple of 16, and a neuron that is always 1 has the biases of
the next layer as its weights; so networks get one more neuron. Read in its sources: identity.h (the ones), cutlass_mlp.cu and
fully_fused_mlp.cu (matrices [out, in], row by row, one layer after the other, outputs filled up to a multiple of 16).
"""

import importlib
import importlib.util
import math
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from neuralfield.kernels.kernel import Kernel, Network, differentiated_otherwise

ALIGNED = 16
"""Inputs and outputs are filled up to a multiple of it."""
FUSED = (16, 32, 64, 128)
"""Widths of FullyFusedMLP. CutlassMLP takes all multiples of ALIGNED."""
NAMES = {"relu": "ReLU", "sine": "Sine"}
ONE = {"relu": 1.0, "sine": math.pi / 2}
"""Where the activation is 1."""


class TinyCudaNN(Kernel):
    """ReLU by FullyFusedMLP, sines and wider networks by CutlassMLP. First derivatives; coordinates are rounded to 11 bits."""

    name = "tinycudann"

    @classmethod
    def missing(cls) -> str | None:
        return _missing()

    def refusal(self, network: Network, inputs: Float[Tensor, "G N F"]) -> str | None:
        if inputs.device.type != "cuda":
            return f"works on NVIDIA GPUs, not on {inputs.device}"
        return refused(network, inputs) or ("is not seen through by torch.func" if differentiated_otherwise() else None)

    def values(self, network: Network, inputs: Float[Tensor, "G N F"]) -> Float[Tensor, "B N V"]:
        module = _module(inputs.shape[2], len(network.out_weight), tuple(configuration(network).items()))
        with torch.autocast("cuda", enabled=False):
            parameters = {"params": flat(network)}
            values = torch.func.functional_call(module, parameters, (inputs.flatten(0, 1).float(),)).to(inputs.dtype)
            return (values + network.out_bias).unflatten(0, inputs.shape[:2])


def refused(network: Network, inputs: Float[Tensor, "G N F"]) -> str | None:
    """Why tiny-cuda-nn has no such network; None where it has."""
    widths = {len(weight) for weight in network.weights}
    if network.activation not in NAMES:
        return f"has relu and sine, not {network.activation} (silu is in no release, and leaky-relu has another slope)"
    if any(len(tensor) > 1 or tensor.shape[1] > 1 for tensor in network.conditioning):
        return "takes one conditioning for all signals and points: it has no shifts or scales beside its weights"
    if len(widths) > 1:
        return f"takes layers of one width, not {', '.join(map(str, sorted(widths)))}"
    if any(again is not None for again in network.entering):
        return "takes inputs at the first layer alone"
    if network.dropout:
        return "leaves no numbers out (decoder.dropout)"
    if inputs.shape[2] % ALIGNED == 0:
        return f"needs inputs that are no multiple of {ALIGNED}: where they are, it adds no ones, which carry the biases"
    return None


def configuration(network: Network) -> dict[str, Any]:
    """What tiny-cuda-nn is told. Sines are CutlassMLP's alone: FullyFusedMLP keeps no arguments to differentiate them at."""
    needed = len(network.weights[0]) + 1
    fused = network.activation == "relu" and needed <= FUSED[-1]
    return {
        "otype": "FullyFusedMLP" if fused else "CutlassMLP",
        "activation": NAMES[network.activation],
        "output_activation": "None",
        "n_neurons": next(width for width in FUSED if width >= needed) if fused else _filled(needed),
        "n_hidden_layers": len(network.weights),
    }


def flat(network: Network) -> Float[Tensor, " P"]:
    """All parameters in one row, as tiny-cuda-nn has them. The values' bias is not among them."""
    width, neurons = len(network.weights[0]), configuration(network)["n_neurons"]
    matrices = []
    for layer, (weight, scale, shift) in enumerate(zip(network.weights, network.scales, network.shifts, strict=True)):
        own = weight * (scale if isinstance(scale, float) else scale[0, 0, :, None])
        inputs = weight.shape[1]
        # the first input that is filled up, or the neuron after all others, is 1
        own = torch.cat([own, shift[0, 0, :, None]], 1)
        columns = neurons if layer else _filled(inputs)
        always = own.new_zeros(1, columns)
        always[0, inputs] = ONE[network.activation]
        own = torch.cat([pad(own, (0, columns - own.shape[1])), always])
        matrices.append(pad(own, (0, 0, 0, neurons - width - 1)))
    out = network.out_weight
    matrices.append(pad(out, (0, neurons - width, 0, _filled(len(out)) - len(out))))
    return torch.cat([matrix.flatten() for matrix in matrices])


def unflat(parameters: Float[Tensor, " P"], network: Network) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """(weights with scales in them, shifts [1, 1, M], out_weight) of a row of parameters of a network shaped like `network`."""
    width, features, values = len(network.weights[0]), network.weights[0].shape[1], len(network.out_weight)
    neurons, weights, shifts = configuration(network)["n_neurons"], [], []
    for layer in range(len(network.weights)):
        columns, inputs = (neurons, width) if layer else (_filled(features), features)
        matrix, parameters = parameters[: neurons * columns].view(neurons, columns), parameters[neurons * columns :]
        weights.append(matrix[:width, :inputs])
        shifts.append(matrix[:width, inputs][None, None])
    return weights, shifts, parameters.view(_filled(values), neurons)[:values, :width]


def _filled(count: int) -> int:
    return -(-count // ALIGNED) * ALIGNED


@cache
def _missing() -> str | None:
    """It raises where it is imported without a GPU; so it is not, there."""
    if importlib.util.find_spec("tinycudann") is None:
        return "needs tiny-cuda-nn: pip install git+https://github.com/NVlabs/tiny-cuda-nn#subdirectory=bindings/torch"
    if not torch.cuda.is_available():
        return "needs an NVIDIA GPU, and torch sees none"
    try:
        importlib.import_module("tinycudann")
    except (ImportError, OSError, RuntimeError) as error:
        return f"cannot be loaded: {error}"
    return None


@cache
def _module(features: int, values: int, settings: tuple[tuple[str, Any], ...]) -> Any:
    """tiny-cuda-nn's module of a configuration; its own parameters are never used."""
    return importlib.import_module("tinycudann").Network(features, values, dict(settings)).cuda()
