"""Curves and their sources: the contract for each; what goes in comes out, in any order and units; bad input is one line."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts.signals import SignalsContract
from hypothesis import given, settings
from hypothesis import strategies as st

import neuralfield as nf
from neuralfield.domains.function import Function
from neuralfield.errors import NeuralfieldError, NeuralfieldWarning, UsageError
from neuralfield.export.data import describe, write_sheet
from neuralfield.recipe import Recipe
from neuralfield.signals.curves import Curves
from neuralfield.signals.npz import npz
from neuralfield.signals.signals import Signals, UnlikeError, load
from neuralfield.signals.sines import sines

T = np.linspace(0, 2, 12)


def values(n: int, length: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, length, channels))


def ragged(n: int = 7, channels: int = 1, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Curves of 2 to 14 points at times of their own."""
    draw = np.random.default_rng(seed)
    lengths = [2 + 2 * i for i in range(n)]
    return [(np.sort(draw.uniform(3, 8, length)), draw.standard_normal((length, channels))) for length in lengths]


def same(a: Signals, b: Signals) -> bool:
    """Whether two data sets give the same, bit for bit."""
    index = torch.arange(len(a))
    one, other = a.truth(index), b.truth(index)
    tensors = ("coords", "values", "weight")
    return a.ids == b.ids and all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)


def known(curves: Curves, i: int) -> tuple[np.ndarray, np.ndarray]:
    """(times, values) of a curve in the user's units, by way of its observations."""
    truth, domain = curves.truth(torch.tensor([i])), Function(**curves.domain_arguments)
    seen = truth.weight[0] > 0
    return domain.times_of(truth.coords[0][seen]).numpy(), domain.values_of(truth.values[0][seen]).numpy()


def fails(error: type[NeuralfieldError], make: Callable[[], Any], *words: object) -> None:
    with pytest.raises(error) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# the contract


class TestSharedGrid(SignalsContract):
    @pytest.fixture
    def signals(self) -> Signals:
        return Curves.from_arrays(T, values(6, 12)[..., 0])


class TestSharedGridWithGapsAndChannels(SignalsContract):
    @pytest.fixture
    def signals(self) -> Signals:
        x = values(6, 12, 3)
        x[np.random.default_rng(0).random((6, 12)) < 0.3] = np.nan
        return Curves.from_arrays(T, x, labels=np.arange(6), names=["a", "b", "c"])


class TestRagged(SignalsContract):
    @pytest.fixture
    def signals(self) -> Signals:
        return Curves.from_list(ragged())


class TestSparseWithAnEmptyCurve(SignalsContract):
    @pytest.fixture
    def signals(self) -> Signals:
        x = values(8, 40, 2)
        x[np.random.default_rng(1).random((8, 40)) < 0.9] = np.nan
        x[1] = np.nan
        with pytest.warns(NeuralfieldWarning, match='1 of 8 curves has no observed point .*"1"'):
            return Curves.from_arrays(np.arange(40.0), x)


class TestSines(SignalsContract):
    @pytest.fixture
    def signals(self) -> Signals:
        return load("sines", split="test", limit=20)


class TestEvenSines(SignalsContract):
    @pytest.fixture
    def signals(self) -> Signals:
        return sines(count=6, points=16, even=True, noise=0.1)


class TestWideCsv(SignalsContract):
    @pytest.fixture
    def signals(self, tmp_path: Path) -> Signals:
        rows = [f"s{i},{i % 2}," + ",".join(f"{v:.3f}" for v in values(1, 9, seed=i).ravel()) for i in range(6)]
        return load(write(tmp_path / "a.csv", "id,label,0,1,2,3,4,5,6,7,8\n" + "\n".join(rows)))


class TestLongCsv(SignalsContract):
    @pytest.fixture
    def signals(self, tmp_path: Path) -> Signals:
        rows = [
            f"s{i},{t:.6f},{x:.3f},{y:.3f}" for i, (ts, xs) in enumerate(ragged(6, 2)) for t, (x, y) in zip(ts, xs, strict=True)
        ]
        return load(f"csv:{write(tmp_path / 'a.csv', 'id,t,x,y' + chr(10) + chr(10).join(rows))}")


class TestNpzOfCurves(SignalsContract):
    @pytest.fixture
    def signals(self, tmp_path: Path) -> Signals:
        np.savez(tmp_path / "a.npz", t=T, x=values(5, 12), y=np.array(["b", "a", "b", "b", "a"]))
        return load(f"npz:{tmp_path / 'a.npz'}")


