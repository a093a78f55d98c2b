"""Fitting: signals and a recipe in, a run out."""

import time
from pathlib import Path

import torch
from torch import Tensor

from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.inference.thinning import glanced_at
from neuralfield.kernels.memory import freed_memory_kept
from neuralfield.recipe import Recipe
from neuralfield.run import Run, choose_device, read_recipe, write_recipe
from neuralfield.seeds import generator
from neuralfield.signals.signals import Signals
from neuralfield.training import asked, checkpoint, running, shared
from neuralfield.training.journal import Journal
from neuralfield.training.opening import epochs_of, initialise, opened, settle
from neuralfield.training.polish import polish
from neuralfield.training.progress import Progress
from neuralfield.training.session import Session
from neuralfield.training.torchrun import here, together
from neuralfield.types import spread

POLISH_SHARE = 0.25
"""Of a time budget, what is kept for the polish: codes gain as much from it as from the last epochs."""
SCORED = 1000
"""Training signals that the final scores are taken over, evenly spread."""
TOLD = ("best_epoch", "best_validation", "stopped", "code_lengths")
"""Facts of the fit that the run keeps, where it has them."""
PREPARING = 1004  # the seed's second number; an epoch of that number draws other things from it


@together
@freed_memory_kept()
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
    state = opened(chosen, signals, choose_device(ranks.device(device)), seed, folder, began, ranks)
    epochs = epochs_of(state) if epochs is None else epochs
    length: dict[str, int | float] = {"budget": budget} if budget else {"epochs_wanted": epochs}
    early = state.model.source.files is not None  # the files of a mapped bank lie in the folder from the beginning
    if folder is not None and resume:
        checkpoint.agree(folder, early)
    elif folder is not None and early:
        _claim(state, False, length)
    state.lay_out()
    if not (resume and state.restore()):
        initialise(state, epochs)
    if folder is not None and ranks.first:
        _claim(state, resume or early, length)
    journal = Journal(folder, state.model.domain, state.signals) if folder is not None and ranks.first else None
    polished = state.recipe.training.polish != 0 and not (state.model.source.reads or state.model.source.variational)
    running.run(state, epochs, None if budget is None else budget * (1 - POLISH_SHARE * polished), journal, progress)
    if polished:
        polish(state, None if budget is None else budget - state.spent, progress)
    shared.gather(state)
    settle(state)
    run = _finish(state, journal, progress) if ranks.first else None
    ranks.told(None)  # the run is written
    return run or Run.load(str(folder)).to(state.model.source.codes.device)


def _claim(state: Session, begun: bool, length: dict[str, int | float]) -> None:
    """The folder is this fit's from now on; what another left there is removed, unless it was `begun`."""
    assert state.folder is not None
    if not begun:
        asked.clear(state.folder)
    write_recipe(state.folder, state.recipe, finished=False, facts={"seed": state.seed, **length})


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
    } | {key: state.facts[key] for key in TOLD if key in state.facts}
    if state.folder is not None and journal is not None:
        journal.close(state.model, run.codes.cpu())
        run.save(state.folder)
        if state.model.source.files is not None:
            state.model.source.files.discard()
    return run


def _scores(run: Run, signals: Signals) -> dict[str, float]:
    """The domain's scores, averaged over evenly spread training signals."""
    scores: dict[str, list[Tensor]] = {}
    for rows in spread(len(signals), SCORED).split(run.recipe.inference.batch):
        truth = glanced_at(signals.truth(rows), run.domain).to(run.device)
        for name, values in run.domain.score(run.field(run.model.source.rows(rows)), truth).items():
            scores.setdefault(name, []).append(values.cpu())
    return {name: torch.cat(values).nanmean().item() for name, values in scores.items()}
