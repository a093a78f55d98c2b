"""Fitting: repeatable, resumable bit for bit, within its budget, and each schedule moves what it says."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contracts.schedule import ScheduleContract, model_and_optimisers, run_steps
from synthetic import TINY, images, waves

import neuralfield as nf
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.latents.source import FixedCodes
from neuralfield.objective import MAP
from neuralfield.recipe import Training
from neuralfield.training.interrupt import InterruptedFitError
from neuralfield.training.loop import rate_factor
from neuralfield.training.optimisers.dense_adam import dense_adam
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.training.progress import Progress, Report
from neuralfield.training.schedules.alternating import Alternating
from neuralfield.training.schedules.joint import Joint
from neuralfield.training.schedules.schedule import Optimisers, Schedule, descend

pytestmark = pytest.mark.usefixtures("ctrl_c")

UNPOLISHED = [*TINY, "training.polish=0"]
STEPS = 9
"""Steps of three epochs of 24 signals by 8."""


class TestJoint(ScheduleContract):
    @pytest.fixture
    def schedule(self) -> Schedule:
        return Joint()


class TestAlternating(ScheduleContract):
    @pytest.fixture
    def schedule(self) -> Schedule:
        return Alternating(latent_epochs=2, decoder_epochs=1, rounds=14)


class TestJointOnFunctions(TestJoint):
    domain = "function"


class TestAlternatingOnFunctions(TestAlternating):
    domain = "function"


class Watching(Progress):
    """Keeps what it is told; after `stop` reports it presses Ctrl-C."""

    def __init__(self, stop: int | None = None, at_stage: str | None = None) -> None:
        self.stop, self.at_stage = stop, at_stage
        self.reports: list[Report] = []
        self.stages: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)
        if name == self.at_stage:
            os.kill(os.getpid(), signal.SIGINT)

    def report(self, report: Report) -> None:
        self.reports.append(report)
        if len(self.reports) == self.stop:
            os.kill(os.getpid(), signal.SIGINT)


def state(run: nf.Run) -> dict[str, torch.Tensor]:
    """All numbers of a run: decoder, codes, what the objective learned, and what inference did."""
    objective = run.model.objective
    parts = torch.nn.ModuleDict({"decoder": run.decoder, "start": run.start, "prior": run.prior, "objective": objective})
    # those of the likelihood are in the recipe, and so no part of its state
    return {**parts.state_dict(), **dict(objective.likelihood.named_buffers()), "codes": run.codes}


def identical(a: nf.Run, b: nf.Run) -> bool:
    ours, theirs = state(a), state(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# repeatable


@pytest.mark.parametrize("settings", [[], ["latents.init=normal", "training.points=20", "training.optimiser=adam"]])
def test_the_same_seed_gives_the_same_run_bit_for_bit(images: nf.Images, settings: list[str]) -> None:
    runs = []
    for outer in (1, 2):
        torch.manual_seed(outer)  # torch's own numbers are not used
        runs.append(nf.fit(images, recipe="image", settings=[*TINY, *settings], epochs=2, seed=7))
    assert identical(*runs)
    assert not identical(runs[0], nf.fit(images, recipe="image", settings=[*TINY, *settings], epochs=2, seed=8))


def test_a_folder_to_write_to_changes_nothing(images: nf.Images, tmp_path: Path) -> None:
    arguments = {"recipe": "image", "settings": TINY, "epochs": 2}
    assert identical(nf.fit(images, **arguments), nf.fit(images, **arguments, out=tmp_path / "run"))


def test_fitting_leaves_torchs_own_random_numbers_alone(images: nf.Images) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    nf.fit(images, recipe="image", settings=TINY, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


# resumable


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> nf.Run:
    return nf.fit(images(), recipe="image", settings=[*TINY, "training.points=30"], epochs=3)


@pytest.mark.parametrize("stop", [1, 3, 4, STEPS - 1])
def test_a_fit_that_is_interrupted_and_resumed_ends_bit_identical(
    images: nf.Images, tmp_path: Path, uninterrupted: nf.Run, stop: int
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(InterruptedFitError, match=f"--resume --out {folder}") as caught:
        nf.fit(images, recipe="image", settings=[*TINY, "training.points=30"], epochs=3, out=folder, progress=Watching(stop))
    assert caught.value.exit_code == 130
    watching = Watching()
    resumed = nf.fit(images, out=folder, resume=True, progress=watching)
    assert len(watching.reports) == STEPS - stop
    assert identical(resumed, uninterrupted)
    assert identical(nf.Run.load(folder), uninterrupted)


def test_a_fit_may_be_interrupted_more_than_once(images: nf.Images, tmp_path: Path, uninterrupted: nf.Run) -> None:
    folder = tmp_path / "run"
    arguments = {"recipe": "image", "settings": [*TINY, "training.points=30"], "epochs": 3}
    for stop in (2, 4):
        with pytest.raises(InterruptedFitError):
            nf.fit(images, out=folder, progress=Watching(stop), **arguments)
        arguments = {"resume": True}
    assert identical(nf.fit(images, out=folder, resume=True), uninterrupted)


ALTERNATING = ["schedule.latent_epochs=2", "schedule.decoder_epochs=1", "schedule.rounds=2", "training.batch=32"]
FUNCTIONS = {
    "functions-alternating": ["latents.code_dim=3", "decoder.width=8", "decoder.depth=2", *ALTERNATING],
    "functions-joint": ["latents.code_dim=3", "decoder.width=8", "decoder.depth=2", "training.batch=32", "training.epochs=4"],
    "function": ["latents.code_dim=6", "training.steps=12", "training.batch=3"],
}
"""Fits of curves: by samples, in both schedules, and the default one, which learns a noise and a prior before its first step."""


@pytest.mark.parametrize("recipe", FUNCTIONS)
def test_a_fit_of_curves_that_is_interrupted_and_resumed_ends_bit_identical(recipe: str, tmp_path: Path) -> None:
    curves, arguments, whole = waves(8, 12), {"recipe": recipe, "settings": FUNCTIONS[recipe]}, Watching()
    uninterrupted = nf.fit(curves, **arguments, progress=whole)
    steps = len(whole.reports)
    assert steps >= 8
    for stop in (1, steps // 2, steps - 1):
        folder = tmp_path / str(stop)
        with pytest.raises(InterruptedFitError):
            nf.fit(curves, out=folder, progress=Watching(stop), **arguments)
        watching = Watching()
        resumed = nf.fit(curves, out=folder, resume=True, progress=watching)
        assert len(watching.reports) == steps - stop
        assert identical(resumed, uninterrupted)
        assert identical(nf.Run.load(folder), uninterrupted)
        assert resumed.recipe.to_toml() == nf.Run.load(folder).recipe.to_toml() == uninterrupted.recipe.to_toml()


@pytest.mark.parametrize("stage", ["initialising codes", "preparing inference"])
def test_a_fit_without_steps_that_is_interrupted_begins_again(stage: str, tmp_path: Path) -> None:
    curves, arguments = waves(8, 12), {"recipe": "function", "settings": ["latents.code_dim=6"]}
    uninterrupted = nf.fit(curves, **arguments)
    with pytest.raises(KeyboardInterrupt):
        nf.fit(curves, out=tmp_path / "run", progress=Watching(at_stage=stage), **arguments)
    again = arguments if stage == "initialising codes" else {"resume": True}  # nothing is written before the first codes
    assert identical(nf.fit(curves, out=tmp_path / "run", **again), uninterrupted)
    assert identical(nf.Run.load(tmp_path / "run"), uninterrupted)


def test_an_interruption_of_the_polish_loses_no_training(images: nf.Images, tmp_path: Path, uninterrupted: nf.Run) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        nf.fit(
            images,
            recipe="image",
            settings=[*TINY, "training.points=30"],
            epochs=3,
            out=folder,
            progress=Watching(at_stage="polishing codes"),
        )
    watching = Watching()
    assert identical(nf.fit(images, out=folder, resume=True, progress=watching), uninterrupted)
    assert not watching.reports


def test_a_disk_that_is_full_at_the_end_loses_no_training(
    images: nf.Images, tmp_path: Path, uninterrupted: nf.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, replace = tmp_path / "run", os.replace

    def full(source: str, target: Path) -> None:
        if Path(target).name == "latents.safetensors":
            raise OSError(28, os.strerror(28))
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(NeuralfieldError, match=r"latents.safetensors cannot be written: No space left on device"):
            nf.fit(images, recipe="image", settings=[*TINY, "training.points=30"], epochs=3, out=folder)
    with pytest.raises(NeuralfieldError, match="not finished"):
        nf.Run.load(folder)
    assert identical(nf.fit(images, out=folder, resume=True), uninterrupted)


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from synthetic import TINY, images
from neuralfield.training import fit, running
from neuralfield.training.progress import Progress
running.CHECKPOINT_EVERY = 0.0
class Dying(Progress):
    left = 5
    def report(self, report):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
fit.fit(images(), recipe="image", settings=[*TINY, "training.points=30"], epochs=3, out={folder!r}, progress=Dying())
"""


