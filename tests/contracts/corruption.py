"""Laws of every corruption of what an encoder sees."""

import pytest
import torch
from torch import Tensor

from neuralfield.domains.image import Image
from neuralfield.signals.corruptions import Corruption
from neuralfield.types import Observations


class CorruptionContract:
    """Give `make`, for grey images of 8x8. `draws` says that what the encoder sees is up to chance."""

    draws = True

    def make(self, domain: Image) -> Corruption:
        raise NotImplementedError

    @pytest.fixture
    def corruption(self) -> Corruption:
        return self.make(Image(height=8, width=8, channels=1))

    @pytest.fixture
    def observations(self) -> Observations:
        """Five images without a 0, of which the top row is not seen."""
        draw = torch.Generator().manual_seed(0)
        weight = torch.ones(5, 64)
        weight[:, :8] = 0
        coords = Image(height=8, width=8, channels=1).grid()
        return Observations(torch.tensor([4, 0, 2, 1, 3]), coords, 0.5 + torch.rand(5, 64, 1, generator=draw), weight)

    def seen(self, corruption: Corruption, observations: Observations, seed: int = 0) -> Observations:
        return corruption(observations, torch.Generator().manual_seed(seed))

    def test_it_shows_the_same_signals_changed(self, corruption: Corruption, observations: Observations) -> None:
        before = observations.values.clone()
        seen = self.seen(corruption, observations)
        assert torch.equal(seen.index, observations.index)
        assert torch.equal(seen.coords, observations.coords)
        assert not torch.equal(seen.values, before)
        assert torch.equal(observations.values, before)

    def test_what_was_hidden_stays_hidden(self, corruption: Corruption, observations: Observations) -> None:
        seen = self.seen(corruption, observations)
        assert seen.weight.le(observations.weight).all()
        assert seen.values[seen.weight == 0].eq(0).all()
        assert seen.weight.gt(0).any(1).all()

    def test_what_is_drawn_for_a_signal_is_up_to_the_generator_and_the_signal(
        self, corruption: Corruption, observations: Observations
    ) -> None:
        together = self.seen(corruption, observations)
        order = torch.tensor([3, 1, 4, 0, 2])
        for part in (order, order[:1], order[3:]):
            alone = self.seen(corruption, observations.rows(part))
            assert torch.equal(alone.values, together.values[part])
            assert torch.equal(alone.weight, together.weight[part])

    def test_it_is_drawn_anew_each_time(self, corruption: Corruption, observations: Observations) -> None:
        def both(seen: Observations) -> Tensor:
            return torch.cat([seen.values[..., 0], seen.weight], 1)

        generator = torch.Generator().manual_seed(0)
        first, second = (both(corruption(observations, generator)) for _ in range(2))
        assert torch.equal(first, second) != self.draws
        assert torch.equal(first, both(self.seen(corruption, observations, 0)))

    def test_alike_signals_of_other_numbers_are_changed_in_other_ways(
        self, corruption: Corruption, observations: Observations
    ) -> None:
        if not self.draws:
            pytest.skip("this corruption draws nothing")
        values = observations.values[:1].expand(5, -1, -1)
        seen = self.seen(corruption, Observations(observations.index, observations.coords, values, observations.weight))
        assert torch.pdist(seen.values.flatten(1)).gt(0).all()

    def test_it_says_what_is_scored(self, corruption: Corruption) -> None:
        assert corruption.scores in ("all", "seen")
