"""The nouns: what is hidden is gone, drawn points stand for all, fields are functions."""

from itertools import combinations

import jaxtyping
import pytest
import torch
from synthetic import Linear
from torch import Tensor

from neuralfield.errors import NeuralfieldError
from neuralfield.types import Field, Latent, Loss, Observations, spread


@pytest.fixture
def observations() -> Observations:
    """Four signals, six points of their own, two values; some points are hidden."""
    draw = torch.Generator().manual_seed(0)
    weight = (torch.rand(4, 6, generator=draw) < 0.7).float()
    return Observations(torch.arange(4), torch.rand(4, 6, 2, generator=draw), torch.randn(4, 6, 2, generator=draw), weight)


@pytest.mark.parametrize("filling", [torch.nan, torch.inf, -torch.inf, 1e9, 0.5])
def test_what_is_not_seen_is_zero_whatever_it_was(observations: Observations, filling: float) -> None:
    seen = (observations.weight > 0)[..., None]
    filled = Observations(
        observations.index, observations.coords, torch.where(seen, observations.values, filling), observations.weight
    )
    assert torch.equal(filled.values, observations.values)
    assert filled.values[~seen.expand_as(filled.values)].eq(0).all()


@pytest.mark.parametrize(
    ("index", "coords", "values", "weight"),
    [
        ([3], [1, 5, 2], [2, 5, 1], [2, 5]),
        ([2], [3, 5, 2], [2, 5, 1], [2, 5]),
        ([2], [1, 4, 2], [2, 5, 1], [2, 5]),
        ([2], [1, 5, 2], [2, 5, 1], [2, 4]),
        ([2], [1, 5, 2], [2, 5, 1], [1, 5]),
    ],
)
def test_shapes_that_do_not_fit_together_are_refused(
    index: list[int], coords: list[int], values: list[int], weight: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it: the line must be our own
    with pytest.raises(NeuralfieldError, match="observations do not fit together") as caught:
        Observations(torch.zeros(index, dtype=torch.long), torch.zeros(coords), torch.zeros(values), torch.ones(weight))
    assert str(values) in str(caught.value)


def test_rows_are_the_signals_asked_for(observations: Observations) -> None:
    for which in (slice(1, 3), torch.tensor([3, 1]), torch.tensor([2])):
        some = observations.rows(which)
        for name in ("index", "coords", "values", "weight"):
            assert torch.equal(getattr(some, name), getattr(observations, name)[which])


def test_rows_of_a_shared_grid_share_it(observations: Observations) -> None:
    shared = Observations(observations.index, observations.coords[:1], observations.values, observations.weight)
    for which in (slice(1, 2), torch.tensor([3, 1])):
        assert torch.equal(shared.rows(which).coords, shared.coords)
    one = shared.rows(slice(1, 2))
    assert torch.equal(one.rows(slice(0, 1)).coords, shared.coords)


def test_a_mask_splits_what_was_seen_and_brings_nothing_back(observations: Observations) -> None:
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    observed, hidden = observations.split(mask)
    assert torch.equal(observed.weight + hidden.weight, observations.weight)
    assert (observed.weight * hidden.weight).eq(0).all()
    assert torch.equal(observed.values + hidden.values, observations.values)
    assert observed.values[~mask].eq(0).all()


def test_observed_counts_values(observations: Observations) -> None:
    assert torch.equal(observations.observed, 2 * (observations.weight > 0).sum(1).float())


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_the_mean_over_all_draws_of_points_is_the_whole(observations: Observations, n: int) -> None:
    """Every subset of n points, so that the expectation is exact: sums over points are estimated without bias."""
    draws = [observations.points(torch.tensor(which)) for which in combinations(range(6), n)]
    for statistic in (
        lambda o: (o.values.square().sum(-1) * o.weight).sum(1),
        lambda o: (o.coords.prod(-1) * o.weight).sum(1),
        lambda o: o.observed,
    ):
        mean = torch.stack([statistic(drawn) for drawn in draws]).mean(0)
        torch.testing.assert_close(mean, statistic(observations))


def test_the_total_is_all_nats_over_all_observed_values() -> None:
    loss = Loss(torch.tensor([6.0, 0.0]), torch.tensor([2.0, 3.0]), torch.tensor([4.0, 0.0]), torch.zeros(()))
    assert loss.total.tolist() == [2.0, 3.0]  # nothing observed: the prior alone, not a division by zero


def test_a_field_is_a_function_of_points_given_in_any_form() -> None:
    decoder, z = Linear(3), torch.randn(4, 3)
    field = Field(decoder.evaluate, decoder.condition(z), torch.sigmoid)
    coords = torch.rand(7, 2)
    assert len(field) == 4
    assert field.device == torch.device("cpu")
    torch.testing.assert_close(field(coords), torch.sigmoid(decoder(z, coords[None])))
    assert torch.equal(field(coords), field(coords[None]))
    torch.testing.assert_close(field(coords), field(coords.expand(4, 7, 2)))


@pytest.mark.parametrize("at_once", [1, 5, 12, 1000])
def test_a_field_gives_the_same_values_however_many_points_it_takes_at_once(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    decoder, z, coords = Linear(3), torch.randn(4, 3), torch.rand(7, 2)
    field = Field(decoder.evaluate, decoder.condition(z))
    whole = field(coords).detach()
    monkeypatch.setattr("neuralfield.types.EVALUATED_AT_ONCE", at_once)
    with torch.no_grad():
        torch.testing.assert_close(field(coords), whole)
        torch.testing.assert_close(field(coords.repeat(4, 1, 1)), whole)


def test_a_field_has_gradients_with_respect_to_its_points() -> None:
    decoder, coords = Linear(3), torch.rand(5, 2, requires_grad=True)
    Field(decoder.evaluate, torch.ones(1, 3))(coords).sum().backward()
    assert coords.grad is not None
    assert coords.grad.abs().min() > 0


def test_nouns_move_between_devices(observations: Observations, device: torch.device) -> None:
    def tensors(noun: object) -> list[Tensor]:
        return [value for value in vars(noun).values() if isinstance(value, Tensor)]

    for noun in (observations, Latent(torch.zeros(2, 3)), Latent(torch.zeros(2, 3), torch.ones(2, 3))):
        moved = noun.to(device)
        assert all(tensor.device.type == device.type for tensor in tensors(moved))
        assert all(torch.equal(a.cpu(), b) for a, b in zip(tensors(moved), tensors(noun), strict=True))


def test_codes_without_a_spread_are_their_own_sample() -> None:
    latent = Latent(torch.randn(3, 4))
    assert latent.sample(torch.arange(3), torch.Generator()) is latent.mean


def test_samples_have_the_mean_and_the_spread_of_the_codes_and_gradients_to_both() -> None:
    mean, log_std = torch.tensor([[1.0, -2.0]]), torch.tensor([[-1.0, 0.5]])
    many = Latent(mean.expand(40_000, -1).clone().requires_grad_(), log_std.expand(40_000, -1).clone().requires_grad_())
    index = torch.arange(40_000)
    drawn = many.sample(index, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, many.sample(index, torch.Generator().manual_seed(0)))
    # standard errors of 40,000 draws of a spread up to 1.65: 0.008 of the mean, 0.006 of the spread
    torch.testing.assert_close(drawn.mean(0), mean[0], rtol=0, atol=0.04)
    torch.testing.assert_close(drawn.std(0), log_std[0].exp(), rtol=0, atol=0.03)
    drawn.sum().backward()
    assert many.mean.grad is not None
    assert many.log_std is not None
    assert many.log_std.grad is not None
    assert many.mean.grad.eq(1).all()
    torch.testing.assert_close(many.log_std.grad, (drawn - many.mean).detach())  # d(mean + e^s n)/ds = e^s n


@pytest.mark.parametrize("count", [1, 7, 12, 13, 2**24 + 3, 20_000_000, 10**9])
def test_things_are_spread_from_the_first_to_the_last(count: int) -> None:
    chosen = spread(count, 12)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert (int(chosen[0]), int(chosen[-1]), len(chosen)) == (0, count - 1, min(count, 12))
