"""Hidden centres of 8, 12, 16 and 20 pixels: autodecoders against what needs no decoder, and bands that hold what they promise."""

import torch
from completions import MASKS, ridge, square
from completions import psnr as inside
from torch import Tensor

import neuralfield as nf
from experiments.classifier import Classifier, classifier
from experiments.figures import digits
from experiments.fits import fitted
from experiments.laboratory import Laboratory, decoded, labels_of, pixels
from experiments.pages import Claim, Page

FITS = ("autodecoder-mnist", "image", "image-completion")
CALIBRATED = 24
"""Held-out training digits that each kind of mask is calibrated on; docs/completions.md has it with 128."""
NEIGHBOURS = 20
REGRESSED = 5_000
"""Training digits that kernel ridge regression learns from: its cost grows with the cube; docs/completions.md has it with all."""
RIDGE = "kernel ridge regression"
ANCHORS = (13.2, 11.6, 10.7, 10.4)
"""The best of the seed's anchors at each mask, dB: kernel ridge regression, and at 20 the nearest images."""

Row = list[Tensor]
"""Images [n, 1024] filled in, for each mask."""


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "masks")
    test = laboratory.new.select(torch.arange(min(laboratory.masked, len(laboratory.new))))
    rows, bands = completions(laboratory, test)
    recogniser = classifier(laboratory)
    truth, labels = pixels(test), labels_of(test)
    scores = {
        name: [inside(guess, truth, square(mask)) for guess, mask in zip(row, MASKS, strict=True)] for name, row in rows.items()
    }
    page.table(
        "scores",
        ("", *map(str, MASKS)),
        [score_row(name, row, scores[name], recogniser, truth, labels) for name, row in rows.items()],
    )
    page.table("bands", ("hole", "coverage of 90 % bands", "CRPS", "width"), bands)
    page.claims(claims(scores, bands))
    gains = [f"{(a - b).mean():+.2f}" for a, b in zip(scores["`image-completion`, mean"], scores[RIDGE], strict=True)]
    page.result(f"Posterior mean against kernel ridge regression at 8, 12, 16, 20: {', '.join(gains)} dB.")
    page.figure("digits", figure(rows, truth))
    page.close(f"{laboratory.about}; {len(test)} test images with holes")


def completions(laboratory: Laboratory, test: nf.Signals) -> tuple[dict[str, Row], list[tuple[str, ...]]]:
    """What every method makes of every mask, and the bands of the posterior."""
    x, v, t = (pixels(signals) for signals in (laboratory.training, laboratory.held_out, test))
    rows: dict[str, Row] = {}
    bands = []
    for mask in MASKS:
        hole = square(mask)
        guesses = {
            "mean image": x.mean(0).expand_as(t),
            "nearest images": neighbours(x, t, hole),
            RIDGE: ridge(x[:REGRESSED], v, t, hole),
        }
        visibility = nf.Visibility(hide=[f"center:{mask}"])
        for name in ("autodecoder-mnist", "image"):
            guesses[f"`{name}`"] = searched(fitted(laboratory, name), test, visibility)
        run = fitted(laboratory, "image-completion")
        if laboratory.epochs is None:  # seven temperatures and more: the longest part, and nothing of a fit that is cut short
            nf.calibrate(run, laboratory.held_out.select(torch.arange(CALIBRATED)), visibility)
        completion = nf.complete(run, test, visibility)
        draws = [completion.draws(rows) for rows in torch.arange(len(test)).split(16)]
        with torch.no_grad():
            mean = torch.cat([run.mean_field(each.codes)(run.domain.grid())[..., 0] for each in draws if each is not None])
        guesses |= {
            "`image-completion`, mean": mean,
            "`image-completion`, likeliest": decoded(run, completion.estimate.latent.mean),
        }
        for name, guess in guesses.items():
            rows.setdefault(name, []).append(torch.where(hole, guess, t))
        hidden = completion.scores["hidden"]
        bands.append((str(mask), *(f"{hidden[name].mean():.3f}" for name in ("coverage90", "crps", "width90"))))
    return rows, bands


def searched(run: nf.Run, test: nf.Signals, visibility: nf.Visibility) -> Tensor:
    """What a run's own search makes of what is seen."""
    observed = visibility.split(test.batch(torch.arange(len(test))), run.domain)[0]
    return decoded(run, run.infer(observed).latent.mean)


def neighbours(x: Tensor, t: Tensor, hole: Tensor) -> Tensor:
    """The average of the training images that are nearest where the image is seen."""
    found = torch.cdist(t[:, ~hole], x[:, ~hole]).topk(min(NEIGHBOURS, len(x)), largest=False).indices
    return x[found].mean(1)


def score_row(name: str, row: Row, scores: list[Tensor], recogniser: Classifier, truth: Tensor, labels: Tensor) -> tuple[str, ...]:
    """PSNR inside the hole, and digits recognised."""
    filled = [recogniser.recognised(guess.clamp(0, 1), labels) for guess in row]
    return name, *(f"{score.mean():.2f}, {right:.2f}" for score, right in zip(scores, filled, strict=True))


def claims(scores: dict[str, list[Tensor]], bands: list[tuple[str, ...]]) -> list[Claim]:
    """Against the seed's anchors, and against the same methods on the same images."""
    mean = [score.mean().item() for score in scores["`image-completion`, mean"]]
    ridge_scores = [score.mean().item() for score in scores[RIDGE]]
    plain = [score.mean().item() for score in scores["`autodecoder-mnist`"]]
    covered = [float(band[1]) for band in bands]
    return [
        Claim("plain autodecoder with Adam: 12.2, 9.6, 8.7, 8.5 dB", dotted(plain), None),
        Claim(
            "posterior mean above the seed's anchors (13.2, 11.6, 10.7, 10.4)",
            dotted(mean),
            all(a >= b for a, b in zip(mean, ANCHORS, strict=True)),
        ),
        *(
            Claim(
                f"posterior mean above kernel ridge regression on the same images, hole {mask}",
                f"{ours:.2f}, {theirs:.2f}",
                ours > theirs,
            )
            for mask, ours, theirs in zip(MASKS, mean, ridge_scores, strict=True)
        ),
        Claim(
            "coverage of 90 % bands between 85 and 95 %",
            ", ".join(f"{c:.0%}" for c in covered),
            all(0.85 <= c <= 0.95 for c in covered),
        ),
    ]


def dotted(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def figure(rows: dict[str, Row], truth: Tensor):  # type: ignore[no-untyped-def]
    """Three digits with each of the holes, by every method."""
    seen = torch.cat([torch.where(square(mask), 0.5, truth[:3]) for mask in MASKS])
    shown = {name: torch.cat([guess[:3] for guess in row]).clamp(0, 1) for name, row in rows.items()}
    return digits({"seen": seen, **shown, "truth": truth[:3].repeat(len(MASKS), 1)})
