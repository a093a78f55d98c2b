"""Replays of training steps: what captures read and write. The recorder of these tests calls the work itself, on a CPU."""

import os
import signal
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic import TINY, balls, images, waves
from torch.utils._python_dispatch import TorchDispatchMode

import neuralfield as nf
from neuralfield.errors import NeuralfieldWarning
from neuralfield.recipe import Model, Recipe, Training, build
from neuralfield.registry import resolve
from neuralfield.signals.signals import Signals
from neuralfield.training import graphs, opening
from neuralfield.training.batches import batches_of
from neuralfield.training.graphs import MOST, WARM, Graphs, refusal
from neuralfield.training.interrupt import InterruptedFitError
from neuralfield.training.loop import Position, train
from neuralfield.training.optimisers import capturable
from neuralfield.training.optimisers.capturable import make_capturable, plain
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.training.progress import Progress, Report
from neuralfield.training.schedules.joint import Joint
from neuralfield.training.schedules.schedule import Optimisers
from neuralfield.types import Loss, Observations

ADAM = import_module("torch.optim.adam")


class Called:
    """A recorder without a GPU: what it records is the work itself, so whatever does not reach the capture's tensors is missed."""

    def __init__(self) -> None:
        self.warmed = self.recorded = self.replayed = 0

    def warm(self, work: Callable[[], Loss]) -> Loss:
        self.warmed += 1
        return work()

    def record(self, work: Callable[[], Loss]) -> Callable[[], Loss]:
        self.recorded += 1

        def replay() -> Loss:
            self.replayed += 1
            return work()

        return replay


class Refused(Called):
    """A capture that fails, as where something waits for the GPU. It has done nothing, for captures only note what to do."""

    def record(self, work: Callable[[], Loss]) -> Callable[[], Loss]:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")


CURVES = ["latents.code_dim=4", "training.batch=8", "training.polish=0", "training.epochs=6"]
CASES: dict[str, tuple[Callable[[], Signals], str, list[str]]] = {
    "noise on codes, a ragged last batch": (images, "image", [*TINY, "training.batch=7", "latents.noise=0.3"]),
    "drawn points": (images, "image", [*TINY, "training.points=20"]),
    "codes and decoder in turns": (
        images,
        "image",
        [*TINY, "schedule.kind=alternating", "schedule.latent_epochs=2", "schedule.decoder_epochs=2"],
    ),
    "a prior that grows": (images, "image", [*TINY, "training.ramp=4", "training.optimiser=adam"]),
    "the whole bank in every step": (images, "image", [*TINY, "training.latent_optimiser=dense", "training.optimiser=adam"]),
    "curves at times of their own": (waves, "functions-joint", [*CURVES, "training.draw=signals"]),
    "single samples": (waves, "functions-joint", [*CURVES, "training.batch=16"]),
    "shapes": (balls, "shape", ["latents.code_dim=4", "decoder.width=8", "training.batch=4", "training.polish=0"]),
}


def fitted(case: str, replays: Graphs | None, monkeypatch: pytest.MonkeyPatch, **arguments: object) -> nf.Run:
    """The run of a case; None: as a fit is on a CPU."""
    if replays is not None:
        monkeypatch.setattr(opening, "graphs_of", lambda *_: replays)
    make, recipe, settings = CASES[case]
    run: nf.Run = nf.fit(make(), recipe=recipe, settings=settings, **{"epochs": 6, "device": "cpu", **arguments})  # type: ignore[arg-type]
    monkeypatch.undo()
    return run


def state(run: nf.Run) -> dict[str, torch.Tensor]:
    return {"codes": run.codes, **run.decoder.state_dict()}


def assert_same(a: nf.Run, b: nf.Run) -> None:
    mine, theirs = state(a), state(b)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def size_of(case: str) -> int:
    _, recipe, settings = CASES[case]
    return Recipe.load(recipe, settings).training.batch


