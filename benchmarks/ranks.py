"""Two ranks of one thread each against one: points per second with the same global batch, and the bytes that a step sums.

python benchmarks/ranks.py            about four minutes; nothing else may run on the machine
python benchmarks/ranks.py --quick    whether it works
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from machine import RESULTS, machine
from shape_measures import Report
from torch import Tensor

import neuralfield as nf
from neuralfield.recipe import Recipe, build
from neuralfield.registry import resolve
from neuralfield.training.asked import completed
from neuralfield.training.batches import batches_of
from neuralfield.training.loop import Position, train
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.training.ranks import Ranks
from neuralfield.training.schedules.joint import Joint
from neuralfield.training.schedules.schedule import Optimisers
from neuralfield.training.shared import share
from neuralfield.training.torchrun import first, here, together

SIGNALS, TARGET = 128, 1.7
SUMS = 50
"""Sums of a bucket that are timed alone."""


def pictures() -> nf.Signals:
    """Colour pictures of 64x64 smooth random values."""
    coarse = torch.rand(SIGNALS, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return nf.Images(torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear").permute(0, 2, 3, 1).contiguous())


def spheres() -> nf.Signals:
    """Distances to spheres at 8,192 points of each."""
    draw = np.random.default_rng(0)
    points = draw.uniform(-1, 1, (SIGNALS, 8192, 3)).astype(np.float32)
    radius = draw.uniform(0.3, 0.8, (SIGNALS, 1, 1)).astype(np.float32)
    return nf.Shapes(list(np.concatenate([points, np.linalg.norm(points, axis=2, keepdims=True) - radius], 2)))


@dataclass(frozen=True)
class Fit:
    """Data, recipe and settings."""

    signals: Callable[[], nf.Signals]
    recipe: str
    settings: tuple[str, ...]


SIREN = ("decoder.basis=siren", "decoder.width=256", "decoder.depth=5", "latents.code_dim=256", "training.batch=16")
FITS = {
    "SIREN 5x256, 16 x 1024 points, Adam": Fit(
        pictures, "image-modulated", (*SIREN, "training.points=1024", "training.optimiser=adam")
    ),
    "shape 4x128, 16 x 128 points, Muon": Fit(spheres, "shape", ()),
    "shape 4x128, 16 x 1024 points, Muon": Fit(spheres, "shape", ("training.points=1024",)),
}


@together
def measured(name: str, seconds: float, out: Path) -> dict[str, float]:
    """Points per second of all ranks together, bytes that a step sums, and milliseconds that summing it takes alone."""
    torch.set_num_threads(1)
    fit, ranks = FITS[name], here()
    signals = fit.signals()
    recipe = completed(Recipe.load(fit.recipe, fit.settings), signals)
    model = build(recipe, len(signals))
    if ranks.world > 1:
        share(model, len(signals), ranks)
    torch.nn.init.normal_(model.source.codes, std=0.1)
    decoder = resolve("optimisers", recipe.training.optimiser)(model.decoder.parameters())
    if isinstance(decoder, nf.Muon):
        decoder.ranks = ranks
    optimisers = Optimisers(RowAdam(model.source.parameters()), decoder, ranks)
    loop = train(model, optimisers, Joint(), batches_of(signals, recipe.training), recipe.training, Position(), 0, lambda at: 0.0)
    spent, points, steps, warm = 0.0, 0.0, 0, max(3, int(seconds))
    for step, (_, loss, count) in enumerate(loop):
        # what a fit agrees on in every step
        more, _, now = ranks.total(float(count), float(loss.total.detach().sum()), ranks.first * time.perf_counter())
        if step < warm:
            began, work = now, time.process_time()
            continue
        spent, points, steps = now - began, points + more, steps + 1
        if spent > seconds:
            break
    worked = time.process_time() - work
    bucket = [torch.zeros_like(p) for p in model.decoder.parameters()]
    number = 1 + sum(p.numel() for p in bucket)
    if isinstance(decoder, nf.Muon):  # and the updates of matrices
        number += sum(p.numel() for p in bucket if p.ndim > 1 and len(p) > 1)
    return {
        "rate": points / spent,
        "step": 1e3 * spent / steps,
        "cpu": 1e3 * worked / steps,
        "bytes": 4.0 * number,
        "sum": _summing(bucket, ranks),
    }


def _summing(bucket: list[Tensor], ranks: Ranks) -> float:
    began = time.perf_counter()
    for _ in range(SUMS):
        ranks.average(bucket, 1)
    return 1e3 * (time.perf_counter() - began) / SUMS


def on(world: int, name: str, seconds: float) -> dict[str, float]:
    """The same in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)] if world > 1 else []
        found = Path(folder) / "found.json"
        words = [sys.executable, *torchrun, __file__, "--worker", name, "--seconds", str(seconds), "--found", str(found)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(done.stderr[-2000:])
        result: dict[str, float] = json.loads(found.read_text())
        return result


def compare(report: Report, repeats: int, seconds: float) -> None:
    rows, worst = [], float("inf")
    for name in FITS:
        pairs = [(on(1, name, seconds), on(2, name, seconds)) for _ in range(repeats)]  # in turns: the machine's mood changes
        one, two = ({key: statistics.median(pair[side][key] for pair in pairs) for key in pairs[0][0]} for side in (0, 1))
        gain = statistics.median(pair[1]["rate"] / pair[0]["rate"] for pair in pairs)
        worst = min(worst, gain)
        rate = [f"{each['rate'] / 1e3:.0f}" for each in (one, two)]
        rows.append(
            [
                name,
                *rate,
                f"{gain:.2f}",
                f"{two['step']:.1f}",
                f"{one['cpu']:.1f} / {two['cpu']:.1f}",
                f"{two['bytes'] / 1024:.0f}",
                f"{two['sum']:.2f}",
            ]
        )
    head = [
        "fit",
        "1 rank, k points/s",
        "2 ranks, k points/s",
        "gain",
        "step of 2, ms",
        "CPU ms of a step: 1 / each of 2",
        "summed in a step, KiB",
        "sum of gradients alone, ms",
    ]
    report.table(head, rows)
    report.target(f"two ranks of one thread are at least {TARGET} times as fast as one.", f"{worst:.2f} at worst,", worst >= TARGET)


@click.command()
@click.option("--quick", is_flag=True, help="One short run of each.")
@click.option("--seconds", type=float, default=8.0, help="Of each run.")
@click.option("--worker", hidden=True)
@click.option("--found", type=click.Path(path_type=Path), hidden=True)
def main(quick: bool, seconds: float, worker: str | None, found: Path | None) -> None:
    if worker is not None and found is not None:
        numbers = measured(worker, seconds, out=found.with_name("run"))
        if first():
            found.write_text(json.dumps(numbers))
        return
    report = Report()
    report.say("# Several ranks", "", f"{machine()}, `python benchmarks/ranks.py{' --quick' if quick else ''}`.", "")
    compare(report, *((1, 1.0) if quick else (5, seconds)))
    if not quick:
        (RESULTS / "ranks.md").write_text("\n".join(report.lines) + "\n")


if __name__ == "__main__":
    main()
