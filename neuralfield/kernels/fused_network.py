"""A network as the fused kernels read it: few tensors, all layers equally wide, with weights of 0 where they were not."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from neuralfield.kernels.kernel import NARROW, Network

NARROWEST, WIDEST = 32, 256
"""Widths of the programs: powers of two. Blocks of registers have no others, and a tile of 512 numbers for each point fits none."""


class Plan(NamedTuple):
    """What is known of a call beside its tensors."""

    activation: str
    depth: int
    again: int
    """Bit l is set where the inputs enter layer l again."""
    dtype: torch.dtype
    """Of products; sums, conditioning and the layers of coordinates are in float32."""


class Packed(NamedTuple):
    """P is the common width. All tensors but inputs and weights are float32; gradients have the same shapes."""

    inputs: Float[Tensor, "G N F"]
    entering: Float[Tensor, "E F P"]
    """U_l transposed, where E is L if inputs enter again, else 1; U_0 is the first layer's weight."""
    weights: Float[Tensor, "K P P"]
    """Of the layers after the first."""
    scales: Float[Tensor, "b L P"] | None
    shifts: Float[Tensor, "b L P"]
    out_weight: Float[Tensor, "V P"]
    out_bias: Float[Tensor, " V"]

    @property
    def signals(self) -> int:
        """B."""
        return max(len(self.inputs), len(self.shifts))

    @property
    def points(self) -> int:
        """N."""
        return self.inputs.shape[1]

    @property
    def features(self) -> int:
        """F."""
        return self.inputs.shape[2]

    @property
    def width(self) -> int:
        """P."""
        return self.shifts.shape[2]

    @property
    def narrow(self) -> bool:
        """Whether the inputs are coordinates."""
        return self.features <= NARROW

    @property
    def steps(self) -> tuple[int, int]:
        """Numbers from one signal's inputs, and conditioning, to the next one's."""
        return (self.points * self.features if len(self.inputs) > 1 else 0), (self.shifts[0].numel() if len(self.shifts) > 1 else 0)


def width(network: Network) -> int:
    """P: the next power of two."""
    widest = max(len(weight) for weight in network.weights)
    return max(NARROWEST, 1 << (widest - 1).bit_length())


def packed(network: Network, inputs: Float[Tensor, "G N F"]) -> Packed:
    """By operations of torch, so that gradients find their way back. A number that scales a layer goes into its weights."""
    p, scales = width(network), network.scales
    rows = max(len(tensor) for tensor in network.conditioning)
    factors = [scale if isinstance(scale, float) else 1.0 for scale in scales]
    ones = network.out_bias.new_ones(1, 1, p)
    tensors = [ones if isinstance(scale, float) else _wide(scale, p) for scale in scales]
    first, *others = (_times(weight, factor) for weight, factor in zip(network.weights, factors, strict=True))
    entering = [
        first,
        *(None if u is None else _times(u, factor) for u, factor in zip(network.entering[1:], factors[1:], strict=True)),
    ]
    if not any(isinstance(u, Tensor) for u in entering[1:]):
        entering = entering[:1]
    empty = first.new_zeros(inputs.shape[-1], p)
    return Packed(
        inputs,
        torch.stack([empty if u is None else _wide(u.T, p) for u in entering]).float(),
        torch.stack([_square(weight, p) for weight in others]) if others else first.new_zeros(0, p, p),
        _rows(tensors, rows) if any(isinstance(scale, Tensor) for scale in scales) else None,
        _rows([_wide(shift, p) for shift in network.shifts], rows),
        _wide(network.out_weight, p).float(),
        network.out_bias.float(),
    )


def bits(network: Network) -> int:
    """The layers after the first that inputs enter again, as bits."""
    return sum(1 << layer for layer, u in enumerate(network.entering) if layer and u is not None)


def tensors(network: Network, inputs: Tensor) -> list[Tensor]:
    """All that a gradient may be wanted of."""
    every: list[Any] = [inputs, *network.weights, *network.entering, *network.conditioning, network.out_weight, network.out_bias]
    return [tensor for tensor in every if isinstance(tensor, Tensor)]


def _times(weight: Tensor, factor: float) -> Tensor:
    return weight if factor == 1.0 else weight * factor


def _wide(tensor: Tensor, p: int) -> Tensor:
    return tensor if tensor.shape[-1] == p else pad(tensor, (0, p - tensor.shape[-1]))


def _square(weight: Tensor, p: int) -> Tensor:
    return weight if weight.shape == (p, p) else pad(weight, (0, p - weight.shape[1], 0, p - len(weight)))


def _rows(conditioning: list[Tensor], rows: int) -> Float[Tensor, "b L P"]:
    return torch.cat([tensor.expand(rows, -1, -1) for tensor in conditioning], 1).float()
