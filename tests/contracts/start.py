"""Laws of every start of a search."""

from pathlib import Path

import pytest
import torch
from synthetic import Counting

import neuralfield as nf
import neuralfield.files as files
from neuralfield.inference.starts import Start
from neuralfield.registry import resolve
from neuralfield.types import Observations


class StartContract:
    """Give `kind`, the start's name in the registry; `run` and `images` may be those of another domain."""

    kind: str

    @pytest.fixture
    def start(self, run: nf.Run, images: nf.Signals) -> Start:
        start: Start = resolve("starts", self.kind)(run.codes)
        start.fit(lambda: images.batches(10), torch.Generator().manual_seed(0))
        return start

    @pytest.fixture
    def observations(self, images: nf.Signals) -> Observations:
        """Five signals of which each has lost another half of its points."""
        batch = images.batch(torch.arange(5))
        return batch.split(torch.rand(batch.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5)[0]

    @staticmethod
    def codes(start: Start, run: nf.Run, observations: Observations) -> torch.Tensor:
        return start(observations, run.decoder, run.model.objective).mean

    def test_one_finite_code_per_signal(self, start: Start, run: nf.Run, observations: Observations) -> None:
        z = self.codes(start, run, observations)
        assert z.shape == (5, run.codes.shape[1])
        assert z.isfinite().all()

    def test_a_signal_has_the_same_start_alone_and_in_a_batch(self, start: Start, run: nf.Run, images: nf.Signals) -> None:
        batch = images.batch(torch.arange(5))
        alone = torch.cat([self.codes(start, run, batch.rows(slice(i, i + 1))) for i in range(5)])
        # linear systems of the same float32 numbers, solved together or one by one
        torch.testing.assert_close(self.codes(start, run, batch), alone, rtol=1e-3, atol=1e-3)

    def test_what_is_hidden_has_no_influence_bit_for_bit(self, start: Start, run: nf.Run, observations: Observations) -> None:
        plain = self.codes(start, run, observations)
        for filling in (torch.nan, 1e9):
            values = torch.where((observations.weight > 0)[..., None], observations.values, torch.tensor(filling))
            filled = Observations(observations.index, observations.coords, values, observations.weight)
            assert torch.equal(self.codes(start, run, filled), plain)

    @pytest.mark.parametrize("level", [0.0, 1.0, 1e6])
    @pytest.mark.parametrize("seen", [1, 64])
    def test_constant_and_huge_signals_and_single_points_have_finite_codes(
        self, start: Start, run: nf.Run, images: nf.Signals, level: float, seen: int
    ) -> None:
        whole = images.batch(torch.arange(3))
        weight = torch.zeros_like(whole.weight)
        weight[:, :seen] = 1
        odd = Observations(whole.index, whole.coords, torch.full_like(whole.values, level), weight)
        assert self.codes(start, run, odd).isfinite().all()

    def test_points_may_lie_anywhere_and_differ_from_signal_to_signal(self, start: Start, run: nf.Run) -> None:
        draw = torch.Generator().manual_seed(2)
        scattered = Observations(
            torch.arange(3),
            torch.rand(3, 9, run.domain.coord_dim, generator=draw) * 2 - 1,
            torch.rand(3, 9, run.domain.value_dim, generator=draw),
            torch.ones(3, 9),
        )
        assert self.codes(start, run, scattered).shape == (3, run.codes.shape[1])

    def test_what_was_learned_travels_in_the_state(self, start: Start, run: nf.Run, observations: Observations) -> None:
        other: Start = resolve("starts", self.kind)(run.codes)
        files.restore(other, start.state_dict(), Path("inference.safetensors"))
        assert torch.equal(self.codes(other, run, observations), self.codes(start, run, observations))

    @pytest.mark.parametrize("shared", [True, False])
    def test_evaluations_per_observed_point_are_the_work_that_was_done(
        self, start: Start, run: nf.Run, observations: Observations, shared: bool
    ) -> None:
        coords = observations.coords if shared else observations.coords.expand(5, -1, -1).contiguous()
        batch = Observations(observations.index, coords, observations.values, observations.weight)
        counting = Counting(run.decoder)
        start(batch, counting, run.model.objective)
        seen = (batch.weight > 0).sum(1)
        charged = start.evaluations(batch, run.decoder)
        assert float((charged * seen).sum()) == pytest.approx(counting.work, rel=1e-6)