@pytest.mark.slow
def test_a_fit_that_is_killed_and_resumed_ends_bit_identical(tmp_path: Path, uninterrupted: nf.Run) -> None:
    folder = tmp_path / "run"
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", script], check=False, stderr=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL, done.stderr
    watching = Watching()
    assert identical(nf.fit(images(), out=folder, resume=True, progress=watching), uninterrupted)
    assert len(watching.reports) == STEPS - 3  # killed in the fifth step: the last whole epoch was saved


def test_a_fit_that_was_killed_before_its_first_checkpoint_begins_again(
    images: nf.Images, tmp_path: Path, uninterrupted: nf.Run
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(InterruptedFitError):
        nf.fit(images, recipe="image", settings=[*TINY, "training.points=30"], epochs=3, out=folder, progress=Watching(2))
    (folder / "resume" / "state.safetensors").unlink()
    assert identical(nf.fit(images, out=folder, resume=True), uninterrupted)


def test_a_second_ctrl_c_stops_at_once(images: nf.Images) -> None:
    class Impatient(Watching):
        def report(self, report: Report) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)

    with pytest.raises(KeyboardInterrupt):
        nf.fit(images, recipe="image", settings=UNPOLISHED, epochs=1, progress=Impatient())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # as it was


def test_an_interrupted_fit_without_a_folder_says_that_nothing_was_saved(images: nf.Images) -> None:
    with pytest.raises(InterruptedFitError, match="no folder to save to"):
        nf.fit(images, recipe="image", settings=UNPOLISHED, epochs=2, progress=Watching(1))