# what goes in comes out


@pytest.mark.parametrize("channels", [1, 3])
def test_times_and_values_come_out_as_they_went_in(channels: int) -> None:
    given = ragged(6, channels)
    curves = Curves.from_list(given)
    for i, (t, x) in enumerate(given):
        times, found = known(curves, i)
        np.testing.assert_allclose(times, t, atol=5 * 2**-24)
        np.testing.assert_allclose(found, x, atol=1e-6)


def test_values_have_mean_0_and_standard_deviation_1_over_what_was_observed() -> None:
    x = 40 + 7 * values(50, 12, 2)
    x[:, 3:5] = np.nan
    truth = Curves.from_arrays(T, x).truth(torch.arange(50))
    seen = truth.values[truth.weight > 0]
    assert seen.mean(0).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert seen.std(0, correction=0).tolist() == pytest.approx([1, 1], abs=1e-6)


def test_the_domain_knows_the_range_of_what_was_observed_and_the_grid() -> None:
    x = np.array([[np.nan, 1.0, 2.0, 3.0], [np.nan, 4.0, np.nan, 5.0]])
    arguments = Curves.from_arrays(np.array([0.0, 1.0, 2.0, 4.0]), x).domain_arguments
    assert arguments == {
        "start": 1.0,
        "end": 4.0,
        "centre": [3.0],
        "scale": [pytest.approx(np.std([1, 2, 3, 4, 5]))],
        "times": [1.0, 2.0, 4.0],
        "names": None,
    }


def test_a_set_that_is_constant_or_has_one_time_has_units_all_the_same() -> None:
    curves = Curves.from_arrays(np.array([5.0]), np.full((3, 1), 0.1))
    assert curves.domain_arguments == {
        "start": 5.0,
        "end": 6.0,
        "centre": [pytest.approx(0.1)],
        "scale": [1.0],
        "times": [5.0],
        "names": None,
    }
    assert Curves.from_arrays(T, np.full((3, 12), 0.1)).domain_arguments["scale"] == [1.0]  # whose mean is not quite 0.1


def test_a_curve_of_one_point_and_curves_with_own_times_of_any_number_fit_together() -> None:
    curves = Curves.from_list([([1.0], [2.0]), ([2.0, 3.0], [1.0, 5.0]), ([0.5, 2.5, 3.5], [0.0, 1.0, 2.0])])
    truth = curves.truth(torch.arange(3))
    assert truth.weight.tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert truth.coords[0].unique().numel() == 1  # padding repeats the last time
    assert torch.equal(truth.coords[1, 2], truth.coords[1, 1])


def test_a_curve_with_no_observed_point_lies_at_the_origin_with_no_weight() -> None:
    with pytest.warns(NeuralfieldWarning, match=r'2 of 4 curves have no observed point \(the first is "b"\): they get the prior'):
        curves = Curves.from_list([*ragged(1), ([], []), (T, T), ([1.0], [np.nan])], ids=["a", "b", "c", "d"])
    truth = curves.truth(torch.tensor([1, 3]))
    assert not truth.coords.any()
    assert not truth.weight.any()
    assert not truth.values.any()


@pytest.mark.parametrize("share", [0.45, 0.55])
def test_more_than_half_observed_is_a_shared_grid_and_less_is_packed(share: float) -> None:
    x = values(40, 100)
    x[np.random.default_rng(0).random((40, 100)) >= share] = np.nan
    curves = Curves.from_arrays(np.arange(100.0), x)
    shared = share > 0.5
    assert (curves.domain_arguments["times"] is not None) == shared
    assert curves.truth(torch.arange(2)).coords.shape[:2] == ((1, 100) if shared else (2, np.isfinite(x[..., 0]).sum(1).max()))
    assert int((curves.truth(torch.arange(40)).weight > 0).sum()) == np.isfinite(x).sum()


def test_equal_times_of_each_are_a_shared_grid() -> None:
    x = values(4, 12)
    assert same(Curves.from_arrays(np.broadcast_to(T, (4, 12)), x), Curves.from_arrays(T, x))
    assert same(Curves.from_list([(T, row) for row in x]), Curves.from_arrays(T, x))


