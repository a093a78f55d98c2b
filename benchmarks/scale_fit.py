"""A fit of very many signals that are made when they are asked for, in a process of its own: what it holds, stage by stage.

python benchmarks/scale_fit.py --signals 10000000 --out FOLDER      prints one line of JSON; benchmarks/scale.py calls it
"""

import json
import resource
import time
from pathlib import Path
from typing import Any, Self

import click
import torch

import neuralfield as nf
from neuralfield.training.progress import Progress

POINTS = 16
SETTINGS = [
    "latents.mapped=true",
    "latents.init=normal",
    "latents.std=0.1",
    "decoder.kind=modulated",
    "decoder.width=64",
    "decoder.depth=2",
    "decoder.frequencies=8",
    "likelihood.noise=fixed",
    "likelihood.std=0.1",
    "training.steps=1000",
    "training.polish=0",
    "inference.kind=adam",
    "inference.start=mean",
    "inference.prior=gaussian",
]


class Sines(nf.Signals):
    """Sines whose amplitude, frequency, phase and offset follow from their number: nothing is stored."""

    domain, labels = "function", None

    def __init__(self, index: torch.Tensor | None, count: int) -> None:
        self.index, self.ids = index, nf.Numbered(count)
        self.coords = torch.linspace(-1, 1, POINTS)[None, :, None]

    @property
    def domain_arguments(self) -> dict[str, Any]:
        return {"start": 0.0, "end": 1.0, "centre": [0.0], "scale": [1.0], "times": torch.linspace(0, 1, POINTS).tolist()}

    def batch(self, index: torch.Tensor, points: int | None = None, generator: torch.Generator | None = None) -> nf.Observations:
        number = (index if self.index is None else self.index[index]).double()[:, None]
        # the fractions of multiples of irrational numbers are spread evenly
        amplitude, frequency, phase, offset = ((number * root).frac() for root in (2**0.5, 3**0.5, 5**0.5, 7**0.5))
        t = (self.coords[..., 0].double() + 1) / 2
        x = (0.5 + amplitude) * torch.sin(2 * torch.pi * ((0.5 + frequency) * t + phase)) + offset - 0.5
        return nf.Observations(index, self.coords, x.float()[..., None], torch.ones(len(index), POINTS))

    def select(self, index: torch.Tensor) -> Self:
        return type(self)(index, len(index))


def _status(name: str) -> float:
    """A line of /proc/self/status, in GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e9


def _on_disk(folder: Path) -> dict[str, float]:
    """GB that the files of a folder take."""
    return {str(f.relative_to(folder)): f.stat().st_blocks * 512 / 1e9 for f in folder.rglob("*") if f.is_file()}


class Watching(Progress):
    """The peak of each stage, which begins with what is resident then; and the most that lay on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stages, self.disk, self.reports = folder, list[dict[str, Any]](), dict[str, float](), 0
        self.stage("imports")

    def stage(self, name: str) -> None:
        self.close()
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        self.stages.append({"stage": name, "began": time.perf_counter(), "cpu": time.process_time()})

    def close(self) -> None:
        if self.stages:
            last = self.stages[-1]
            last["peak"] = _status("VmHWM")
            last["seconds"], last["cpu"] = time.perf_counter() - last.pop("began"), time.process_time() - last["cpu"]
        self.look()

    def report(self, report: Any) -> None:
        self.reports += 1
        if self.reports % 256 == 0:
            self.look()

    def look(self) -> None:
        now = _on_disk(self.folder)
        if sum(now.values()) > sum(self.disk.values()):
            self.disk = now


@click.command()
@click.option("--signals", default=10_000_000)
@click.option("--dims", default=64)
@click.option("--batch", default=2048)
@click.option("--budget", type=float, default=None, help="Seconds; by default one epoch.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(signals: int, dims: int, batch: int, budget: float | None, out: Path) -> None:
    torch.set_num_threads(1)
    watching, began = Watching(out), time.perf_counter()
    length = {"epochs": 1} if budget is None else {"budget": budget}
    settings = [*SETTINGS, f"latents.code_dim={dims}", f"training.batch={batch}"]
    run = nf.fit(Sines(None, signals), recipe="function", settings=settings, out=out, device="cpu", progress=watching, **length)
    watching.close()
    facts = {
        "signals": signals,
        "steps": run.facts["steps"],
        "nrmse": run.facts["scores"]["train"]["nrmse"],
        "seconds": time.perf_counter() - began,
        "ru_maxrss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "stages": watching.stages,
        "disk": watching.disk,
        "left": _on_disk(out),
    }
    click.echo(json.dumps(facts))


if __name__ == "__main__":
    main()
