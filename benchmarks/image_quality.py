"""How good, how fast: our image recipes against the faithful MNIST autodecoder, in one run, on one CPU thread.

    python benchmarks/image_quality.py                    10,000 + 1,000 digits, about 20 minutes
    python benchmarks/image_quality.py --train 2000 --test 200 --target 24

Prints train PSNR against CPU seconds (initialisation and polish included), PSNR of new images by search, and PSNR inside
hidden centres; writes the same to benchmarks/results/image_quality.md.
"""

import math
import os
import platform
import time
from pathlib import Path

import click
import torch

import neuralfield as nf
from neuralfield.recipe import Recipe, build
from neuralfield.run import Run
from neuralfield.seeds import generator
from neuralfield.training.loop import Position, train
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.training.schedules.joint import Joint
from neuralfield.training.schedules.schedule import Optimisers

HERE = Path(__file__).parent
MASKS = (8, 12, 16, 20)


@click.command()
@click.option("--data", default=None, help="A folder with MNIST/raw; by default NF_DATA/mnist or ../shared/data/mnist.")
@click.option("--train", "n_train", default=10_000)
@click.option("--test", "n_test", default=1_000)
@click.option("--masked", default=256, help="Test images with hidden centres.")
@click.option("--target", default=27.8, help="Train PSNR that the faithful recipe is timed to, dB.")
@click.option("--patience", default=900.0, help="CPU seconds after which the faithful recipe is stopped.")
def main(data: str | None, n_train: int, n_test: int, masked: int, target: float, patience: float) -> None:
    torch.set_num_threads(1)
    root = data or str(Path(os.environ.get("NF_DATA", HERE.parent.parent / "shared" / "data")) / "mnist")
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

    lines = [
        "# Images: quality and CPU seconds",
        "",
        f"{time.strftime('%Y-%m-%d')}, {machine()}, one thread, `python benchmarks/image_quality.py`"
        f" ({n_train} training and {n_test} test digits at 32x32, code of 64 numbers).",
        "CPU seconds of a fit include initialisation, polish, and preparing inference. The faithful recipe (random codes)",
        f"is timed until it has {target} dB on its training images; measuring that is not counted.",
        "",
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
        click.echo(lines[-1], err=True)
    lines += [
        "",
        f"PSNR (dB) inside a hidden centre, {masked} test images:",
        "",
        "| | " + " | ".join(map(str, MASKS)) + " |",
        "|---|" + "---|" * len(MASKS),
    ]
    some = test.select(torch.arange(min(masked, len(test))))
    mean = torch.cat([b.values.sum(0, keepdim=True) for b in signals.batches(1024)]).sum(0, keepdim=True) / len(signals)
    for name, row in {"mean image": [mean_image(mean, some, m) for m in MASKS]}.items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row) + " |")
    for name, run in runs.items():
        row = [nf.complete(run, some, nf.Visibility(hide=[f"center:{m}"])).means()["hidden"]["psnr"] for m in MASKS]
        lines.append(f"| `{name}` | " + " | ".join(f"{value:.2f}" for value in row) + " |")
    report = "\n".join(lines)
    click.echo(report)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "image_quality.md").write_text(report + "\n")


def faithful(signals: nf.Signals, target: float, patience: float) -> tuple[Run, tuple[float, float]]:
    """The MNIST autodecoder, trained until its train PSNR is `target`; looks are not counted."""
    recipe = Recipe.load("autodecoder-mnist", [f"domain.{k}={v}" for k, v in signals.domain_arguments.items()])
    began, looking = time.process_time(), 0.0
    model = build(recipe, len(signals))
    model.source.initialise(lambda: signals.batches(1024), generator(0, 1))
    optimisers = Optimisers(RowAdam(model.source.parameters()), torch.optim.Adam(model.decoder.parameters()))
    run = Run(recipe, model, signals.ids, signals.labels, {})
    psnr, per_epoch = 0.0, math.ceil(len(signals) / recipe.training.batch)
    for position, _ in train(model, optimisers, Joint(), signals, recipe.training, Position(), 0, lambda p: 0.0):
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


def machine() -> str:
    """What this was measured on."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
