"""What the parts of shape_speed.py share: sizes, shapes with probes that no fit has seen, chamfer distances, tables, targets."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import click
import numpy as np
import torch
import trimesh
from deepsdf_reference import CLAMP
from machine import data_folder
from scipy.spatial import cKDTree
from torch import Tensor

import neuralfield as nf
from neuralfield.domains.surfaces import Surface, extracted
from neuralfield.signals.distances import Plan
from neuralfield.signals.mesh_files import normalised, read_mesh

DEEPSDF_SPREAD = 0.005**0.5
"""DeepSDF's samples near the surface: variances .005 and .0005, in turn; the other 6 % lie evenly in the cube."""
EVEN = 0.06


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    train: int | None = None
    test: int | None = None
    marks: tuple[float, ...] = (30.0, 60.0, 120.0, 300.0)
    """CPU seconds after which the faithful form is looked at."""
    ladder: tuple[int, ...] = (150, 200, 250, 300, 350, 400, 500, 600, 800, 1000)
    """Steps of our fits."""
    settings: tuple[str, ...] = ()
    """Of the fits that the other parts use."""
    probes: int = 4096
    file: int = 24_576
    """Samples in a file of the faithful form: as many as our own source keeps."""
    adam_steps: int = 800
    adam_seconds: float = 120.0
    """CPU seconds for DeepSDF's search over all shapes of a set; as many shapes as fit in."""
    surface: int = 30_000
    resolution: int = 128
    calibrated: int = 16
    """Training shapes that bands are calibrated on."""
    fine: int = 256
    dense: int = 3
    """Seats that are sampled densely at `fine` samples an axis."""
    coarse: int = 128
    """Samples an axis for the count of components, of all seats."""
    distances: int = 100_000
    slow_distances: int = 20_000
    """Points for trimesh."""
    singles: int | None = None


QUICK = Sizes(
    train=10,
    test=2,
    marks=(1.0, 2.0),
    ladder=(10, 40),
    settings=("training.steps=60",),
    probes=512,
    file=4096,
    adam_steps=20,
    adam_seconds=4.0,
    surface=3000,
    resolution=48,
    calibrated=4,
    fine=48,
    dense=1,
    coarse=32,
    distances=5000,
    slow_distances=200,
    singles=2,
)


@dataclass
class Report:
    """Lines, shown as soon as they are there."""

    lines: list[str] = field(default_factory=list)

    def say(self, *lines: str) -> None:
        self.lines += lines
        click.echo("\n".join(lines))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.say(f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(map(str, row))} |" for row in rows), "")

    def target(self, what: str, measured: str, met: bool) -> None:
        self.say(f"target: {what} measured: {measured} {'met' if met else 'NOT met'}", "")


class Clock:
    """CPU seconds of this process."""

    def __init__(self) -> None:
        self.seconds = 0.0


@contextmanager
def timed() -> Iterator[Clock]:
    """CPU seconds of what is done inside."""
    clock, began = Clock(), time.process_time()
    yield clock
    clock.seconds = time.process_time() - began


class Collection:
    """One split of a folder of meshes: as our source samples it, and beside it the surfaces and fresh samples of them."""

    def __init__(self, name: str, split: str, sizes: Sizes) -> None:
        self.name, self.split, self.sizes = name, split, sizes
        self.source = data_folder() / "meshes" / name
        limit = sizes.train if split == "train" else sizes.test
        self.signals: nf.Signals = nf.load(f"meshes:{self.source}", split=split, limit=limit)

    def __len__(self) -> int:
        return len(self.signals)

    @cached_property
    def surfaces(self) -> list[Surface]:
        """As they lie in the cube."""
        return [normalised(read_mesh(self.source / self.split / f"{name}.ply")[0])[0] for name in self.signals.ids]

    @cached_property
    def probes(self) -> Tensor:
        """[n, probes, 4], distributed as DeepSDF's samples, seen by no fit: what errors are measured at."""
        return torch.stack([torch.from_numpy(self.drawn(i, self.sizes.probes, 1)) for i in range(len(self))])

    def drawn(self, i: int, count: int, seed: int) -> np.ndarray:
        """[count, 4] points of a shape and their distances, distributed as DeepSDF's samples."""
        even = round(EVEN * count)
        random = np.random.default_rng([seed, i])
        return random.permutation(Plan(even, 0, count - even, DEEPSDF_SPREAD).take(self.surfaces[i], random)[0])


