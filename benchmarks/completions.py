"""Digits whose centre is hidden: ours, calibrated on held-out training digits, against what needs no decoder."""

import time

import click
import torch
from torch import Tensor, nn

import neuralfield as nf

MASKS = (8, 12, 16, 20)
HELD_OUT, CALIBRATED = 256, 128
"""Training digits after those of the fit: for tuning, here and there."""


def table_of_completions(run: nf.Run, sizes) -> list[str]:  # type: ignore[no-untyped-def]
    """PSNR inside the hole, digits recognised, and bands; differences to kernel ridge regression with 95 % intervals."""
    training, held_out, test = (
        sizes.digits(split, first, count)
        for split, first, count in (("train", 0, sizes.train), ("train", sizes.train, HELD_OUT), ("test", 0, sizes.masked))
    )
    x, v, t = (pixels(signals) for signals in (training, held_out, test))
    recognise, accuracy = classifier(x, training.labels, t, test.labels)
    rows: dict[str, list[str]] = {
        name: [] for name in ("mean image", "kernel ridge regression", "`image-completion`", "- difference")
    }
    bands: list[list[str]] = []
    for mask in MASKS:
        hole = square(mask)
        began = time.process_time()
        guesses = {"mean image": x.mean(0).expand(len(t), -1), "kernel ridge regression": ridge(x, v, t, hole)}
        baseline = time.process_time() - began
        visibility = nf.Visibility(hide=[f"center:{mask}"])
        began = time.process_time()
        calibrated = nf.calibrate(run, held_out.select(torch.arange(CALIBRATED)), visibility)
        calibrating, began = time.process_time() - began, time.process_time()
        completion = nf.complete(run, test, visibility)
        seconds = time.process_time() - began
        scores = completion.scores["hidden"]
        for name, guess in guesses.items():
            right = (recognise(torch.where(hole, guess, t)) == test.labels).float().mean()
            rows[name].append(f"{psnr(guess, t, hole).mean():.2f}, {right:.2f}")
        best = run.field(completion.estimate.latent.mean)(run.domain.grid())[..., 0]
        right = (recognise(torch.where(hole, best, t)) == test.labels).float().mean()
        rows["`image-completion`"].append(f"{scores['psnr'].mean():.2f}, {right:.2f}")
        apart = scores["psnr"] - psnr(guesses["kernel ridge regression"], t, hole)
        rows["- difference"].append(f"{apart.mean():+.2f} ± {1.96 * apart.std() / len(apart) ** 0.5:.2f}")
        shown = [f"{scores[name].mean():.3f}" for name in ("coverage90", "crps", "width90")]
        fitted = [f"{calibrated.temperature:g}", f"{calibrated.evidence:g}", f"{calibrated.noise:.3f}"]
        bands.append([str(mask), *shown, *fitted, f"{1000 * seconds / len(test):.0f}", f"{calibrating:.0f}"])
        click.echo(f"mask {mask}: {[row[-1] for row in rows.values()]} {bands[-1]}, baselines {baseline:.0f} CPU s", err=True)
    return [
        f"## Hidden centres: {len(test)} test digits, {len(training)} training digits at 32x32",
        "",
        "PSNR inside the hole (dB) of the posterior mean, and share of digits recognised when the hole is filled by the likeliest",
        f"completion (by a network that recognises {accuracy:.1%} of whole digits). Kernel ridge regression from the seen pixels:",
        f"width and ridge tuned on {HELD_OUT} held-out training digits; ours calibrated on {CALIBRATED} of them. Differences are",
        "paired, with 95 % intervals.",
        "",
        "| | " + " | ".join(map(str, MASKS)) + " |",
        "|---|" + "---|" * len(MASKS),
        *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()),
        "",
        "| hole | coverage of 90 % bands | CRPS | width | temperature | evidence | noise | CPU ms an image | CPU s to calibrate |",
        "|---|---|---|---|---|---|---|---|---|",
        *("| " + " | ".join(cells) + " |" for cells in bands),
    ]


def pixels(signals: nf.Signals) -> Tensor:
    """[n, 1024]"""
    return torch.cat([batch.values[..., 0] for batch in signals.batches(1024)])


def square(side: int) -> Tensor:
    """The central square of 32x32, flat."""
    hole, first = torch.zeros(32, 32, dtype=torch.bool), (32 - side) // 2
    hole[first : first + side, first : first + side] = True
    return hole.flatten()


def psnr(guess: Tensor, truth: Tensor, hole: Tensor) -> Tensor:
    """Of every image, inside the hole."""
    return -10 * torch.log10((guess - truth)[:, hole].square().mean(1))


def ridge(x: Tensor, v: Tensor, t: Tensor, hole: Tensor) -> Tensor:
    """Kernel ridge regression with a Gaussian kernel from what is seen to what is hidden, tuned on `v`."""
    seen, mean = x[:, ~hole], x[:, hole].mean(0)
    apart = torch.cdist(seen, seen).square()
    scale = apart[:1000].median()

    def predicted(weights: Tensor, width: float, images: Tensor) -> Tensor:
        kernel = torch.exp(-torch.cdist(images[:, ~hole], seen).square() / (2 * width * scale))
        filled = images.clone()
        filled[:, hole] = (kernel @ weights + mean).clamp(0, 1)
        return filled

    best: tuple[float, Tensor, float] | None = None
    for width in (0.1, 0.2, 0.4):
        kernel = torch.exp(-apart / (2 * width * scale))
        for least in (0.1, 0.5):
            factor = torch.linalg.cholesky(kernel + least * torch.eye(len(kernel)))
            weights = torch.cholesky_solve(x[:, hole] - mean, factor)
            score = psnr(predicted(weights, width, v), v, hole).mean().item()
            if best is None or score > best[0]:
                best = score, weights, width
    assert best is not None
    return predicted(best[1], best[2], t)


def classifier(x: Tensor, labels: Tensor | None, t: Tensor, truth: Tensor | None):  # type: ignore[no-untyped-def]
    """(images [n, 1024] -> digits [n], share of whole test digits that it recognises), trained on the digits of the fit."""
    assert labels is not None
    assert truth is not None
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Unflatten(1, (1, 32, 32)),
        *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(2048, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(8):
        for rows in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(network(x[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    network.eval()

    @torch.no_grad()
    def recognise(images: Tensor) -> Tensor:
        found: Tensor = network(images).argmax(1)
        return found

    return recognise, (recognise(t) == truth).float().mean().item()
