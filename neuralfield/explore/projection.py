"""Codes in the plane: by PCA, by t-SNE, or by UMAP where it is installed."""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from jaxtyping import Float
from sklearn.manifold import TSNE
from torch import Tensor

from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.registry import nearest

PERPLEXITY = 30.0
"""Of t-SNE: about so many neighbours count (van der Maaten and Hinton 2008)."""
LEAST = 5
"""Codes below which a map of neighbourhoods says nothing."""


def pca(codes: Float[Tensor, "n D"]) -> Float[Tensor, "n 2"]:
    """The two directions of largest variance; each points to where its largest entry is positive."""
    centred = (codes - codes.mean(0)).double()
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2:].flip(1)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    plane = (centred @ (directions * largest.sign())).float()
    return torch.cat([plane, torch.zeros(len(codes), 2 - plane.shape[1])], 1)  # codes of one number lie on a line


def tsne(codes: Float[Tensor, "n D"]) -> Float[Tensor, "n 2"]:
    """t-SNE by scikit-learn, from PCA, with the same seed every time."""
    perplexity = min(PERPLEXITY, (len(codes) - 1) / 3)
    start = pca(codes).numpy()
    start = start / max(start[:, 0].std(), 1e-12) * 1e-4  # as its authors begin
    return torch.from_numpy(TSNE(perplexity=perplexity, init=start, random_state=0).fit_transform(codes.numpy())).float()


def umap_installed() -> bool:
    """Whether the package umap-learn is there, which is an extra."""
    return find_spec("umap") is not None


def umap(codes: Float[Tensor, "n D"]) -> Float[Tensor, "n 2"]:
    """UMAP (McInnes et al. 2018), by the package umap-learn."""
    if not umap_installed():
        raise NeuralfieldError("UMAP is not installed: pip install 'neuralfield[umap]', or take pca or tsne")
    from umap import UMAP

    return torch.from_numpy(UMAP(n_neighbors=min(15, len(codes) - 1), random_state=0).fit_transform(codes.numpy())).float()


PROJECTIONS: dict[str, Callable[[Tensor], Tensor]] = {"pca": pca, "tsne": tsne, "umap": umap}


def project(codes: Float[Tensor, "n D"], how: str = "pca") -> Float[Tensor, "n 2"]:
    """Codes in the plane by "pca", "tsne" or "umap", the same every time."""
    if how not in PROJECTIONS:
        raise UsageError(f'there is no projection "{how}"{nearest(how, list(PROJECTIONS))}; known: {", ".join(PROJECTIONS)}')
    if how != "pca" and len(codes) < LEAST:
        raise NeuralfieldError(f"{how} needs at least {LEAST} codes, got {len(codes)}; take pca")
    return PROJECTIONS[how](codes.detach().cpu())
