"""What an epoch goes over: every known sample once, and, summed over an epoch, the objective of the whole signals."""

from typing import Any

import numpy as np
import pytest
import torch
from synthetic import TINY, images
from torch import Tensor

import neuralfield as nf
from neuralfield.decoders.decoder import Decoder
from neuralfield.latents.bank import Bank
from neuralfield.latents.priors import Isotropic
from neuralfield.likelihoods import Gaussian
from neuralfield.measurements import Points
from neuralfield.objective import MAP
from neuralfield.recipe import Training
from neuralfield.signals.signals import Signals
from neuralfield.signals.sines import sines
from neuralfield.training.batches import Batches, BySamples, BySignals, balanced, batches_of
from neuralfield.training.ranks import Ranks
from neuralfield.training.schedules.alternating import Alternating
from neuralfield.training.schedules.joint import Joint
from neuralfield.types import Observations


def gaps() -> Signals:
    """Curves of two channels on one grid, of which a third is not known."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((6, 9, 2))
    x[draw.random((6, 9)) < 0.3] = np.nan
    return nf.Curves.from_arrays(np.arange(9.0), x)


def ragged() -> Signals:
    """Curves of 1 to 12 points at times of their own."""
    draw = np.random.default_rng(1)
    return nf.Curves.from_list([(np.sort(draw.uniform(0, 1, n)), draw.standard_normal(n)) for n in (3, 1, 7, 12, 2)])


def colours() -> Signals:
    return images(5, 4, 3, channels=3)


KINDS = {"gaps": gaps, "ragged": ragged, "colours": colours}
kinds = pytest.mark.parametrize("kind", KINDS)


def epoch(batches: Batches, size: int) -> list[Observations]:
    order = torch.randperm(batches.count, generator=torch.Generator().manual_seed(0))
    return [batches.batch(items, torch.Generator().manual_seed(1)) for items in order.split(size)]


@kinds
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_epoch_visits_every_known_sample_once_and_no_other(kind: str, size: int) -> None:
    signals = KINDS[kind]()
    truth = signals.truth(torch.arange(len(signals)))
    known = truth.weight > 0
    met: list[tuple[Any, ...]] = []
    for batch in epoch(BySamples(signals), size):
        assert batch.values.shape[1] == 1
        assert len(batch) <= size
        met += zip(batch.index.tolist(), batch.coords[:, 0].tolist(), batch.values[:, 0].tolist(), strict=True)
    coords = truth.coords.expand(len(truth), -1, -1)
    expected = zip(known.nonzero()[:, 0].tolist(), coords[known].tolist(), truth.values[known].tolist(), strict=True)
    assert sorted(met) == sorted(expected)


class Curved(Decoder):
    """f(z, t) = sin(z . features of t), for any number of coordinates and values."""

    def __init__(self, coord_dim: int, value_dim: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(2)
        self.map = torch.nn.Parameter(torch.randn(coord_dim, 3, generator=draw))
        self.out = torch.nn.Parameter(torch.randn(3, value_dim, generator=draw))

    def condition(self, z: Tensor) -> Tensor:
        return z

    def evaluate(self, conditioning: Tensor, coords: Tensor) -> Tensor:
        return torch.sin(coords @ self.map + conditioning[:, None]) @ self.out


@kinds
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_totals_of_an_epoch_add_up_to_the_objective_of_whole_signals(kind: str, size: int) -> None:
    # The pair (i, k) stands for all n_i points of its signal: its total is (n_i nll_ik + prior_i) / (n_i V). Over the n_i pairs of
    # a signal these add up to (data_i + prior_i) / V: the data term whole, and the prior once.
    signals = KINDS[kind]()
    truth = signals.truth(torch.arange(len(signals)))
    channels = truth.values.shape[-1]
    source, decoder = Bank(len(signals), 3, init="normal"), Curved(truth.coords.shape[-1], channels)
    torch.nn.init.normal_(source.codes)
    objective = MAP(Points(), Gaussian(0.3), Isotropic(3, 0.7))
    with torch.no_grad():
        whole = objective(source, decoder, truth)
        pairs = [objective(source, decoder, batch) for batch in epoch(BySamples(signals), size)]
        total = torch.cat([loss.total.double() for loss in pairs])
    assert len(total) == int((truth.weight > 0).sum())
    expected = (whole.data + whole.prior).double().sum() / channels
    torch.testing.assert_close(total.sum(), expected, rtol=1e-5, atol=0)
    # so a step's mean over pairs is that of the objective, in nats per value seen
    torch.testing.assert_close(total.mean(), expected / len(total), rtol=1e-5, atol=0)


@kinds
def test_gradients_of_an_epoch_add_up_to_those_of_whole_signals(kind: str) -> None:
    signals = KINDS[kind]()
    truth = signals.truth(torch.arange(len(signals)))
    channels = truth.values.shape[-1]
    source, decoder = Bank(len(signals), 3, init="normal"), Curved(truth.coords.shape[-1], channels)
    torch.nn.init.normal_(source.codes)
    objective = MAP(Points(), Gaussian(0.3), Isotropic(3, 0.7))
    loss = objective(source, decoder, truth)
    ((loss.data + loss.prior).sum() / channels).backward()
    expected = [p.grad.to_dense() for p in (source.codes, decoder.map, decoder.out)]  # type: ignore[union-attr]
    for p in (source.codes, decoder.map, decoder.out):
        p.grad = None
    for batch in epoch(BySamples(signals), 5):
        objective(source, decoder, batch).total.sum().backward()
    for p, gradient in zip((source.codes, decoder.map, decoder.out), expected, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad.to_dense(), gradient, rtol=1e-4, atol=1e-4)


def test_what_a_batch_holds_is_said_by_the_recipe() -> None:
    signals = gaps()
    whole, drawn = batches_of(signals, Training()), batches_of(signals, Training(points=4))
    assert isinstance(whole, BySignals)
    assert whole.count == drawn.count == 6
    index = torch.tensor([4, 1])
    assert torch.equal(whole.batch(index, torch.Generator()).values, signals.batch(index).values)
    assert drawn.batch(index, torch.Generator()).values.shape == (2, 4, 2)
    samples = batches_of(signals, Training(draw="samples"))
    assert isinstance(samples, BySamples)
    assert samples.count == int((signals.truth(torch.arange(6)).weight > 0).sum())


def test_many_signals_are_looked_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = BySamples(ragged())
    monkeypatch.setattr(BySamples, "AT_ONCE", 2)
    parts = BySamples(ragged())
    assert torch.equal(parts.pairs, whole.pairs)
    assert torch.equal(parts.known, whole.known)


# the order of an epoch


SIZES = [(24, 8), (23, 8), (1, 1), (5, 8), (8, 8), (100, 7), (64, 1), (1000, 64)]


@pytest.mark.parametrize(("count", "size"), SIZES)
def test_every_signal_comes_once_in_an_epoch_and_epochs_differ(count: int, size: int) -> None:
    orders = [balanced(count, size, torch.Generator().manual_seed(seed)) for seed in (0, 1, 1)]
    assert all(order.sort().values.tolist() == list(range(count)) for order in orders)
    assert torch.equal(orders[1], orders[2])
    assert count <= size or count == 1 or not torch.equal(orders[0], orders[1])


@pytest.mark.parametrize(("count", "size"), SIZES)
def test_a_batch_holds_one_signal_of_each_class(count: int, size: int) -> None:
    classes = torch.cat([torch.full(((k + 1) * count // size - k * count // size,), k) for k in range(size)])
    *full, last = classes[balanced(count, size, torch.Generator().manual_seed(3))].split(size)
    assert all(batch.tolist() == list(range(size)) for batch in full)
    larger = [k for k in range(size) if (k + 1) * count // size - k * count // size > count // size]
    assert last.tolist() == (larger or list(range(size)))


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("count", "size"), SIZES)
def test_ranks_share_signals_and_every_full_batch_evenly(count: int, size: int, world: int) -> None:
    ranks = [Ranks(rank, world) for rank in range(world)]
    owned = [list(rank.share(count)) for rank in ranks]
    assert [signal for each in owned for signal in each] == list(range(count))
    assert max(map(len, owned)) - min(map(len, owned)) <= 1
    for batch in balanced(count, size, torch.Generator().manual_seed(3)).split(size):
        parts = [batch[rank.owns(batch, count)] for rank in ranks]
        assert torch.equal(torch.cat(parts), batch)  # nothing twice, nothing lost
        assert all(set(part.tolist()) <= set(own) for part, own in zip(parts, owned, strict=True))
        if len(batch) == size and size % world == 0:
            assert {len(part) for part in parts} == {size // world}


def test_members_of_a_class_come_at_any_time() -> None:
    first = torch.stack([balanced(12, 4, torch.Generator().manual_seed(seed))[:4] for seed in range(3000)])
    counts = torch.bincount(first.flatten(), minlength=12)
    # each of the three of a class in a third of 3000 epochs, with a standard deviation of sqrt(3000 * 1/3 * 2/3) = 26
    assert (counts - 1000).abs().max() < 5 * 26


@kinds
def test_parts_of_ranks_are_the_batch(kind: str) -> None:
    signals = KINDS[kind]()
    for batches in (BySignals(signals, 3), BySamples(signals)):
        items = batches.order(4, torch.Generator().manual_seed(0))[:4]
        whole = batches.batch(items, torch.Generator().manual_seed(1))
        parts = [batches.part(items, torch.Generator().manual_seed(1), Ranks(rank, 5)) for rank in range(5)]
        assert sum(map(len, parts)) == len(whole)
        assert any(not len(part) for part in parts)  # a rank may have none
        rows = torch.cat([part.index for part in parts])
        places = torch.arange(len(whole)) if isinstance(batches, BySignals) else torch.argsort(whole.index, stable=True)
        assert torch.equal(rows, whole.index[places])
        assert torch.equal(torch.cat([part.values for part in parts]), whole.values[places])
        assert torch.equal(torch.cat([part.weight for part in parts]), whole.weight[places])


# fits by samples, in both domains and both schedules

FUNCTIONS = [
    "latents.code_dim=3",
    "decoder.width=8",
    "decoder.depth=2",
    "training.epochs=none",
    "inference.steps=5",
    "training.batch=16",
]


def words(domain: str, schedule: str) -> dict[str, Any]:
    length = ["schedule.latent_epochs=2", "schedule.decoder_epochs=1", "schedule.rounds=2"] if schedule == "alternating" else []
    if domain == "function":
        return {"data": sines(count=12, points=10), "recipe": f"functions-{schedule}", "settings": [*FUNCTIONS, *length]}
    settings = [*TINY, "training.draw=samples", "training.batch=64", "latents.init=normal", "training.polish=0"]
    return {"data": images(6), "recipe": "image", "settings": [*settings, f"schedule.kind={schedule}", *length]}


@pytest.mark.parametrize("domain", ["function", "image"])
def test_in_alternation_only_the_side_whose_turn_it_is_moves(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step, moved = Alternating.step, []

    def watched(self: Alternating, model: Any, optimisers: Any, observations: Observations, epoch: int, draw: Any) -> nf.Loss:
        assert observations.values.shape[1] == 1
        before = model.source.codes.detach().clone(), [p.detach().clone() for p in model.decoder.parameters()]
        loss = step(self, model, optimisers, observations, epoch, draw)
        codes = not torch.equal(model.source.codes, before[0])
        weights = [not torch.equal(p, old) for p, old in zip(model.decoder.parameters(), before[1], strict=True)]
        moved.append((epoch, codes, any(weights)))
        return loss

    monkeypatch.setattr(Alternating, "step", watched)
    run = nf.fit(**words(domain, "alternating"))
    assert run.facts["epochs"] == 6
    assert {epoch for epoch, _, _ in moved} == set(range(6))
    for epoch, codes, weights in moved:
        assert codes == (epoch % 3 < 2)
        assert weights == (epoch % 3 == 2)


@pytest.mark.parametrize("domain", ["function", "image"])
@pytest.mark.parametrize("schedule", ["joint", "alternating"])
def test_fits_by_samples_learn_and_repeat(domain: str, schedule: str) -> None:
    given = words(domain, schedule)
    rates = ["training.decoder_rate=1e-2", "training.latent_rate=3e-2"]
    settings = [*given.pop("settings"), *rates, *(["schedule.rounds=5"] if schedule == "alternating" else [])]
    runs = [nf.fit(**given, settings=settings, epochs=epochs) for epochs in (1, 15, 15)]
    headline = runs[0].domain.headline
    first, last, again = (run.facts["scores"]["train"][headline] for run in runs)
    better = last < first if headline == "nrmse" else last > first
    assert better
    assert again == last
    assert torch.equal(runs[1].codes, runs[2].codes)


def test_a_joint_step_by_samples_moves_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    met = []
    step = Joint.step

    def watched(self: Joint, model: Any, optimisers: Any, observations: Observations, *rest: Any) -> nf.Loss:
        before = model.source.codes.detach().clone()
        loss = step(self, model, optimisers, observations, *rest)
        touched = (model.source.codes != before).any(1).nonzero()[:, 0].tolist()
        met.append((touched, sorted(set(observations.index.tolist()))))
        return loss

    monkeypatch.setattr(Joint, "step", watched)
    nf.fit(**words("function", "joint"), epochs=2)
    assert all(touched == there for touched, there in met)
