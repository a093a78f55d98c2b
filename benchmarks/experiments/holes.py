"""Autoencoders and holes: fed an image with a black centre they paint it black; trained without it they leave it empty."""

import torch
from completions import MASKS, square
from torch import Tensor

import neuralfield as nf
from experiments.autoencoders import encoded
from experiments.figures import digits
from experiments.fits import fitted
from experiments.laboratory import Laboratory, decoded, pixels, psnr
from experiments.pages import Claim, Page

FITS = ("autoencoder-cnn", "without-centre", "image", "image-completion")
SEED = (6.6, 5.9, 6.4, 7.6)
"""The seed's autoencoder fed the masked image: PSNR inside the hole against the truth."""
REPRODUCED = 22.0
LEFT_OUT = 16
"""Pixels of the centre that `without-centre` never learned."""
EMPTY = 0.1
"""Mean brightness below which a centre counts as empty."""


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "holes")
    test = laboratory.new.select(torch.arange(min(laboratory.masked, len(laboratory.new))))
    truth = pixels(test)
    fed = {mask: _by_encoder(laboratory, "autoencoder-cnn", test, mask) for mask in MASKS}
    searched = {mask: _by_search(laboratory, test, mask) for mask in MASKS}
    rows = [(mask, *_scores(fed[mask], searched[mask], truth, square(mask))) for mask in MASKS]
    head = ("hole", "fed the hole: against black", "against the truth", "autodecoder `image-completion`, likeliest")
    page.table("scores", head, [(str(mask), *(f"{value:.2f}" for value in values)) for mask, *values in rows])
    centre = square(LEFT_OUT)
    trained_without = _by_encoder(laboratory, "without-centre", test, LEFT_OUT)
    lit = {
        "truth": truth,
        "trained without the centre": trained_without,
        "fed the hole": fed[LEFT_OUT],
        "autodecoder": searched[LEFT_OUT],
    }
    page.table(
        "brightness",
        ("centre of 16 pixels", "mean brightness", "PSNR against the truth, dB"),
        [(name, f"{images[:, centre].mean():.3f}", _against(images, truth, centre)) for name, images in lit.items()],
    )
    page.claims(_claims(rows, trained_without[:, centre].mean().item()))
    black = [row[1] for row in rows]
    page.result(f"Fed a hole, the autoencoder paints it black ({min(black):.1f} dB and more); the autodecoder fills it.")
    page.figure("digits", _figure(truth, fed, searched, trained_without))
    page.close(f"{laboratory.about}; {len(test)} test images with holes")


def _by_encoder(laboratory: Laboratory, name: str, test: nf.Signals, mask: int) -> Tensor:
    """What an autoencoder makes of images whose centre is black."""
    run = fitted(laboratory, name)
    return encoded(run, _hidden(run, test, mask)).clamp(0, 1)


def _by_search(laboratory: Laboratory, test: nf.Signals, mask: int) -> Tensor:
    run = fitted(laboratory, "image-completion")
    return decoded(run, run.infer(_hidden(run, test, mask)).latent.mean).clamp(0, 1)


def _hidden(run: nf.Run, test: nf.Signals, mask: int) -> nf.Observations:
    """Images without their centre: values there are 0, which is black."""
    return nf.Visibility(hide=[f"center:{mask}"]).split(test.batch(torch.arange(len(test))), run.domain)[0]


def _scores(fed: Tensor, searched: Tensor, truth: Tensor, hole: Tensor) -> tuple[float, float, float]:
    """Inside the hole: the autoencoder against black and against the truth, and the autodecoder against the truth, dB."""
    pairs = ((fed, torch.zeros_like(fed)), (fed, truth), (searched, truth))
    against_black, against_truth, other = (psnr(image[:, hole], aim[:, hole]).mean().item() for image, aim in pairs)
    return against_black, against_truth, other


def _against(images: Tensor, truth: Tensor, hole: Tensor) -> str:
    return "" if images is truth else f"{psnr(images[:, hole], truth[:, hole]).mean():.2f}"


def _claims(rows: list[tuple[float, ...]], brightness: float) -> list[Claim]:
    black, truth, other = ([row[i] for row in rows] for i in (1, 2, 3))

    def dotted(values: list[float]) -> str:
        return ", ".join(f"{value:.1f}" for value in values)

    return [
        Claim(
            "fed a masked image, it reproduces the mask: at least 22 dB against black inside",
            dotted(black),
            min(black) >= REPRODUCED,
        ),
        Claim("and so is far from the truth there: 6.6, 5.9, 6.4, 7.6 dB", dotted(truth), max(truth) < min(other)),
        Claim("trained without the centre, it leaves it empty", f"mean brightness there {brightness:.3f}", brightness < EMPTY),
        Claim("the autodecoder, shown the same, completes it", f"{dotted(other)} dB (likeliest)", min(other) > max(truth)),
    ]


def _figure(truth: Tensor, fed: dict[int, Tensor], searched: dict[int, Tensor], without: Tensor):  # type: ignore[no-untyped-def]
    """Three digits with each hole."""
    shown = {
        "seen": [torch.where(square(mask), 0.0, truth[:3]) for mask in MASKS],
        "autoencoder": [fed[mask][:3] for mask in MASKS],
        "autodecoder": [searched[mask][:3] for mask in MASKS],
        "truth": [truth[:3] for _ in MASKS],
    }
    rows = {name: torch.cat(parts) for name, parts in shown.items()}
    return digits({**rows, "without centre": without[:12], "truth ": truth[:12]})
