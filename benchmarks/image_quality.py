"""How good, how fast: our image recipes against the faithful MNIST autodecoder, in one run, on one CPU thread.

    python benchmarks/image_quality.py                    10,000 + 1,000 digits, about 20 minutes
    python benchmarks/image_quality.py --train 2000 --test 200 --target 24

Prints train PSNR against CPU seconds (initialisation and polish included), PSNR of new images by search, and PSNR inside
hidden centres; writes the same to benchmarks/results/image_quality.md.
"""

import math
import time

import click
import torch
from machine import RESULTS, data_folder, machine

import neuralfield as nf
from neuralfield.recipe import Recipe, build
from neuralfield.run import Run
from neuralfield.seeds import generator
from neuralfield.training.batches import batches_of
from neuralfield.training.loop import Position, train
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.training.schedules.joint import Joint
from neuralfield.training.schedules.schedule import Optimisers

MASKS = (8, 12, 16, 20)


@click.command()
@click.option("--data", default=None, help="A folder with MNIST/raw; by default NF_DATA/mnist, or mnist in the shared data.")
@click.option("--train", "n_train", default=10_000)
@click.option("--test", "n_test", default=1_000)
@click.option("--masked", default=256, help="Test images with hidden centres.")
@click.option("--target", default=27.8, help="Train PSNR that the faithful recipe is timed to, dB.")
@click.option("--patience", default=900.0, help="CPU seconds after which the faithful recipe is stopped.")
def main(data: str | None, n_train: int, n_test: int, masked: int, target: float, patience: float) -> None:
    torch.set_num_threads(1)
    root = data or data_folder() / "mnist"
    signals = nf.load(f"mnist:{root}", split="train", limit=n_train, pad=2)
    test = nf.load(f"mnist:{root}", split="test", limit=n_test, pad=2)

    runs: dict[str, Run] = {}
    fitted: dict[str, tuple[float, float]] = {}  # train PSNR, CPU seconds
    for name in ("image", "image-modulated"):
        began = time.process_time()
        runs[name] = nf.fit(signals, recipe=name)
        seconds = time.process_time() - began
        fitted[name] = (train_psnr(runs[name], signals), seconds)
        click.echo(f"{name}: {fitted[name][0]:.2f} dB after {seconds:.0f} CPU s", err=True)
    runs["autodecoder-mnist"], fitted["autodecoder-mnist"] = faithful(signals, target, patience)

    report = "\n".join(
        [
            "# Images: quality and CPU seconds",
            "",
            f"{machine()}, one thread, `python benchmarks/image_quality.py`"
            f" ({n_train} training and {n_test} test digits at 32x32, code of 64 numbers).",
            "CPU seconds of a fit include initialisation, polish, and preparing inference. The faithful recipe (random codes)",
            f"is timed until it has {target} dB on its training images; measuring that is not counted.",
            "",
            *table_of_fits(runs, fitted, test),
            "",
            f"PSNR (dB) inside a hidden centre, {masked} test images:",
            "",
            *table_of_masks(runs, signals, test.select(torch.arange(min(masked, len(test))))),
        ]
    )
    click.echo(report)
    (RESULTS / "image_quality.md").write_text(report + "\n")


def table_of_fits(runs: dict[str, Run], fitted: dict[str, tuple[float, float]], test: nf.Signals) -> list[str]:
    """Train PSNR, CPU seconds, and new images by search."""
    lines = [
        "| recipe | train PSNR, dB | CPU s | faithful / this | new images by search, dB | CPU ms per new image | evaluations |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        psnr, seconds = fitted[name]
        found, each, evaluations = search(run, test)
        ratio = fitted["autodecoder-mnist"][1] / seconds
        lines.append(
            f"| `{name}` | {psnr:.2f} | {seconds:.0f} | {ratio:.1f} | {found:.2f} | {1000 * each:.0f} | {evaluations:.0f} |"
        )
    return lines


def table_of_masks(runs: dict[str, Run], signals: nf.Signals, test: nf.Signals) -> list[str]:
    """PSNR inside hidden centres: the mean training image, then every recipe."""
    mean = torch.cat([b.values.sum(0, keepdim=True) for b in signals.batches(1024)]).sum(0, keepdim=True) / len(signals)
    rows = {"mean image": [mean_image(mean, test, mask) for mask in MASKS]}
    for name, run in runs.items():
        completions = (nf.complete(run, test, nf.Visibility(hide=[f"center:{mask}"])) for mask in MASKS)
        rows[f"`{name}`"] = [completion.means()["hidden"]["psnr"] for completion in completions]
    head = ["| | " + " | ".join(map(str, MASKS)) + " |", "|---|" + "---|" * len(MASKS)]
    return head + [f"| {name} | " + " | ".join(f"{value:.2f}" for value in row) + " |" for name, row in rows.items()]


def faithful(signals: nf.Signals, target: float, patience: float) -> tuple[Run, tuple[float, float]]:
    """The MNIST autodecoder, trained until its train PSNR is `target`; looks are not counted."""
    recipe = Recipe.load("autodecoder-mnist", [f"domain.{k}={v}" for k, v in signals.domain_arguments.items()])
    began, looking = time.process_time(), 0.0
    model = build(recipe, len(signals))
    model.source.initialise(lambda: signals.batches(1024), generator(0, 1))
    optimisers = Optimisers(RowAdam(model.source.parameters()), torch.optim.Adam(model.decoder.parameters()))
    run = Run(recipe, model, signals.roster, {})
    psnr, per_epoch = 0.0, math.ceil(len(signals) / recipe.training.batch)
    batches = batches_of(signals, recipe.training)
    for position, _, _ in train(model, optimisers, Joint(), batches, recipe.training, Position(), 0, lambda p: 0.0):
        if position.step or position.steps % per_epoch:
            continue
        look = time.process_time()
        psnr = train_psnr(run, signals)
        looking += time.process_time() - look
        spent = time.process_time() - began - looking
        click.echo(f"autodecoder-mnist: epoch {position.epoch}, {psnr:.2f} dB after {spent:.0f} CPU s", err=True)
        if psnr >= target or spent > patience:
            break
    run.prepare(signals, generator(0, 2))
    return run, (psnr, spent)


@torch.no_grad()
def train_psnr(run: Run, signals: nf.Signals) -> float:
    """Mean over all training images, in dB."""
    scores = [run.domain.score(run.field(run.codes[b.index]), b)["psnr"] for b in signals.batches(500)]
    return torch.cat(scores).mean().item()


def search(run: Run, test: nf.Signals) -> tuple[float, float, float]:
    """(mean PSNR of whole new images, CPU seconds per image, evaluations per point)."""
    began = time.process_time()
    completion = nf.complete(run, test, nf.Visibility())
    seconds = time.process_time() - began
    return completion.means()["observed"]["psnr"], seconds / len(test), completion.estimate.evaluations.mean().item()


def mean_image(mean: torch.Tensor, test: nf.Signals, mask: int) -> float:
    """PSNR inside the hidden centre of the mean training image."""
    domain = nf.Image(**test.domain_arguments)
    truth = test.truth(torch.arange(len(test)))
    _, hidden = truth.split(nf.Visibility(hide=[f"center:{mask}"])(truth, domain))
    field = nf.Field(lambda conditioning, coords: conditioning, mean.expand(len(test), -1, -1))
    return domain.score(field, hidden)["psnr"].mean().item()


if __name__ == "__main__":
    main()
