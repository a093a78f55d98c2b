"""Fitting: signals and a recipe in, a run out."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.inference.thinning import glanced_at, thinned
from neuralfield.latents.basis import SpectralBasis
from neuralfield.recipe import Recipe, build, construct
from neuralfield.registry import resolve
from neuralfield.run import Run, choose_device, read_recipe, write_recipe
from neuralfield.seeds import generator
from neuralfield.signals.signals import Signals, placed
from neuralfield.training import asked, shared, validation
from neuralfield.training.batches import batches_of
from neuralfield.training.graphs import graphs_of
from neuralfield.training.interrupt import interruptible
from neuralfield.training.journal import PROBES, Journal
from neuralfield.training.loop import Position, train
from neuralfield.training.optimisers.dense_adam import dense_adam
from neuralfield.training.optimisers.muon import Muon
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.training.polish import polish
from neuralfield.training.progress import Progress, Report
from neuralfield.training.ranks import Ranks
from neuralfield.training.schedules.schedule import Optimisers
from neuralfield.training.session import Session
from neuralfield.training.torchrun import here, together
from neuralfield.types import Observations

POLISH_SHARE = 0.25
"""Of a time budget, what is kept for the polish: codes gain as much from it as from the last epochs."""
CHECKPOINT_EVERY = 10.0
"""Seconds between checkpoints at least; they are taken at the ends of epochs."""
LOOK_EVERY = 50
"""Steps on a GPU between looks at the loss: a look waits for all steps before it, and the GPU then for the CPU."""
SCORED = 1000
"""Training signals that the final scores are taken over, evenly spread."""
INITIALISING, PREPARING = 1001, 1004  # the seed's second number; an epoch of that number draws other things from it


@together
def fit(
    data: Signals | str | None = None,
    *,
    domain: str | None = None,
    recipe: str | Path | Recipe | None = None,
    settings: list[str] | tuple[str, ...] = (),
    split: str | None = None,
    limit: int | None = None,
    out: str | Path | None = None,
    epochs: int | None = None,
    budget: float | None = None,
    device: str = "auto",
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Fit a decoder and a bank of codes to signals.

    `data` is a data set, or its name (`mnist:ROOT`, `images:DIR` ...); by default the recipe's own. `recipe` is a name or a TOML
    file, by default the one named like the domain. `budget` is in seconds and includes initialisation and the final polish.
    With `out`, the run is written there, with pictures and TensorBoard events, and can be resumed.

    Under torchrun all processes call it alike, and each trains the codes of its own share of the signals (docs/scale.md). The first
    one writes the run; the others wait for it, and return it as it is loaded from there.
    """
    began, ranks = time.perf_counter(), here()
    progress = progress if progress and ranks.first else Progress()
    folder = Path(out) if out is not None else None
    if epochs is not None and budget is not None:
        raise UsageError("say how long by --epochs or by --budget, not by both")
    if resume:
        if folder is None:
            raise UsageError("--resume needs the run's folder: --out RUN")
        chosen, about = read_recipe(folder, settings)
        if about.get("finished"):
            raise NeuralfieldError(f"{folder} is finished; there is nothing to resume (use --overwrite to fit again)")
        seed = about["seed"]
        if epochs is None and budget is None:
            epochs, budget = about.get("epochs_wanted"), about.get("budget")
    else:
        chosen = asked.choose_recipe(recipe, domain, settings)
        if ranks.first:
            asked.claim(folder, overwrite)
    signals, chosen = asked.choose_data(data, chosen, split, limit)
    progress.stage("initialising codes")
    state = _open(chosen, signals, choose_device(ranks.device(device)), seed, folder, began, ranks)
    epochs = _epochs(state) if epochs is None else epochs
    length: dict[str, int | float] = {"budget": budget} if budget else {"epochs_wanted": epochs}
    early = state.model.source.files is not None  # the files of a mapped bank lie in the folder from the beginning
    if folder is not None and early:
        _claim(state, resume, length)
    state.lay_out()
    if not (resume and state.restore()):
        _initialise(state, epochs)
    if folder is not None and ranks.first:
        _claim(state, resume or early, length)
    journal = Journal(folder, state.model.domain, state.signals) if folder is not None and ranks.first else None
    polished = state.recipe.training.polish != 0
    _train(state, epochs, None if budget is None else budget * (1 - POLISH_SHARE * polished), journal, progress)
    if polished:
        polish(state, None if budget is None else budget - state.spent, progress)
    shared.gather(state)
    run = _finish(state, journal, progress) if ranks.first else None
    ranks.told(None)  # the run is written
    return run or Run.load(str(folder)).to(state.model.source.codes.device)


def _claim(state: Session, begun: bool, length: dict[str, int | float]) -> None:
    """The folder is this fit's from now on; what another left there is removed, unless it was `begun`."""
    assert state.folder is not None
    if not begun:
        asked.clear(state.folder)
    write_recipe(state.folder, state.recipe, finished=False, facts={"seed": state.seed, **length})


