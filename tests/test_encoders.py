"""Networks that read observations: grids of any size, or sets of points in any order."""

import re
from dataclasses import replace

import pytest
import torch
from contracts.network import NetworkContract

from neuralfield.errors import NeuralfieldError
from neuralfield.latents.encoders.convolutional import Convolutional
from neuralfield.latents.encoders.linear import Linear
from neuralfield.latents.encoders.mlp import MLP
from neuralfield.latents.encoders.network import Network
from neuralfield.latents.encoders.points import Points
from neuralfield.registry import resolve
from neuralfield.seeds import generator
from neuralfield.types import AT_LEAST, EQUAL, Observations

GRIDS = [Linear, MLP, Convolutional]


def seen(count: int, points: int, channels: int = 1, own: bool = False) -> Observations:
    coords = torch.rand(count if own else 1, points, 2) * 2 - 1
    return Observations(torch.arange(count), coords, torch.rand(count, points, channels), torch.ones(count, points))


class TestMLP(NetworkContract):
    kind = MLP


class TestLinear(NetworkContract):
    kind = Linear


class TestConvolutional(NetworkContract):
    kind = Convolutional


class TestPoints(NetworkContract):
    kind = Points
    shape = None


class TestPointsOnALine(NetworkContract):
    kind = Points
    coord_dim = 1
    value_dim = 1
    shape = None


# grids


def test_names_are_those_of_a_recipe() -> None:
    assert [resolve("networks", name) for name in ("linear", "mlp", "convolutional", "set")] == [*GRIDS, Points]


def test_a_network_says_whether_it_reads_whole_grids_alone() -> None:
    assert all(kind.whole for kind in GRIDS)
    assert not Points.whole


