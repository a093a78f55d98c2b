"""What lies between codes, and what is drawn from their density: as near to real digits as real digits are, and no copies?

    python benchmarks/exploring.py                10,000 digits at 32x32, codes of 32 and of 64 numbers, about 5 minutes

Midpoints of paths between digits of different labels, and samples: mean squared difference from the nearest training image, from
the image of the nearest training code (a copy would be at 0), how sure a small classifier is, and how near real test images have a
sample. Paths and densities see training codes alone. Prints a table; writes it to benchmarks/results/exploring.md, and a picture to
docs/images/explore.png.
"""

import math
import time
from dataclasses import replace

import click
import numpy as np
import torch
from machine import RESULTS, data_folder, machine
from PIL import Image
from torch import Tensor, nn

import neuralfield as nf
from neuralfield.domains.pictures import sheet
from neuralfield.explore.interpolation import path_of
from neuralfield.explore.neighbours import Gallery, nearest_codes
from neuralfield.explore.sampling import density_of, sample

PICTURE = RESULTS.parents[1] / "docs" / "images" / "explore.png"
PATHS = ("linear", "spherical", "density", "graph")
DENSITIES = ("gaussian", "kernel-density", "mixture")


@click.command()
@click.option("--data", default=None, help="A folder with MNIST/raw; by default NF_DATA/mnist, or mnist in the shared data.")
@click.option("--train", "n_train", default=10_000)
@click.option("--test", "n_test", default=1_000)
@click.option("--pairs", default=500, help="Midpoints of each path.")
@click.option("--samples", default=1_000, help="Of each density.")
@click.option("--code-dim", "dims", multiple=True, default=(32, 64), show_default=True)
def main(data: str | None, n_train: int, n_test: int, pairs: int, samples: int, dims: tuple[int, ...]) -> None:
    torch.set_num_threads(1)
    root = data or data_folder() / "mnist"
    train = nf.load(f"mnist:{root}", split="train", limit=n_train, pad=2)
    test = nf.load(f"mnist:{root}", split="test", limit=n_test, pad=2)
    classify, accuracy = classifier(nf.load(f"mnist:{root}", split="train", pad=2), nf.load(f"mnist:{root}", split="test", pad=2))
    lines = [
        "# Between codes, and drawn from their density",
        "",
        f"{machine()}, one thread, `python benchmarks/exploring.py` ({n_train} training digits at 32x32, {pairs} midpoints between",
        f"digits of different labels, {samples} samples; a classifier that is right on {accuracy:.1%} of test digits).",
        "Distances are mean squared differences of pixels, averaged; in brackets the median.",
        "",
    ]
    for dim in dims:
        run = nf.fit(train, recipe="image", settings=[f"latents.code_dim={dim}"])
        click.echo(f"codes of {dim} numbers: fitted in {run.facts['seconds']:.0f} s", err=True)
        picture(run).save(PICTURE)
        lines += [f"Codes of {dim} numbers:", "", *table(run, train, test, pairs, samples, classify), ""]
    click.echo("\n".join(lines))
    (RESULTS / "exploring.md").write_text("\n".join(lines[:-1]) + "\n")


