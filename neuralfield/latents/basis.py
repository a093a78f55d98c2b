"""A linear model of a data set: f(t) = mean(t) + sum_r a_r psi_r(t), a ~ N(0, diag(variance)), noise on every value.

It gives codes, decoders, priors and searches a start (DESIGN.md, decision 3). It is fitted by `grid_pca` or `mixed_effects`; the
coefficients of a signal, whole or partly seen, are their posterior mean.
"""

import math

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor, nn

from neuralfield.types import Observations

AT_ONCE = 2**23
"""Numbers held at once while signals with points or masks of their own are encoded: 64 MiB."""


class SpectralBasis(nn.Module):
    """Mean and functions as combinations of atoms: the points of the grid `coords` [A, C], or, where that is empty, the Fourier
    features of `frequencies` [C, H].

    `mean` [A V] and `components` [A V, R] hold the combinations, `variance` [R] and `noise` [] the rest of the model.
    """

    coords: Tensor
    frequencies: Tensor
    mean: Tensor
    components: Tensor
    variance: Tensor
    noise: Tensor
    channels: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("coords", "frequencies", "components"):
            self.register_buffer(name, torch.zeros(0, 0))
        for name in ("mean", "variance"):
            self.register_buffer(name, torch.zeros(0))
        self.register_buffer("noise", torch.tensor(1.0))
        self.register_buffer("channels", torch.tensor(1))

    @property
    def rank(self) -> int:
        """Number of functions."""
        return self.components.shape[1]

    @property
    def value_dim(self) -> int:
        """Values at a point."""
        return int(self.channels)

    def functions(self, coords: Float[Tensor, "G N C"]) -> tuple[Float[Tensor, "G N V"], Float[Tensor, "G N V R"]]:
        """(mean, functions) at points; those of a grid are taken at the nearest of its points."""
        mean = rearrange(self.mean, "(a v) -> a v", v=self.value_dim)
        components = rearrange(self.components, "(a v) r -> a v r", v=self.value_dim)
        if len(self.coords):
            where = self._positions(coords)
            return mean[where], components[where]
        atoms = fourier(coords, self.frequencies.to(coords))
        return atoms @ mean.to(atoms), einsum(atoms, components.to(atoms), "g n a, a v r -> g n v r")

    def scaled(self, factor: float) -> "SpectralBasis":
        """The same model, whose coefficients are `factor` times as large."""
        other = SpectralBasis()
        for name, buffer in self.named_buffers():
            setattr(other, name, buffer.clone())
        other.components, other.variance = self.components / factor, self.variance * factor**2
        return other

    def encode(self, observations: Observations) -> Float[Tensor, "B R"]:
        """Coefficients given what was seen: their posterior mean, so little seen shrinks to the mean."""
        mean, psi = (part.double().flatten(1, 2) for part in self.functions(observations.coords))
        weight = observations.told.double().repeat_interleave(self.value_dim, 1) / self.noise.double()
        data = (observations.values.double().flatten(1) - mean) * weight
        prior = torch.diag(1 / self.variance.double())
        if len(psi) == 1 and bool((weight == weight[:1]).all()):  # all signals seen alike: one system for all
            precision = psi[0].T @ (weight[0, :, None] * psi[0]) + prior
            return torch.linalg.solve(precision, psi[0].T @ data.T).T.to(self.components)
        rows = max(1, AT_ONCE // max(1, psi[0].numel()))
        solved = []
        for p, w, x in zip(psi.expand(len(weight), -1, -1).split(rows), weight.split(rows), data.split(rows), strict=True):
            precision = einsum(p * w[..., None], p, "b n r, b n s -> b r s") + prior
            solved.append(torch.linalg.solve(precision, einsum(p, x, "b n r, b n -> b r")[..., None])[..., 0])
        return torch.cat(solved).to(self.components)

    def _positions(self, coords: Float[Tensor, "G N C"]) -> Int[Tensor, "G N"]:
        """The grid point nearest to each coordinate."""
        if coords.shape[:2] == (1, len(self.coords)) and torch.equal(coords[0], self.coords):
            return torch.arange(len(self.coords), device=coords.device)[None]
        nearest = cKDTree(self.coords.cpu().numpy()).query(coords.detach().cpu().numpy())[1]
        return torch.from_numpy(nearest).to(coords.device)


def fourier(coords: Float[Tensor, "G N C"], frequencies: Float[Tensor, "C H"]) -> Float[Tensor, "G N A"]:
    """1, then the sines, then the cosines of 2 pi t . frequency: A = 1 + 2 H features."""
    phase = 2 * math.pi * (coords @ frequencies)
    return torch.cat([torch.ones_like(coords[..., :1]), phase.sin(), phase.cos()], -1)