@lru_cache(maxsize=8)
def collection(name: str, split: str, sizes: Sizes) -> Collection:
    """Read once for all parts."""
    return Collection(name, split, sizes)


@lru_cache(maxsize=4)
def fitted(name: str, sizes: Sizes) -> nf.Run:
    """Our recipe at its default length on a training set; the parts that only need a decoder share it."""
    with timed() as clock:
        run = nf.fit(collection(name, "train", sizes).signals, recipe="shape", settings=sizes.settings)
    click.echo(f"{name}: recipe `shape` fitted in {clock.seconds:.0f} CPU s", err=True)
    return run


@dataclass(frozen=True)
class Found:
    """Codes of the unseen shapes by the recipe's own inference, and what they cost in all."""

    estimate: nf.Estimate
    seconds: float


@lru_cache(maxsize=4)
def inferred(name: str, sizes: Sizes) -> Found:
    """Once for all parts."""
    run, test = fitted(name, sizes), collection(name, "test", sizes)
    with timed() as clock:
        estimate = run.infer(test.signals)
    return Found(estimate, clock.seconds)


def clamped_error(distances: Callable[[int, Tensor], Tensor], probes: Tensor) -> float:
    """Mean |clamp(f) - clamp(sdf)| over all probes of all shapes; `distances(i, coords [N, 3])` is f of shape i."""
    each = [(distances(i, p[:, :3]).clamp(-CLAMP, CLAMP) - p[:, 3].clamp(-CLAMP, CLAMP)).abs().mean() for i, p in enumerate(probes)]
    return float(torch.stack(each).mean())


def distances_of(run: nf.Run, codes: Tensor) -> Callable[[int, Tensor], Tensor]:
    """f of a run's field with some codes."""

    @torch.no_grad()
    def at(i: int, coords: Tensor) -> Tensor:
        return run.field(codes[i : i + 1])(coords)[0, :, 0]

    return at


def decoded(run: nf.Run, code: Tensor, resolution: int) -> Surface:
    """The surface of one code [D]."""
    return extracted(run.field(code[None]), resolution)[0]


def surface_points(surface: Surface, count: int, seed: int) -> np.ndarray:
    """[count, 3], uniform over the surface."""
    mesh = trimesh.Trimesh(surface.vertices, surface.elements, process=False)
    return trimesh.sample.sample_surface(mesh, count, seed=seed)[0]


def chamfer(ours: np.ndarray, theirs: np.ndarray) -> float:
    """DeepSDF's: the sum over both directions of the mean squared distance between points [n, 3] and [m, 3]."""
    if not len(ours) or not len(theirs):
        return float("inf")
    there, back = cKDTree(theirs).query(ours)[0], cKDTree(ours).query(theirs)[0]
    return float(np.square(there).mean() + np.square(back).mean())


def surface_chamfer(ours: Surface, truth: Surface, count: int) -> float:
    """Of two surfaces by `count` points on each."""
    if not len(ours):
        return float("inf")
    return chamfer(surface_points(ours, count, 1), surface_points(truth, count, 2))


def floor(truth: Surface, count: int) -> float:
    """What the same surface has against itself, sampled twice."""
    return chamfer(surface_points(truth, count, 1), surface_points(truth, count, 2))


def thousandths(values: Sequence[float]) -> str:
    """Mean and median, x 1e3."""
    return f"{1e3 * float(np.mean(values)):.3f} | {1e3 * float(np.median(values)):.3f}"