@pytest.mark.parametrize("case", CASES)
def test_a_replayed_fit_is_the_plain_one_bit_for_bit(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Called()
    replayed = fitted(case, Graphs(recorder, size_of(case)), monkeypatch)
    assert recorder.replayed > 0
    assert_same(replayed, fitted(case, None, monkeypatch))


def test_a_ragged_last_batch_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Called()  # 24 images by 7: three whole batches an epoch, and one of three
    fitted("noise on codes, a ragged last batch", Graphs(recorder, 7), monkeypatch)
    assert (recorder.warmed, recorder.recorded, recorder.replayed) == (WARM, 1, 6 * 3 - WARM)


def test_each_of_those_that_move_has_a_capture_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Called()
    fitted("codes and decoder in turns", Graphs(recorder, 8), monkeypatch)
    assert recorder.recorded == 2


def test_a_capture_that_fails_is_told_once_and_the_fit_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    case = "drawn points"
    plain_run = fitted(case, None, monkeypatch)

    with pytest.warns(NeuralfieldWarning) as told:
        run = fitted(case, Graphs(Refused(), 8), monkeypatch)
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert "operation not permitted" in str(told[0].message)
    assert "training.graphs=false" in str(told[0].message)
    assert_same(run, plain_run)


class Stopping(Progress):
    """Ctrl-C after so many steps."""

    def __init__(self, stop: int) -> None:
        self.left = stop

    def report(self, report: Report) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("replayed_first", [True, False])
@pytest.mark.parametrize("case", ["noise on codes, a ragged last batch", "a prior that grows"])
def test_a_replayed_fit_goes_on_without_replays_and_the_other_way_round(
    case: str, replayed_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # rates of a replayed fit are tensors; its checkpoint must not say so
    folder, size = tmp_path / "run", size_of(case)
    with pytest.raises(InterruptedFitError):
        fitted(case, Graphs(Called(), size) if replayed_first else None, monkeypatch, out=folder, progress=Stopping(10))
    recorder = Called()
    monkeypatch.setattr(opening, "graphs_of", lambda *_: None if replayed_first else Graphs(recorder, size))
    resumed = nf.fit(CASES[case][0](), out=folder, resume=True, device="cpu")
    assert bool(recorder.replayed) != replayed_first
    monkeypatch.undo()
    assert_same(resumed, fitted(case, None, monkeypatch))


def test_no_more_forms_are_captured_than_memory_should_hold() -> None:
    model, optimisers = parts()
    recorder = Called()
    optimisers.replays = Graphs(recorder, 4)
    for points in range(2, 2 + 2 * MOST):
        for _ in range(WARM + 2):
            Joint().step(model, optimisers, some(points), 0, torch.Generator().manual_seed(0))
    assert recorder.recorded == MOST


def parts(optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.Adam, *settings: str) -> tuple[Model, Optimisers]:
    sizes = ["domain.height=8", "domain.width=8", "domain.channels=1"]
    model = build(Recipe.load("image", [*TINY, *sizes, *settings]), 9)
    return model, Optimisers(RowAdam(model.source.parameters()), optimiser(model.decoder.parameters()))


def some(points: int) -> Observations:
    draw = torch.Generator().manual_seed(points)
    values = torch.rand(4, points, 1, generator=draw)
    return Observations(torch.arange(4), torch.rand(1, points, 2, generator=draw), values, torch.ones(4, points))


@pytest.mark.parametrize(
    ("settings", "optimiser", "word"),
    [
        ((), torch.optim.Adam, None),
        (("latents.bound=1.0",), torch.optim.Adam, "bound"),
        (("decoder.kind=concat", "decoder.dropout=0.1"), torch.optim.Adam, "random"),
        ((), torch.optim.LBFGS, "LBFGS"),
    ],
)
def test_what_cannot_be_captured_is_known_before(settings: tuple[str, ...], optimiser: type, word: str | None) -> None:
    said = refusal(*parts(optimiser, *settings))
    assert (said is None) if word is None else (said is not None and word in said)


def test_codes_that_lie_elsewhere_are_not_captured() -> None:
    model, optimisers = parts()
    model.decoder.to("meta")
    assert "different devices" in str(refusal(model, optimisers))


def test_rates_of_captures_are_set_in_place_and_kept_as_numbers() -> None:
    _, optimisers = parts()
    make_capturable(optimisers.decoder)
    tensor = optimisers.decoder.param_groups[0]["lr"]
    optimisers.rates(0.1, 0.25)
    assert optimisers.decoder.param_groups[0]["lr"] is tensor
    assert float(tensor) == 0.25
    kept = plain(optimisers.decoder.state_dict())
    assert kept["param_groups"][0]["lr"] == 0.25
    assert not isinstance(kept["param_groups"][0]["lr"], torch.Tensor)


def test_adam_takes_the_same_steps_where_it_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capturable, "DEVICES", ("cpu",))  # torch allows this on a GPU alone, and its arithmetic is the same
    monkeypatch.setattr(ADAM, "_get_capturable_supported_devices", lambda **_: ["cpu"])
    after = []
    for captured in (False, True):
        draw = torch.Generator().manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(5, 3, generator=draw)), torch.nn.Parameter(torch.randn(3, generator=draw))]
        optimiser = resolve("optimisers", "muon")(weights)
        for step in range(6):
            if captured and step == 2:
                make_capturable(optimiser)
            Optimisers(optimiser, optimiser).rates(0.1 / (step + 1), 0.1 / (step + 1))
            for p in weights:
                p.grad = torch.randn(p.shape, generator=draw)
            optimiser.step()
        after.append(torch.cat([p.detach().flatten() for p in weights]))
    # the bias is corrected in another order, in float32
    torch.testing.assert_close(after[1], after[0], rtol=1e-5, atol=1e-6)