# laws


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_times_means_nothing(seed: int) -> None:
    draw = np.random.default_rng(seed)
    given = ragged(5, 2, seed)
    shuffled = [(t[order], x[order]) for t, x in given for order in [draw.permutation(len(t))]]
    assert same(Curves.from_list(given), Curves.from_list(shuffled))
    order = draw.permutation(12)
    x = values(4, 12, seed=seed)
    assert same(Curves.from_arrays(T, x), Curves.from_arrays(T[order], x[:, order]))


@pytest.mark.parametrize("given", [ragged(6, 2), [(T, x) for x in values(6, 12, 2)]])
def test_units_change_the_domain_and_nothing_else(given: list[tuple[np.ndarray, np.ndarray]]) -> None:
    plain, other = Curves.from_list(given), Curves.from_list([(1024 * t - 512, 4 * x + 64) for t, x in given])
    one, two = (curves.truth(torch.arange(6)) for curves in (plain, other))
    assert torch.equal(one.weight, two.weight)
    torch.testing.assert_close(one.coords, two.coords, rtol=0, atol=1e-6)
    torch.testing.assert_close(one.values, two.values, rtol=1e-5, atol=1e-6)
    assert other.domain_arguments["start"] == 1024 * plain.domain_arguments["start"] - 512
    assert other.domain_arguments["scale"] == pytest.approx([4 * scale for scale in plain.domain_arguments["scale"]])


def test_what_is_not_observed_may_be_left_out_or_padded_at_will() -> None:
    given = ragged(6, 2)
    padded = [(np.append(t, [np.nan, t[0], 1e6]), np.concatenate([x, np.full((3, 2), np.nan)])) for t, x in given]
    assert same(Curves.from_list(given), Curves.from_list(padded))
    longest = max(len(t) for t, _ in padded)
    t = np.stack([np.pad(t, (0, longest - len(t)), constant_values=np.nan) for t, _ in padded])
    x = np.stack([np.pad(x, ((0, longest - len(x)), (0, 0)), constant_values=np.nan) for _, x in padded])
    assert same(Curves.from_list(given), Curves.from_arrays(t, x))


def test_a_longer_curve_in_the_set_changes_nothing_of_the_others() -> None:
    given, long = ragged(5), (np.linspace(3.5, 7.5, 60), np.zeros((60, 1)))
    arguments = Curves.from_list(given).domain_arguments
    short, wide = Curves.from_list(given), Curves.from_list([*given, long]).like(arguments)
    for i in range(5):
        one, two = short.truth(torch.tensor([i])), wide.truth(torch.tensor([i]))
        n = int(one.weight.sum())
        assert torch.equal(one.coords[:, :n], two.coords[:, :n])
        assert torch.equal(one.values[:, :n], two.values[:, :n])
        assert not two.weight[:, n:].any()


def test_draws_of_packed_curves_are_fair() -> None:
    curves = Curves.from_list(ragged(6)).select(torch.full((4000,), 5))  # 12 points; a curve draws by its number
    drawn = curves.batch(torch.arange(4000), 3, torch.Generator().manual_seed(0))
    times, counts = drawn.coords.unique(return_counts=True)
    assert len(times) == 12
    # each of the 12 is drawn 1000 times on average, with a standard deviation of sqrt(4000 * 1/4 * 3/4) = 27
    assert (counts - 1000).abs().max() < 5 * 27


def test_a_selection_keeps_the_units_of_the_whole() -> None:
    curves = Curves.from_list(ragged(6), labels=np.arange(6))
    some = curves.select(torch.tensor([4, 0])).select(torch.tensor([1]))
    assert (some.ids, some.labels.tolist()) == (["0"], [0])  # type: ignore[union-attr]
    assert some.domain_arguments == curves.domain_arguments


# bad input


