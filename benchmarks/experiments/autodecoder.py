"""The MNIST autodecoder: training, a random code, and new images by search; the published recipe and ours."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

import neuralfield as nf
from experiments.classifier import Classifier, classifier
from experiments.figures import digits, plots
from experiments.fits import curve_of, fitted, probes_of, scores_of
from experiments.laboratory import Laboratory, decoded, nearest, pixels, psnr
from experiments.pages import Claim, Page
from neuralfield.inference.solver import Solver

FITS = ("autodecoder-mnist", "image")
SEARCHED, AT_ONCE = 256, 128
"""New images that are searched for, and how many together."""
RANDOM = 500
RIDGE = 1e-2
"""Of the ridge regression from pixels to codes, relative to the mean variance of a pixel."""


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "autodecoder")
    runs = {name: fitted(laboratory, name) for name in FITS}
    paths = {name: searches(run, laboratory) for name, run in runs.items()}
    recogniser = classifier(laboratory)
    trained = {name: train_psnr(run, laboratory) for name, run in runs.items()}
    page.table("fits", ("recipe", "train PSNR, dB", "CPU s of the fit"), [_fit_row(laboratory, n, trained[n]) for n in FITS])
    page.table(
        "searches",
        ("recipe", "search", "PSNR, dB", "evaluations", "CPU ms an image"),
        [(f"`{name}`", *each.cells()) for name, found in paths.items() for each in found if each.shown],
    )
    random = {name: randoms(run) for name, run in runs.items()}
    page.table(
        "random", ("", "confidence", "MSE to the nearest training image"), rows := random_rows(random, laboratory, recogniser)
    )
    sure = [float(row[1]) for row in rows]
    nonsense = Claim(
        "a random code decodes to nonsense", f"confidence {sure[1]:.2f} and {sure[2]:.2f}, real {sure[0]:.2f}", max(sure[1:]) < 0.9
    )
    page.claims([*claims(trained, {name: {each.name: each.psnr for each in found} for name, found in paths.items()}), nonsense])
    page.result(
        f"Train {trained['autodecoder-mnist']:.2f} dB as published, {trained['image']:.2f} dB with ours; new images by search "
        f"{best(paths['autodecoder-mnist']):.2f} and {best(paths['image']):.2f} dB."
    )
    page.figure("curves", _curves(laboratory))
    page.figure("progress", _progress(laboratory, runs))
    page.figure("random", digits(_random_rows(runs, random, laboratory)))
    page.figure("search", _search_figure(paths))
    page.close(f"{laboratory.about}; {min(SEARCHED, len(laboratory.new))} test images are searched for")


@dataclass(frozen=True)
class Searched:
    """What one way of finding codes gave for new images: mean PSNR (dB), evaluations and CPU seconds of each."""

    name: str
    path: str
    psnr: float
    evaluations: float
    seconds: float
    shown: bool

    def cells(self) -> tuple[str, ...]:
        return self.name, f"{self.psnr:.2f}", f"{self.evaluations:.0f}", f"{1000 * self.seconds:.1f}"


def searches(run: nf.Run, laboratory: Laboratory) -> list[Searched]:
    """Ridge regression alone, L-BFGS from it, and Adam from the mean code, of several lengths."""
    new = laboratory.new.select(torch.arange(min(SEARCHED, len(laboratory.new))))
    began = time.process_time()
    guess = ridge(pixels(laboratory.training), run.codes)(pixels(new))
    spent = time.process_time() - began
    score = psnr(decoded(run, guess), pixels(new)).mean().item()
    found = [Searched("ridge regression", "ridge + L-BFGS", score, 0, spent / len(new), True)]
    for steps in (3, 5, 10, 20, 40):
        solver = nf.LBFGS(steps=steps, tolerance=1e-7)
        found.append(_search(run, new, solver, guess, f"ridge + {steps} L-BFGS steps", "ridge + L-BFGS", steps in (20, 40)))
    middle = run.codes.mean(0).expand_as(guess)
    for steps in (10, 30, 100, 300):
        solver = nf.Adam(steps=steps, rate=0.05 if steps > 100 else 0.1)
        found.append(_search(run, new, solver, middle, f"Adam, {steps} steps from the mean", "Adam", steps == 300))
    return found


def _search(run: nf.Run, new: nf.Signals, solver: Solver, start: Tensor, name: str, path: str, shown: bool) -> Searched:
    solver.prepare(run.model.objective, run.decoder, run.codes, run.domain.grid())
    began, objective, scores, work = time.process_time(), run.completion_objective(), [], []
    for rows in torch.arange(len(new)).split(AT_ONCE):
        batch = new.batch(rows)
        estimate = solver.solve(objective, run.decoder, batch, nf.Latent(start[rows]))
        scores.append(psnr(decoded(run, estimate.latent.mean), batch.values[..., 0]))
        work.append(estimate.evaluations)
    seconds = (time.process_time() - began) / len(new)
    return Searched(name, path, torch.cat(scores).mean().item(), torch.cat(work).mean().item(), seconds, shown)


def ridge(x: Tensor, z: Tensor):  # type: ignore[no-untyped-def]
    """The linear map from images [n, M] to codes [n, D] of least squares with a ridge, as a function."""
    mean, middle = x.mean(0), z.mean(0)
    centred = (x - mean).double()
    least = RIDGE * centred.square().mean() * len(x)
    square = centred.T @ centred + least * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(square, centred.T @ (z - middle).double()).float()
    return lambda images: (images - mean) @ weights + middle


def train_psnr(run: nf.Run, laboratory: Laboratory) -> float:
    """Mean over all training images, dB."""
    return psnr(decoded(run, run.codes), pixels(laboratory.training)).mean().item()


def best(found: list[Searched]) -> float:
    return max(each.psnr for each in found)


def randoms(run: nf.Run) -> Tensor:
    """Codes whose numbers are independent, each with the spread of that number over the bank."""
    draw = torch.Generator().manual_seed(0)
    return run.codes.mean(0) + run.codes.std(0) * torch.randn(RANDOM, run.codes.shape[1], generator=draw)


def random_rows(random: dict[str, Tensor], laboratory: Laboratory, recogniser: Classifier) -> list[tuple[str, ...]]:
    """Real images, then what random codes decode to."""
    training = pixels(laboratory.training)

    def row(name: str, images: Tensor) -> tuple[str, ...]:
        return name, f"{recogniser.confidence(images):.2f}", f"{nearest(images, training).mean():.4f}"

    runs = {name: fitted(laboratory, name) for name in random}
    decoded_rows = [row(f"random codes of `{name}`", decoded(runs[name], z).clamp(0, 1)) for name, z in random.items()]
    return [row("real test images", pixels(laboratory.new)[:RANDOM]), *decoded_rows]


def claims(trained: dict[str, float], found: dict[str, dict[str, float]]) -> list[Claim]:
    """Against those of the seed."""
    published, each = trained["autodecoder-mnist"], ("Adam, 300 steps from the mean", "ridge regression", "ridge + 20 L-BFGS steps")
    (adam, _, random_short), (ours_adam, alone, short) = ([found[name][way] for way in each] for name in FITS)
    return [
        Claim("train PSNR of the published recipe at least 27.8 dB", f"{published:.2f}", published >= 27.8),
        Claim("new images by search (Adam, 300 steps) at least 29.7 dB", f"{adam:.2f}", adam >= 29.7),
        Claim(
            "our recipe is better on both", f"{trained['image']:.2f}, {max(found['image'].values()):.2f}", _better(trained, found)
        ),
        Claim("spectral codes (`image`): ridge regression to codes alone gives 26.1 dB", f"{alone:.2f}", alone >= 26.1),
        Claim(
            "- ridge and 20 steps of L-BFGS do what 300 of Adam do (30.55, 30.48 dB)",
            f"{short:.2f}, {ours_adam:.2f}",
            short >= ours_adam - 0.1,
        ),
        Claim("(not in the seed) the same with random codes", f"{random_short:.2f}, {adam:.2f}"),
    ]


def _better(trained: dict[str, float], found: dict[str, dict[str, float]]) -> bool:
    return trained["image"] > trained["autodecoder-mnist"] and max(found["image"].values()) > max(
        found["autodecoder-mnist"].values()
    )


def _fit_row(laboratory: Laboratory, name: str, score: float) -> tuple[str, ...]:
    return f"`{name}`", f"{score:.2f}", f"{curve_of(laboratory, name)['cpu_seconds']:.0f}"


def _curves(laboratory: Laboratory):  # type: ignore[no-untyped-def]
    """PSNR of probes over epochs and over CPU seconds."""
    figure, (by_epoch, by_second) = plots(2)
    for name in FITS:
        by_epoch.plot(*scores_of(laboratory, name), ".-", label=name)
        by_second.plot(*scores_of(laboratory, name, "seconds"), ".-")
    by_epoch.set(xlabel="epoch", ylabel="PSNR of training images, dB")
    by_second.set(xlabel="CPU seconds of training")
    by_epoch.legend(frameon=False)
    return figure


def _progress(laboratory: Laboratory, runs: dict[str, nf.Run]):  # type: ignore[no-untyped-def]
    """The published recipe's probes over training."""
    return digits(probes_of(laboratory, "autodecoder-mnist", (1, 2, 4, 7, 20, 33)))


def _random_rows(runs: dict[str, nf.Run], random: dict[str, Tensor], laboratory: Laboratory) -> dict[str, Tensor]:
    rows = {"codes of the bank": decoded(runs["image"], runs["image"].codes[:12])}
    return rows | {f"random, {name}": decoded(runs[name], z[:12]).clamp(0, 1) for name, z in random.items()}


def _search_figure(paths: dict[str, list[Searched]]):  # type: ignore[no-untyped-def]
    """PSNR of new images against evaluations."""
    figure, axes = plots(2)
    for each, (name, found) in zip(axes, paths.items(), strict=True):
        for path in dict.fromkeys(one.path for one in found):
            some = [one for one in found if one.path == path]
            each.semilogx([max(1, one.evaluations) for one in some], [one.psnr for one in some], "o-", markersize=4, label=path)
        each.set(title=name, xlabel="evaluations of the decoder")
    axes[0].set(ylabel="PSNR of new images, dB")
    axes[0].legend(frameon=False)
    return figure
