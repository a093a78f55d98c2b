"""Scores of bands: against their definitions, and against the closed form of a normal."""

import math

import pytest
import torch
from torch import Tensor

from neuralfield.domains.ensembles import LEVEL, band, band_scores, crps


def draws(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def crps_of_a_normal(z: Tensor) -> Tensor:
    """Gneiting and Raftery 2007, eq. 21, of N(0, 1) at z."""
    normal = torch.distributions.Normal(0.0, 1.0)
    return z * (2 * normal.cdf(z) - 1) + 2 * normal.log_prob(z).exp() - 1 / math.sqrt(math.pi)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 51])
def test_crps_is_its_definition_over_all_pairs(count: int) -> None:
    samples, values = draws(count, 4, 3), draws(1, 4, 3, seed=1)[0]
    far = (samples - values).abs().mean(0)
    # over pairs of different samples: with the pairs (s, s) it would favour few
    apart = (samples[:, None] - samples[None]).abs().sum((0, 1)) / max(1, count * (count - 1))
    torch.testing.assert_close(crps(samples, values), far - apart / 2, rtol=0, atol=1e-12)


def test_crps_of_many_samples_is_that_of_the_distribution() -> None:
    values = torch.tensor([-3.0, -1.0, 0.0, 0.3, 2.0], dtype=torch.float64)
    samples = draws(100_000, 5)
    # both means have a standard error of 0.6 / sqrt(100,000) = 0.002 at most; five of those
    torch.testing.assert_close(crps(samples, values), crps_of_a_normal(values), rtol=0, atol=0.01)


def test_crps_of_few_samples_is_right_on_average() -> None:
    values = torch.tensor([0.0, 1.5], dtype=torch.float64)
    each = crps(draws(4, 50_000, 2), values.expand(50_000, 2))
    error = each.std(0) / 50_000**0.5
    assert ((each.mean(0) - crps_of_a_normal(values)).abs() < 5 * error).all()
    assert (error < 0.005).all()  # far below the 0.14 that the biased estimate is off


def test_crps_has_the_units_of_the_values_and_does_not_mind_where_they_lie() -> None:
    samples, values = draws(20, 5), draws(1, 5, seed=1)[0]
    torch.testing.assert_close(crps(3 * samples + 7, 3 * values + 7), 3 * crps(samples, values))


def test_the_right_distribution_scores_best_on_average() -> None:
    values = draws(1, 20_000, seed=1)[0]
    scores = [float(crps(width * draws(50, 20_000) + shift, values).mean()) for width, shift in ((1, 0), (0.5, 0), (2, 0), (1, 1))]
    assert scores[0] == min(scores)
    assert scores[0] == pytest.approx(1 / math.sqrt(math.pi), abs=0.02)  # of N(0, 1) at its own draws


def test_a_band_holds_its_share_of_what_it_was_drawn_from() -> None:
    lower, upper = band(draws(4000, 500).float())
    values = draws(200, 500, seed=1)
    inside = ((values >= lower) & (values <= upper)).double().mean()
    # the ends are quantiles of 4000 samples: coverage is known to 0.005 each, and far better over 500 of them
    assert float(inside) == pytest.approx(LEVEL, abs=0.005)
    normal = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    assert lower.mean().item() == pytest.approx(normal[0].item(), abs=0.01)
    assert upper.mean().item() == pytest.approx(normal[1].item(), abs=0.01)


@pytest.mark.parametrize("count", [1, 2, 64])
def test_a_band_lies_within_its_samples_and_has_an_order(count: int) -> None:
    samples = draws(count, 6, 2).float()
    lower, upper = band(samples)
    assert (lower <= upper).all()
    assert (lower >= samples.amin(0)).all()
    assert (upper <= samples.amax(0)).all()


def test_scores_are_means_over_what_is_known_by_weight() -> None:
    samples, values = draws(30, 3, 5, 2).float(), draws(1, 3, 5, 2, seed=1)[0].float()
    weight = torch.tensor([[1.0, 1, 1, 1, 1], [0, 2, 0, 1, 0], [0, 0, 0, 0, 3]])
    scores = band_scores(samples, values, weight)
    lower, upper = band(samples)
    each = {"crps": crps(samples, values), "width90": upper - lower, "coverage90": ((values >= lower) & (values <= upper)).float()}
    assert scores.keys() == each.keys()
    for name, of_each in each.items():
        expected = torch.stack([(of_each[b].mean(1) * weight[b]).sum() / weight[b].sum() for b in range(3)])
        torch.testing.assert_close(scores[name], expected)


@pytest.mark.parametrize("filling", [0.0, 1e9, torch.inf])
def test_points_of_no_weight_have_no_influence(filling: float) -> None:
    samples, values = draws(30, 3, 5, 1).float(), draws(1, 3, 5, 1, seed=1)[0].float()
    weight = (torch.rand(3, 5, generator=torch.Generator().manual_seed(2)) < 0.6).float()
    weight[:, 0] = 1
    hidden = (weight == 0)[..., None]
    filled = band_scores(torch.where(hidden, filling, samples), torch.where(hidden, -filling, values), weight)
    for name, score in band_scores(samples, values, weight).items():
        torch.testing.assert_close(filled[name], score)


def test_a_signal_of_which_nothing_is_known_has_no_score_and_the_others_have_theirs() -> None:
    samples, values, weight = draws(30, 3, 5, 1).float(), draws(1, 3, 5, 1, seed=1)[0].float(), torch.ones(3, 5)
    whole = band_scores(samples, values, weight)
    weight[1] = 0
    for name, score in band_scores(samples, values, weight).items():
        assert score.isnan().tolist() == [False, True, False]
        assert torch.equal(score[[0, 2]], whole[name][[0, 2]])
