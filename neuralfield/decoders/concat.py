"""DeepSDF's decoder: code and coordinates joined at the input, and again at a later layer."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils.parametrizations import weight_norm as normed

from neuralfield.decoders.decoder import Decoder
from neuralfield.decoders.layers import Activation, FourierFeatures, Linears
from neuralfield.kernels.kernel import Kernel, Network
from neuralfield.kernels.reference import full_precision
from neuralfield.registry import resolve


class Concat(Decoder):
    """An MLP on [z, t] (Park et al. 2019), computed condition-once: the z-part of a layer is one product per signal.

    `skip` names the hidden layer (counted from 0) at which [z, t] enters again; the layer before it is narrower by as much,
    as in DeepSDF's own code. Weights have the layout of the plain network that concatenates.

    With `weight_norm` a hidden layer's weight is g v / |v|, with one length g and one direction v for each output; with `dropout`
    that share of the numbers after each hidden layer is left out while it trains; `bounded` values have passed a tanh. All three,
    with width 512, depth 8 and skip 4, are the network of DeepSDF's experiments. `kernel` says how it is computed.
    """

    affine_conditioning: ClassVar[bool] = True
    broadcasts: ClassVar[bool] = True

    def __init__(
        self,
        coord_dim: int,
        value_dim: int,
        code_dim: int,
        width: int = 128,
        depth: int = 4,
        skip: int | None = None,
        activation: Activation = "relu",
        frequencies: int = 0,
        bandwidth: float = 1.5,
        weight_norm: bool = False,
        dropout: float = 0.0,
        bounded: bool = False,
        kernel: str = "auto",
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"decoder.dropout is a share: 0 or more and below 1, got {dropout}")
        self.features = FourierFeatures(coord_dim, frequencies, bandwidth)
        entering = code_dim + self.features.out_dim
        if skip is not None and not (0 < skip < depth and width > entering):
            raise ValueError(
                f"decoder.skip must lie between 1 and depth - 1 = {depth - 1}, and width {width} must exceed the {entering} inputs "
                f"that enter again; got skip {skip}"
            )
        self.code_dim, self.entries = code_dim, (0,) if skip is None else (0, skip)
        outs = [width - entering if layer + 1 == skip else width for layer in range(depth)]
        ins = [entering if layer == 0 else width for layer in range(depth)]
        self.layers = Linears(ins, outs)
        self.out = nn.Linear(width, value_dim)
        self.activation = activation
        self.kernel: Kernel = resolve("kernels", kernel)()
        self.weight_norm, self.dropout, self.bounded = weight_norm, dropout, bounded
        self.draws = dropout > 0
        if weight_norm:
            for layer in self.layers:
                normed(layer)  # its weight is computed when it is asked for: once a layer in each call below

    def condition(self, z: Float[Tensor, "B D"]) -> list[Float[Tensor, "B 1 _"]]:
        parts = [(self._split(layer)[1], self.layers[layer].bias) for layer in self.entries]
        return [full_precision(linear, z, weight, bias)[:, None] for weight, bias in parts]

    def evaluate(self, conditioning: list[Tensor], coords: Float[Tensor, "G N C"]) -> Float[Tensor, "B N V"]:
        weights, again, shifts = [], [], []
        for layer, module in enumerate(self.layers):
            if layer in self.entries:
                from_h, _, from_t = self._split(layer)
                weights.append(from_h if layer else from_t)
                again.append(from_t if layer else None)
                shifts.append(conditioning[self.entries.index(layer)])
            else:
                weights.append(module.weight)
                again.append(None)
                shifts.append(module.bias[None, None])
        scales, left_out = (1.0,) * len(weights), self.dropout if self.training else 0.0
        out = (self.out.weight, self.out.bias, self.activation, left_out)
        values = self.kernel(Network(tuple(weights), tuple(again), scales, tuple(shifts), *out), self.features(coords))
        return values.tanh() if self.bounded else values

    def _split(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """A layer's weight for inputs [h, z, t], in three parts."""
        weight = self.layers[layer].weight
        hidden = weight.shape[1] - self.code_dim - self.features.out_dim
        from_h, from_z, from_t = weight.split([hidden, self.code_dim, self.features.out_dim], 1)
        return from_h, from_z, from_t