class NothingWaits(TorchDispatchMode):
    """Refuses copies from the CPU to a device that the CPU waits for."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        copied, put = torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default
        if function in (copied, put):
            source = args[0] if function is copied else args[1]
            target = kwargs.get("device") if function is copied else args[0].device
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            crosses = target is not None and target.type != "cpu" and source.device.type == "cpu"
            assert not (crosses and waits), f"a copy of {list(source.shape)} to {target} is waited for"
        return function(*args, **kwargs)


@pytest.mark.parametrize("replayed", [False, True])
@pytest.mark.parametrize(
    ("make", "recipe", "settings"),
    [
        (images, "image", [*TINY, "decoder.basis=siren", "training.points=20"]),
        (images, "image", [*TINY, "measurement.kind=average", "measurement.size=0.1"]),
        (images, "image", ["latents.code_dim=4", "decoder.kind=linear", "latents.noise=0"]),
        (lambda: waves(own=False), "functions-joint", ["training.draw=signals", "decoder.kind=linear"]),
        (waves, "functions-joint", ["training.draw=signals", "decoder.kind=basis"]),
        (images, "image", [*TINY, "latents.noise=0.3"]),
        (images, "image", ["latents.code_dim=4", "decoder.width=8"]),
        (waves, "functions-joint", ["training.draw=signals"]),
        (waves, "functions-joint", ["training.batch=16"]),
        (balls, "shape", ["latents.code_dim=4", "decoder.width=8"]),
    ],
)
def test_no_step_looks_at_a_number_on_the_device(
    make: Callable[[], Signals], recipe: str, settings: list[str], replayed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tensors of the device "meta" have no numbers: whatever would wait for a GPU's, raises there, as does what mixes devices
    signals = make()
    read = Recipe.load(recipe, [*settings, "training.precision=float32"])
    read = Recipe.from_tables(read.model_dump() | {"domain": {"kind": read.domain.kind, **signals.domain_arguments}})
    model, device = build(read, len(signals)), torch.device("meta")
    for part in (model.source, model.decoder, model.objective):
        part.to(device)
    muon_or_adam = resolve("optimisers", read.training.optimiser)(model.decoder.parameters())
    optimisers = Optimisers(RowAdam(model.source.parameters()), muon_or_adam)
    training = Training(batch=4, draw=read.training.draw, points=read.training.points)
    if replayed:
        optimisers.replays = Graphs(Called(), training.batch)
    batches = batches_of(signals, training)
    batches.signals = signals.on(device)  # type: ignore[attr-defined]
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows no such device
    if replayed:  # what torch's Adam allows on a GPU alone
        monkeypatch.setattr(capturable, "DEVICES", ("meta",))
        monkeypatch.setattr(ADAM, "_get_capturable_supported_devices", lambda **_: ["meta"])
    steps = train(model, optimisers, Joint(), batches, training, Position(), 0, lambda at: at.steps / 6)
    for _ in range(4):
        next(steps)  # captures, and what is sent once
    with NothingWaits():
        assert sum(1 for _ in steps) == 2


def test_nothing_warns_where_graphs_are_not_asked_for(images: nf.Images) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert graphs.graphs_of(*parts(), Training(graphs=False), torch.device("cuda")) is None
        assert graphs.graphs_of(*parts(), Training(), torch.device("cpu")) is None
