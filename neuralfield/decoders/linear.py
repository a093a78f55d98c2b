"""The plain linear decoder: every value of a shared grid is an affine function of the code. Its optimum is PCA."""

import math
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from neuralfield.decoders.decoder import Decoder
from neuralfield.decoders.reading import check_readable, read_grid
from neuralfield.latents.basis import SpectralBasis


class Linear(Decoder):
    """values on the grid = mean + W z; between its points, interpolated (curves: linear; images: cubic).

    Trained without a prior it spans the principal subspace; with priors on codes and weights its singular values are those of the
    data, soft-thresholded (Srebro et al. 2004).
    """

    linear_in_code = True
    maps: ClassVar[bool] = True
    grid: Tensor

    def __init__(self, shape: tuple[int, ...], grid: Float[Tensor, "1 N C"], value_dim: int, code_dim: int) -> None:
        super().__init__()
        check_readable(shape)
        self.shape, self.value_dim = shape, value_dim
        self.register_buffer("grid", grid, persistent=False)
        self.values = nn.Linear(code_dim, math.prod(shape) * value_dim)

    def condition(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B N V"]:
        return rearrange(self.values(z), "b (n v) -> b n v", v=self.value_dim)

    def evaluate(self, conditioning: Float[Tensor, "B N V"], coords: Float[Tensor, "G M C"]) -> Float[Tensor, "B M V"]:
        return read_grid(conditioning, self.shape, self.grid, coords)

    @torch.no_grad()
    def adopt(self, basis: SpectralBasis) -> bool:
        mean, functions = basis.functions(self.grid)
        self.values.bias.copy_(mean.flatten())
        self.values.weight.zero_()
        self.values.weight[:, : basis.rank] = functions.flatten(0, 2)
        return True
