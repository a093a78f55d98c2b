"""All side by side by `nf compare`: to encode or not to encode."""

import time

import torch
from completions import MASKS

import neuralfield as nf
from experiments.classifier import classifier
from experiments.fits import curve_of, fitted
from experiments.laboratory import Laboratory, decoded, labels_of
from experiments.pages import Claim, Page
from experiments.variational import unlike_pairs
from neuralfield.domains.pictures import sheet
from neuralfield.explore.comparison import compare
from neuralfield.explore.interpolation import path_of
from neuralfield.explore.sampling import sample
from neuralfield.recipe import TRAINING_PRIOR

FITS = ("image", "image-30", "autodecoder-mnist", "vad", "glo", "autoencoder-cnn", "vae")
PAIRS, SAMPLES, SHOWN = 256, 500, 8


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "comparison")
    runs = [fitted(laboratory, name) for name in FITS]
    new = laboratory.new.select(torch.arange(min(laboratory.masked, len(laboratory.new))))
    began = time.process_time()
    found = compare(runs, new, limit=None, hide=[f"center:{mask}" for mask in MASKS])
    page.blocks["compared"] = found.lines()
    recogniser, rows = classifier(laboratory), []
    sure = {name: _confidences(run, laboratory, recogniser) for name, run in zip(FITS, runs, strict=True)}
    for name in FITS:
        rows.append(
            (f"`{name}`", f"{curve_of(laboratory, name)['cpu_seconds']:.0f}", *(f"{value:.2f}" for value in sure[name].values()))
        )
    page.table("confidence", ("recipe", "CPU s of the fit", *next(iter(sure.values()))), rows)
    numbers = dict(zip(FITS, found.runs, strict=True))
    page.table("wins", ("who is best", "by", "its number"), _wins(numbers))
    page.claims(_claims(numbers, found.real, sure))
    page.result(_verdict(numbers))
    page.figure("digits", sheet([(title, pictures[:SHOWN]) for title, pictures in found.pictures]))
    page.close(f"{laboratory.about}; {len(new)} test images are compared, in {time.process_time() - began:.0f} CPU seconds")


def _confidences(run: nf.Run, laboratory: Laboratory, recogniser) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """How sure a classifier is of samples and midpoints; the fit's own prior counts where it is variational."""
    start, end = unlike_pairs(labels_of(laboratory.training), PAIRS)
    middle = path_of(run, "density").between(run.codes[start], run.codes[end], torch.tensor([0.5]))[0]
    codes = {
        "samples of a Gaussian": sample(run, SAMPLES, "gaussian"),
        "samples of a mixture": sample(run, SAMPLES, "mixture"),
        "straight midpoints": (run.codes[start] + run.codes[end]) / 2,
        "midpoints by density": middle,
    }
    if run.model.source.variational:
        codes["samples of a Gaussian"] = sample(run, SAMPLES, TRAINING_PRIOR)
    return {name: recogniser.confidence(decoded(run, z).clamp(0, 1)) for name, z in codes.items()}


def _wins(numbers: dict[str, dict[str, float]]) -> list[tuple[str, ...]]:
    """Of each thing, the run that is best at it."""
    most = {"new": "new images, dB", **{f"hidden center:{mask}": f"a hole of {mask} pixels, dB" for mask in MASKS}}
    most["knn_new"] = "labels of new images by near codes"
    best = {what: max(FITS, key=lambda name, key=key: numbers[name][key]) for key, what in most.items()}
    rows = [(what, f"`{best[what]}`", f"{numbers[best[what]][key]:.4g}") for key, what in most.items()]
    quickest = min(FITS, key=lambda name: numbers[name]["seconds_per_signal"])
    return [*rows, ("CPU seconds for a new image", f"`{quickest}`", f"{numbers[quickest]['seconds_per_signal']:.2g}")]


def _claims(numbers: dict[str, dict[str, float]], real: dict[str, float], sure: dict[str, dict[str, float]]) -> list[Claim]:
    """What is wanted of what lies between codes, and of what is drawn."""
    gaussian, mixture = (sure["image"][f"samples of a {kind}"] for kind in ("Gaussian", "mixture"))
    middle, truth, copies = (
        numbers["image"]["midpoints_density"],
        real["new_from_training"],
        numbers["image"]["midpoints_from_code"],
    )
    straight = numbers["image"]["midpoints_linear"]
    return [
        Claim("samples of a mixture on the bank's codes (`image`): confidence .92 or more", f"{mixture:.2f}", mixture >= 0.92),
        Claim("- of a single Gaussian .71", f"{gaussian:.2f}", gaussian < mixture),
        Claim("straight midpoints are farther from real images than test images are (.0266)", f"{straight:.4f}", straight > truth),
        Claim("wanted: midpoints by density about as near as test images", f"{middle:.4f}, {truth:.4f}", middle <= 1.05 * truth),
        Claim("wanted: and no copies of the nearest code's image", f"{copies:.4f} from it", copies > truth / 2),
    ]


def _verdict(numbers: dict[str, dict[str, float]]) -> str:
    """One line for the index."""
    bank, encoder = numbers["image-30"], numbers["autoencoder-cnn"]
    times = bank["seconds_per_signal"] / encoder["seconds_per_signal"]
    return (
        f"With 30 numbers each, search finds new images to {bank['new']:.1f} dB, an encoder to {encoder['new']:.1f} "
        f"in 1/{times:.0f} of the time; "
        f"inside a hole of 8 pixels {bank['hidden center:8']:.1f} and {encoder['hidden center:8']:.1f} dB."
    )