def with_value(value: float, channels: int = 1) -> np.ndarray:
    x = values(3, 12, channels)
    x[1, 2, 0] = value
    return x


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Curves.from_arrays(T, with_value(np.inf), ids=["a", "b", "c"]), ["infinite value", "of curve b", "1 of 3"]),
        (lambda: Curves.from_arrays(np.where(T[3] == T, np.inf, T), values(2, 12)), ["infinite time", "curve 0", "2 of 2"]),
        (lambda: Curves.from_arrays(np.where(T[3] == T, np.nan, T), values(2, 12)), ["time that is not a number", "curve 0"]),
        (lambda: Curves.from_arrays(T[:5], values(2, 12)), ["[5]", "[2, 12, 1]"]),
        (lambda: Curves.from_arrays(T, values(1, 12)[0, :, 0]), ["[n, T]", "values [12]"]),
        (lambda: Curves.from_arrays(np.array(["a"]), values(1, 1)), ["times", "numbers", "<U1"]),
        (lambda: Curves.from_arrays(T, values(2, 12), ids=["a"]), ["2 curves", "1 ids"]),
        (lambda: Curves.from_arrays(T, values(2, 12), labels=np.arange(3)), ["2 curves", "3 labels"]),
        (lambda: Curves.from_arrays(T, values(2, 12, 2), names=["a"]), ["2 channels", "1 names"]),
        (lambda: Curves.from_arrays(T, values(2, 12, 0)), ["0 channels"]),
        (lambda: Curves.from_arrays(T, values(0, 12)), ["no curves"]),
        (lambda: Curves.from_list([]), ["no curves"]),
        (lambda: Curves.from_arrays(T, np.full((2, 12), np.nan)), ["none of the 2 curves", "NaN means not observed"]),
        (lambda: Curves.from_list([(T, T), (T, T[:3])]), ["curve 1", "[12]", "[3]"]),
        (lambda: Curves.from_list([([], []), (T, values(1, 12, 2)[0]), (T, T)]), ["1 has 2", "2 has 1"]),
    ],
)
def test_curves_that_do_not_fit_are_one_line(make: Callable[[], Any], words: list[str]) -> None:
    fails(NeuralfieldError, make, *words)


def test_a_point_that_lacks_a_channel_is_not_observed_and_counted() -> None:
    with pytest.warns(NeuralfieldWarning, match=r"1 points lack some of their channels \(the first is at time 0.36.* of curve 1\)"):
        curves = Curves.from_arrays(T, with_value(np.nan, 2))
    assert curves.truth(torch.arange(3)).weight.sum(1).tolist() == [12, 11, 12]


def test_times_that_occur_twice_are_averaged_and_counted() -> None:
    given = [(T, T), (np.array([1.0, 0.0, 1.0, 1.0]), np.array([2.0, 5.0, 4.0, 9.0]))]
    with pytest.warns(NeuralfieldWarning, match=r"2 times occur again in their curve \(the first is at time 1 of curve b\)"):
        curves = Curves.from_list(given, ids=["a", "b"])
    times, found = known(curves, 1)
    assert times.tolist() == pytest.approx([0, 1])
    assert found.ravel().tolist() == pytest.approx([5, 5])


# as a run sees them


def test_new_curves_are_seen_in_the_units_of_the_run() -> None:
    old, new = Curves.from_list(ragged(6)), Curves.from_list([(np.array([4.0, 7.0]), np.array([50.0, -50.0]))])
    alike = new.like(old.domain_arguments)
    domain = Function(**old.domain_arguments)
    truth = alike.truth(torch.arange(1))
    torch.testing.assert_close(truth.coords, domain.coords_of([[4.0, 7.0]]))
    torch.testing.assert_close(truth.values, domain.normalised([[[50.0], [-50.0]]]))
    assert {key: alike.domain_arguments[key] for key in ("start", "scale")} == {
        key: old.domain_arguments[key] for key in ("start", "scale")
    }
    assert alike.like(old.domain_arguments) is alike


