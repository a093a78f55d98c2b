"""A fit begins: its parts are built for the signals, and its codes get their first values."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from neuralfield.errors import UsageError
from neuralfield.inference.thinning import thinned
from neuralfield.latents.basis import SpectralBasis
from neuralfield.latents.source import LatentSource
from neuralfield.recipe import Recipe, Training, build, construct
from neuralfield.registry import resolve
from neuralfield.seeds import generator
from neuralfield.signals.signals import Signals, placed
from neuralfield.training import asked, shared, validation
from neuralfield.training.batches import batches_of
from neuralfield.training.graphs import graphs_of
from neuralfield.training.optimisers.dense_adam import dense_adam
from neuralfield.training.optimisers.muon import Muon
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.training.ranks import Ranks
from neuralfield.training.schedules.schedule import Optimisers
from neuralfield.training.session import Session
from neuralfield.types import Latent, Observations

INITIALISING = 1001  # the seed's second number; an epoch of that number draws other things from it


def opened(
    recipe: Recipe, signals: Signals, device: torch.device, seed: int, folder: Path | None, began: float, ranks: Ranks
) -> Session:
    """Build the parts for the signals that are not held out."""
    training, held_out = validation.hold_out(signals, recipe.training.validation, seed)
    recipe = asked.completed(recipe, training)
    asked.check_whole(recipe)
    asked.check_mapped(recipe, len(training))
    model = build(recipe, len(training), seed)
    if ranks.world > 1:
        shared.share(model, len(training), ranks)
    for module in (model.source, model.decoder, model.objective):
        module.to(device)
    model.decoder.eval()  # the loop says when it trains
    with torch.no_grad():  # a kernel that cannot evaluate this decoder says so before anything is written
        model.decoder(
            torch.zeros(1, model.source.code_dim, device=device), torch.zeros(1, 1, model.domain.coord_dim, device=device)
        )
    decoder_optimiser = resolve("optimisers", recipe.training.optimiser)(model.decoder.parameters())
    if isinstance(decoder_optimiser, Muon):
        decoder_optimiser.ranks = ranks
    optimisers = Optimisers(_latent_optimiser(model.source, recipe.training), decoder_optimiser, ranks)
    optimisers.replays = graphs_of(model, optimisers, recipe.training, device)
    schedule = construct("schedule", recipe.schedule.kind, recipe.schedule.arguments)
    batches = batches_of(placed(training, device), recipe.training)
    return Session(recipe, model, optimisers, schedule, training, batches, held_out, seed, folder, began)


def _latent_optimiser(source: LatentSource, training: Training) -> torch.optim.Optimizer:
    """Of a bank's rows, or of an encoder's weights, which are a network's as the decoder's are."""
    codes = source.parameters()
    if source.reads:
        made: torch.optim.Optimizer = resolve("optimisers", training.optimiser)(codes)
        return made
    if training.latent_optimiser == "sgd":  # it keeps nothing, so rows that are absent have nothing to move by
        return torch.optim.SGD(codes)
    return dense_adam(codes) if training.latent_optimiser == "dense" else RowAdam(codes, beside=source.files)


def initialise(state: Session, epochs: int) -> None:
    """First codes; where a linear model gave them, the other parts may begin with it too.

    The first of several ranks does it for all, so that all begin with the same numbers bit for bit.
    """
    model, ranks, codes, noise = state.model, state.ranks, None, None
    if ranks.first:
        source = model.source if ranks.world == 1 else build(state.recipe, len(state.signals), state.seed).source
        basis = source.initialise(lambda: _looked_at(state), generator(state.seed, INITIALISING))
        codes, noise = source.codes.detach(), _begin(state, epochs, basis)
    if ranks.world > 1:
        noise = shared.hand_out(state, codes, noise)
    if noise is not None:
        state.resolve("likelihood", model.objective.likelihood.learn(noise))


def _begin(state: Session, epochs: int, basis: SpectralBasis | None) -> float | None:
    """Let decoder and prior begin as the linear model; returns its noise variance."""
    model = state.model
    basis = None if basis is None else basis.to(state.device)
    begun = basis is not None and model.decoder.adopt(basis)
    if not epochs and not begun:
        raise UsageError(
            f'training.steps is 0, but a decoder of kind "{state.recipe.decoder.kind}" has to be trained on these signals with '
            "these settings; say --set training.steps=780"
        )
    if basis is None:
        return None
    state.settled = begun and model.objective.prior.adopt(basis)
    return float(basis.noise)


@torch.no_grad()
def settle(state: Session) -> None:
    """Training is over: an encoder reads all codes, and no code lies beyond a bound."""
    source, objective = state.model.source.eval(), state.model.objective
    source.settle(lambda: _read(state))
    if objective.prior.bounded:
        for rows in torch.arange(len(source.codes)).split(state.recipe.inference.batch):
            source.put(rows, objective.within(Latent(source.rows(rows))).mean)


def _read(state: Session) -> Iterator[Observations]:
    """All signals in order, as an encoder reads them when it is asked for their codes later."""
    points = None if state.model.source.whole else state.recipe.inference.points
    for batch in state.signals.batches(state.recipe.inference.batch):
        yield thinned(batch, points)


def _looked_at(state: Session) -> Iterator[Observations]:
    """All signals in order, as many points of each as a search looks at, which stand for all."""
    inference = state.recipe.inference
    for batch in state.signals.batches(1024 if inference.points is None else inference.batch):
        yield thinned(batch, inference.points)


def epochs_of(state: Session) -> int:
    """How long, where the caller does not say: the recipe's epochs, the schedule's own, or those that hold the recipe's steps."""
    training = state.recipe.training
    return training.epochs or state.schedule.epochs or math.ceil(training.steps / per_epoch(state))


def per_epoch(state: Session) -> int:
    """Steps."""
    return math.ceil(state.batches.count / state.recipe.training.batch)
