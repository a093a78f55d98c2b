"""Probabilistic PCA (Tipping and Bishop 1999) of whole signals on one grid, by subspace iteration over batches."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from neuralfield.errors import NeuralfieldError
from neuralfield.latents.basis import SpectralBasis
from neuralfield.types import Observations

PASSES = 6
"""Passes over the data of the subspace iteration; MNIST's leading 64 are then exact to 1e-3 of their variance."""
LARGEST = 2**22
"""Values of a signal: the iteration holds 80 times as many numbers, 1.3 GB here; a photograph of 1000 x 1400 in colour."""
DEGENERATE = 1e-7
"""Share of the first variance under which a direction is rounding error, in float32."""
OVERSAMPLING = 16
"""Extra directions carried in the iteration (Halko, Martinsson and Tropp 2011 advise 5 to 10 or more)."""


def grid_pca(batches: Callable[[], Iterable[Observations]], rank: int, generator: torch.Generator) -> SpectralBasis:
    """The `rank` principal functions on the grid that the signals share; memory does not grow with their number."""
    first = next(iter(batches()))
    n_points, value_dim = first.values.shape[1:]
    if n_points * value_dim > LARGEST:
        raise NeuralfieldError(
            f"signals of {n_points} points x {value_dim} values are too large for spectral codes; for images say "
            '--set signals.resize=[256,256], else --set latents.init="normal" --set inference.start=nearest'
        )
    count, total, energy = 0, torch.zeros(n_points * value_dim, dtype=torch.float64), 0.0
    for batch in batches():
        flat = batch.values.flatten(1).double()
        count, total, energy = count + len(flat), total + flat.sum(0), energy + flat.square().sum().item()
    mean = (total / count).float()
    energy = energy / count - total.div(count).square().sum().item()

    def covariance(q: Tensor) -> Tensor:
        centred = (batch.values.flatten(1) - mean for batch in batches())
        return sum(x.T @ (x @ q) for x in centred) / count  # type: ignore[return-value]

    rank = min(rank, len(total))
    q = torch.randn(len(total), min(rank + OVERSAMPLING, len(total)), generator=generator)
    for _ in range(PASSES - 1):
        q = covariance(torch.linalg.qr(q)[0])
    q = torch.linalg.qr(q)[0]
    small = (q.T @ covariance(q)).double()
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    order = values.argsort(descending=True)[:rank]
    order = order[values[order] > DEGENERATE * values.max()]  # few or alike signals have fewer directions than a code
    basis = SpectralBasis()
    basis.coords, basis.channels = first.coords[0], torch.tensor(value_dim)
    basis.mean = mean
    basis.components = (q.double() @ vectors[:, order]).float()
    basis.variance = values[order].clamp(min=1e-12).float()
    left = energy - basis.variance.sum().item()
    basis.noise = torch.tensor(max(left / len(total), 1e-6 * energy / len(total), 1e-12))
    return basis
