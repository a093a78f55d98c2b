"""Between digits: linear, spherical and density-aware paths, and the graph along the bank; and samples of densities."""

import torch
from torch import Tensor

import neuralfield as nf
from experiments.classifier import classifier
from experiments.figures import digits
from experiments.fits import fitted
from experiments.laboratory import Laboratory, decoded, labels_of, nearest, pixels
from experiments.pages import Claim, Page
from experiments.variational import unlike_pairs
from neuralfield.explore.interpolation import path_of
from neuralfield.explore.neighbours import nearest_codes
from neuralfield.explore.sampling import sample

FITS = ("image", "autodecoder-mnist")
PATHS = ("linear", "spherical", "density", "graph")
PAIRS, SAMPLES = 256, 500


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "interpolation")
    training, real = pixels(laboratory.training), pixels(laboratory.new)[:SAMPLES]
    recogniser, runs = classifier(laboratory), {name: fitted(laboratory, name) for name in FITS}
    start, end = unlike_pairs(labels_of(laboratory.training), PAIRS)
    average = (training[start] + training[end]) / 2
    middles = {(name, path): midpoints(run, path, start, end) for name, run in runs.items() for path in PATHS}
    pictures = {"real test images": real, "pixel average": average}
    pictures |= {f"`{name}`, {path}": decoded(runs[name], z).clamp(0, 1) for (name, path), z in middles.items()}
    distances = {name: nearest(images, training).mean().item() for name, images in pictures.items()}
    copies = {f"`{name}`, {path}": copied(runs[name], z) for (name, path), z in middles.items()}
    page.table(
        "midpoints",
        (
            "midpoints of different digits",
            "MSE to the nearest training image",
            "from the nearest code's image",
            "confidence",
            "greyness",
            "from the pixel average",
        ),
        [
            (
                name,
                f"{distances[name]:.4f}",
                f"{copies[name].mean():.4f}" if name in copies else "",
                f"{recogniser.confidence(images):.2f}",
                f"{greyness(images):.3f}",
                "" if name == "real test images" else f"{away(images, average):.2f}",
            )
            for name, images in pictures.items()
        ],
    )
    drawn = {kind: decoded(runs["image"], sample(runs["image"], SAMPLES, kind)).clamp(0, 1) for kind in ("gaussian", "mixture")}
    shown = {"real test images": real, **drawn}
    rows = [
        (kind, f"{recogniser.confidence(images):.3f}", f"{nearest(images, training).mean():.4f}") for kind, images in shown.items()
    ]
    page.table("samples", ("samples of `image`", "confidence", "MSE to the nearest training image"), rows)
    half = nearest(real, training).median().item() / 2
    page.claims(_claims(distances, copies, half, recogniser.confidence(drawn["gaussian"]), recogniser.confidence(drawn["mixture"])))
    page.result(
        f"Midpoints lie {distances['`image`, density']:.4f} from the nearest real image along the density, "
        f"{distances['`image`, linear']:.4f} on the line; "
        f"real test images {distances['real test images']:.4f}."
    )
    page.figure("paths", digits(_paths(runs["image"], int(start[3]), int(end[3]))))
    page.figure("samples", digits({kind: images[:12] for kind, images in shown.items()}))
    page.close(f"{laboratory.about}; {PAIRS} pairs of training images of different digits, {SAMPLES} samples")


def midpoints(run: nf.Run, path: str, start: Tensor, end: Tensor) -> Tensor:
    """Codes [p, D] half way."""
    return path_of(run, path).between(run.codes[start], run.codes[end], torch.tensor([0.5]))[0]


def copied(run: nf.Run, codes: Tensor) -> Tensor:
    """How far the image of each code is from that of the nearest code of the bank: 0 of a copy."""
    near = run.codes[nearest_codes(codes, run.codes)[:, 0]]
    return (decoded(run, codes) - decoded(run, near)).square().mean(1)


def greyness(images: Tensor) -> float:
    """Mean of 4 v (1 - v): 0 of black and white, 1 of grey."""
    return (4 * images * (1 - images)).mean().item()


def away(images: Tensor, average: Tensor) -> float:
    """Squared distance to the pixel average, relative to what that is large."""
    return ((images - average).square().mean() / average.square().mean()).item()


def _paths(run: nf.Run, start: int, end: int) -> dict[str, Tensor]:
    """Twelve steps of each path between two training images."""
    shares = torch.linspace(0, 1, 12)
    ends = run.codes[start][None], run.codes[end][None]
    return {path: decoded(run, path_of(run, path).between(*ends, shares)[:, 0]).clamp(0, 1) for path in PATHS}


def _claims(distances: dict[str, float], copies: dict[str, Tensor], half: float, gaussian: float, mixture: float) -> list[Claim]:
    linear, spherical, density, graph = (distances[f"`image`, {path}"] for path in PATHS)
    real = distances["real test images"]
    from_code = copies["`image`, density"].mean().item()
    return [
        Claim(
            "order: graph < density < linear < spherical",
            f"{graph:.4f}, {density:.4f}, {linear:.4f}, {spherical:.4f}",
            graph < density < linear < spherical,
        ),
        Claim(
            "the line's midpoints are farther from real images than real test images are (.0266, .0229)",
            f"{linear:.4f}, {real:.4f}",
            linear > real,
        ),
        Claim(
            "wanted: midpoints by density about as near as real test images", f"{density:.4f}, {real:.4f}", density <= 1.05 * real
        ),
        Claim(
            "wanted: without being copies (above half of the median of real images)",
            f"{from_code:.4f}, {half:.4f}",
            from_code > half,
        ),
        Claim("a graph's midpoints are nearly copies (.003 to .005)", f"{graph:.4f}", graph <= 0.006),
        Claim("samples of a Gaussian: confidence .71; of a mixture .92 or more", f"{gaussian:.2f}; {mixture:.2f}", mixture >= 0.92),
    ]
