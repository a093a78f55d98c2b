"""How fast our shape recipe trains against the faithful DeepSDF form."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
from deepsdf_reference import Form, Training, write_samples
from shape_measures import Collection, Report, Sizes, clamped_error, collection, distances_of, timed

import neuralfield as nf
from neuralfield.training.progress import Progress

FASTER = 20.0
"""Target for whole fits; hot_paths.py times single steps."""


class Stages(Progress):
    """CPU seconds that each stage of a fit took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._since = "opening", time.process_time()

    def stage(self, name: str) -> None:
        now = time.process_time()
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._since
        self._name, self._since = name, now

    def __str__(self) -> str:
        self.stage("")
        return ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items() if name)


@dataclass(frozen=True)
class Fit:
    """Steps of our recipe (None: its default), the CPU seconds of everything, the error, and where the seconds went."""

    steps: int | None
    seconds: float
    error: float
    stages: str


def training(sizes: Sizes, report: Report) -> None:
    """The faithful form's error over time, and how long our recipe needs to get there."""
    form = Form()
    report.say(
        "## Training, 4x128, codes of 64",
        "",
        "Error: mean |clamp(f) - clamp(sdf)| x 1e3, clamped to .1, over all training shapes, at points that neither has trained",
        "on, distributed as DeepSDF's samples. CPU seconds of ours hold everything but the sampling of the meshes: initialisation,",
        f"training, polish, preparing inference, its scores. The faithful form takes {form.shapes} shapes x {form.samples} samples",
        "a step: more and smaller steps serve it best in so short a time.",
        "",
    )
    for name in ("bodies", "seats"):
        train = collection(name, "train", sizes)
        theirs = faithful(train, form, sizes)
        goal = list(theirs.values())[-1]
        fits = ladder(train, sizes, goal)
        report.say(f"### {name}, {len(train)} shapes", "")
        rows = [(f"faithful DeepSDF form, {mark:.0f} s", f"{mark:.1f}", f"{1e3 * error:.2f}", "") for mark, error in theirs.items()]
        rows += [
            (f"`shape`, {fit.steps or 'default'} steps", f"{fit.seconds:.1f}", f"{1e3 * fit.error:.2f}", fit.stages) for fit in fits
        ]
        report.table(("what", "CPU s", "error x 1e3", "where the seconds went"), rows)
        reached = [fit for fit in fits if fit.error <= goal]
        best = min(reached, key=lambda fit: fit.seconds) if reached else None
        ratio = max(theirs) / best.seconds if best else 0.0
        what = f"{name}: the faithful form's error after {max(theirs):.0f} CPU s in at most 1/{FASTER:.0f} of them."
        measured = f"{best.seconds:.1f} CPU s with {best.steps} steps, 1/{ratio:.1f}" if best else "not reached"
        report.target(what, measured, ratio >= FASTER)


def faithful(train: Collection, form: Form, sizes: Sizes) -> dict[float, float]:
    """CPU seconds -> error."""
    found: dict[float, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.npz" for i in range(len(train))]
        for i, file in enumerate(files):
            write_samples(file, train.drawn(i, sizes.file, 2))
        reference = Training(len(train), form)
        for mark in reference.until(sizes.marks, files):
            found[mark] = clamped_error(reference.distances, train.probes)
            click.echo(f"{train.name}: faithful after {mark:.0f} CPU s, {reference.steps} steps: {found[mark]:.5f}", err=True)
    return found


def ladder(train: Collection, sizes: Sizes, goal: float) -> list[Fit]:
    """Fits from scratch, each longer than the last, until one reaches the goal; then the default."""
    fits: list[Fit] = []
    for count in sizes.ladder:
        fits.append(fit(train, [f"training.steps={count}"], count))
        if fits[-1].error <= goal:
            break
    return [*fits, fit(train, list(sizes.settings), None)]


def fit(train: Collection, settings: list[str], steps: int | None) -> Fit:
    """One fit of our recipe, from the samples of the meshes on."""
    stages = Stages()
    with timed() as clock:
        run = nf.fit(train.signals, recipe="shape", settings=settings, progress=stages)
    told = str(stages)
    error = clamped_error(distances_of(run, run.codes), train.probes)
    click.echo(f"{train.name}: {settings} {clock.seconds:.1f} CPU s, error {error:.5f} ({told})", err=True)
    return Fit(steps, clock.seconds, error, told)
