"""What is seen and what is hidden."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from synthetic import images

from neuralfield.domains.domain import Domain
from neuralfield.domains.function import Function
from neuralfield.domains.image import Image
from neuralfield.errors import NeuralfieldError, NeuralfieldWarning, UsageError
from neuralfield.signals.curves import Curves
from neuralfield.signals.masks import Visibility
from neuralfield.types import Observations


def whole(height: int, width: int, count: int = 3) -> tuple[Observations, Image]:
    return images(count, height, width).truth(torch.arange(count)), Image(height, width)


def region(what: str, height: int, width: int) -> np.ndarray:
    """Where `what` lies, [height, width]."""
    observations, domain = whole(height, width)
    seen = Visibility(observe=[what])(observations, domain)
    assert (seen == seen[:1]).all()
    return seen[0].reshape(height, width).numpy()


@pytest.mark.parametrize(
    ("size", "height", "width"),
    [(2, 8, 8), (8, 8, 8), (3, 9, 9), (1, 9, 9), (12, 28, 28), (20, 32, 32), (4, 8, 12), (10, 8, 12), (9, 7, 9)],
)
def test_center_is_the_central_square_of_samples(size: int, height: int, width: int) -> None:
    inside = region(f"center:{size}", height, width)
    rows, columns = min(size, height), min(size, width)
    expected = np.zeros((height, width), bool)
    top, left = (height - rows) // 2, (width - columns) // 2
    expected[top : top + rows, left : left + columns] = True
    assert np.array_equal(inside, expected)


@pytest.mark.parametrize(("size", "side"), [(size, side) for side in (7, 8, 12, 28, 32) for size in (3, 4, 5, 6, 7)])
def test_center_is_symmetric_also_where_no_centre_exists(size: int, side: int) -> None:
    inside = region(f"center:{size}", side, side)
    assert np.array_equal(inside, inside[::-1])
    assert np.array_equal(inside, inside[:, ::-1])
    assert int(inside.any(0).sum()) == size + (side - size) % 2  # one more, where the parities differ


@pytest.mark.parametrize(
    ("side", "rows", "columns"),
    [
        ("left", slice(0, 6), slice(0, 4)),
        ("right", slice(0, 6), slice(4, 8)),
        ("top", slice(0, 3), slice(0, 8)),
        ("bottom", slice(3, 6), slice(0, 8)),
        ("x", slice(0, 6), slice(0, 4)),
        ("-x", slice(0, 6), slice(4, 8)),
        ("y", slice(0, 3), slice(0, 8)),
        ("-y", slice(3, 6), slice(0, 8)),
    ],
)
def test_half_is_one_side(side: str, rows: slice, columns: slice) -> None:
    expected = np.zeros((6, 8), bool)
    expected[rows, columns] = True
    assert np.array_equal(region(f"half:{side}", 6, 8), expected)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99, 1.0])
def test_random_is_an_exact_share_and_never_nothing(share: float) -> None:
    observations, domain = whole(8, 8)
    seen = Visibility(observe=[f"random:{share}"])(observations, domain)
    assert (seen.sum(1) == max(1, round(share * 64))).all()


def test_random_depends_on_the_signal_and_the_seed_and_not_on_the_batch() -> None:
    signals, domain = images(10), Image(8, 8)
    everyone = Visibility(observe=["random:0.3"], seed=5)(signals.truth(torch.arange(10)), domain)
    some = Visibility(observe=["random:0.3"], seed=5)(signals.truth(torch.tensor([7, 2])), domain)
    assert torch.equal(some, everyone[[7, 2]])
    assert len(everyone.unique(dim=0)) == 10
    other = Visibility(observe=["random:0.3"], seed=6)(signals.truth(torch.arange(10)), domain)
    assert not torch.equal(other, everyone)


def test_random_leaves_torchs_own_random_numbers_alone() -> None:
    observations, domain = whole(8, 8)
    state = torch.get_rng_state()
    Visibility(observe=["random:0.3"])(observations, domain)
    assert torch.equal(torch.get_rng_state(), state)


def curves(*times: list[float]) -> tuple[Observations, Domain]:
    """A curve for each list of times, and their domain."""
    made = Curves.from_list([(t, np.arange(len(t))) for t in times], over=(0.0, 10.0))
    return made.truth(torch.arange(len(times))), Function(**made.domain_arguments)


OWN = [[3.0, 1.0, 2.0, 9.0], [5.0], [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5], [2.0, 8.0], [4.0, 7.0, 6.0]]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("kind", ["first", "random"])
def test_shares_are_of_each_signals_own_known_points_and_never_nothing(kind: str, share: float) -> None:
    observations, domain = curves(*OWN)
    seen = Visibility(observe=[f"{kind}:{share}"])(observations, domain)
    assert seen.sum(1).tolist() == [max(1, round(share * len(times))) for times in OWN]
    assert not (seen & (observations.weight == 0)).any()


def test_first_is_what_comes_first_in_time() -> None:
    observations, domain = curves(*OWN)
    seen = Visibility(observe=["first:0.5"])(observations, domain)
    for times, row, coords in zip(OWN, seen, observations.coords, strict=True):
        expected = sorted(times)[: max(1, round(0.5 * len(times)))]
        assert domain.times_of(coords[row]).tolist() == pytest.approx(expected, abs=1e-5)  # type: ignore[attr-defined]


def test_first_on_a_shared_grid_counts_what_each_signal_knows() -> None:
    x = np.ones((3, 10))
    x[1, :4] = np.nan
    x[2, ::2] = np.nan
    made = Curves.from_arrays(np.arange(10.0), x)
    assert made.truth(torch.arange(3)).coords.shape[0] == 1
    seen = Visibility(observe=["first:0.5"])(made.truth(torch.arange(3)), Function(**made.domain_arguments))
    assert [row.nonzero().flatten().tolist() for row in seen] == [[0, 1, 2, 3, 4], [4, 5, 6], [1, 3]]


@pytest.mark.parametrize("what", ["first:0.4", "random:0.4"])
def test_padding_means_nothing_to_a_share(what: str) -> None:
    alone, domain = curves(*OWN[:2])
    together, _ = curves(*OWN)
    short, wide = (Visibility(observe=[what])(observations, domain) for observations in (alone, together))
    assert torch.equal(wide[:2, : short.shape[1]], short)
    assert not wide[:2, short.shape[1] :].any()


def test_halves_of_curves_are_early_and_late() -> None:
    some = curves(OWN[0], OWN[2], OWN[3])
    seen = {side: Visibility(observe=[f"half:{side}"])(*some) & (some[0].weight > 0) for side in ("early", "late", "t", "-t")}
    assert torch.equal(seen["early"], seen["t"])
    assert torch.equal(seen["late"], seen["-t"])
    assert (seen["early"].sum(1).tolist(), seen["late"].sum(1).tolist()) == ([3, 5, 1], [1, 5, 1])


@pytest.mark.parametrize(("size", "expected"), [(1, [3]), (2, [2, 3, 4]), (3, [2, 3, 4]), (7, list(range(7)))])
def test_center_counts_samples_also_on_an_uneven_grid(size: int, expected: list[int]) -> None:
    times = [0.0, 1.0, 2.0, 2.1, 2.2, 9.0, 10.0]
    inside = Visibility(observe=[f"center:{size}"])(*curves(times, times))
    assert inside[0].nonzero().flatten().tolist() == expected
    assert torch.equal(inside[0], inside[1])


def test_a_file_marks_times_of_the_grid_whatever_points_a_signal_has(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.array([0, 1, 1, 0, 0]))
    grid = [0.0, 1.0, 2.0, 5.0, 10.0]
    _, domain = curves(grid, grid)
    path = f"file:{tmp_path / 'mask.npy'}"
    assert Visibility(observe=[path])(*curves(grid, grid)).tolist() == [[False, True, True, False, False]] * 2
    others = Curves.from_list([([1.0, 5.0], [0, 1]), ([0.0, 2.0, 10.0], [0, 1, 2])]).like(
        {"start": 0.0, "end": 10.0, "centre": [0.0], "scale": [1.0]}
    )
    seen = Visibility(observe=[path])(others.truth(torch.arange(2)), domain)
    assert [row.sum().item() for row in seen] == [1, 1]
    np.save(tmp_path / "mask.npy", np.ones(4))
    with pytest.raises(NeuralfieldError, match=r"is 4, but the signals .* are 5"):
        Visibility(observe=[path])(*curves(grid, grid))


def test_a_signal_of_which_nothing_is_known_is_let_through() -> None:
    with pytest.warns(NeuralfieldWarning, match="no observed point"):
        observations, domain = curves(*OWN, [])
    for what in ("first:0.5", "random:0.5"):
        seen = Visibility(observe=[what])(observations, domain)
        assert seen.any(1).tolist() == [True] * 5 + [False]
    with pytest.raises(NeuralfieldError, match="hide everything of 5 signals"):
        Visibility(hide=["first:1"])(observations, domain)


@pytest.mark.parametrize("ending", ["png", "npy"])
def test_a_file_marks_the_region(tmp_path: Path, ending: str) -> None:
    marks = np.random.default_rng(0).random((6, 8)) < 0.4
    path = tmp_path / f"mask.{ending}"
    if ending == "npy":
        np.save(path, marks.astype(np.uint8))
    else:
        Picture.fromarray((marks * 255).astype(np.uint8)).save(path)
    assert np.array_equal(region(f"file:{path}", 6, 8), marks)


def test_seen_is_the_union_of_what_is_observed_less_all_that_is_hidden() -> None:
    observations, domain = whole(8, 8)
    left, top, centre = (torch.from_numpy(region(what, 8, 8).reshape(-1)) for what in ("half:left", "half:top", "center:4"))

    def seen(observe: list[str], hide: list[str]) -> torch.Tensor:
        return Visibility(observe, hide)(observations, domain)[0]

    assert seen([], []).all()
    assert torch.equal(seen(["half:left", "half:top"], []), left | top)
    assert torch.equal(seen([], ["half:left", "center:4"]), ~left & ~centre)
    assert torch.equal(seen(["half:left", "half:top"], ["center:4"]), (left | top) & ~centre)
    assert torch.equal(seen([], ["half:left"]), ~seen(["half:left"], []))


def test_observe_and_hide_of_the_same_region_are_the_two_sides() -> None:
    observations, domain = whole(8, 8)
    for what in ("center:4", "half:bottom", "random:0.3"):
        a, b = Visibility([what])(observations, domain), Visibility([], [what])(observations, domain)
        assert torch.equal(a, ~b)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("centre:4", ["centre", 'did you mean "center"']),
        ("center:four", ["center:12", "four"]),
        ("center:", ["center:12", "number"]),
        ("center:0", ["center:0", "8"]),
        ("center:99", ["center:99", "8"]),
        ("center:nan", ["center:nan"]),
        ("half:lefft", ["lefft", 'did you mean "left"']),
        ("half:z", ["z", "left", "x"]),
        ("random:0", ["random:0", "share"]),
        ("random:1.5", ["random:1.5"]),
        ("random:some", ["random:0.1", "some"]),
        ("first:0", ["first:0", "share"]),
        ("first:1.1", ["first:1.1", "at most 1"]),
        ("first:nan", ["first:nan", "share"]),
        ("first:", ["first:0.5", "number"]),
        ("file:nowhere.png", ["nowhere.png"]),
        ("", ["mask"]),
    ],
)
def test_words_that_mean_nothing_are_one_line_with_the_way_out(what: str, words: list[str]) -> None:
    observations, domain = whole(8, 8)
    with pytest.raises(NeuralfieldError) as caught:
        Visibility(hide=[what])(observations, domain)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("hide", [["center:8"], ["half:left", "half:right"], ["random:1"]])
def test_masks_that_hide_everything_are_refused(hide: list[str]) -> None:
    observations, domain = whole(8, 8)
    with pytest.raises(NeuralfieldError, match="hide everything of 3 signals"):
        Visibility(hide=hide)(observations, domain)


def test_a_signal_with_nothing_left_is_named_by_its_number() -> None:
    observations, domain = whole(8, 8)
    weight = observations.weight.clone()
    weight[1, :32] = 0  # the upper half of signal 1 was never known
    partly = Observations(observations.index, observations.coords, observations.values, weight)
    with pytest.warns(NeuralfieldWarning, match=r"of 1 signals .*number 1"):  # the others are completed all the same
        seen = Visibility(observe=["half:top"])(partly, domain)
    assert (seen & (partly.weight > 0)).any(1).tolist() == [True, False, *[True] * (len(partly) - 2)]


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.ones((5, 8)))
    with pytest.raises(NeuralfieldError, match=r"is 5 x 8, but the signals .* are 8 x 8"):
        Visibility(hide=[f"file:{tmp_path / 'mask.npy'}"])(*whole(8, 8))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00"])
@pytest.mark.parametrize("ending", ["png", "npy"])
def test_a_mask_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"mask.{ending}"
    path.write_bytes(content)
    with pytest.raises(NeuralfieldError, match=f"mask .*mask.{ending} cannot be read"):
        Visibility(hide=[f"file:{path}"])(*whole(8, 8))


def test_a_mask_of_objects_is_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.array([[None]]), allow_pickle=True)
    with pytest.raises(NeuralfieldError, match="cannot be read"):
        Visibility(hide=[f"file:{tmp_path / 'mask.npy'}"])(*whole(8, 8))


class Scattered(Domain):
    """A domain without a grid of its own."""

    coord_dim, value_dim, likelihood, headline = 2, 1, "gaussian", "none"

    def grid_shape(self, resolution=None):  # type: ignore[no-untyped-def]
        return (1, 1)

    def grid(self, resolution=None):  # type: ignore[no-untyped-def]
        return torch.zeros(1, 1, 2)

    def score(self, field, truth, samples=None):  # type: ignore[no-untyped-def]
        return {}

    def render(self, field, resolution=None):  # type: ignore[no-untyped-def]
        return np.zeros((1, 1, 1, 3), np.uint8)

    def draw(self, observations):  # type: ignore[no-untyped-def]
        return np.zeros((1, 1, 1, 3), np.uint8)


def test_masks_that_count_samples_are_refused_where_there_is_no_grid(tmp_path: Path) -> None:
    observations, _ = whole(8, 8)
    with pytest.raises(UsageError, match="no grid of its own"):
        Visibility(hide=["center:4"])(observations, Scattered())
    np.save(tmp_path / "mask.npy", np.ones(64))
    with pytest.raises(UsageError, match="no grid of its own"):
        Visibility(hide=[f"file:{tmp_path / 'mask.npy'}"])(observations, Scattered())
    assert Visibility(hide=["half:x"])(observations, Scattered()).any()
