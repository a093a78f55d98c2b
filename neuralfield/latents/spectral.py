"""Which linear model serves a data set: principal components on a shared grid, or mixed effects wherever signals were seen."""

from collections.abc import Callable, Iterable

import torch

from neuralfield.latents.basis import SpectralBasis
from neuralfield.latents.grid_pca import grid_pca
from neuralfield.latents.mixed_effects import mixed_effects
from neuralfield.types import Observations


def spectral_basis(batches: Callable[[], Iterable[Observations]], rank: int, generator: torch.Generator) -> SpectralBasis:
    """The `rank` principal functions of the signals that `batches()` goes over in order.

    Curves always get mixed effects, which are smooth between the samples of a grid too; so do signals seen at points of their own,
    or in part. Pictures, whole and of one size, get principal components.
    """
    first = next(iter(batches()))
    curves = first.coords.shape[-1] == 1
    return (mixed_effects if curves or not _whole_on_one_grid(batches, first) else grid_pca)(batches, rank, generator)


def _whole_on_one_grid(batches: Callable[[], Iterable[Observations]], first: Observations) -> bool:
    grid = first.coords[:1]
    return all(b.coords.shape == grid.shape and torch.equal(b.coords, grid) and bool((b.weight > 0).all()) for b in batches())
