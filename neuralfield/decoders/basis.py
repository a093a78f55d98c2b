"""A sum of functions that all signals share, with coefficients from the code (DeepONet's form, Lu et al. 2021)."""

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from neuralfield.decoders.decoder import Decoder
from neuralfield.decoders.layers import FourierFeatures, Linears
from neuralfield.errors import NeuralfieldError
from neuralfield.latents.basis import SpectralBasis


class Basis(Decoder):
    """f(z, t) = mean(t) + sum_r c_r(z) phi_r(t), r < `functions` (by default as many as the code has numbers).

    The functions are linear in Fourier features of t after `trunk_depth` hidden layers, and are evaluated once for points that all
    signals share. The coefficients are linear in z, plus a network of `branch_depth` hidden layers. With neither hidden layers it
    begins as the linear model of spectral codes, which is the optimum already; `branch_depth` lets training bend that.
    """

    def __init__(
        self,
        coord_dim: int,
        value_dim: int,
        code_dim: int,
        functions: int | None = None,
        frequencies: int = 64,
        bandwidth: float = 1.5,
        trunk_depth: int = 0,
        trunk_width: int = 128,
        branch_depth: int = 0,
        branch_width: int = 128,
    ) -> None:
        super().__init__()
        count = functions or code_dim
        self.features = FourierFeatures(coord_dim, frequencies, bandwidth)
        sides = [self.features.out_dim] + [trunk_width] * trunk_depth
        self.trunk = Linears(sides[:-1], sides[1:])
        self.functions = nn.Linear(sides[-1], (1 + count) * value_dim)
        self.coefficients = nn.Linear(code_dim, count, bias=False)
        sides = [code_dim] + [branch_width] * branch_depth
        self.branch = Linears(sides[:-1], sides[1:])
        self.bend = nn.Linear(sides[-1], count, bias=False) if branch_depth else None
        if self.bend is not None:
            nn.init.zeros_(self.bend.weight)
        self.value_dim, self.linear_in_code = value_dim, not branch_depth

    def condition(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B R"]:
        linear = self.coefficients(z)
        if self.bend is None:
            return linear
        for layer in self.branch:
            z = silu(layer(z))
        return linear + self.bend(z)

    def evaluate(self, conditioning: Float[Tensor, "B R"], coords: Float[Tensor, "G N C"]) -> Float[Tensor, "B N V"]:
        h = self.features(coords)
        for layer in self.trunk:
            h = silu(layer(h))
        functions = rearrange(self.functions(h), "g n (r v) -> g n r v", v=self.value_dim)
        mean, functions = functions[:, :, 0], functions[:, :, 1:]
        if len(coords) == 1:
            return mean + einsum(conditioning, functions[0], "b r, n r v -> b n v")
        return mean + einsum(conditioning, functions, "b r, b n r v -> b n v")

    @torch.no_grad()
    def adopt(self, basis: SpectralBasis) -> bool:
        """Where both are linear in Fourier features. Frequencies that the model does not need keep a weight of 0."""
        if len(self.trunk) or not basis.frequencies.numel():
            return False
        needed, room = basis.frequencies.shape[1], self.features.frequencies.shape[1]
        count = self.coefficients.weight.shape[0]
        if needed > room or basis.rank > count:
            key, least = ("frequencies", needed) if needed > room else ("functions", basis.rank)
            raise NeuralfieldError(f"these signals need a larger decoder: --set decoder.{key}={least}")
        self.features.frequencies[:, :needed] = basis.frequencies
        mean = rearrange(basis.mean, "(a v) -> a 1 v", v=self.value_dim)
        components = rearrange(basis.components, "(a v) r -> a r v", v=self.value_dim)
        atoms = torch.cat([mean, components, torch.zeros(len(mean), count - basis.rank, self.value_dim)], 1).flatten(1)
        constant, sines, cosines = atoms.split([1, needed, needed])
        first = self.features.out_dim - 2 * room  # the coordinates themselves come first
        self.functions.bias.copy_(constant[0])
        self.functions.weight.zero_()
        self.functions.weight[:, first : first + needed] = sines.T
        self.functions.weight[:, first + room : first + room + needed] = cosines.T
        nn.init.eye_(self.coefficients.weight)
        return True