def test_what_cannot_be_resumed_is_one_line(images: nf.Images, fitted: Path, tmp_path: Path) -> None:
    with pytest.raises(NeuralfieldError, match="is finished; there is nothing to resume"):
        nf.fit(images, out=fitted, resume=True)
    with pytest.raises(UsageError, match="--out RUN"):
        nf.fit(images, resume=True)
    with pytest.raises(NeuralfieldError, match="there is no run"):
        nf.fit(images, out=tmp_path / "none", resume=True)


# how long


def test_a_fit_lasts_its_epochs_and_reports_every_step(images: nf.Images) -> None:
    watching = Watching()
    run = nf.fit(images, recipe="image", settings=UNPOLISHED, epochs=3, progress=watching)
    assert run.facts["epochs"] == 3
    assert run.facts["steps"] == len(watching.reports) == STEPS
    shares = [report.share for report in watching.reports]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert [report.epoch for report in watching.reports] == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert all(report.points_per_second > 0 for report in watching.reports)


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (3, 1), (4, 2), (10, 4)])
def test_steps_are_rounded_up_to_whole_epochs(images: nf.Images, steps: int, epochs: int) -> None:
    run = nf.fit(images, recipe="image", settings=[*UNPOLISHED, f"training.steps={steps}"])
    assert run.facts["epochs"] == epochs


