"""Random generators from numbers: the same numbers the same draws, other numbers unrelated ones."""

from itertools import product

import torch

from neuralfield.seeds import generator


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
