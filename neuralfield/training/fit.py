"""Fitting: signals and a recipe in, a run out."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.latents.source import FixedCodes
from neuralfield.recipe import Model, Part, Recipe, build, construct, recipe_names
from neuralfield.registry import names, nearest, resolve
from neuralfield.run import Run, read_recipe, write_recipe
from neuralfield.seeds import generator
from neuralfield.signals import signals as sources
from neuralfield.signals.signals import Signals
from neuralfield.training import checkpoint
from neuralfield.training.journal import Journal
from neuralfield.training.loop import Position, train
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.training.progress import Progress, Report
from neuralfield.training.schedules.schedule import Optimisers, Schedule
from neuralfield.types import Estimate, Latent

POLISH_SHARE = 0.25
"""Of a time budget, what is kept for the polish: codes gain as much from it as from the last epochs."""
WRITTEN = (
    *("*.safetensors", "resume/*", "metrics.json", "figures/**/*.png", "completions/*"),
    *("events.out.tfevents.*", "projector_config.pbtxt", "[0-9]*/codes/*"),
)
"""What a run writes, and so what --overwrite removes."""
LEAST_POLISH, MOST_POLISH = 4, 50
"""Steps of the polish by default: 0.8 an epoch, as a step with the decoder frozen costs about half of one with it."""
CHECKPOINT_EVERY = 10.0
"""Seconds between checkpoints at least; they are taken at the ends of epochs."""
SCORED = 1000
"""Training signals that the final scores are taken over, evenly spread."""
VALIDATED = 256
"""Held-out signals searched after every epoch at most, so that validation does not cost more than training."""
VALIDATION_STEPS = 30
"""Solver steps for the codes of held-out signals after each epoch: enough to rank decoders."""
INITIALISING, POLISHING, VALIDATING, SCORING = 1001, 1002, 1003, 1004  # seeds' second numbers, beyond any epoch's first draws


class InterruptedFitError(NeuralfieldError):
    """The fit was stopped by Ctrl-C; its state was saved where it has a folder."""

    exit_code = 130


@dataclass
class _Fit:
    """A fit in progress: the model, its optimisers, and all that a checkpoint must hold."""

    recipe: Recipe
    model: Model
    optimisers: Optimisers
    schedule: Schedule
    signals: Signals
    seed: int
    position: Position = field(default_factory=Position)
    spent: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)


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
    """
    started = time.perf_counter()
    progress = progress or Progress()
    folder = Path(out) if out is not None else None
    if epochs is not None and budget is not None:
        raise UsageError("say how long by --epochs or by --budget, not by both")
    if resume:
        if folder is None:
            raise UsageError("--resume needs the run's folder: --out RUN")
        chosen, about = read_recipe(folder, settings)
        seed = about.get("seed", seed)
        epochs, budget = epochs or about.get("epochs_wanted"), budget or about.get("budget")
    else:
        chosen = _recipe(recipe, domain, settings)
        _claim(folder, overwrite)
    signals, chosen = _data(data, chosen, split, limit)
    training, held_out = _hold_out(signals, chosen.training.validation, seed)
    chosen = _completed(chosen, training)

    progress.stage("initialising codes")
    model = build(chosen, len(training), seed)
    place = _device(device)
    for module in (model.source, model.decoder, model.objective):
        module.to(place)
    optimisers = Optimisers(
        RowAdam(model.source.parameters()), resolve("optimisers", chosen.training.optimiser)(model.decoder.parameters())
    )
    schedule: Schedule = construct("schedule", chosen.schedule.kind, chosen.schedule.arguments)
    state = _Fit(chosen, model, optimisers, schedule, training, seed)
    if resume and about.get("finished"):
        raise NeuralfieldError(f"{folder} is finished; there is nothing to resume (use --overwrite to fit again)")
    if resume and folder is not None and checkpoint.path_of(folder).exists():
        state.position, state.facts, state.kept = checkpoint.load(folder, model, optimisers)
        state.spent = state.facts.get("spent", 0.0)
    else:
        model.source.initialise(lambda: training.batches(1024), generator(seed, INITIALISING))
    started -= state.spent
    per_epoch = math.ceil(len(training) / chosen.training.batch)
    wanted = epochs or chosen.training.epochs or schedule.epochs or math.ceil(chosen.training.steps / per_epoch)
    if folder is not None:
        if not resume:
            _clear(folder)
        kept = {"seed": seed, **({"budget": budget} if budget else {"epochs_wanted": wanted})}
        write_recipe(folder, chosen, finished=False, facts=kept)
    journal = Journal(folder, model.domain, training) if folder is not None else None

    _train(state, wanted, budget, started, held_out, folder, journal, progress)
    if chosen.training.polish != 0:
        progress.stage("polishing codes")
        _polish(state, None if budget is None else budget - (time.perf_counter() - started), progress)
    return _finish(state, folder, journal, started, progress)