def test_times_beyond_those_of_the_run_are_extrapolated_with_a_warning() -> None:
    old = Curves.from_arrays(T, values(3, 12))
    later = Curves.from_arrays(T + 0.5, values(3, 12))
    with pytest.warns(NeuralfieldWarning, match=r"from 0\.5 to 2\.5, .* from 0 to 2: values outside are extrapolated"):
        alike = later.like(old.domain_arguments)
    assert alike.truth(torch.arange(3)).coords.max() == pytest.approx(1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Curves.from_arrays(T * (1 + 1e-12), values(3, 12)).like(old.domain_arguments)  # rounding
        Curves.from_arrays(T[3:5], values(3, 2)).like(old.domain_arguments)


def test_another_number_of_channels_is_refused_and_another_order_is_put_right() -> None:
    x = values(3, 12, 2)
    old = Curves.from_arrays(T, x, names=["rain", "wind"])
    fails(NeuralfieldError, lambda: Curves.from_arrays(T, x[..., :1]).like(old.domain_arguments), "2 channels", "the data have 1")
    swapped = Curves.from_arrays(T, x[..., ::-1], names=["wind", "rain"]).like(old.domain_arguments)
    assert same(swapped, old)
    assert swapped.domain_arguments == old.domain_arguments


def test_other_signals_must_be_as_the_run_has_them(images: Signals) -> None:
    assert images.like(images.domain_arguments) is images
    with pytest.raises(UnlikeError, match="of height 9, but the data have height 8") as caught:
        images.like(images.domain_arguments | {"height": 9})
    assert caught.value.name == "height"


# sines


def test_sines_have_the_parameters_that_they_say() -> None:
    curves = sines(count=200, points=400, even=True)
    assert (curves.domain_arguments["start"], curves.domain_arguments["end"]) == (0, 1)
    found = []
    for x in curves.values[..., 0].numpy():
        # second differences of a sine are -(2 - 2 cos(2 pi frequency h)) (x - offset), exactly
        slope, constant = np.polyfit(x[1:-1], np.diff(x, 2), 1)
        frequency, offset = np.arccos(1 + slope / 2) * 399 / (2 * np.pi), -constant / slope
        waves = np.exp(2j * np.pi * frequency * np.linspace(0, 1, 400))
        sine, cosine = np.linalg.lstsq(np.stack([waves.imag, waves.real], 1), x - offset, rcond=None)[0]
        found.append((np.hypot(sine, cosine), frequency, np.arctan2(cosine, sine) % (2 * np.pi), offset))
    for values, low, high in zip(np.array(found).T, (0.5, 0.5, 0, -0.5), (1.5, 1.5, 2 * np.pi, 0.5), strict=True):
        assert low - 1e-6 <= values.min() <= low + 0.05 * (high - low)  # of 200 uniform draws, but for one set in 28,000
        assert high - 0.05 * (high - low) <= values.max() <= high + 1e-6


def test_a_sine_does_not_depend_on_where_or_beside_which_it_is_seen() -> None:
    dense, sparse = sines(count=10, points=2001, even=True), sines(count=20, points=7)
    for i in range(10):
        t, x = sparse.times[i].numpy(), sparse.values[i, :, 0].numpy()
        # linear interpolation of 2000 pieces: (2 pi 1.5)^2 1.5 / 8 / 2000^2
        np.testing.assert_allclose(np.interp(t, dense.times.numpy(), dense.values[i, :, 0].numpy()), x, atol=5e-6)
    assert torch.equal(sines(count=20, points=7, noise=0.3).times, sparse.times)
    assert torch.equal(sines(count=3, points=7).values, sparse.values[:3])


def test_splits_and_seeds_of_sines_differ_and_repeat() -> None:
    assert (len(sines()), len(sines("test"))) == (500, 200)
    assert sines("test", count=2).ids == ["test-0000", "test-0001"]
    made = [sines(split, 5, even=True, seed=seed).values for split in ("train", "test") for seed in (0, 1)]
    assert all(not torch.isclose(a, b).all((1, 2)).any() for i, a in enumerate(made) for b in made[:i])
    assert torch.equal(sines(count=5, noise=0.1).values, sines(count=5, noise=0.1).values)


def test_noise_has_its_standard_deviation() -> None:
    difference = sines(points=50, even=True, noise=0.2).values - sines(points=50, even=True).values
    assert difference.std().item() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("points", 0), ("noise", -0.1), ("noise", float("nan"))])
def test_sines_that_cannot_be_made_are_refused(name: str, value: float) -> None:
    fails(UsageError, lambda: sines(**{name: value}), f"signals.{name}", value)  # type: ignore[arg-type]


# npz


def test_npz_takes_a_splits_own_times_and_words_as_labels(tmp_path: Path) -> None:
    x = values(5, 12)
    arrays = {"t": T, "x_train": x[:3], "x_test": x[3:, :9], "t_test": T[:9]}
    labels = {"y_train": np.array(["m", "f", "m"]), "y_test": np.array(["x", "f"])}
    np.savez(tmp_path / "a.npz", **arrays, **labels)  # type: ignore[arg-type]
    train, test = npz(str(tmp_path / "a.npz")), npz(str(tmp_path / "a.npz"), "test")
    assert (train.ids, test.ids) == (["train-00000", "train-00001", "train-00002"], ["test-00000", "test-00001"])
    assert (train.labels.tolist(), test.labels.tolist()) == ([1, 0, 1], [2, 0])  # type: ignore[union-attr]
    assert same(test, Curves.from_arrays(T[:9], x[3:, :9], test.ids))


