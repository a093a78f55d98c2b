"""The one loop: batches of signals, one schedule's step after another. It yields after every step and keeps nothing."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from neuralfield.devices import precision_of
from neuralfield.recipe import Model, Training
from neuralfield.seeds import generator
from neuralfield.training.batches import Batches
from neuralfield.training.schedules.schedule import Optimisers, Schedule
from neuralfield.types import Loss

SMALLEST_RATE = 0.01
"""Share of the rates that is left at the end of a cosine: enough that the last steps still do something."""
DRAWING = 1005  # the fourth number of a step's seed: what a decoder draws is unrelated to which points are drawn


@dataclass(frozen=True)
class Position:
    """Where in a fit: `step` counts within the epoch, `steps` over all."""

    epoch: int = 0
    step: int = 0
    steps: int = 0


def train(
    model: Model,
    optimisers: Optimisers,
    schedule: Schedule,
    batches: Batches,
    settings: Training,
    position: Position,
    seed: int,
    done: Callable[[Position], float],
) -> Iterator[tuple[Position, Loss, int]]:
    """Steps from `position` until `done` (the share of the fit that lies behind) reaches 1; yields each new position, the step's
    loss, and how many points it evaluated; of several ranks, those of this one.

    Batches depend on (seed, epoch, step) alone, so that a fit can go on from any position as if it had never stopped.
    """
    device = next(model.decoder.parameters()).device
    per_epoch = math.ceil(batches.count / settings.batch)
    while (share := done(position)) < 1:
        order = batches.order(settings.batch, generator(seed, position.epoch))
        for items in order.split(settings.batch)[position.step :]:
            factor = rate_factor(share, settings, position.epoch)
            optimisers.rates(settings.latent_rate * factor, settings.decoder_rate * factor)
            draw = generator(seed, position.epoch, position.step)
            observations = batches.part(items, draw, optimisers.ranks).to(device)
            seeds = (seed, position.epoch, position.step, DRAWING, *optimisers.ranks.apart)
            with _training(model, settings, position.epoch, seeds):
                loss = schedule.step(model, optimisers, observations, position.epoch, draw)
            ended = position.step + 1 == per_epoch
            position = Position(position.epoch + ended, 0 if ended else position.step + 1, position.steps + 1)
            yield position, loss, observations.weight.numel()
            if (share := done(position)) >= 1:
                break


def rate_factor(share: float, settings: Training, epoch: int = 0) -> float:
    """What the rates are multiplied by when a share of the fit is done: a linear warm-up, and a half cosine over the whole.

    Halving counts epochs as DeepSDF does, from 1: the first lower rate is that of epoch number `halve_every`.
    """
    warm = min(1.0, SMALLEST_RATE + share / settings.warmup) if settings.warmup else 1.0
    if settings.decay == "constant":
        return warm
    if settings.decay == "halving":
        return warm * float(0.5 ** ((epoch + 1) // settings.halve_every))
    return warm * (SMALLEST_RATE + (1 - SMALLEST_RATE) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def ramp_share(epoch: int, settings: Training) -> float:
    """Of the prior, what counts in an epoch (counted from 0): 1 / ramp in the first, all from the last of the ramp on."""
    return min(1.0, (epoch + 1) / settings.ramp) if settings.ramp else 1.0


@contextmanager
def _training(model: Model, settings: Training, epoch: int, seeds: tuple[int, ...]) -> Iterator[None]:
    """Inside, the parts train; outside they are as searches see them, for the pictures and the validation between steps."""
    device, parts = next(model.decoder.parameters()).device, (model.source, model.decoder)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda, enabled=model.decoder.draws):
        if model.decoder.draws:
            torch.manual_seed(generator(*seeds).initial_seed())
        for part in (*parts, model.objective):
            part.train()
        model.objective.ramp = ramp_share(epoch, settings)
        model.objective.precision = precision_of(settings.precision, device)
        try:
            yield
        finally:
            model.objective.ramp, model.objective.precision = 1.0, torch.float32
            for part in (*parts, model.objective):
                part.eval()
