"""What the decoder of our recipe makes of shapes that it has not seen, and of single ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import click
import numpy as np
import torch
from deepsdf_reference import CLAMP, reconstruct
from machine import data_folder
from shape_measures import (
    Collection,
    Report,
    Sizes,
    collection,
    decoded,
    distances_of,
    fitted,
    floor,
    inferred,
    surface_chamfer,
    thousandths,
    timed,
)
from torch import Tensor

import neuralfield as nf
from neuralfield.domains.surfaces import Surface
from neuralfield.inference.oriented import oriented
from neuralfield.inference.thinning import thinned
from neuralfield.signals.mesh_files import normalised, read_mesh
from neuralfield.signals.shapes import Shapes

RATES = (5e-3, 5e-2)
"""DeepSDF's rate for its search, and one for codes that are ten times longer, as ours are."""
TRIED = 1
"""Shapes that the rates are compared on."""
FASTER, EVALUATIONS, GAP = 30.0, 25.0, 1.5
"""Targets: of reconstruction in CPU seconds and evaluations, of the error on unseen shapes against training shapes."""

ABLATIONS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("without weight decay", ("objective.weight_l2=0",), False),
    ("with five times the weight decay", ("objective.weight_l2=5e-4",), False),
    ("with frequencies of bandwidth 1.5", ("decoder.bandwidth=1.5",), False),
    ("with mirrored shapes (signals.mirror=x)", (), True),
    ("with noise of .1 on codes", ("latents.noise=0.1",), False),
    ("with codes of 32 numbers", ("latents.code_dim=32",), False),
)
"""Name, settings, and whether the mirror images of the training shapes are fitted too."""
FEW = 5000
"""Points on each surface when all are compared with all."""


@dataclass(frozen=True)
class Searched:
    """By DeepSDF's search: codes of the first shapes [n, D], CPU seconds of all of them."""

    codes: Tensor
    seconds: float
    rate: float


def searched(
    run: nf.Run,
    samples: Sequence[Tensor],
    sizes: Sizes,
    empty: Sequence[Tensor | None] | None = None,
    starts: Tensor | None = None,
) -> Searched:
    """DeepSDF's search, one shape at a time, on as many as the time allows, at the better of two rates.

    From `starts` [n, D], or from where DeepSDF begins.
    """
    empty = [None] * len(samples) if empty is None else empty

    def decode(code: Tensor, coords: Tensor) -> Tensor:
        return run.decoder(code, coords[None])[0, :, 0]

    def one(i: int, rate: float) -> Tensor:
        torch.manual_seed(i)
        start = None if starts is None else starts[i : i + 1]
        return reconstruct(decode, samples[i], run.codes.shape[1], sizes.adam_steps, rate=rate, empty=empty[i], start=start)

    def error(i: int, code: Tensor) -> float:
        at = distances_of(run, code)(0, samples[i][:, :3])
        return float((at.clamp(-CLAMP, CLAMP) - samples[i][:, 3].clamp(-CLAMP, CLAMP)).abs().mean())

    tried = range(min(TRIED, len(samples)))
    rate = min(RATES, key=lambda rate: sum(error(i, one(i, rate)) for i in tried))
    codes: list[Tensor] = []
    with timed() as clock:
        codes.append(one(0, rate))
    affordable = max(1, min(len(samples), int(sizes.adam_seconds / max(clock.seconds, 1e-9))))
    with timed() as rest:
        codes += [one(i, rate) for i in range(1, affordable)]
    return Searched(torch.cat(codes), clock.seconds + rest.seconds, rate)


def reconstruction(sizes: Sizes, report: Report) -> None:
    """Unseen shapes: the recipe's own inference against DeepSDF's search with the same decoder."""
    report.say(
        "## Reconstruction of unseen shapes, the decoder of recipe `shape`",
        "",
        f"Chamfer x 1e3: DeepSDF's, {sizes.surface} points, shapes of radius 1/1.03; meshes at {sizes.resolution}^3. The floor is",
        f"the true mesh sampled twice. Adam: {sizes.adam_steps} steps of DeepSDF's search, at the better of the rates {RATES} by",
        "the error on the first shape; once from the bank's nearest code, where ours begins too, once from 0, where DeepSDF",
        "begins. CPU seconds are for one shape. Evaluations are forward passes over the points that a search looks at.",
        "",
    )
    for name in ("bodies", "seats"):
        _reconstruction(name, sizes, report)