@pytest.mark.parametrize(
    ("labels", "expected"), [(["10", "9"], [10, 9]), (["b", "a"], [1, 0]), ([3, 1], [3, 1]), (["a", ""], [0, -1])]
)
def test_labels_are_numbers_where_they_can_be(tmp_path: Path, labels: list[Any], expected: list[int]) -> None:
    np.savez(tmp_path / "a.npz", t=T, x=values(2, 12), labels=np.array(labels))
    assert npz(str(tmp_path / "a.npz")).labels.tolist() == expected  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((2, 3))}, ["x", "no array t"]),
        ({"x": np.zeros((2, 3)), "t": np.zeros(4)}, ["[4]", "[2, 3]"]),
        ({"x": np.zeros((0, 3)), "t": np.zeros(3)}, ["no curves"]),
        ({"x_train": np.zeros((2, 3)), "t": np.arange(3), "y_train": np.array([0.5, 1])}, ["y_train", "whole numbers"]),
        ({"x_train": np.zeros((2, 3)), "t": np.arange(3), "y_train": np.array([["a"]])}, ["y_train", "[1, 1]"]),
        ({"x": np.array([["a", "b"]]), "t": np.arange(2)}, ["numbers", "<U1"]),
    ],
)
def test_arrays_of_curves_that_do_not_fit_are_one_line(tmp_path: Path, arrays: dict[str, Any], words: list[str]) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    fails(NeuralfieldError, lambda: npz(str(tmp_path / "a.npz")), tmp_path / "a.npz", *words)


