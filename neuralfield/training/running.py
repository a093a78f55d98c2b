"""A fit goes on: the loop, and what happens between its steps. Reports, checkpoints, early stopping, Ctrl-C."""

import math

import torch
from torch import Tensor

from neuralfield.errors import NeuralfieldError
from neuralfield.inference.thinning import thinned
from neuralfield.training import plateau, shared, validation
from neuralfield.training.interrupt import interruptible
from neuralfield.training.journal import PROBES, Journal
from neuralfield.training.loop import Position, train
from neuralfield.training.opening import per_epoch
from neuralfield.training.progress import Progress, Report
from neuralfield.training.session import Session
from neuralfield.types import Latent, spread

CHECKPOINT_EVERY = 10.0
"""Seconds between checkpoints at least; they are taken at the ends of epochs."""
LOOK_EVERY = 50
"""Steps on a GPU between looks at the loss: a look waits for all steps before it, and the GPU then for the CPU."""


def run(state: Session, epochs: int, seconds: float | None, journal: Journal | None, progress: Progress) -> None:
    """Run the loop for some epochs or seconds: reports, checkpoints, early stopping, Ctrl-C."""

    ranks = state.ranks
    spent = ranks.told(state.spent)  # the first rank's clock is that of all

    def done(position: Position) -> float:
        if state.facts.get("out_of_patience"):
            return 1.0
        if seconds is None:
            return position.steps / (epochs * per_epoch(state))
        return spent / seconds if position.steps else 0.0  # however short the budget, one step is made

    if not epochs:  # the first codes are the optimum
        return
    progress.stage("training")
    arguments = (state.model, state.optimisers, state.schedule, state.batches, state.recipe.training)
    began = last_saved = spent
    points, score, cost = 0.0, None, math.nan
    looks = LOOK_EVERY if next(state.model.decoder.parameters()).is_cuda else 1
    with interruptible() as interrupted:
        for position, loss, count in train(*arguments, state.position, state.seed, done):
            state.position = position
            plateau.note(state, loss)
            looked = looked_at(position, looks)
            nats = loss.total.detach().sum() if looked else 0.0
            own = (interrupted(), nats, len(loss.total), count, ranks.first * state.spent)
            stop, nats, signals, more, spent = ranks.total(*(float(number) for number in own))
            points += more
            state.facts["points_per_second"] = points / max(spent - began, 1e-9)
            if looked:
                cost = _finite(nats / signals, position)
            facts = (state.model.domain.headline, score, state.facts["points_per_second"])
            progress.report(Report(min(1.0, done(position)), position.epoch, cost, *facts))
            if position.step == 0:
                probes = _probes(state)
                deviation, mean = torch.std_mean(probes.norm(dim=1), correction=0)
                state.facts.setdefault("code_lengths", []).append([mean.item(), deviation.item()])
                loss = shared.summed(loss, ranks)
                score = journal.epoch(state.model, position.epoch, loss, cost, probes) if journal is not None else None
                state.facts["out_of_patience"] = validation.out_of_patience(state)
                if reason := plateau.reached(state):
                    state.facts.update(out_of_patience=True, stopped=reason)
            if state.due or (position.step == 0 and spent - last_saved > CHECKPOINT_EVERY):
                state.save()
                last_saved = spent
            if stop or (ranks.world == 1 and interrupted()):  # several ranks stop together, a step later
                state.save()
                raise state.interrupt()
    state.save()
    validation.restore_best(state)


@torch.no_grad()
def _probes(state: Session) -> Tensor:
    """Codes of the signals whose pictures are kept over time."""
    source, count = state.model.source, len(state.signals)
    if source.reads:
        points = None if source.whole else state.recipe.inference.points
        latent: Latent = source(thinned(state.signals.batch(spread(count, PROBES)), points).to(state.device))
        return latent.mean
    return state.ranks.some(source.codes.detach(), count, PROBES)


def looked_at(position: Position, every: int) -> bool:
    """Whether the loss is looked at after a step: after every so many, the first, and the last of an epoch."""
    return position.steps == 1 or position.step == 0 or position.steps % every == 0


def _finite(mean: float, position: Position) -> float:
    """The batch's mean objective; a fit that has diverged is not worth going on with."""
    if not math.isfinite(mean):
        raise NeuralfieldError(
            f"the fit diverged: its loss was {mean} in step {position.steps}; lower training.decoder_rate or training.latent_rate"
        )
    return mean
