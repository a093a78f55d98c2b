"""Laws of every penalty on codes."""

import pytest
import torch
from torch import Tensor, nn

from neuralfield.latents.penalties import Penalty
from neuralfield.latents.source import LatentSource
from neuralfield.types import Latent, Observations


class OneLayer(LatentSource):
    """The smallest encoder: an activation of a matrix product with all values."""

    reads = True

    def __init__(self, values: int, code_dim: int = 4, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.code_dim, self.logistic = code_dim, isinstance(activation, nn.Sigmoid)
        self.layer, self.activation = nn.Linear(values, code_dim), activation or nn.Tanh()

    def forward(self, observations: Observations) -> Latent:
        return Latent(self.activation(self.layer(observations.values.flatten(1))))


class PenaltyContract:
    """Give `make`, a penalty of this weight. `activation` is that of the source that it is asked to serve."""

    activation: type[nn.Module] = nn.Tanh

    def make(self, weight: float = 0.5) -> Penalty:
        raise NotImplementedError

    @pytest.fixture
    def observations(self) -> Observations:
        """Six signals of 7 points x 2 values, partly hidden."""
        draw = torch.Generator().manual_seed(0)
        values = torch.randn(6, 7, 2, generator=draw, dtype=torch.float64)
        seen = (torch.rand(6, 7, generator=draw) < 0.7).double()
        return Observations(torch.tensor([5, 0, 2, 1, 3, 4]), torch.zeros(1, 7, 2), values, seen)

    @pytest.fixture
    def source(self) -> LatentSource:
        return OneLayer(14, activation=self.activation()).double()

    def cost(self, source: LatentSource, observations: Observations, weight: float = 0.5, seed: int = 0) -> Tensor:
        """What a fit would be told."""
        return self.make(weight).cost(source(observations), source, observations, torch.Generator().manual_seed(seed))

    def test_it_serves_the_source(self, source: LatentSource) -> None:
        assert self.make().refusal(source) is None

    def test_it_costs_each_signal_a_finite_number_of_nats_and_never_pays(
        self, source: LatentSource, observations: Observations
    ) -> None:
        cost = self.cost(source, observations)
        assert cost.shape == (6,)
        assert cost.isfinite().all()
        assert cost.ge(0).all()
        assert cost.max() > 0

    def test_costs_are_in_proportion_to_the_weight(self, source: LatentSource, observations: Observations) -> None:
        torch.testing.assert_close(self.cost(source, observations, 1.5), 3 * self.cost(source, observations, 0.5))
        assert self.cost(source, observations, 0.0).eq(0).all()
        with pytest.raises(ValueError, match=r"penalty\.weight must be 0 or more, got -1"):
            self.make(-1.0)

    def test_gradients_reach_the_source(self, source: LatentSource, observations: Observations) -> None:
        self.cost(source, observations).sum().backward()
        for name, parameter in source.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all()
            assert parameter.grad.abs().max() > 0

    def test_it_costs_the_same_where_nothing_trains(self, source: LatentSource, observations: Observations) -> None:
        with torch.no_grad():
            still = self.cost(source, observations)
        assert not still.requires_grad
        assert torch.equal(still, self.cost(source, observations))

    def test_a_batch_costs_what_its_parts_cost_where_the_penalty_says_so(
        self, source: LatentSource, observations: Observations
    ) -> None:
        together = self.cost(source, observations)
        alone = torch.cat([self.cost(source, observations.rows(slice(i, i + 1))) for i in range(6)])
        if self.make().separable:
            torch.testing.assert_close(alone, together, rtol=1e-10, atol=1e-12)  # float64
        else:
            assert (alone - together).abs().max() > 1e-6

    def test_what_is_hidden_has_no_influence(self, source: LatentSource, observations: Observations) -> None:
        values = observations.values.masked_fill(observations.weight[..., None] == 0, torch.nan)
        filled = Observations(observations.index, observations.coords, values, observations.weight)
        assert torch.equal(self.cost(source, filled), self.cost(source, observations))