def _open(
    recipe: Recipe, signals: Signals, device: torch.device, seed: int, folder: Path | None, began: float, ranks: Ranks
) -> Session:
    """Build the parts for the signals that are not held out."""
    training, held_out = validation.hold_out(signals, recipe.training.validation, seed)
    recipe = asked.completed(recipe, training)
    asked.check_mapped(recipe, len(training))
    model = build(recipe, len(training), seed)
    if ranks.world > 1:
        shared.share(model, len(training), ranks)
    for module in (model.source, model.decoder, model.objective):
        module.to(device)
    decoder_optimiser = resolve("optimisers", recipe.training.optimiser)(model.decoder.parameters())
    if isinstance(decoder_optimiser, Muon):
        decoder_optimiser.ranks = ranks
    codes = model.source.parameters()
    dense = recipe.training.latent_optimiser == "dense"
    adam = dense_adam(codes) if dense else RowAdam(codes, beside=model.source.files)
    optimisers = Optimisers(adam, decoder_optimiser, ranks)
    optimisers.replays = graphs_of(model, optimisers, recipe.training, device)
    schedule = construct("schedule", recipe.schedule.kind, recipe.schedule.arguments)
    batches = batches_of(placed(training, device), recipe.training)
    return Session(recipe, model, optimisers, schedule, training, batches, held_out, seed, folder, began)


def _initialise(state: Session, epochs: int) -> None:
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


def _looked_at(state: Session) -> Iterator[Observations]:
    """All signals in order, as many points of each as a search looks at, which stand for all."""
    inference = state.recipe.inference
    for batch in state.signals.batches(1024 if inference.points is None else inference.batch):
        yield thinned(batch, inference.points)


def _epochs(state: Session) -> int:
    """How long, where the caller does not say: the recipe's epochs, the schedule's own, or those that hold the recipe's steps."""
    training = state.recipe.training
    return training.epochs or state.schedule.epochs or math.ceil(training.steps / _per_epoch(state))


def _per_epoch(state: Session) -> int:
    return math.ceil(state.batches.count / state.recipe.training.batch)


def _train(state: Session, epochs: int, seconds: float | None, journal: Journal | None, progress: Progress) -> None:
    """Run the loop for some epochs or seconds: reports, checkpoints, early stopping, Ctrl-C."""

    ranks = state.ranks
    spent = ranks.told(state.spent)  # the first rank's clock is that of all

    def done(position: Position) -> float:
        if state.facts.get("out_of_patience"):
            return 1.0
        if seconds is None:
            return position.steps / (epochs * _per_epoch(state))
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
                probes = ranks.some(state.model.source.codes.detach(), len(state.signals), PROBES)
                loss = shared.summed(loss, ranks)
                score = journal.epoch(state.model, position.epoch, loss, cost, probes) if journal is not None else None
                state.facts["out_of_patience"] = validation.out_of_patience(state)
            if state.due or (position.step == 0 and spent - last_saved > CHECKPOINT_EVERY):
                state.save()
                last_saved = spent
            if stop or (ranks.world == 1 and interrupted()):  # several ranks stop together, a step later
                state.save()
                raise state.interrupt()
    state.save()
    validation.restore_best(state)


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


def _finish(state: Session, journal: Journal | None, progress: Progress) -> Run:
    """Prepare inference, score, and write what there is to look at."""
    progress.stage("preparing inference")
    run = Run(state.recipe, state.model, state.signals.roster, {})
    run.prepare(state.signals, generator(state.seed, PREPARING), state.settled and not state.position.steps)
    run.facts = {
        "signals": len(state.signals),
        "epochs": state.position.epoch,
        "steps": state.position.steps,
        "seed": state.seed,
        "points_per_second": state.facts.get("points_per_second", 0.0),  # none were drawn where the first codes are the optimum
        "scores": {"train": _scores(run, state.signals)},
        "seconds": state.spent,
    } | {key: state.facts[key] for key in ("best_epoch", "best_validation") if key in state.facts}
    if state.folder is not None and journal is not None:
        journal.close(state.model, run.codes.cpu())
        run.save(state.folder)
        if state.model.source.files is not None:
            state.model.source.files.discard()
    return run


def _scores(run: Run, signals: Signals) -> dict[str, float]:
    """The domain's scores, averaged over evenly spread training signals."""
    scores: dict[str, list[Tensor]] = {}
    for rows in torch.linspace(0, len(signals) - 1, min(SCORED, len(signals))).long().split(run.recipe.inference.batch):
        truth = glanced_at(signals.truth(rows), run.domain).to(run.device)
        for name, values in run.domain.score(run.field(run.model.source.rows(rows)), truth).items():
            scores.setdefault(name, []).append(values.cpu())
    return {name: torch.cat(values).nanmean().item() for name, values in scores.items()}
