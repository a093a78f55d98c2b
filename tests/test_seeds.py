"""Random generators from numbers: the same numbers the same draws, other numbers unrelated ones."""

from itertools import product

import pytest
import torch
from scipy import stats

from neuralfield.seeds import generator, normal, uniform


def draws(*numbers: int) -> torch.Tensor:
    return torch.rand(2000, generator=generator(*numbers))


def test_the_same_numbers_give_the_same_draws() -> None:
    for numbers in ((0,), (7, 3), (1, 2, 3), (-1, 5), (2**40, 0)):
        assert torch.equal(draws(*numbers), draws(*numbers))


def test_the_order_of_the_numbers_matters() -> None:
    # (seed 0, epoch 1) must not repeat (seed 1, epoch 0)
    for count, largest in ((2, 6), (3, 4)):
        lists = list(product(range(largest), repeat=count))
        assert len({tuple(draws(*numbers)[:4].tolist()) for numbers in lists}) == len(lists)


def test_the_count_of_the_numbers_matters() -> None:
    assert not torch.equal(draws(0, 1), draws(0, 1, 0))


def test_near_numbers_are_unrelated() -> None:
    rows = torch.stack([draws(seed, step) for seed in range(3) for step in range(10)])
    correlation = torch.corrcoef(rows) - torch.eye(30)
    assert correlation.abs().max() < 5 / 2000**0.5  # five standard errors, over 435 pairs of fixed draws
    assert (rows.mean(1) - 0.5).abs().max() < 5 * (1 / 12 / 2000) ** 0.5


# draws by counting

LAWS = {"uniform": (uniform, stats.uniform, 0.5, 1 / 12), "normal": (normal, stats.norm, 0.0, 1.0)}
both = pytest.mark.parametrize("law", LAWS)


@both
def test_what_a_signal_draws_is_its_own(law: str) -> None:
    draw, seed = LAWS[law][0], generator(0, 3)
    whole = draw(seed, torch.arange(50), 20)
    which = torch.tensor([31, 7, 7, 49])
    again = generator(0, 3)
    assert torch.equal(draw(again, which, 20), whole[which])  # whatever the others are, and in any order
    assert torch.equal(draw(generator(0, 3), torch.arange(50), 9), whole[:, :9])  # and however many it draws
    assert draw(generator(0, 3), which[:0], 20).shape == (0, 20)
    assert torch.equal(again.get_state(), seed.get_state())  # both have moved on alike,
    assert not torch.equal(draw(seed, torch.arange(50), 20), whole)  # and so the next draws are others


@both
def test_other_steps_and_other_draws_are_unrelated(law: str) -> None:
    draw, index = LAWS[law][0], torch.arange(500)
    steps = torch.stack([draw(generator(0, step), index, 20).flatten() for step in range(5)])
    other = (normal if draw is uniform else uniform)(generator(0, 0), index, 20).flatten()
    correlation = torch.corrcoef(torch.cat([steps, other[None]])) - torch.eye(6)
    assert correlation.abs().max() < 5 / 10_000**0.5  # five standard errors, over 15 pairs


@both
def test_draws_follow_their_law(law: str) -> None:
    draw, expected, mean, variance = LAWS[law]
    x = draw(generator(1, 2, 3), torch.arange(400), 500)
    count = x.numel()
    assert abs(float(x.mean()) - mean) < 5 * (variance / count) ** 0.5  # five standard errors
    # the variance of x^2 is below 3 variance^2, of both
    assert abs(float(x.var()) - variance) < 5 * (3 * variance**2 / count) ** 0.5
    assert stats.kstest(x.flatten().numpy(), expected.cdf).pvalue > 1e-4
    # each signal's own draws, and what all signals draw first, next ...: p values of fixed draws, so the least of n is about 1 / n
    assert min(stats.kstest(row.numpy(), expected.cdf).pvalue for row in x) > 1e-2 / 400
    assert min(stats.kstest(row.numpy(), expected.cdf).pvalue for row in x.T) > 1e-2 / 500


@both
@pytest.mark.parametrize("apart", [1, 2, 16, 1000])
def test_neighbouring_signals_and_places_are_unrelated(law: str, apart: int) -> None:
    x = LAWS[law][0](generator(5), torch.arange(1200), 1200)
    for one, two in ((x[apart:], x[:-apart]), (x[:, apart:], x[:, :-apart]), (x[apart:, apart:], x[:-apart, :-apart])):
        pair = torch.stack([one.flatten(), two.flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / pair.shape[1] ** 0.5  # five standard errors


def test_every_bit_of_a_draw_is_as_often_0_as_1() -> None:
    bits = (uniform(generator(9), torch.arange(1000), 100).flatten() * 2**53).long()
    ones = torch.stack([((bits >> place) & 1).double().mean() for place in range(53)])
    assert (ones - 0.5).abs().max() < 5 * 0.5 / len(bits) ** 0.5  # five standard errors


def test_draws_lie_where_they_may() -> None:
    x = uniform(generator(1), torch.arange(1000), 1000)
    assert x.min() >= 0
    assert x.max() < 1
    assert normal(generator(1), torch.arange(1000), 1000).isfinite().all()
    assert not torch.equal(uniform(None, torch.arange(3), 4), uniform(None, torch.arange(3), 4))  # without a seed, any


def test_draws_are_those_of_splitmix64() -> None:
    # a twin in whole numbers of Python's own (Steele, Lea and Flood 2014)
    def mixed(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    drawn = int(torch.randint(2**62, (), generator=generator(4, 2)))
    key = mixed((mixed(drawn) + 1) % 2**64)
    for signal in (0, 1, 10**6):
        stream = mixed((key + golden * signal) % 2**64)
        expected = [(mixed((stream + golden * place) % 2**64) >> 11) / 2**53 for place in range(1, 6)]
        assert uniform(generator(4, 2), torch.tensor([signal]), 5)[0].tolist() == expected
