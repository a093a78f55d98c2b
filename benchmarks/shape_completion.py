"""Shapes of which half, or what a depth camera sees, is known: ours against DeepSDF's search and the nearest training shape."""

import copy

import numpy as np
import torch
from deepsdf_reference import CLAMP
from shape_inference import searched
from shape_measures import Collection, Report, Sizes, chamfer, collection, decoded, fitted, surface_points, thousandths
from torch import Tensor

import neuralfield as nf
from neuralfield.calibration import calibrate
from neuralfield.domains.surfaces import Surface
from neuralfield.registry import names
from neuralfield.signals.distances import signed_distance

OBSERVED = ("half:x", "depth:30,20")
SAMPLES = 32
"""Draws of a completion."""
COMPARED = 1000
"""Observed points by which the nearest training shape is chosen."""
SHARE, COVERED = 0.65, (0.85, 0.95)
"""Targets: of Adam's chamfer, and how many hidden values the 90 % bands hold."""


def completion(sizes: Sizes, report: Report) -> None:
    """One table for each kind of observation that this version knows."""
    report.say(
        "## Completion of unseen bodies",
        "",
        f"Chamfer x 1e3 of the hidden side: the points among {sizes.surface} of each surface that the mask hides. Adam: DeepSDF's",
        "search, with its isotropic prior, on the same observations. Nearest: the training mesh whose distances err least on what",
        "was seen.",
        "",
    )
    for what in OBSERVED:
        kind = what.partition(":")[0]
        if kind in names("masks"):
            _completion(what, sizes, report)
        else:
            report.say(f"`--observe {what}`: this version has no mask of kind `{kind}`; left out.", "")


def _completion(what: str, sizes: Sizes, report: Report) -> None:
    train, test, mask = collection("bodies", "train", sizes), collection("bodies", "test", sizes), nf.Visibility(observe=[what])
    run = copy.deepcopy(fitted("bodies", sizes))  # what is calibrated belongs to this mask
    calibrated = calibrate(run, train.signals.select(torch.arange(len(train))[: sizes.calibrated]), mask, SAMPLES)
    done = nf.complete(run, test.signals, mask, samples=SAMPLES)
    seen = [observed(run, test, i, mask) for i in range(len(test))]
    adam = searched(run, seen, sizes)
    n = len(adam.codes)
    surfaces = {
        "ours": [decoded(run, code, sizes.resolution) for code in done.estimate.latent.mean],
        f"Adam-{sizes.adam_steps}, first {n}": [decoded(run, code, sizes.resolution) for code in adam.codes],
        "nearest training mesh": [nearest(train, samples) for samples in seen],
    }
    errors = {name: hidden_chamfers(each, test, mask, run.domain, sizes) for name, each in surfaces.items()}
    report.say(f"### `--observe {what}`, {len(test)} bodies", "")
    report.table(("completion", "chamfer of the hidden side, mean", "median"), [(k, thousandths(v)) for k, v in errors.items()])
    ours, theirs, copied = errors.values()
    ratio = float(np.mean(ours[:n]) / np.mean(theirs))
    report.target(f"{what}: at most {SHARE} x Adam's mean chamfer.", f"{ratio:.2f} x, on the first {n}", ratio <= SHARE)
    better = float(np.mean(ours) / np.mean(copied))
    report.target(f"{what}: better than Adam and than the nearest.", f"{ratio:.2f} x and {better:.2f} x", max(ratio, better) < 1)
    coverage = done.means()["hidden"]["coverage90"]
    report.say(
        f"Calibrated on {calibrated.signals} training bodies: {calibrated.coverage90:.1%} of their hidden values are held.", ""
    )
    held = f"{what}: 90 % bands hold {COVERED[0]:.0%} to {COVERED[1]:.0%} of the hidden distances."
    report.target(held, f"{coverage:.1%}", COVERED[0] <= coverage <= COVERED[1])


def observed(run: nf.Run, test: Collection, i: int, mask: nf.Visibility) -> Tensor:
    """[N, 4]: what the mask leaves of a shape."""
    batch = test.signals.batch(torch.tensor([i]))
    side, _ = batch.split(mask(batch, run.domain))
    seen = side.weight[0] > 0
    return torch.cat([side.coords[0, seen], side.values[0, seen]], 1)


def nearest(train: Collection, samples: Tensor) -> Surface:
    """The training surface whose clamped distances are nearest to the observed ones."""
    some = samples[torch.linspace(0, len(samples) - 1, min(COMPARED, len(samples))).long()].numpy().astype(np.float64)
    wanted = some[:, 3].clip(-CLAMP, CLAMP)
    errors = [np.abs(signed_distance(surface, some[:, :3]).clip(-CLAMP, CLAMP) - wanted).mean() for surface in train.surfaces]
    return train.surfaces[int(np.argmin(errors))]


def hidden_chamfers(found: list[Surface], test: Collection, mask: nf.Visibility, domain: nf.Domain, sizes: Sizes) -> list[float]:
    """Of the hidden sides of the first shapes."""

    def hidden(surface: Surface, seed: int) -> np.ndarray:
        if not len(surface):
            return np.zeros((0, 3))
        points = surface_points(surface, sizes.surface, seed)
        coords = torch.from_numpy(points).float()[None]
        places = nf.Observations(torch.zeros(1).long(), coords, torch.zeros_like(coords[..., :1]), torch.ones(coords.shape[:2]))
        return points[~mask(places, domain)[0].numpy()]

    pairs = zip(found, test.surfaces, strict=False)
    return [chamfer(hidden(surface, 1), hidden(truth, 2)) for surface, truth in pairs]
