"""Laws of every data set."""

import pytest
import torch

from neuralfield.registry import resolve
from neuralfield.signals.signals import Signals


class SignalsContract:
    """Give `signals`: at least five of them. `replaces` says that a draw may take a point twice."""

    replaces = False

    @pytest.fixture
    def signals(self) -> Signals:
        raise NotImplementedError

    def test_every_signal_has_an_id_of_its_own(self, signals: Signals) -> None:
        assert len(signals) == len(signals.ids) == len(set(signals.ids)) >= 5

    def test_the_domain_can_be_built_for_them(self, signals: Signals) -> None:
        domain = resolve("domains", signals.domain)(**signals.domain_arguments)
        truth = signals.truth(torch.arange(2))
        assert truth.coords.shape[-1] == domain.coord_dim
        assert truth.values.shape[-1] == domain.value_dim

    def test_a_batch_holds_the_signals_asked_for_in_that_order(self, signals: Signals) -> None:
        batch = signals.batch(torch.tensor([3, 0, 4]))
        assert batch.index.tolist() == [3, 0, 4]
        for row, i in enumerate((3, 0, 4)):
            alone = signals.batch(torch.tensor([i]))
            n = alone.weight.shape[1]  # others in the batch may have more points
            assert torch.equal(batch.values[row, :n], alone.values[0])
            assert torch.equal(batch.weight[row, :n], alone.weight[0])
            assert torch.equal(batch.coords[row % len(batch.coords), :n], alone.coords[0])
            assert batch.weight[row, n:].eq(0).all()

    def test_values_are_finite_and_points_lie_in_the_unit_cube(self, signals: Signals) -> None:
        for batch in signals.batches(100):
            assert batch.values.isfinite().all()
            assert batch.coords.abs().max() <= 1

    def test_batches_go_over_all_in_order_whatever_their_size(self, signals: Signals) -> None:
        for size in (1, 3, len(signals) + 1):
            assert torch.cat([batch.index for batch in signals.batches(size)]).tolist() == list(range(len(signals)))

    def test_drawn_points_are_points_of_the_truth_and_stand_for_all(self, signals: Signals) -> None:
        index = torch.arange(3)
        truth = signals.truth(index)
        drawn = signals.batch(index, 5, torch.Generator().manual_seed(0))
        assert drawn.values.shape[1] == 5
        distance = torch.cdist(drawn.coords, truth.coords, compute_mode="donot_use_mm_for_euclid_dist")
        assert (distance.min(-1).values == 0).all()
        where, known = distance.argmin(-1).expand(3, -1), drawn.weight > 0
        assert torch.equal(drawn.values[known], truth.values.gather(1, where[..., None].expand(drawn.values.shape))[known])
        assert self.replaces or all(len(where[i, known[i]].unique()) == known[i].sum() for i in range(3))
        if (
            len(truth.coords) == 1
        ):  # one draw for all, of N points: a weight of N / n each, so that sums over it estimate whole sums
            stands_for = torch.full((3, 1), truth.weight.shape[1] / 5)
        else:  # a draw of its own for each signal, of its known points: they stand for all that are known, and those alone
            count = (truth.weight > 0).sum(1)
            assert torch.equal(known.sum(1), count.clamp(max=5))
            stands_for = (count / count.clamp(1, 5))[:, None]
        torch.testing.assert_close(drawn.weight[known], (truth.weight.gather(1, where) * stands_for)[known])

    def test_a_draw_depends_on_its_generator_alone(self, signals: Signals) -> None:
        def drawn(seed: int) -> torch.Tensor:
            return signals.batch(torch.arange(3), 5, torch.Generator().manual_seed(seed)).coords

        torch.manual_seed(1)
        first = drawn(0)
        torch.manual_seed(2)
        assert torch.equal(drawn(0), first)
        assert not torch.equal(drawn(1), first)

    def test_a_selection_is_a_data_set_of_its_own(self, signals: Signals) -> None:
        which = torch.tensor([4, 1])
        some = signals.select(which)
        assert some.ids == [signals.ids[4], signals.ids[1]]
        assert some.domain_arguments == signals.domain_arguments
        assert torch.equal(some.truth(torch.arange(2)).values, signals.truth(which).values)
        assert some.truth(torch.arange(2)).index.tolist() == [0, 1]
        assert (some.labels is None) == (signals.labels is None)
        if some.labels is not None and signals.labels is not None:
            assert torch.equal(some.labels, signals.labels[which])

    def test_a_run_fitted_to_these_signals_sees_them_as_they_are(self, signals: Signals) -> None:
        alike, index = signals.like(signals.domain_arguments), torch.arange(3)
        assert alike.ids == signals.ids
        assert torch.equal(alike.truth(index).values, signals.truth(index).values)
        assert torch.equal(alike.truth(index).coords, signals.truth(index).coords)