def test_settings_of_images_are_refused_for_curves(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", t=T, x=values(2, 12))
    fails(UsageError, lambda: npz(str(tmp_path / "a.npz"), pad=2), "signals.pad", "images")


REAL = {
    "arrowhead": (36, 175, 251, True),
    "berkeley_growth": (75, 18, 31, True),
    "cd4_sparse": (300, 66, None, False),
    "gunpoint": (50, 150, 150, True),
    "italypowerdemand": (67, 1029, 24, True),
    "pickupgesturewiimotez": (50, 50, None, False),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_curves_are_read_whole(data_root: Path, name: str) -> None:
    file = data_root / "functions_1d" / f"{name}.npz"
    train, test, length, shared = REAL[name]
    raw = np.load(file)
    arguments = load(str(file)).domain_arguments
    assert (arguments["times"] is not None) == shared
    for split, count in (("train", train), ("test", test)):
        curves = load(str(file), split=split)
        assert isinstance(curves, Curves)
        assert len(curves) == count
        assert (curves.labels is not None) == (f"y_{split}" in raw.files)
        for i in (0, count // 2, count - 1):
            row = raw[f"x_{split}"][i]
            times, found = known(curves, i)
            assert length is None or len(times) == length
            np.testing.assert_allclose(times, raw["t"][np.isfinite(row)], atol=1e-5)
            np.testing.assert_allclose(found[:, 0], row[np.isfinite(row)], rtol=1e-5, atol=1e-3)
        assert curves.like(arguments).truth(torch.arange(2)).values.isfinite().all()


# looked at


def test_a_description_is_short_and_in_the_users_units(tmp_path: Path) -> None:
    facts = describe(Curves.from_arrays(T * 10, 100 + values(4, 12), labels=np.array([0, 1, 1, 1])))
    assert facts["times"] == [0, 20]
    assert facts["grid"] == "12 times shared by all"
    assert facts["points"] == {"min": 12, "median": 12, "max": 12}
    assert (facts["channels"], facts["known"], facts["labels"]) == (1, 1.0, {"0": 1, "1": 3})
    assert 95 < facts["values"][0] < facts["values"][1] < 105
    curves = Curves.from_list(ragged(6, 2), names=["rain", "wind"])
    facts = describe(curves)
    assert facts["grid"] == "each curve has times of its own"
    assert facts["points"] == {"min": 2, "median": 7, "max": 12}
    assert list(facts["values"]) == facts["channels"] == ["rain", "wind"]
    assert "known" not in facts
    assert len(repr(sines(points=500, even=True, count=3))) < 200
    write_sheet(curves, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size


# through a run

SMALL = {
    "domain": {"kind": "function"},
    "signals": {"kind": "sines", "noise": 0.1},
    "latents": {"code_dim": 3, "init": "normal"},
    "decoder": {"kind": "modulated", "width": 8, "depth": 2, "frequencies": 4},
    "training": {"polish": 2},
    "inference": {"start": "mean", "steps": 5},
}
"""A recipe for curves of any kind, fitted in a fraction of a second."""


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "sines"
    nf.fit(recipe=Recipe.from_tables(SMALL), limit=20, epochs=2, out=folder, device="cpu")
    return folder


def test_a_runs_own_source_gives_new_signals_in_its_units_prepared_as_its_own(folder: Path) -> None:
    run = nf.Run.load(folder)
    signals = nf.load_signals(run, split="test", limit=4)
    expected = sines("test", count=4, noise=0.1).like(run.recipe.domain.arguments)
    assert same(signals, expected)
    assert signals.domain_arguments["centre"] == run.recipe.domain.arguments["centre"] != sines("test").domain_arguments["centre"]


def test_every_way_into_a_run_sees_new_curves_in_its_units(folder: Path) -> None:
    run = nf.Run.load(folder)
    own = sines("test", count=4)
    alike = own.like(run.recipe.domain.arguments)
    assert own.domain_arguments["scale"] != alike.domain_arguments["scale"]
    expected = run.infer(alike.truth(torch.arange(4))).latent.mean
    for found in (run.infer(own), run.infer(alike), nf.complete(run, own).estimate, run.add(own)):
        torch.testing.assert_close(found.latent.mean, expected)
    assert run.ids[-1] == own.ids[-1]


def test_scores_are_of_the_values_as_the_user_has_them(folder: Path) -> None:
    run, own = nf.Run.load(folder), sines("test", count=4, points=9)
    completion = nf.complete(run, own, nf.Visibility(observe=["first:0.5"]))
    domain, field = run.domain, run.field(completion.estimate.latent)
    assert isinstance(domain, Function)
    found = domain.values_of(field(domain.coords_of(own.times)))
    squares = (found - own.values).square()[..., 0]
    for side, part in (("observed", slice(0, 4)), ("hidden", slice(4, 9))):  # round(4.5) is 4
        torch.testing.assert_close(completion.scores[side]["rmse"], squares[:, part].mean(1).sqrt().float(), rtol=1e-4, atol=1e-6)


def test_a_curve_of_which_nothing_is_known_gets_a_code_and_no_score(folder: Path) -> None:
    run = nf.Run.load(folder)
    with pytest.warns(NeuralfieldWarning, match="they get the prior"):
        curves = Curves.from_list([([0.1, 0.2], [0.0, 1.0]), ([], [])])
    completion = nf.complete(run, curves, nf.Visibility(observe=["first:0.5"]))
    assert completion.estimate.latent.mean.isfinite().all()
    assert completion.scores["observed"]["rmse"].isnan().tolist() == [False, True]


def test_curves_of_other_channels_and_images_are_refused(folder: Path, images: Signals) -> None:
    run = nf.Run.load(folder)
    fails(NeuralfieldError, lambda: run.infer(Curves.from_arrays(T, values(2, 12, 2))), "1 channels", "have 2")
    fails(NeuralfieldError, lambda: nf.complete(run, images), 'domain "function"', 'domain "image"')


@pytest.mark.filterwarnings("default::neuralfield.errors.NeuralfieldWarning")
def test_the_command_line_completes_a_table_and_says_what_is_next(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from neuralfield.cli.main import main

    def call(*words: object) -> str:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert not caught.value.code, err
        return out + err

    table = write(tmp_path / "new.csv", "id,t,x\na,0,1\na,0.5,2\nb,0.25,0\nb,1.5,1\n")
    said = call("infer", folder, "--data", table, "--observe", "first:0.5", "--out", tmp_path / "out")
    assert said.count("extrapolated") == 1
    assert (tmp_path / "out" / "completions.png").exists()
    recipe = write(tmp_path / "small.toml", Recipe.from_tables(SMALL).to_toml())
    said = call("fit", "--recipe", recipe, "--epochs", 1, "--limit", 8, "--out", tmp_path / "run")
    assert "--observe first:0.5" in said
    assert "signal.csv" in said
    assert "0.0, 1.0" not in call("data", "sines")  # the observed range, not that of the domain
