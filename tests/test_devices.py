"""Data on the device of the fit: the same batches, wherever they are cut."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from synthetic import balls, images, waves

import neuralfield as nf
from neuralfield import devices
from neuralfield.decoders.reading import exact
from neuralfield.recipe import Training
from neuralfield.signals.signals import Signals, placed
from neuralfield.training.batches import BySamples, batches_of
from neuralfield.training.loop import Position
from neuralfield.training.running import LOOK_EVERY, looked_at
from neuralfield.types import Observations


def grey() -> nf.Images:
    return nf.Images((images().pixels * 255).to(torch.uint8))


def mirrored() -> Signals:
    return balls().with_mirrored(0)


SETS: list[Callable[[], Signals]] = [images, grey, waves, lambda: waves(own=False), balls, mirrored]


def tensors(batch: Observations) -> dict[str, torch.Tensor]:
    return {name: x for name in batch.__dataclass_fields__ if (x := getattr(batch, name)) is not None}


@pytest.mark.parametrize("make", SETS)
@pytest.mark.parametrize("points", [None, 7])
def test_batches_of_signals_on_a_device_are_those_of_the_cpu(
    make: Callable[[], Signals], points: int | None, device: torch.device
) -> None:
    here = make()
    there, index = here.on(device), torch.tensor([4, 0, 5])
    mine, theirs = (tensors(s.batch(index, points, torch.Generator().manual_seed(1))) for s in (here, there))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(theirs[name].cpu(), value), name
    if points is not None:
        assert {x.device.type for x in theirs.values()} == {device.type}


@pytest.mark.parametrize("make", SETS)
def test_a_draw_on_a_device_takes_nothing_back(make: Callable[[], Signals]) -> None:
    # tensors of the device "meta" hold no numbers: whatever read one, or mixed devices, would raise
    batch = make().on("meta").batch(torch.tensor([4, 0, 5]), 7, torch.Generator().manual_seed(1))
    assert {x.device.type for x in tensors(batch).values()} == {"meta"}


@pytest.mark.parametrize("make", SETS)
def test_signals_stay_where_they_were_when_others_are_made_of_them(make: Callable[[], Signals]) -> None:
    here = make()
    before = tensors(here.truth(torch.tensor([1])))
    here.on("meta")
    assert {x.device.type for x in tensors(here.batch(torch.tensor([1]), 3)).values()} == {"cpu"}
    for name, value in tensors(here.truth(torch.tensor([1]))).items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("make", [waves, lambda: waves(own=False)])
def test_single_samples_are_cut_on_the_device(make: Callable[[], Signals], device: torch.device) -> None:
    here = BySamples(make())
    there = BySamples(here.signals.on(device))
    items = torch.tensor([3, 1, 40, 1])
    mine, theirs = (tensors(b.batch(items, torch.Generator())) for b in (here, there))
    for name, value in mine.items():
        assert torch.equal(theirs[name].cpu(), value), name


def test_what_is_held_is_counted_once() -> None:
    assert grey().held_bytes == 24 * 8 * 8 + 8 * 8 * 2 * 4
    assert mirrored().held_bytes == balls().held_bytes == 6 * 700 * 4 * 4


def test_signals_are_placed_on_a_gpu_that_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    signals, gpu = images(), torch.device("meta")
    monkeypatch.setattr("neuralfield.signals.signals.room", lambda _: signals.held_bytes)
    assert placed(signals, gpu).batch(torch.arange(2)).values.is_meta
    monkeypatch.setattr("neuralfield.signals.signals.room", lambda _: signals.held_bytes - 1)
    assert placed(signals, gpu) is signals
    assert devices.room(torch.device("cpu")) == 0  # there they lie already


def test_a_gpu_is_described_by_its_memory_and_capability() -> None:
    facts = SimpleNamespace(name="NVIDIA H200", total_memory=150 * 2**30, major=9, minor=0)
    assert devices.described(1, facts) == "cuda:1 (NVIDIA H200, 150.0 GiB, compute capability 9.0)"


def test_a_batch_on_its_device_is_not_made_again() -> None:
    batch = images().batch(torch.arange(3))
    assert batch.to("cpu") is batch
    assert batch.to("meta").to(torch.device("meta")).values.is_meta


def test_the_losses_of_a_gpu_are_looked_at_now_and_then() -> None:
    # (epoch, step in it, steps over all): step 0 is the end of an epoch
    looks = [looked_at(Position(0, step, step), LOOK_EVERY) for step in range(1, 3 * LOOK_EVERY)]
    assert looks[0]
    assert sum(looks) == 3  # the first, and two
    assert looked_at(Position(1, 0, 7), LOOK_EVERY)
    assert all(looked_at(Position(0, step, step), 1) for step in range(1, 5))


def test_values_at_their_own_places_are_exact_on_every_device(device: torch.device) -> None:
    places = torch.rand(1, 5, 2, device=device)
    values = torch.rand(3, 5, 1, device=device)
    read = lambda: values + 1e-3  # noqa: E731
    assert torch.equal(exact(places.clone(), places, values, read), values)
    assert torch.equal(exact(places + 1e-6, places, values, read), values + 1e-3)
    assert torch.equal(exact(places[:, :2], places, values, read), values + 1e-3)


def test_a_fit_draws_the_same_batches_wherever_its_data_lie(device: torch.device) -> None:
    settings = Training(batch=5, points=9)
    here, there = batches_of(waves(), settings), batches_of(waves().on(device), settings)
    for step in range(3):
        a, b = (x.batch(torch.arange(5), torch.Generator().manual_seed(step)) for x in (here, there))
        assert torch.equal(a.coords, b.coords.cpu())
