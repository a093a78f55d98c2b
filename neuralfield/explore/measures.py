"""What runs are compared by: one function for each thing, from a run and new signals to numbers."""

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from neuralfield.completion import Completion, complete
from neuralfield.explore.interpolation import Density, Linear
from neuralfield.explore.neighbours import Gallery, knn_accuracy, nearest_codes
from neuralfield.explore.sampling import allowed, bank_codes, density_of, sample
from neuralfield.inference.encode import Encode
from neuralfield.inference.lbfgs import LBFGS
from neuralfield.inference.solver import Solver
from neuralfield.latents.priors import Prior
from neuralfield.recipe import TRAINING_PRIOR
from neuralfield.run import Run, construct_start
from neuralfield.seeds import generator
from neuralfield.signals.masks import Visibility
from neuralfield.signals.roster import UNKNOWN
from neuralfield.signals.signals import Signals

PAIRS, SAMPLES = 256, 500
"""Midpoints and samples that are looked at: their mean distances are known to a few per cent."""
PAIRING = 1  # the seed's second number


@dataclass(frozen=True)
class Subject:
    """A run with its codes' density, the signals that it was fitted to, and new ones with what it found of them."""

    run: Run
    density: Prior
    training: Gallery
    new: Signals
    found: Completion
    real: Gallery
    seed: int


def identity(run: Run) -> dict[str, Any]:
    """What it is made of, and what its fit found out."""
    recipe, facts = run.recipe, run.facts
    return {
        "latents": recipe.latents.kind,
        "decoder": recipe.decoder.kind,
        "objective": recipe.objective.kind,
        "code_dim": run.codes.shape[1],
        "fit_seconds": facts.get("seconds"),
        "train": facts.get("scores", {}).get("train", {}).get(run.domain.headline),
    }


def timed(run: Run, new: Signals, solver: Solver | None = None) -> tuple[Completion, float]:
    """(completion, CPU seconds of the inference of each signal): scores, which may take longer, are not in it."""
    began = time.process_time()
    run.infer(new, solver, run.recipe.inference.samples)
    seconds = time.process_time() - began
    return complete(run, new, solver=solver), seconds / len(new)


def headline(run: Run, completion: Completion) -> float | None:
    """The domain's first score, of what was hidden where anything was."""
    means = completion.means()
    return (means.get("hidden") or means["observed"]).get(run.domain.headline)


def masks(of: Subject, hide: Iterable[str]) -> dict[str, Any]:
    """The score of what each mask hides."""
    return {f"hidden {what}": headline(of.run, complete(of.run, of.new, Visibility((), (what,), of.seed))) for what in hide}


def neighbours(of: Subject) -> dict[str, Any]:
    """Share of labels that the nearest codes of the bank have: of its own, each left out, and of new signals."""
    labels, codes = of.run.labels, bank_codes(of.run)
    if labels is None or len(labels) != len(codes) or int((labels != UNKNOWN).sum()) < 2:
        return {}
    found = {"knn_bank": knn_accuracy(codes, labels)}
    if of.new.labels is not None and bool((of.new.labels != UNKNOWN).any()):
        found["knn_new"] = knn_accuracy(codes, labels, of.found.estimate.latent.mean, of.new.labels)
    return found


def midpoints(of: Subject) -> dict[str, Any]:
    """How far the middles of paths are from the nearest training signal; along the density, also from that of the nearest code."""
    codes = bank_codes(of.run)
    start, end = pairs(of.run, len(codes), of.seed)
    if not len(start):
        return {}
    half = torch.tensor([0.5])
    straight = Linear(codes).between(codes[start], codes[end], half)[0]
    likely = allowed(of.run, Density(codes, of.density).between(codes[start], codes[end], half)[0])
    shown = Gallery.of_codes(of.run, likely)
    near = Gallery.of_codes(of.run, codes[nearest_codes(likely, codes)[:, 0]])
    return {
        "midpoints_linear": of.training.nearest(Gallery.of_codes(of.run, straight))[0].mean().item(),
        "midpoints_density": of.training.nearest(shown)[0].mean().item(),
        "midpoints_from_code": near.apart(shown, torch.arange(len(shown))).mean().item(),
    }


def pairs(run: Run, count: int, seed: int) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Rows of the bank, of different labels where there are labels."""
    draw = generator(seed, PAIRING)
    start, end = (torch.randint(count, (16 * PAIRS,), generator=draw) for _ in range(2))
    unlike = start != end
    if run.labels is not None and len(run.labels) == count and len(run.labels.unique()) > 1:
        unlike = run.labels[start] != run.labels[end]
    return start[unlike][:PAIRS], end[unlike][:PAIRS]


def samples(of: Subject) -> dict[str, Any]:
    """From samples to the nearest training signals, and from new signals to the nearest sample: neither alone tells their worth."""
    shown = Gallery.of_codes(of.run, sample(of.run, SAMPLES, of.density, of.seed))
    found = {
        "samples_from_training": of.training.nearest(shown)[0].mean().item(),
        "new_from_samples": shown.nearest(of.real)[0].mean().item(),
    }
    if of.run.model.source.variational:
        drawn = Gallery.of_codes(of.run, sample(of.run, SAMPLES, TRAINING_PRIOR, of.seed))
        found["prior_from_training"] = of.training.nearest(drawn)[0].mean().item()
    return found


def reality(of: Subject) -> dict[str, Any]:
    """The same of what is real: new signals to the nearest training signals, of all and of as many as there are samples."""
    some = torch.randperm(len(of.training), generator=generator(of.seed, PAIRING))[:SAMPLES]
    return {
        "new_from_training": of.training.nearest(of.real)[0].mean().item(),
        "new_from_as_many": of.training.rows(some).nearest(of.real)[0].mean().item(),
    }


def subject(run: Run, training: Signals | None, new: Signals, seed: int) -> tuple[Subject, dict[str, Any]]:
    """(the run with what its own inference found, what that cost and how good it was)."""
    found, seconds = timed(run, new)
    gallery = Gallery.of(run, training)
    made = Subject(run, density_of(bank_codes(run)), gallery, new, found, Gallery.of(run, new, found.estimate.latent.mean), seed)
    estimate = found.estimate
    return made, {
        "new": headline(run, found),
        "seconds_per_signal": seconds,
        "evaluations": estimate.evaluations.mean().item(),
        "converged": estimate.converged.float().mean().item(),
    }


def encoded(of: Subject) -> dict[str, Any]:
    """Of a run that has an encoder: what that finds of new signals alone, and with a search after it."""
    run = copy.copy(of.run)
    if not run.model.source.reads:
        return {}
    run.start = construct_start(run, "encoder").to(run.device)
    found: dict[str, Any] = {}
    solvers: dict[str, Solver] = {"encode": Encode()}
    if run.model.objective.searchable:
        solvers["search"] = _searching(run)
    for name, solver in solvers.items():
        completion, seconds = timed(run, of.new, solver)
        found |= {f"new_{name}": headline(run, completion), f"seconds_{name}": seconds}
    return found


def _searching(run: Run) -> Solver:
    """The run's own solver, or L-BFGS, which takes any model, where its own does not search."""
    if run.recipe.inference.kind != "encode":
        return run.solver()
    solver = LBFGS()
    solver.prepare(run.model.objective, run.decoder, run.model.source.overview(), run.domain.grid().to(run.device))
    return solver
