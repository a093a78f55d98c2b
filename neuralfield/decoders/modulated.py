"""One network for all signals, moved by per-layer shifts (or FiLM) that are linear in the code."""

import math
import warnings
from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from neuralfield.decoders.decoder import Decoder
from neuralfield.decoders.layers import FourierFeatures, Linears
from neuralfield.kernels.kernel import Kernel, Network
from neuralfield.kernels.reference import full_precision
from neuralfield.registry import resolve


class Modulated(Decoder):
    """An MLP of `depth` hidden layers whose pre-activations are shifted by one linear map of z (functa, Dupont et al. 2022).

    `basis` "fourier" is random Fourier features with SiLU; "siren" is sines throughout (Sitzmann et al. 2020) with first
    frequency `w0`. `modulation` "film" scales each pre-activation as well (pi-GAN, Chan et al. 2021).
    `kernel` says how it is computed (nf doctor lists them).
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
        modulation: Literal["shift", "film"] = "shift",
        basis: Literal["fourier", "siren"] = "fourier",
        frequencies: int = 64,
        bandwidth: float = 1.5,
        w0: float = 30.0,
        kernel: str = "auto",
    ) -> None:
        super().__init__()
        self.width, self.depth, self.modulation = width, depth, modulation
        siren = basis == "siren"
        self.features = FourierFeatures(coord_dim, 0 if siren else frequencies, bandwidth)
        self.layers = Linears([self.features.out_dim] + [width] * (depth - 1), [width] * depth)
        self.out = nn.Linear(width, value_dim)
        shifts = depth * width * (2 if modulation == "film" else 1)
        with warnings.catch_warnings():  # a code of no dimensions is one network for one signal: there is nothing to initialise
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
            self.modulate = nn.Linear(code_dim, shifts)
        # SIREN's w0 enters the first layer alone, as in functa; later layers are initialised for sines of frequency 1
        self.gains = [w0 if siren and layer == 0 else 1.0 for layer in range(depth)]
        self.activation = "sine" if siren else "silu"
        self.kernel: Kernel = resolve("kernels", kernel)()
        if siren:
            self._initialise_siren(coord_dim)

    def condition(self, z: Float[Tensor, "B D"]) -> dict[str, list[Float[Tensor, "B 1 width"]]]:
        modulation = rearrange(
            full_precision(self.modulate, z), "b (layer k width) -> k layer b 1 width", layer=self.depth, width=self.width
        )
        shift = {"shift": list(modulation[0])}
        return shift if self.modulation == "shift" else {**shift, "scale": list(1 + modulation[1])}

    def evaluate(self, conditioning: dict[str, list[Tensor]], coords: Float[Tensor, "G N C"]) -> Float[Tensor, "B N V"]:
        scales, shifts = [], []
        for layer, (linear, gain, shift) in enumerate(zip(self.layers, self.gains, conditioning["shift"], strict=True)):
            scale = gain * conditioning["scale"][layer] if "scale" in conditioning else gain
            scales.append(scale)
            shifts.append(shift + scale * linear.bias)
        weights = tuple(linear.weight for linear in self.layers)
        again = (None,) * self.depth
        network = Network(weights, again, tuple(scales), tuple(shifts), self.out.weight, self.out.bias, self.activation)
        return self.kernel(network, self.features(coords))

    @torch.no_grad()
    def _initialise_siren(self, coord_dim: int) -> None:
        nn.init.uniform_(self.layers[0].weight, -1 / coord_dim, 1 / coord_dim)
        bound = math.sqrt(6 / self.width)
        for linear in list(self.layers)[1:]:
            nn.init.uniform_(linear.weight, -bound, bound)
        nn.init.uniform_(self.out.weight, -bound / 10, bound / 10)
