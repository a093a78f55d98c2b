"""Linear models of a data set: principal functions of its signals, which give codes a start (DESIGN.md, decision 3).

f(t) = mean(t) + sum_r a_r psi_r(t), a ~ N(0, diag(variance)), noise of variance `noise` on every value: probabilistic
PCA (Tipping and Bishop 1999). Coefficients of a signal, whole or partly seen, are their posterior mean.
"""

from collections.abc import Callable, Iterable

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor, nn

from neuralfield.errors import NeuralfieldError
from neuralfield.types import Observations

PASSES = 6
"""Passes over the data of the subspace iteration; MNIST's leading 64 are then exact to 1e-3 of their variance."""
LARGEST = 2**22
"""Values of a signal: the iteration holds 80 times as many numbers, 1.3 GB here; a photograph of 1000 x 1400 in colour."""
DEGENERATE = 1e-7
"""Share of the first variance under which a direction is rounding error, in float32."""
AT_ONCE = 2**24
"""Numbers held at once while signals with masks of their own are encoded: 64 MiB."""
OVERSAMPLING = 16
"""Extra directions carried in the iteration (Halko, Martinsson and Tropp 2011 advise 5 to 10 or more)."""


class SpectralBasis(nn.Module):
    """The principal functions on the grid `coords` [N, C] that the signals share."""

    coords: Tensor
    mean: Tensor
    components: Tensor
    variance: Tensor
    noise: Tensor

    def __init__(self, points: int = 0, coord_dim: int = 0, value_dim: int = 0, rank: int = 0) -> None:
        super().__init__()
        self.register_buffer("coords", torch.zeros(points, coord_dim))
        self.register_buffer("mean", torch.zeros(points * value_dim))
        self.register_buffer("components", torch.zeros(points * value_dim, rank))
        self.register_buffer("variance", torch.zeros(rank))
        self.register_buffer("noise", torch.tensor(1.0))

    @classmethod
    def fit(cls, batches: Callable[[], Iterable[Observations]], rank: int, generator: torch.Generator) -> "SpectralBasis":
        """PCA by subspace iteration over batches of signals, so that memory does not grow with their number."""
        first = next(iter(batches()))
        n_points, value_dim = first.values.shape[1:]
        if n_points * value_dim > LARGEST:
            raise NeuralfieldError(
                f"signals of {n_points} points x {value_dim} values are too large for spectral codes; for images say "
                '--set signals.resize=[256,256], else --set latents.init="normal" --set inference.start=nearest'
            )
        basis = cls(n_points, first.coords.shape[-1], value_dim, min(rank, n_points * value_dim))
        basis.coords = first.coords[0]
        count, total, energy = 0, torch.zeros(n_points * value_dim, dtype=torch.float64), 0.0
        for batch in batches():
            if not batch.coords.shape == first.coords[:1].shape or not torch.equal(batch.coords, first.coords[:1]):
                raise NeuralfieldError('spectral initialisation needs signals on one shared grid; say --set latents.init="normal"')
            if not bool((batch.weight > 0).all()):
                raise NeuralfieldError(
                    'spectral initialisation needs whole signals, and some are partly seen; say --set latents.init="normal"'
                )
            flat = batch.values.flatten(1).double()
            count, total, energy = count + len(flat), total + flat.sum(0), energy + flat.square().sum().item()
        basis.mean = (total / count).float()
        energy = energy / count - total.div(count).square().sum().item()

        def covariance(q: Tensor) -> Tensor:
            centred = (batch.values.flatten(1) - basis.mean for batch in batches())
            return sum(x.T @ (x @ q) for x in centred) / count  # type: ignore[return-value]

        q = torch.randn(len(total), min(basis.rank + OVERSAMPLING, len(total)), generator=generator)
        for _ in range(PASSES - 1):
            q = covariance(torch.linalg.qr(q)[0])
        q = torch.linalg.qr(q)[0]
        small = (q.T @ covariance(q)).double()
        values, vectors = torch.linalg.eigh((small + small.T) / 2)
        order = values.argsort(descending=True)[: basis.rank]
        order = order[values[order] > DEGENERATE * values.max()]  # few or alike signals have fewer directions than a code
        basis.components = (q.double() @ vectors[:, order]).float()
        basis.variance = values[order].clamp(min=1e-12).float()
        left = energy - basis.variance.sum().item()
        basis.noise = torch.tensor(max(left / len(total), 1e-6 * energy / len(total), 1e-12))
        return basis

    @property
    def rank(self) -> int:
        """Number of principal functions."""
        return self.components.shape[1]

    @property
    def value_dim(self) -> int:
        """Values at a point."""
        return len(self.mean) // max(1, len(self.coords))

    def encode(self, observations: Observations) -> Float[Tensor, "B R"]:
        """Coefficients given what was seen: their posterior mean, so little seen shrinks to the mean."""
        where = self._positions(observations.coords)
        components = rearrange(self.components, "(n v) r -> n v r", v=self.value_dim)[where].flatten(1, 2)  # [G, N V, R]
        centred = observations.values - rearrange(self.mean, "(n v) -> n v", v=self.value_dim)[where]
        weight = repeat(observations.weight, "b n -> b (n v)", v=self.value_dim) / self.noise
        data = centred.flatten(1) * weight
        if len(components) == 1 and bool((weight == weight[:1]).all()):  # all signals seen alike: one system for all
            psi = components[0]
            precision = psi.T @ (weight[0, :, None] * psi) + torch.diag(1 / self.variance)
            return torch.linalg.solve(precision, psi.T @ data.T).T
        rows = max(1, AT_ONCE // max(1, components[0].numel()))
        solved = []
        for psi, w, x in zip(components.expand(len(weight), -1, -1).split(rows), weight.split(rows), data.split(rows), strict=True):
            precision = einsum(psi * w[..., None], psi, "b n r, b n s -> b r s") + torch.diag(1 / self.variance)
            solved.append(torch.linalg.solve(precision, einsum(psi, x, "b n r, b n -> b r")[..., None])[..., 0])
        return torch.cat(solved)

    def _positions(self, coords: Float[Tensor, "G N C"]) -> Int[Tensor, "G N"]:
        """The grid point nearest to each coordinate."""
        if coords.shape[:2] == (1, len(self.coords)) and torch.equal(coords[0], self.coords):
            return torch.arange(len(self.coords), device=coords.device)[None]
        nearest = cKDTree(self.coords.cpu().numpy()).query(coords.detach().cpu().numpy())[1]
        return torch.from_numpy(nearest).to(coords.device)