@pytest.mark.parametrize("polish", [0, 5])
def test_a_budget_is_kept(images: nf.Images, polish: int) -> None:
    began = time.perf_counter()
    run = nf.fit(images, recipe="image", settings=[*TINY, f"training.polish={polish}"], budget=1.0)
    seconds = time.perf_counter() - began
    assert run.facts["steps"] > 0
    # scoring comes after the budget, and this machine may be busy: an unbounded fit would last for ever
    assert seconds < 2.5
    assert run.facts["seconds"] <= seconds


def test_a_budget_too_small_for_one_step_still_gives_a_run(images: nf.Images) -> None:
    run = nf.fit(images, recipe="image", settings=TINY, budget=1e-6)
    assert run.facts["steps"] <= 1
    assert run.codes.isfinite().all()


def test_epochs_and_a_budget_together_are_refused(images: nf.Images) -> None:
    with pytest.raises(UsageError, match="not by both"):
        nf.fit(images, recipe="image", epochs=1, budget=1.0)


@pytest.mark.parametrize("decay", ["cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
def test_rates_rise_then_fall_and_never_vanish(decay: str, warmup: float) -> None:
    settings = Training(decay=decay, warmup=warmup)
    factors = [rate_factor(share / 100, settings) for share in range(101)]
    top = factors.index(max(factors))
    assert min(factors) > 0
    assert max(factors) <= 1
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    if warmup < 1:
        assert max(factors) > 0.9
        assert factors[-1] == pytest.approx(0.01 if decay == "cosine" else 1.0)


# who moves


def test_alternating_really_freezes_the_other_side() -> None:
    schedule = Alternating(latent_epochs=2, decoder_epochs=3, rounds=2)
    assert schedule.epochs == 10
    model, optimisers = model_and_optimisers()
    for epoch in range(10):
        codes, weights = model.source.codes.detach().clone(), {k: v.clone() for k, v in model.decoder.state_dict().items()}
        run_steps(schedule, model, optimisers, torch.arange(10), range(epoch, epoch + 1))
        on_codes = epoch % 5 < 2
        assert torch.equal(model.source.codes, codes) != on_codes
        assert all(torch.equal(value, weights[name]) for name, value in model.decoder.state_dict().items()) == on_codes


def test_alternating_decides_its_own_length(images: nf.Images) -> None:
    length = ["schedule.latent_epochs=1", "schedule.decoder_epochs=2", "schedule.rounds=2"]
    assert nf.fit(images, recipe="image", settings=[*UNPOLISHED, "schedule.kind=alternating", *length]).facts["epochs"] == 6


@pytest.mark.parametrize("argument", ["latent_epochs", "decoder_epochs", "rounds"])
def test_alternating_without_epochs_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Alternating(**{argument: 0})


def test_a_codes_step_does_not_depend_on_how_many_others_are_in_the_batch() -> None:
    moved = []
    for index in ([4], [4, 1, 7, 2]):
        model, optimisers = model_and_optimisers()
        # plain descent, which shows the size of a gradient; Adam hides it
        optimisers.latents = torch.optim.SGD(model.source.parameters())
        optimisers.rates(0.01, 0.0)
        model.source.noise = 0.3  # type: ignore[assignment]  # of a code it is its own too
        model.source.train()
        before = model.source.codes[4].detach().clone()
        run_steps(Joint(), model, optimisers, torch.tensor(index), range(1))
        moved.append(model.source.codes[4].detach() - before)
    assert moved[0].abs().max() > 1e-3
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=1e-6)


def test_every_epoch_goes_over_all_signals_in_an_order_of_its_own_and_every_step_draws_points_of_its_own(
    images: nf.Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[nf.Observations] = []
    descend = Joint.step

    def step(self: Joint, model: object, optimisers: object, observations: nf.Observations, *rest: object) -> nf.Loss:
        met.append(observations)
        return descend(self, model, optimisers, observations, *rest)

    monkeypatch.setattr(Joint, "step", step)
    for seed in (0, 1):
        nf.fit(images, recipe="image", settings=[*UNPOLISHED, "training.points=10"], epochs=2, seed=seed)
    orders = [torch.cat([batch.index for batch in met[at : at + 3]]).tolist() for at in range(0, len(met), 3)]
    assert len(orders) == 4
    assert all(sorted(order) == list(range(24)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert len({tuple(batch.coords.flatten().tolist()) for batch in met}) == len(met) == 12
    assert all(batch.values.shape[1] == 10 for batch in met)


# it learns


@pytest.mark.parametrize("schedule", ["joint", "alternating"])
@pytest.mark.parametrize("optimiser", ["adam", "muon"])
def test_data_that_are_linear_in_their_codes_are_learned(schedule: str, optimiser: str) -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = 0.5 + 0.1 * torch.randn(20, 3, generator=draw) @ torch.randn(3, 36, generator=draw)
    data = nf.Images(pixels.reshape(20, 6, 6, 1))
    settings = [f"schedule.kind={schedule}", f"training.optimiser={optimiser}", "training.decay=constant", "decoder.width=16"]
    watching = Watching()
    run = nf.fit(data, recipe="image", settings=[*TINY, *settings, "decoder.frequencies=16"], epochs=40, progress=watching)
    per_epoch = 3
    losses = [report.loss for report in watching.reports]
    first, last = (sum(losses[part]) / per_epoch for part in (slice(0, per_epoch), slice(-per_epoch, None)))
    assert last < first - 0.5  # nats per value; the noise of a batch is far below
    assert run.facts["scores"]["train"]["mse"] < 0.8 * float(pixels.var())


def test_the_polish_is_a_search_of_all_codes_from_where_training_left_them(images: nf.Images) -> None:
    trained, polished = (
        nf.fit(images, recipe="image", settings=[*TINY, f"training.polish={polish}"], epochs=3) for polish in (0, 5)
    )
    searched = trained.solver(steps=5).solve(
        trained.model.objective, trained.decoder, images.truth(torch.arange(24)), nf.Latent(trained.codes)
    )
    assert torch.equal(polished.codes, searched.latent.mean)
    assert all(torch.equal(a, b) for a, b in zip(trained.decoder.parameters(), polished.decoder.parameters(), strict=True))


def test_polishing_raises_the_objective_of_no_signal(images: nf.Images) -> None:
    totals = []
    for polish in (0, 5):
        run = nf.fit(images, recipe="image", settings=[*TINY, f"training.polish={polish}"], epochs=3)
        truth = images.truth(torch.arange(24))
        with torch.no_grad():
            totals.append(run.model.objective(FixedCodes(run.codes), run.decoder, truth).total)
    assert (totals[1] <= totals[0] + 1e-5).all()  # float32 sums in batches of another size
    assert totals[1].mean() < totals[0].mean()


# validation


STOPPING = [
    *UNPOLISHED,
    "training.validation=0.25",
    "training.patience=1",
    "training.decay=constant",
    "training.warmup=0",
    "training.optimiser=adam",
    "training.decoder_rate=0.3",  # far too high: it cannot get better for long
]


def test_early_stopping_stops_and_restores_the_best_decoder(images: nf.Images) -> None:
    stopped = nf.fit(images, recipe="image", settings=STOPPING, epochs=60)
    best = stopped.facts["best_epoch"]
    assert best < stopped.facts["epochs"] < 60
    assert stopped.facts["epochs"] - best == 1  # patience
    # with constant rates, a fit of exactly so many epochs is the same fit, cut there
    cut = nf.fit(images, recipe="image", settings=STOPPING, epochs=best)
    assert cut.facts["best_epoch"] == best
    assert identical(stopped, cut)
    assert cut.facts["best_validation"] == stopped.facts["best_validation"]


def test_a_fit_that_stopped_early_and_was_interrupted_later_does_not_train_on(images: nf.Images, tmp_path: Path) -> None:
    folder, settings = tmp_path / "run", [*STOPPING, "training.polish=2"]
    whole = nf.fit(images, recipe="image", settings=settings, epochs=60)
    with pytest.raises(KeyboardInterrupt):
        nf.fit(images, recipe="image", settings=settings, epochs=60, out=folder, progress=Watching(at_stage="polishing codes"))
    resumed = nf.fit(images, out=folder, resume=True)
    assert resumed.facts["epochs"] == whole.facts["epochs"]
    assert identical(resumed, whole)


def test_a_fit_with_validation_resumes_bit_identical(images: nf.Images, tmp_path: Path) -> None:
    settings = [*TINY, "training.validation=0.25", "training.patience=2"]
    whole = nf.fit(images, recipe="image", settings=settings, epochs=4)
    with pytest.raises(InterruptedFitError):
        nf.fit(images, recipe="image", settings=settings, epochs=4, out=tmp_path / "run", progress=Watching(7))
    assert identical(nf.fit(images, out=tmp_path / "run", resume=True), whole)


def test_held_out_signals_are_not_trained_on_and_differ_by_seed(images: nf.Images) -> None:
    settings = [*UNPOLISHED, "training.validation=0.25"]
    run, other = (nf.fit(images, recipe="image", settings=settings, epochs=1, seed=seed) for seed in (0, 1))
    assert len(run.ids) == len(run.codes) == len(run.labels) == 18
    assert set(run.ids) < set(images.ids)
    assert run.ids != other.ids
    assert run.labels.tolist() == [int(images.labels[images.ids.index(i)]) for i in run.ids]


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_a_validation_share_that_leaves_nothing_is_refused(images: nf.Images, share: float) -> None:
    with pytest.raises(NeuralfieldError, match=f"validation share of {share}"):
        nf.fit(images, recipe="image", settings=[*TINY, f"training.validation={share}"], epochs=1)


# what it is given


@pytest.mark.parametrize("settings", [["training.optimiser=addam"], ["latents.init=specral"], ["schedule.kind=alternate"]])
def test_wrong_names_end_a_fit_before_its_first_step(images: nf.Images, settings: list[str], tmp_path: Path) -> None:
    watching = Watching()
    with pytest.raises(UsageError, match="did you mean"):
        nf.fit(images, recipe="image", settings=[*TINY, *settings], out=tmp_path / "run", progress=watching)
    assert not watching.reports


def test_settings_apply_to_a_recipe_that_is_given_as_an_object(images: nf.Images) -> None:
    recipe = nf.Recipe.load("image", UNPOLISHED)
    run = nf.fit(images, recipe=recipe, settings=["latents.code_dim=5"], epochs=1)
    assert run.codes.shape == (24, 5)


@pytest.mark.parametrize(("arguments", "words"), [({}, "--domain or --recipe"), ({"domain": "imag"}, 'did you mean "image"')])
def test_what_to_fit_must_be_said(images: nf.Images, arguments: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        nf.fit(images, **arguments)


def test_a_device_that_is_not_there_is_one_line(images: nf.Images) -> None:
    for name in ("cuda:99", "tpu", ""):
        with pytest.raises(UsageError, match=f'device "{name}" does not work here') as caught:
            nf.fit(images, recipe="image", settings=TINY, device=name)
        assert "\n" not in str(caught.value)


def test_a_fit_that_diverges_is_one_line(images: nf.Images, tmp_path: Path) -> None:
    settings = [*TINY, "training.decoder_rate=1e30", "training.optimiser=adam", "training.warmup=0"]
    with pytest.raises(NeuralfieldError) as caught:
        nf.fit(images, recipe="image", settings=settings, epochs=3, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert "training.decoder_rate" in str(caught.value)


@pytest.mark.parametrize(
    "pixels", [torch.zeros(6, 4, 4, 1), torch.ones(6, 4, 4, 1), torch.eye(4)[None, ..., None], torch.zeros(6, 1, 1, 2)]
)
def test_odd_data_give_finite_runs(pixels: torch.Tensor, tmp_path: Path) -> None:
    run = nf.fit(nf.Images(pixels), recipe="image", settings=TINY, epochs=2, out=tmp_path / "run")
    assert run.codes.isfinite().all()
    assert identical(nf.Run.load(tmp_path / "run"), run)


def test_a_fit_on_every_device(images: nf.Images, device: torch.device, tmp_path: Path) -> None:
    run = nf.fit(images, recipe="image", settings=TINY, epochs=2, device=device.type, out=tmp_path / "run")
    assert run.device.type == device.type
    assert nf.Run.load(tmp_path / "run").device.type == "cpu"


@pytest.mark.parametrize("latents", ["rows", "dense"])
def test_a_batch_that_goes_through_in_parts_makes_the_same_step(monkeypatch: pytest.MonkeyPatch, latents: str) -> None:
    after = []
    for together in (10**9, 40):  # 7 signals of 15 points: all at once, or two by two
        monkeypatch.setattr("neuralfield.training.schedules.schedule.TOGETHER", together)
        settings = ["latents.noise=0", "objective.weight_l2=0.1", "objective.eikonal=0.1"]
        sizes = ["domain.height=8", "domain.width=8", "domain.channels=1"]
        model = nf.build(nf.Recipe.load("image-modulated", [*TINY, *settings, *sizes]), 9)
        for part in (model.source, model.decoder, model.objective):
            part.double()
        model.source.codes.data = torch.randn(9, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        kind = RowAdam if latents == "rows" else dense_adam
        optimisers = Optimisers(kind(model.source.parameters()), torch.optim.SGD(model.decoder.parameters(), 0.1))
        draw = torch.Generator().manual_seed(1)
        coords, values = (torch.rand(7, 15, n, generator=draw, dtype=torch.float64) for n in (2, 1))
        weight = (torch.rand(7, 15, generator=draw) < 0.7).double()
        seen = nf.Observations(torch.randperm(9, generator=draw)[:7], coords, values, weight)
        loss = descend(model, optimisers, seen, draw)
        after.append([loss.data, loss.prior, loss.batch, model.source.codes, *model.decoder.parameters()])
    for whole, parts in zip(*after, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


class Crowd(MAP):
    """An objective of its own, with a term that only the whole batch has."""

    separable = False

    def forward(self, source, decoder, observations, generator=None):  # type: ignore[no-untyped-def]
        loss = super().forward(source, decoder, observations, generator)
        return replace(loss, batch=source(observations).mean.var(0).sum())


def test_an_objective_that_does_not_say_so_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuralfield.training.schedules.schedule.TOGETHER", 40)
    sizes = ["domain.height=8", "domain.width=8", "domain.channels=1", "latents.noise=0"]
    model = nf.build(nf.Recipe.load("image-modulated", [*TINY, *sizes]), 7)
    plain = model.objective
    model.objective = Crowd(plain.measurement, plain.likelihood, plain.prior)  # type: ignore[attr-defined]
    model.source.codes.data = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    expected = model.source.codes.detach().var(0).sum()
    optimisers = Optimisers(RowAdam(model.source.parameters()), torch.optim.SGD(model.decoder.parameters(), 0.1))
    seen = nf.Observations(torch.arange(7), torch.rand(7, 15, 2), torch.rand(7, 15, 1), torch.ones(7, 15))
    torch.testing.assert_close(descend(model, optimisers, seen, torch.Generator()).batch.detach(), expected)
