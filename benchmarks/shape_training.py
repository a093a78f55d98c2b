"""How fast our shape recipe trains against the faithful DeepSDF form, as a whole and step by step."""

import inspect
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import click
import torch
from deepsdf_reference import CLAMP, CODE_RATE, NETWORK_RATE, Form, Training, write_samples
from jaxtyping import Float
from shape_measures import Collection, Report, Sizes, clamped_error, collection, distances_of, timed
from torch import Tensor

import neuralfield as nf
from neuralfield.decoders.concat import Concat
from neuralfield.decoders.decoder import Decoder
from neuralfield.domains.shape import Shape
from neuralfield.latents.bank import Bank
from neuralfield.latents.priors import Isotropic
from neuralfield.likelihoods import ClampedL1
from neuralfield.measurements import Points
from neuralfield.objective import MAP
from neuralfield.recipe import Model
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.training.progress import Progress
from neuralfield.training.schedules.schedule import Optimisers, descend
from neuralfield.types import Conditioning, Observations

STEPS_BATCH = (8, 2048)
FASTER, STANDARD_STEP, SMALL_STEP = 20.0, 1.6, 2.8
"""Targets: of whole fits, and of a step of 8x512 and of 4x128."""


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


class Bounded(Decoder):
    """tanh of another decoder, where Concat has no tanh of its own."""

    affine_conditioning: ClassVar[bool] = True
    broadcasts: ClassVar[bool] = True

    def __init__(self, inner: Decoder) -> None:
        super().__init__()
        self.inner = inner

    def condition(self, z: Float[Tensor, "B D"]) -> Conditioning:
        return self.inner.condition(z)

    def evaluate(self, conditioning: Conditioning, coords: Float[Tensor, "G N C"]) -> Float[Tensor, "B N V"]:
        return self.inner.evaluate(conditioning, coords).tanh()


def steps(sizes: Sizes, report: Report) -> None:
    """Seconds of a step at the identical objective, and what dropout does to both."""
    shapes, points = STEPS_BATCH
    report.say(
        f"## One training step, {shapes} shapes x {points} points, clamped L1, tanh",
        "",
        f"Median of {sizes.repeats} interleaved repeats, CPU seconds. DeepSDF's loop concatenates the code at every point and",
        "moves all codes; ours is the step of the toolkit: `concat` conditioned once, weight norm, RowAdam. Samples lie in memory.",
        "",
    )
    for width, depth, latent, skip in sizes.sides:
        _steps_of(Form(width, depth, latent, skip, shapes=shapes, samples=points), sizes, report)


def _steps_of(form: Form, sizes: Sizes, report: Report) -> None:
    random = torch.Generator().manual_seed(0)
    points = torch.rand(form.shapes, form.samples, 4, generator=random) * 2 - 1
    points[..., 3] = points[..., :3].norm(dim=2) - 0.5
    kinds: dict[str, Callable[[], object] | None] = {}
    for rate in (form.dropout, 0.0):
        told = f"dropout {rate:g}"
        kinds[f"DeepSDF's loop, {told}"] = deepsdf_step(form, rate, points)
        kinds[f"ours, {told}"] = our_step(form, rate, points)
    seconds = interleaved({name: step for name, step in kinds.items() if step}, sizes.repeats)
    title = f"{form.depth}x{form.width}"
    report.say(f"### {title}, latent {form.latent}, skip {form.skip}", "")
    missing = [name for name in ("weight_norm", "bounded", "dropout") if name not in inspect.signature(Concat).parameters]
    if missing:
        report.say(
            f"`concat` lacks {', '.join(missing)} in this version: ours goes without, but for tanh, which is put around it.", ""
        )
    report.table(("loop", "CPU s a step"), [(name, f"{seconds[name]:.4f}" if name in seconds else "-") for name in kinds])
    with_dropout, without = f"dropout {form.dropout:g}", "dropout 0"
    for theirs, ours in ((without, without), (with_dropout, with_dropout)):
        if f"ours, {ours}" in seconds:
            ratio = seconds[f"DeepSDF's loop, {theirs}"] / seconds[f"ours, {ours}"]
            report.say(f"Ablation, {theirs} in both: {ratio:.2f} x.")
    report.say("")
    ratio = seconds[f"DeepSDF's loop, {with_dropout}"] / seconds[f"ours, {without}"]
    least = STANDARD_STEP if form.width >= 512 else SMALL_STEP
    report.target(f"{title}: a step in at most 1/{least} of DeepSDF's, dropout on in its alone.", f"1/{ratio:.2f}", ratio >= least)


def deepsdf_step(form: Form, dropout: float, points: Tensor) -> Callable[[], object]:
    """A step of the reference on one batch."""
    kinds = Form(form.width, form.depth, form.latent, form.skip, dropout, form.shapes, form.samples)
    reference, shapes = Training(130, kinds), torch.arange(form.shapes)
    return lambda: reference.step(points, shapes)


def our_step(form: Form, dropout: float, points: Tensor) -> Callable[[], object] | None:
    """The same by our parts; None where `concat` cannot drop units."""
    torch.manual_seed(0)
    has = inspect.signature(Concat).parameters
    if dropout and "dropout" not in has:
        return None
    wanted = {"weight_norm": True, "bounded": True, "dropout": dropout}
    known = {name: value for name, value in wanted.items() if name in has}
    decoder: Decoder = Concat(3, 1, form.latent, form.width, form.depth, form.skip, **known)  # type: ignore[arg-type]
    decoder = decoder if "bounded" in has else Bounded(decoder)
    bank = Bank(130, form.latent, "normal", form.latent**-0.5)
    bank.initialise(lambda: iter(()), torch.Generator().manual_seed(0))
    objective = MAP(Points(), ClampedL1(clamp=CLAMP, leak=0.0), Isotropic(form.latent))
    model = Model(Shape(), bank, decoder, objective)
    optimisers = Optimisers(RowAdam(bank.parameters(), CODE_RATE), torch.optim.Adam(decoder.parameters(), NETWORK_RATE))
    seen = Observations(torch.arange(form.shapes), points[..., :3], points[..., 3:], torch.ones(points.shape[:2]))
    random = torch.Generator().manual_seed(0)
    return lambda: descend(model, optimisers, seen, random)


def interleaved(kinds: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each, taken in turn after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for repeat in range(repeats + 1):
        for name, step in kinds.items():
            with timed() as clock:
                step()
            if repeat:
                seconds[name].append(clock.seconds)
    return {name: statistics.median(each) for name, each in seconds.items()}