def _train(
    state: _Fit,
    epochs: int,
    budget: float | None,
    started: float,
    held_out: Signals | None,
    folder: Path | None,
    journal: Journal | None,
    progress: Progress,
) -> None:
    """Run the loop: reports, checkpoints, early stopping, Ctrl-C."""
    per_epoch = math.ceil(len(state.signals) / state.recipe.training.batch)
    trained_for = None if budget is None else budget * (1 - POLISH_SHARE * (state.recipe.training.polish != 0))

    def done(position: Position) -> float:
        if state.facts.get("out_of_patience"):
            return 1.0
        if trained_for is not None:
            return (time.perf_counter() - started) / trained_for
        return position.steps / (epochs * per_epoch)

    progress.stage("training")
    arguments = (state.model, state.optimisers, state.schedule, state.signals, state.recipe.training)
    last_saved, points, score, began = time.perf_counter(), 0.0, None, time.perf_counter()
    with interruptible() as interrupted:
        for position, loss in train(*arguments, state.position, state.seed, done):
            state.position = position
            points += float(loss.observed.sum()) / state.model.domain.value_dim
            speed = points / (time.perf_counter() - began)
            mean = float(loss.total.detach().mean())
            if not math.isfinite(mean):
                raise NeuralfieldError(
                    f"the fit diverged: its loss was {mean} in step {position.steps}; lower training.decoder_rate or "
                    "training.latent_rate"
                )
            progress.report(Report(min(1.0, done(position)), position.epoch, mean, score, speed))
            if position.step == 0:
                if journal is not None:
                    score = journal.epoch(state.model, position.epoch, loss, position.steps)
                stop = state.facts["out_of_patience"] = held_out is not None and _out_of_patience(state, held_out)
                if stop or time.perf_counter() - last_saved > CHECKPOINT_EVERY:
                    _save(state, folder, started)
                    last_saved = time.perf_counter()
                if stop:
                    break
            if interrupted():
                _save(state, folder, started)
                where = (
                    f"; its state was saved, go on with nf fit --resume --out {folder}"
                    if folder
                    else " and had no folder to save to"
                )
                raise InterruptedFitError(f"the fit was interrupted in epoch {position.epoch + 1}{where}")
    _save(state, folder, started)
    if "best_decoder" in state.facts:
        _restore_best(state)
    state.facts["points_per_second"] = points / max(time.perf_counter() - began, 1e-9)


def _save(state: _Fit, folder: Path | None, started: float) -> None:
    if folder is not None:
        state.facts["spent"] = time.perf_counter() - started
        checkpoint.save(folder, state.model, state.optimisers, state.position, state.facts, state.kept)


