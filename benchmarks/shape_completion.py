"""Shapes of which half, or what a depth camera sees, is known: ours against DeepSDF's search and the nearest training shape."""

import copy
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from deepsdf_reference import CLAMP
from scipy.spatial import cKDTree
from shape_inference import nearest_codes, searched
from shape_measures import Collection, Report, Sizes, chamfer, collection, decoded, fitted, surface_points, thousandths
from torch import Tensor

import neuralfield as nf
from neuralfield.calibration import calibrate
from neuralfield.domains.surfaces import Surface
from neuralfield.inference.oriented import oriented
from neuralfield.signals.distances import signed_distance

OBSERVED = ("half:x", "depth:30,20")
SAMPLES = 32
"""Draws of a completion."""
COMPARED = 1000
"""Observed points by which the nearest training shape is chosen."""
SHARE, COVERED = 0.65, (0.85, 0.95)
"""Targets: of Adam's chamfer, and how many hidden values the 90 % bands hold."""


@dataclass(frozen=True)
class Seen:
    """What a mask leaves of one shape: distances [N, 4] and points [M, 3] that are known to be outside."""

    samples: Tensor
    empty: Tensor


def completion(sizes: Sizes, report: Report) -> None:
    """One table for each set and kind of observation."""
    report.say(
        "## Completion of unseen shapes",
        "",
        f"Chamfer x 1e3 of the hidden side: of {sizes.surface} points on each surface, those of the true one that the mask hides,",
        "and those of the other whose nearest true point is hidden. Adam: DeepSDF's search with its isotropic prior, on the same",
        "observations (of a depth map: surface points, pairs of points along their normals, empty space), from the same start.",
        "Nearest: the training mesh whose distances err least on what was seen.",
        "",
    )
    for name in ("bodies", "seats"):
        for what in OBSERVED:
            _completion(name, what, sizes, report)


def _completion(name: str, what: str, sizes: Sizes, report: Report) -> None:
    train, test, mask = collection(name, "train", sizes), collection(name, "test", sizes), nf.Visibility(observe=[what])
    run = copy.deepcopy(fitted(name, sizes))  # what is calibrated belongs to this mask
    other, unseen = held_out(name, sizes)
    calibrated = calibrate(other, unseen, mask, SAMPLES)
    run.calibration.load_state_dict(other.calibration.state_dict())
    done = nf.complete(run, test.signals, mask, samples=SAMPLES)
    plain = nf.complete(fitted(name, sizes), test.signals, mask)  # the likeliest code; the calibrated one leans on the prior
    seen = [observed(run, test, i, mask) for i in range(len(test))]
    starts = nearest_codes(run, mask.split(test.signals.batch(torch.arange(len(test))), run.domain)[0])
    adam = searched(run, [each.samples for each in seen], sizes, [each.empty for each in seen], starts)
    n = len(adam.codes)
    hidden = [hidden_points(test, i, mask, run.domain, sizes) for i in range(len(test))]
    surfaces = {
        "ours": [decoded(run, code, sizes.resolution) for code in plain.estimate.latent.mean],
        "ours, calibrated": [decoded(run, code, sizes.resolution) for code in done.estimate.latent.mean],
        f"Adam-{sizes.adam_steps}, first {n}": [decoded(run, code, sizes.resolution) for code in adam.codes],
        "nearest training mesh": [nearest(train, each) for each in seen],
    }
    errors = {
        kind: [hidden_chamfer(surface, truth, sizes) for surface, truth in zip(each, hidden, strict=False)]
        for kind, each in surfaces.items()
    }
    title = f"{name}, {what}"
    report.say(f"### {name}, `--observe {what}`, {len(test)} shapes", "")
    report.table(("completion", "chamfer of the hidden side, mean", "median"), [(k, thousandths(v)) for k, v in errors.items()])
    ours, _, theirs, copied = errors.values()
    ratio = float(np.mean(ours[:n]) / np.mean(theirs))
    report.target(f"{title}: at most {SHARE} x Adam's mean chamfer.", f"{ratio:.2f} x, on the first {n}", ratio <= SHARE)
    better = float(np.mean(ours) / np.mean(copied))
    report.target(f"{title}: better than Adam and than the nearest.", f"{ratio:.2f} x and {better:.2f} x", max(ratio, better) < 1)
    coverage = done.means()["hidden"]["coverage90"]
    report.say(
        f"Calibrated on {calibrated.signals} training shapes, with a decoder fitted to the others: temperature "
        f"{calibrated.temperature:g}, {calibrated.coverage90:.1%} of their hidden values are held.",
        "",
    )
    held = f"{title}: 90 % bands hold {COVERED[0]:.0%} to {COVERED[1]:.0%} of the hidden distances."
    report.target(held, f"{coverage:.1%}", COVERED[0] <= coverage <= COVERED[1])