def table(run: nf.Run, train: nf.Signals, test: nf.Signals, pairs: int, count: int, classify: nn.Module) -> list[str]:
    """One row for each path, density, and what is real."""
    gallery, real = Gallery.of(run, train), Gallery.of(run, test)
    codes, labels = run.codes.cpu(), train.labels
    assert labels is not None
    draw = torch.Generator().manual_seed(1)
    i, j = (torch.randint(len(codes), (8 * pairs,), generator=draw) for _ in range(2))
    i, j = (rows[labels[i] != labels[j]][:pairs] for rows in (i, j))
    lines = [
        "| | from the nearest training image | from the nearest training code's image | confidence | test images from it | s |",
        "|---|---|---|---|---|---|",
        row("real test images", gallery, real, None, None, classify, 0.0),
    ]
    average = replace(gallery.rows(i), values=(gallery.values[i] + gallery.values[j]) / 2)
    lines.append(row("average of the two images", gallery, average, None, None, classify, 0.0))
    for kind in PATHS:
        began = time.process_time()
        middle = path_of(run, kind).between(codes[i], codes[j], torch.tensor([0.5]))[0]
        seconds = time.process_time() - began
        shown = Gallery.of_codes(run, middle)
        lines.append(row(f"{kind}, midpoints", gallery, shown, nearest_codes(middle, codes)[:, 0], None, classify, seconds))
    for kind in DENSITIES:
        began = time.process_time()
        drawn = sample(run, count, density_of(codes, kind))
        seconds = time.process_time() - began
        shown = Gallery.of_codes(run, drawn)
        lines.append(row(f"{kind}, samples", gallery, shown, nearest_codes(drawn, codes)[:, 0], real, classify, seconds))
    some = gallery.rows(torch.randperm(len(gallery), generator=draw)[:count])
    distance = some.nearest(real)[0].mean()
    return [*lines, f"| as many training images | | | {confidence(classify, some.values):.3f} | {distance:.4f} | |"]


def row(
    name: str, gallery: Gallery, shown: Gallery, near: Tensor | None, real: Gallery | None, classify: nn.Module, seconds: float
) -> str:
    """`near` are the nearest training codes, `real` the images that look for a sample."""
    cells = [summary(gallery.nearest(shown)[0]), "" if near is None else summary(gallery.apart(shown, near))]
    cells += [f"{confidence(classify, shown.values):.3f}", "" if real is None else f"{shown.nearest(real)[0].mean():.4f}"]
    return f"| {' | '.join([name, *cells, f'{seconds:.1f}' if seconds else ''])} |"


def picture(run: nf.Run, pairs: tuple[tuple[int, int], ...] = ((0, 2), (5, 7)), samples: int = 9) -> Image.Image:
    """Ways between two pairs of digits by every path, and samples of two densities."""

    def decoded(codes: Tensor) -> np.ndarray:
        return run.domain.render(run.field(codes))

    rows = {}
    for place, (start, end) in enumerate(pairs):
        rows |= {kind + " " * place: decoded(nf.interpolate(run, start, end, kind, samples)) for kind in PATHS}
    return sheet(rows | {f"samples: {kind}": decoded(nf.sample(run, samples, kind)) for kind in ("gaussian", "mixture")})


def summary(distances: Tensor) -> str:
    return f"{distances.mean():.4f} ({distances.median():.4f})"


@torch.no_grad()
def confidence(classify: nn.Module, values: Tensor) -> float:
    """Mean probability of the likeliest label."""
    side = math.isqrt(values.shape[1])
    return classify(values.reshape(-1, 1, side, side)).softmax(1).amax(1).mean().item()


def classifier(train: nf.Signals, test: nf.Signals, epochs: int = 3, batch: int = 128) -> tuple[nn.Module, float]:
    """(a small convolutional network, its accuracy), trained on shifted images: a quarter of a minute for 99 %."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for wide, (before, after) in zip((5, 3, 3), ((1, 16), (16, 32), (32, 64)), strict=True):
        layers += [nn.Conv2d(before, after, wide, stride=2, padding=wide // 2), nn.BatchNorm2d(after), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))
    images, labels = pixels(train)
    network(images[:2])
    optimiser, steps = torch.optim.Adam(network.parameters()), epochs * (len(images) // batch)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (batch,))
        shift = tuple(torch.randint(-2, 3, (2,)).tolist())
        loss = nn.functional.cross_entropy(network(images[rows].roll(shift, (2, 3))), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
    network.eval()
    images, labels = pixels(test)
    with torch.no_grad():
        return network, (network(images).argmax(1) == labels).float().mean().item()


def pixels(signals: nf.Signals) -> tuple[Tensor, Tensor]:
    """Images [n, 1, side, side] and their labels."""
    values = signals.truth(torch.arange(len(signals))).values[..., 0]
    assert signals.labels is not None
    side = math.isqrt(values.shape[1])
    return values.reshape(-1, 1, side, side), signals.labels


if __name__ == "__main__":
    main()