def _out_of_patience(state: _Fit, held_out: Signals) -> bool:
    """Search the held-out signals with the decoder as it is, keep the best; True after `patience` epochs without a better one."""
    codes = state.model.source.codes.detach()
    solver = construct("inference", state.recipe.inference.kind, {**state.recipe.inference.arguments, "steps": VALIDATION_STEPS})
    total = 0.0
    held_out = held_out.select(torch.arange(min(VALIDATED, len(held_out))))
    for batch in held_out.batches(state.recipe.inference.batch):
        batch = batch.to(codes.device)
        start = Latent(codes.mean(0).expand(len(batch), -1))
        total += float(solver.solve(state.model.objective, state.model.decoder, batch, start).loss.total.sum())
    value = total / len(held_out)
    if value < state.facts.get("best_validation", float("inf")):
        state.facts.update(best_validation=value, best_epoch=state.position.epoch, best_decoder=True)
        state.kept = {f"decoder.{k}": v.clone() for k, v in state.model.decoder.state_dict().items()} | {"codes": codes.clone()}
    return state.position.epoch - state.facts["best_epoch"] >= state.recipe.training.patience


def _restore_best(state: _Fit) -> None:
    decoder = {k.removeprefix("decoder."): v for k, v in state.kept.items() if k.startswith("decoder.")}
    state.model.decoder.load_state_dict(decoder)
    state.model.source.load_state_dict({"codes": state.kept["codes"]})


def _polish(state: _Fit, seconds: float | None, progress: Progress) -> None:
    """Solve all codes of the bank with the decoder frozen, starting where training left them."""
    codes, settings = state.model.source.codes.data, state.recipe.inference
    batches = torch.arange(len(codes)).split(settings.batch)
    wanted = state.recipe.training.polish
    steps = min(MOST_POLISH, max(LEAST_POLISH, round(0.8 * state.position.epoch))) if wanted is None else wanted
    if seconds is not None:
        steps = min(steps, _affordable(state, batches[0], seconds / len(batches)))
    if steps < 1:
        return
    solver = construct("inference", settings.kind, {**settings.arguments, "steps": steps})
    for done, rows in enumerate(batches):
        batch = state.signals.batch(rows).to(codes.device)
        estimate: Estimate = solver.solve(state.model.objective, state.model.decoder, batch, Latent(codes[rows]))
        codes[rows] = estimate.latent.mean
        progress.share((done + 1) / len(batches))


def _affordable(state: _Fit, rows: Tensor, seconds: float) -> int:
    """How many steps on one batch fit into some seconds, by timing one."""
    batch = state.signals.batch(rows).to(state.model.source.codes.device)
    began = time.perf_counter()
    source = FixedCodes(state.model.source.codes[rows])
    state.model.objective(source, state.model.decoder, batch).total.sum().backward()
    state.model.decoder.zero_grad(set_to_none=True)
    # two more forward passes than steps, and a fifth of slack for a noisy machine
    return int(0.8 * seconds / (time.perf_counter() - began)) - 1


def _finish(state: _Fit, folder: Path | None, journal: Journal | None, started: float, progress: Progress) -> Run:
    """Prepare inference, score, and write what there is to look at."""
    progress.stage("preparing inference")
    run = Run(state.recipe, state.model, state.signals.ids, state.signals.labels, {})
    run.prepare(state.signals, generator(state.seed, SCORING))
    some = torch.linspace(0, len(state.signals) - 1, min(SCORED, len(state.signals))).long()
    scores: dict[str, list[Tensor]] = {}
    for rows in some.split(state.recipe.inference.batch):
        truth = state.signals.truth(rows).to(run.device)
        for name, values in run.domain.score(run.field(run.codes[rows.to(run.device)]), truth).items():
            scores.setdefault(name, []).append(values.cpu())
    run.facts = {
        "signals": len(state.signals),
        "epochs": state.position.epoch,
        "steps": state.position.steps,
        "seed": state.seed,
        "seconds": time.perf_counter() - started,
        "points_per_second": state.facts["points_per_second"],
        "scores": {"train": {name: torch.cat(values).mean().item() for name, values in scores.items()}},
    } | {key: state.facts[key] for key in ("best_epoch", "best_validation") if key in state.facts}
    if folder is not None and journal is not None:
        journal.close(state.model, run.codes.cpu())
        run.save(folder)
    return run


