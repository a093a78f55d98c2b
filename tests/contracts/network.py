"""Laws of every network that reads observations."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from neuralfield.latents.encoders.network import ACTIVATIONS, Network
from neuralfield.types import Observations

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
"""Matrix products of the same float32 numbers in batches of another size: their sums run in another order."""


class NetworkContract:
    """Give `kind`, a class. Its networks read `value_dim` values on a grid of `shape`, and give `outputs` numbers."""

    kind: type[Network]
    coord_dim = 2
    value_dim = 3
    shape: tuple[int, ...] | None = (9, 12)
    outputs = 4

    def make(self, activation: str = "silu", depth: int = 2) -> Network:
        return self.kind(self.coord_dim, self.value_dim, self.shape, self.outputs, 16, depth, activation)

    @pytest.fixture
    def network(self) -> Network:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.make()

    @pytest.fixture
    def observations(self) -> Observations:
        """Five signals, about a third of each hidden."""
        draw = torch.Generator().manual_seed(1)
        n = 108
        coords = torch.rand(1, n, self.coord_dim, generator=draw) * 2 - 1
        values = torch.rand(5, n, self.value_dim, generator=draw)
        return Observations(torch.tensor([4, 0, 2, 1, 3]), coords, values, (torch.rand(5, n, generator=draw) < 0.7).float())

    @pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
    @pytest.mark.parametrize("depth", [0, 1, 3])
    def test_every_signal_gets_finite_numbers_of_its_own(self, observations: Observations, activation: str, depth: int) -> None:
        read = self.make(activation, depth)(observations)
        assert read.shape == (5, self.outputs)
        assert read.isfinite().all()
        assert torch.pdist(read).gt(0).all()  # a mean of logistic units differs little

    def test_a_signal_is_read_alike_alone_and_among_others_while_it_trains_too(
        self, network: Network, observations: Observations
    ) -> None:
        for mode in (network.train(), network.eval()):
            alone = torch.cat([mode(observations.rows(slice(i, i + 1))) for i in range(5)])
            torch.testing.assert_close(mode(observations), alone, **CLOSE)

    def test_what_is_hidden_has_no_influence(self, network: Network, observations: Observations) -> None:
        before = network(observations)
        for filling in (torch.nan, torch.inf, 1e9):
            values = observations.values.masked_fill(observations.weight[..., None] == 0, filling)
            assert torch.equal(network(replace(observations, values=values)), before)

    def test_where_nothing_is_seen_its_numbers_are_finite_and_so_are_gradients(
        self, network: Network, observations: Observations
    ) -> None:
        read = network(replace(observations, weight=torch.zeros_like(observations.weight)))
        assert read.isfinite().all()
        read.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())

    def test_gradients_reach_every_parameter(self, network: Network, observations: Observations) -> None:
        network(observations).square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name

    def test_a_signals_numbers_depend_on_its_own_values_alone(self, network: Network, observations: Observations) -> None:
        values = observations.values.clone().requires_grad_()
        network(replace(observations, values=values))[1].sum().backward()
        assert values.grad is not None
        assert values.grad[[0, 2, 3, 4]].eq(0).all()
        assert values.grad[1][observations.weight[1] > 0].abs().max() > 0
        assert values.grad[1][observations.weight[1] == 0].eq(0).all()

    def test_weights_carry_the_whole_network(self, network: Network, observations: Observations) -> None:
        torch.manual_seed(17)
        other = self.make()
        assert not torch.equal(other(observations), network(observations))
        other.load_state_dict(network.state_dict())
        assert torch.equal(other(observations), network(observations))

    def test_it_reads_alike_on_every_device(self, network: Network, observations: Observations, device: torch.device) -> None:
        here = network(observations)
        there: Tensor = network.to(device)(observations.to(device)).cpu()
        # other devices multiply matrices in another order
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)

    def test_an_unknown_activation_is_refused_with_those_there_are(self) -> None:
        with pytest.raises(ValueError, match=r"no activation \"sine\"; known: relu, leaky-relu, silu, tanh, logistic"):
            self.make("sine")