@lru_cache(maxsize=2)
def held_out(name: str, sizes: Sizes) -> tuple[nf.Run, nf.Signals]:
    """A run of the same recipe that has not seen some of the training shapes, and these: bands are calibrated with them.

    Of shapes that a decoder has been fitted to, it knows too much.
    """
    signals = collection(name, "train", sizes).signals
    out = torch.linspace(0, len(signals) - 1, min(sizes.calibrated, len(signals) // 2)).long()
    kept = torch.ones(len(signals), dtype=torch.bool)
    kept[out] = False
    run = nf.fit(signals.select(kept.nonzero()[:, 0]), recipe="shape", settings=sizes.settings)
    return run, signals.select(out)


def observed(run: nf.Run, test: Collection, i: int, mask: nf.Visibility) -> Seen:
    """As every search is told it."""
    side = oriented(mask.split(test.signals.batch(torch.tensor([i])), run.domain)[0])
    told, free = side.told[0] > 0, (side.weight[0] > 0) & (side.told[0] <= 0)
    coords = side.coords[0]
    return Seen(torch.cat([coords[told], side.values[0, told]], 1), coords[free])


def nearest(train: Collection, seen: Seen) -> Surface:
    """The training surface whose clamped distances are nearest to the observed ones."""
    samples = seen.samples
    some = samples[torch.linspace(0, len(samples) - 1, min(COMPARED, len(samples))).long()].numpy().astype(np.float64)
    wanted = some[:, 3].clip(-CLAMP, CLAMP)
    free = seen.empty[torch.linspace(0, len(seen.empty) - 1, min(COMPARED, len(seen.empty))).long()].numpy().astype(np.float64)

    def error(surface: Surface) -> float:
        off = np.abs(signed_distance(surface, some[:, :3]).clip(-CLAMP, CLAMP) - wanted)
        inside = -signed_distance(surface, free).clip(-CLAMP, 0)
        return float(off.mean() + (inside.mean() if len(inside) else 0.0))

    return min(train.surfaces, key=error)


@dataclass(frozen=True)
class Truth:
    """Points [n, 3] on a true surface, and which are hidden."""

    points: np.ndarray
    hidden: np.ndarray


def hidden_points(test: Collection, i: int, mask: nf.Visibility, domain: nf.Domain, sizes: Sizes) -> Truth:
    """By the mask itself, on fresh points with their normals."""
    points, normals = test.surfaces[i].sample(sizes.surface, np.random.default_rng(2))
    coords, directions = (torch.from_numpy(each).float()[None] for each in (points, normals))
    zero = torch.zeros_like(coords[..., :1])
    places = nf.Observations(torch.zeros(1).long(), coords, zero, torch.ones(coords.shape[:2]), normals=directions)
    return Truth(points, ~mask(places, domain)[0].numpy())


def hidden_chamfer(surface: Surface, truth: Truth, sizes: Sizes) -> float:
    """Of the hidden side alone."""
    if not len(surface):
        return float("inf")
    points = surface_points(surface, sizes.surface, 1)
    side = truth.hidden[cKDTree(truth.points).query(points)[1]]
    return chamfer(points[side], truth.points[truth.hidden])