def test_an_mlp_without_hidden_layers_is_linear() -> None:
    linear, mlp = (kind(2, 2, (3, 4), 5, 16, 0, "relu") for kind in (Linear, MLP))
    mlp.load_state_dict({f"layers.0.{name}": value for name, value in linear.layer.state_dict().items()})
    observations = seen(6, 12, channels=2)
    assert torch.equal(mlp(observations), linear(observations))
    values = observations.values
    doubled = linear(replace(observations, values=2 * values)) + linear(replace(observations, values=0 * values))
    torch.testing.assert_close(doubled, 2 * linear(observations))  # affine in the values


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (4, 4), (28, 28), (32, 32), (33, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_grids_of_any_height_and_width_are_read(kind: type[Network], shape: tuple[int, int], channels: int) -> None:
    network = kind(2, channels, shape, 3, 8, 1, "relu")
    assert network(seen(2, shape[0] * shape[1], channels)).shape == (2, 3)


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("shape", [(5, 7), (13, 9), (32, 32), (18, 29)])
def test_every_pixel_is_read(kind: type[Network], shape: tuple[int, int]) -> None:
    observations = seen(1, shape[0] * shape[1], channels=2)
    values = observations.values.clone().requires_grad_()
    kind(2, 2, shape, 3, 8, 1, "silu")(replace(observations, values=values)).square().sum().backward()
    assert values.grad is not None
    assert values.grad.abs().gt(0).all()


def test_convolutions_halve_an_image_until_it_is_about_4_wide_and_channels_double_up_to_four_times() -> None:
    network = Convolutional(2, 1, (64, 96), 10, 8, 2, "relu")
    assert [layer.out_channels for layer in network.layers] == [8, 16, 32, 32]
    assert network.last.in_features == 32 * 4 * 6


@pytest.mark.parametrize("kind", GRIDS)
def test_another_number_of_points_is_one_clear_line(kind: type[Network]) -> None:
    network = kind(2, 1, (5, 4), 3, 8, 1, "relu")
    with pytest.raises(NeuralfieldError, match=r"takes the 20 points of the 5 x 4 grid, but got 7; latents\.network=set takes any"):
        network(seen(2, 7))
    with pytest.raises(NeuralfieldError, match=r"but got 20 of each signal's own; latents\.network=set takes any"):
        network(seen(2, 20, own=True))


@pytest.mark.parametrize("kind", GRIDS)
def test_one_grid_may_be_said_of_each_signal(kind: type[Network]) -> None:
    network, observations = kind(2, 1, (5, 4), 3, 8, 1, "relu"), seen(2, 20)
    each = replace(observations, coords=observations.coords.expand(2, -1, -1))
    assert torch.equal(network(each), network(observations))


@pytest.mark.parametrize("kind", GRIDS)
def test_signals_without_a_grid_are_refused_with_what_takes_them(kind: type[Network]) -> None:
    with pytest.raises(ValueError, match=r"these have none; latents\.network=set takes any points"):
        kind(2, 1, None, 3, 8, 1, "relu")


def test_convolutions_of_a_line_are_refused_with_what_takes_it() -> None:
    line = re.escape(
        "network convolutional reads grids of two axes, but the signals' has 1: [30]; latents.network=mlp takes any grid"
    )
    with pytest.raises(ValueError, match=line):
        Convolutional(1, 1, (30,), 3, 8, 1, "relu")


# sets


@pytest.fixture
def network() -> Points:
    return Points(2, 1, None, 5, 16, 2, "silu")


@pytest.mark.parametrize("own", [False, True])
def test_the_order_of_points_says_nothing(network: Points, own: bool) -> None:
    observations = seen(4, 30, own=own)
    order = torch.randperm(30)
    # sums of 30 float32 numbers in another order
    torch.testing.assert_close(network(observations.span(order)), network(observations), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("own", [False, True])
def test_hidden_points_are_as_good_as_none(network: Points, own: bool) -> None:
    observations = seen(4, 30, own=own)
    weight = observations.weight.clone()
    weight[:, 20:] = 0
    part = observations.span(torch.arange(20))
    # sums of as many numbers, with zeros between them
    torch.testing.assert_close(network(replace(observations, weight=weight)), network(part), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("filling", [torch.nan, torch.inf, 1e9])
def test_nothing_about_hidden_points_has_influence_bit_for_bit(network: Points, own: bool, filling: float) -> None:
    observations = seen(4, 30, own=own)
    weight, coords, values = observations.weight.clone(), observations.coords.clone(), observations.values.clone()
    weight[:, 10:17] = 0
    coords[:, 10:17], values[:, 10:17] = filling, filling
    plain = network(replace(observations, weight=weight))
    filled = network(Observations(observations.index, coords, values, weight))
    assert torch.equal(filled, plain)
    filled.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_drawn_part_gives_the_mean_over_all_in_expectation(network: Points) -> None:
    observations = seen(3, 40)
    whole = network.pooled(observations)
    draws = torch.stack([network.pooled(observations.points(torch.randperm(40, generator=generator(i))[:10])) for i in range(1000)])
    error = draws.std(0) / 1000**0.5
    # 48 means of a fixed draw, each within 4 standard errors; they are not all the same number
    assert ((draws.mean(0) - whole).abs() <= 4 * error + 1e-6).all()
    assert draws.std(0).max() > 1e-3


def test_points_that_stand_for_several_count_as_several(network: Points) -> None:
    observations = seen(2, 6)
    weight = torch.tensor([[1.0, 2.0, 0.0, 3.0, 1.0, 1.0]]).expand(2, -1)
    repeated = observations.span(torch.tensor([0, 1, 1, 3, 3, 3, 4, 5]))
    torch.testing.assert_close(network(replace(observations, weight=weight)), network(repeated), rtol=1e-5, atol=1e-6)


def test_bounds_are_no_values(network: Points) -> None:
    observations = seen(2, 12)
    relation = torch.full((2, 12), EQUAL)
    relation[:, 8:] = AT_LEAST
    weight = observations.weight.clone()
    weight[:, 8:] = 0
    assert torch.equal(network(replace(observations, relation=relation)), network(replace(observations, weight=weight)))
