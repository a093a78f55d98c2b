"""The last solve of all codes with the decoder frozen (DESIGN.md, decision 4)."""

import time

import torch
from torch import Tensor

from neuralfield.inference.restarts import solved
from neuralfield.inference.thinning import thinned
from neuralfield.latents.source import FixedCodes
from neuralfield.training.interrupt import interruptible
from neuralfield.training.progress import Progress
from neuralfield.training.session import Session
from neuralfield.types import Estimate, Latent

LEAST_POLISH, MOST_POLISH = 4, 50
"""Steps of the polish by default: 0.8 an epoch, as a step with the decoder frozen costs about half of one with it."""


def polish(state: Session, seconds: float | None, progress: Progress) -> None:
    """Solve all codes of the bank with the decoder frozen, starting where training left them, within `seconds` if given.

    An encoder's codes are what it reads, and those of a variational bank are the middles of distributions: both stay.
    """
    progress.stage("polishing codes")
    state.model.decoder.eval()
    source, settings, first = state.model.source, state.recipe.inference, state.ranks.share(len(state.signals)).start
    batches = torch.arange(len(source.codes)).split(settings.batch)
    wanted = state.recipe.training.polish
    steps = min(MOST_POLISH, max(LEAST_POLISH, round(0.8 * state.position.epoch))) if wanted is None else wanted
    if seconds is not None:
        steps = state.ranks.told(min(steps, _affordable(state, batches[0], seconds / len(batches))))
    if steps < 1:
        return
    solver = state.solver(steps)
    with interruptible() as interrupted:
        for done, rows in enumerate(batches):
            batch = thinned(state.signals.batch(first + rows), settings.points).to(state.device)
            start = Latent(source.rows(rows).to(state.device))
            estimate: Estimate = solved(solver, state.model.objective, state.model.decoder, batch, start)
            source.put(rows, estimate.latent.mean)
            progress.share((done + 1) / len(batches))
            if interrupted():
                break
        if any(state.ranks.total(float(interrupted()))):  # the checkpoint at the end of training holds; it is polished again
            raise state.interrupt()


def _affordable(state: Session, rows: Tensor, seconds: float) -> int:
    """How many steps on one batch fit into some seconds, by timing one."""
    batch = thinned(state.signals.batch(rows), state.recipe.inference.points).to(state.device)
    finish = torch.cuda.synchronize if batch.values.is_cuda else (lambda: None)
    finish()
    began = time.perf_counter()
    source = FixedCodes(state.model.source.rows(rows).to(state.device))  # of signals of the first rank, which decides for all
    state.model.objective(source, state.model.decoder, batch).total.sum().backward()
    state.model.decoder.zero_grad(set_to_none=True)
    finish()
    # two more forward passes than steps, and a fifth of slack for a noisy machine
    return int(0.8 * seconds / (time.perf_counter() - began)) - 1
