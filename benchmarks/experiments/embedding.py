"""What codes know of the digit: t-SNE in the plane, and accuracy of nearest neighbours."""

import numpy as np
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from experiments.figures import plots, scatter
from experiments.fits import fitted
from experiments.laboratory import Laboratory, labels_of, pixels
from experiments.pages import Claim, Page

FITS = ("autodecoder-mnist", "image")
SHOWN = 2000
"""Codes in the plane: t-SNE of all 10,000 would take minutes for each run."""
NEIGHBOURS = 10
WANTED = 0.87


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "embedding")
    labels = labels_of(laboratory.training)[:SHOWN]
    sources = {"pixels": pixels(laboratory.training)} | {name: fitted(laboratory, name).codes for name in FITS}
    planes = {name: plane(codes[:SHOWN]) for name, codes in sources.items()}
    flat = {name: accuracy(points, labels) for name, points in planes.items()}
    whole = {name: accuracy(codes[:SHOWN].numpy(), labels) for name, codes in sources.items()}
    page.table(
        "accuracy",
        ("", "dimensions", "kNN of the codes", "kNN in the plane"),
        [(name, str(codes.shape[1]), f"{whole[name]:.3f}", f"{flat[name]:.3f}") for name, codes in sources.items()],
    )
    ours = max(flat[name] for name in FITS)
    published = flat["autodecoder-mnist"]
    page.claims(
        [
            Claim(
                "t-SNE of codes by digit: 2-D kNN accuracy at least 0.87, published recipe", f"{published:.3f}", published >= WANTED
            ),
            Claim("the same, recipe `image`", f"{flat['image']:.3f}", flat["image"] >= WANTED),
        ]
    )
    page.result(f"Neighbours in the plane of t-SNE name the digit of {ours:.1%} of codes; of pixels {flat['pixels']:.1%}.")
    figure, axes = plots(len(planes), width=3.6, height=3.6)
    for each, (name, points) in zip(axes, planes.items(), strict=True):
        scatter(each, points, labels.numpy(), f"{name}, {flat[name]:.3f}")
    page.figure("tsne", figure)
    page.close(f"{laboratory.about}; the first {len(labels)} codes; {NEIGHBOURS} neighbours, leave-one-out")


def plane(codes: Tensor) -> np.ndarray:
    """t-SNE [n, 2] of codes, begun with their principal components."""
    few = min(30.0, (len(codes) - 1) / 3)
    points: np.ndarray = TSNE(perplexity=few, init="pca", random_state=0, n_jobs=1).fit_transform(codes.numpy())
    return points


def accuracy(points: np.ndarray, labels: Tensor) -> float:
    """Share of points whose digit most of their neighbours have, the point itself left out."""
    count = min(NEIGHBOURS, len(points) - 1)
    model = KNeighborsClassifier(count).fit(points, labels.numpy())
    found = model._y[model.kneighbors(return_distance=False)]  # of the points it was fitted to, each without itself
    votes = np.apply_along_axis(np.bincount, 1, found, minlength=10).argmax(1)
    return float((model.classes_[votes] == labels.numpy()).mean()) if len(model.classes_) else 0.0
