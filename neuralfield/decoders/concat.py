"""DeepSDF's decoder: code and coordinates joined at the input, and again at a later layer."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from neuralfield.decoders.decoder import Decoder
from neuralfield.decoders.layers import ACTIVATIONS, Activation, FourierFeatures, Linears


class Concat(Decoder):
    """An MLP on [z, t] (Park et al. 2019), computed condition-once: the z-part of a layer is one product per signal.

    `skip` names the hidden layer (counted from 0) at which [z, t] enters again; the layer before it is narrower by as much,
    as in DeepSDF's own code. Weights have the layout of the plain network that concatenates.
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
    ) -> None:
        super().__init__()
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
        self.activation = ACTIVATIONS[activation]

    def condition(self, z: Float[Tensor, "B D"]) -> list[Float[Tensor, "B 1 _"]]:
        parts = [(self._split(layer)[1], self.layers[layer].bias) for layer in self.entries]
        return [linear(z, weight, bias)[:, None] for weight, bias in parts]

    def evaluate(self, conditioning: list[Tensor], coords: Float[Tensor, "G N C"]) -> Float[Tensor, "B N V"]:
        t = self.features(coords)
        h = t
        for layer, module in enumerate(self.layers):
            if layer in self.entries:
                from_h, _, from_t = self._split(layer)
                shift = conditioning[self.entries.index(layer)]
                h = linear(t, from_t) + shift if layer == 0 else linear(h, from_h) + linear(t, from_t) + shift
            else:
                h = module(h)
            h = self.activation(h)
        return self.out(h)

    def _split(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """A layer's weight for inputs [h, z, t], in three parts."""
        weight = self.layers[layer].weight
        hidden = weight.shape[1] - self.code_dim - self.features.out_dim
        from_h, from_z, from_t = weight.split([hidden, self.code_dim, self.features.out_dim], 1)
        return from_h, from_z, from_t