def _reconstruction(name: str, sizes: Sizes, report: Report) -> None:
    run, test, found = fitted(name, sizes), collection(name, "test", sizes), inferred(name, sizes)
    samples = [torch.from_numpy(test.drawn(i, sizes.file, 3)) for i in range(len(test))]
    starts = nearest_codes(run, test.signals.truth(torch.arange(len(test))))
    adam, own = searched(run, samples, sizes, starts=starts), searched(run, samples, sizes)
    n, codes, seconds = min(len(adam.codes), len(own.codes)), found.estimate.latent.mean, found.seconds / len(test)
    ours, theirs, published = (chamfers(run, each, test, sizes) for each in (codes, adam.codes[:n], own.codes[:n]))
    floors = [floor(surface, sizes.surface) for surface in test.surfaces]
    evaluations = float(found.estimate.evaluations.mean())
    report.say(
        f"### {name}, {len(test)} unseen shapes, DeepSDF's search on the first {n}, at rate {adam.rate:g} from our start and "
        f"{own.rate:g} from its own",
        "",
    )
    kind, steps, each = run.recipe.inference.kind, sizes.adam_steps, adam.seconds / len(adam.codes)
    report.table(
        ("search", "shapes", "chamfer, mean", "median", "evaluations a point", "CPU s a shape"),
        [
            ("floor", len(test), thousandths(floors), "", ""),
            (f"`{kind}`", len(test), thousandths(ours), f"{evaluations:.1f}", f"{seconds:.2f}"),
            (f"`{kind}`", f"first {n}", thousandths(ours[:n]), "", ""),
            (
                f"Adam-{steps}, from our start",
                f"first {n}",
                thousandths(theirs),
                3 * steps,
                f"{adam.seconds / len(adam.codes):.2f}",
            ),
            (f"Adam-{steps}, from 0 as DeepSDF", f"first {n}", thousandths(published), 3 * steps, ""),
        ],
    )
    better = float(np.mean(ours[:n])) <= float(np.mean(theirs))
    ratio = each / seconds
    measured = f"{1e3 * np.mean(ours[:n]):.3f}e-3 and {1e3 * np.mean(theirs):.3f}e-3"
    report.target(f"{name}: mean chamfer equal to Adam-{sizes.adam_steps}'s or better.", measured, better)
    report.target(f"{name}: at most 1/{FASTER:.0f} of its CPU seconds.", f"1/{ratio:.1f}", ratio >= FASTER)
    most = f"at most {EVALUATIONS:.0f} evaluations a point."
    report.target(f"{name}: {most}", f"{evaluations:.1f}", evaluations <= EVALUATIONS)


def nearest_codes(run: nf.Run, seen: nf.Observations) -> Tensor:
    """Where our own searches begin."""
    part = thinned(oriented(seen), run.recipe.inference.points)
    return run.start(part, run.decoder, run.completion_objective()).mean


def chamfers(run: nf.Run, codes: Tensor, test: Collection, sizes: Sizes) -> list[float]:
    """Of the decoded meshes of the first shapes of a set."""
    pairs = zip(codes, test.surfaces, strict=False)
    return [surface_chamfer(decoded(run, code, sizes.resolution), truth, sizes.surface) for code, truth in pairs]


def generalise(sizes: Sizes, report: Report) -> None:
    """Near-surface error on training and unseen shapes."""
    report.say("## Generalisation", "", "Mean |f - sdf| x 1e3 where |sdf| < .1, at points that no fit has seen.", "")
    rows = []
    for name in ("bodies", "seats"):
        run, train, test = fitted(name, sizes), collection(name, "train", sizes), collection(name, "test", sizes)
        known = near_error(run, run.codes, train.probes)
        new = near_error(run, inferred(name, sizes).estimate.latent.mean, test.probes)
        rows.append((name, known, new))
    rows += [(f"bodies, {name}", *errors_with(settings, mirrored, sizes)) for name, settings, mirrored in ABLATIONS]
    report.table(("", "training", "unseen", "ratio"), [(n, f"{1e3 * a:.2f}", f"{1e3 * b:.2f}", f"{b / a:.2f}") for n, a, b in rows])
    _, known, new = rows[0]
    report.target(f"bodies: ratio at most {GAP}.", f"{new / known:.2f}", new <= GAP * known)


def errors_with(settings: tuple[str, ...], mirrored: bool, sizes: Sizes) -> tuple[float, float]:
    """(training, unseen) near-surface error on bodies of another fit."""
    train, test = collection("bodies", "train", sizes), collection("bodies", "test", sizes)
    signals = train.signals.with_mirrored(0) if mirrored and isinstance(train.signals, Shapes) else train.signals
    run = nf.fit(signals, recipe="shape", settings=[*settings, *sizes.settings])
    known = near_error(run, run.codes[:: 2 if mirrored else 1], train.probes)
    return known, near_error(run, run.infer(test.signals).latent.mean, test.probes)


def near_error(run: nf.Run, codes: Tensor, probes: Tensor) -> float:
    """Over all shapes, each counted once."""
    at, each = distances_of(run, codes), []
    for i, probe in enumerate(probes):
        near = probe[probe[:, 3].abs() < CLAMP]
        each.append((at(i, near[:, :3]) - near[:, 3]).abs().mean())
    return float(torch.stack(each).mean())


def singles(sizes: Sizes, report: Report) -> None:
    """Every mesh alone."""
    report.say(
        "## Single meshes, each fitted alone",
        "",
        "Recipe `shape-single`; chamfer x 1e3 as above.",
        "",
    )
    files = sorted((data_folder() / "meshes" / "singles").glob("*.ply"))[: sizes.singles]
    truths = [normalised(read_mesh(file)[0])[0] for file in files]
    found, rows = [], []
    for file, truth in zip(files, truths, strict=True):
        with timed() as clock:
            run = nf.fit(f"meshes:{file}", recipe="shape-single", settings=list(sizes.settings))
        found.append(decoded(run, run.codes[0], sizes.resolution))
        error, least = surface_chamfer(found[-1], truth, sizes.surface), floor(truth, sizes.surface)
        near = run.facts["scores"]["train"]["sdf_l1_near"]
        numbers = f"{1e3 * error:.4f}", f"{1e3 * least:.4f}", f"{error / least:.2f}", f"{1e3 * near:.2f}", f"{clock.seconds:.0f}"
        rows.append((file.stem, *numbers))
        click.echo(" ".join(rows[-1]), err=True)
    report.table(("mesh", "chamfer x 1e3", "floor", "ratio", "near-surface error x 1e3", "CPU s"), rows)
    own = sum(_nearest(surface, truths) == i for i, surface in enumerate(found))
    report.target("each is nearer to its own mesh than to any other, by chamfer.", f"{own} of {len(found)}", own == len(found))


def _nearest(surface: Surface, truths: list[Surface]) -> int:
    return int(np.argmin([surface_chamfer(surface, truth, FEW) for truth in truths]))