def _recipe(recipe: str | Path | Recipe | None, domain: str | None, settings: list[str] | tuple[str, ...]) -> Recipe:
    if recipe is None and domain is None:
        raise UsageError("say what to fit: --domain or --recipe")
    if domain is not None and domain not in names("domains"):
        raise UsageError(f'there is no domain "{domain}"{nearest(domain, names("domains"))}; known: {", ".join(names("domains"))}')
    if recipe is None and domain not in recipe_names():
        raise UsageError(f'there is no recipe for domain "{domain}" as a whole; say --recipe NAME or FILE')
    chosen = recipe.changed(settings) if isinstance(recipe, Recipe) else Recipe.load(recipe or str(domain), settings)
    if domain is not None and chosen.domain.kind != domain:
        raise UsageError(f'recipe {recipe} is for domain "{chosen.domain.kind}", not "{domain}"')
    return chosen


def _claim(folder: Path | None, overwrite: bool) -> None:
    """Refuse a folder that exists, unless it may be overwritten."""
    if folder is None or not folder.exists():
        return
    if not folder.is_dir() or not overwrite:
        raise NeuralfieldError(f"{folder} exists; go on with --resume, replace it with --overwrite, or choose another --out")
    if any(folder.iterdir()) and not (folder / "recipe.toml").exists():
        raise NeuralfieldError(f"{folder} is not a run folder (no recipe.toml), so it is not overwritten; choose another --out")


def _clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else, once all that can be checked has been."""
    for pattern in WRITTEN:
        for file in [file for file in folder.glob(pattern) if file.is_file()]:
            file.unlink()


def _data(data: Signals | str | None, recipe: Recipe, split: str | None, limit: int | None) -> tuple[Signals, Recipe]:
    """The signals, and the recipe that says where they came from."""
    if isinstance(data, Signals):
        if split is not None:
            raise UsageError(
                "a split is chosen when data are loaded, as in nf.load(source, split=...), not for a data set in memory"
            )
        signals, part = data.select(torch.arange(len(data))[:limit]) if limit else data, None
    elif data is not None and not isinstance(data, str):
        raise UsageError(
            f"data must be a data set or its name, got {type(data).__name__}; for arrays say nf.Images.from_arrays(array)"
        )
    else:
        part = recipe.signals
        if data is not None:
            kind, path = sources.parse(data)
            inherited = {
                k: v
                for k, v in (part.arguments if part else {}).items()
                if k in sources.accepted(kind) and k not in ("path", "split", "limit")
            }
            part = Part(kind=kind, **{**inherited, "path": str(Path(path).resolve()) if path else None})
        if part is None:
            raise UsageError("say which data: --data SOURCE")
        part = Part(
            kind=part.kind, **{**part.arguments, **{k: v for k, v in (("split", split), ("limit", limit)) if v is not None}}
        )
        signals = sources.build(part.kind, part.arguments)
    if signals.domain != recipe.domain.kind:
        raise UsageError(f'the data are of domain "{signals.domain}", the recipe is for "{recipe.domain.kind}"')
    return signals, recipe.model_copy(update={"signals": part})


def _completed(recipe: Recipe, signals: Signals) -> Recipe:
    """The recipe with the domain's arguments taken from the signals."""
    return Recipe.from_tables(recipe.model_dump() | {"domain": {"kind": recipe.domain.kind, **signals.domain_arguments}})


def _hold_out(signals: Signals, share: float, seed: int) -> tuple[Signals, Signals | None]:
    """(signals to fit, held-out signals) for a validation share."""
    count = round(len(signals) * share)
    if not share:
        return signals, None
    if not 0 < count < len(signals):
        raise NeuralfieldError(f"a validation share of {share} leaves {count} of {len(signals)} signals held out; choose another")
    order = torch.randperm(len(signals), generator=generator(seed, VALIDATING))
    return signals.select(order[count:].sort().values), signals.select(order[:count].sort().values)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f'device "{name}" does not work here ({first}); --device auto takes what does') from None


@contextmanager
def interruptible() -> Iterator[Any]:
    """Ctrl-C becomes a question that the loop asks between steps; a second Ctrl-C stops at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return

    def handler(number: int, frame: Any) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield flag.is_set
    finally:
        signal.signal(signal.SIGINT, before)
