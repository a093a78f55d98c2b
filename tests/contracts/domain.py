"""Laws of every domain."""

import numpy as np
import pytest
import torch

from neuralfield.domains.domain import Domain
from neuralfield.registry import names
from neuralfield.types import Field, Observations


def constant(domain: Domain, levels: torch.Tensor) -> Field:
    """Fields that are `levels` [B] everywhere."""
    return Field(lambda level, coords: level[:, None, None].expand(-1, coords.shape[1], domain.value_dim), levels)


def exact(truth: Observations) -> Field:
    """The field whose values at the truth's own points are the truth."""
    return Field(lambda values, coords: values, truth.values)


class DomainContract:
    """Give `domain` and `truth`: three signals, known everywhere, on the domain's own grid where it has one."""

    @pytest.fixture
    def domain(self) -> Domain:
        raise NotImplementedError

    @pytest.fixture
    def truth(self, domain: Domain) -> Observations:
        raise NotImplementedError

    def test_signals_have_the_domains_dimensions(self, domain: Domain, truth: Observations) -> None:
        assert truth.coords.shape[-1] == domain.coord_dim
        assert truth.values.shape[-1] == domain.value_dim

    def test_the_default_likelihood_exists(self, domain: Domain) -> None:
        assert domain.likelihood in names("likelihoods")

    @pytest.mark.parametrize("resolution", [None, 1, 7, 32])
    def test_a_grid_has_distinct_points_inside_the_unit_cube(self, domain: Domain, resolution: int | None) -> None:
        grid, shape = domain.grid(resolution), domain.grid_shape(resolution)
        assert grid.shape == (1, int(np.prod(shape)), domain.coord_dim)
        assert grid.abs().max() <= 1
        assert len(grid[0].unique(dim=0)) == grid.shape[1]
        assert resolution is None or max(shape) == resolution

    def test_the_own_grid_is_the_grid_without_a_resolution(self, domain: Domain) -> None:
        if domain.shape is None:
            pytest.skip("this domain has no grid of its own")
        assert domain.grid_shape() == tuple(domain.shape)

    def test_scores_are_one_finite_number_per_signal_and_include_the_headline(self, domain: Domain, truth: Observations) -> None:
        for field in (exact(truth), constant(domain, torch.tensor([0.0, 0.5, 1.0]))):
            scores = domain.score(field, truth)
            assert domain.headline in scores
            for values in scores.values():
                assert values.shape == (len(truth),)
                assert values.isfinite().all()

    def test_a_signal_has_the_same_score_alone_and_in_a_batch(self, domain: Domain, truth: Observations) -> None:
        levels = torch.tensor([0.1, 0.5, 0.9])
        together = domain.score(constant(domain, levels), truth)
        for i in range(len(truth)):
            alone = domain.score(constant(domain, levels[i : i + 1]), truth.rows(slice(i, i + 1)))
            for name, values in alone.items():
                # sums of the same float32 numbers, in an order that may differ
                torch.testing.assert_close(values[0], together[name][i], rtol=1e-5, atol=1e-6)

    def test_what_is_hidden_has_no_influence_on_scores(self, domain: Domain, truth: Observations) -> None:
        seen = torch.rand(truth.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
        weight = truth.weight * seen
        field = constant(domain, torch.tensor([0.1, 0.5, 0.9]))
        plain = domain.score(field, Observations(truth.index, truth.coords, truth.values, weight))
        for filling in (torch.nan, 1e9):
            values = torch.where(seen[..., None], truth.values, torch.tensor(filling))
            filled = domain.score(field, Observations(truth.index, truth.coords, values, weight))
            assert all(torch.equal(filled[name], plain[name]) for name in plain)

    def test_a_signal_of_which_nothing_is_known_has_no_score(self, domain: Domain, truth: Observations) -> None:
        weight = truth.weight.clone()
        weight[1] = 0
        scores = domain.score(constant(domain, torch.rand(3)), Observations(truth.index, truth.coords, truth.values, weight))
        for values in scores.values():
            assert values.isfinite().tolist() == [True, False, True]

    @pytest.mark.parametrize("resolution", [None, 5, 40])
    def test_pictures_have_the_grids_size_and_eight_bits(self, domain: Domain, resolution: int | None) -> None:
        pictures = domain.render(constant(domain, torch.tensor([0.0, 0.4, 2.0])), resolution)
        assert pictures.dtype == np.uint8
        assert pictures.shape[0] == 3
        assert pictures.shape[-1] == 3

    def test_scores_and_pictures_need_no_gradients(self, domain: Domain, truth: Observations) -> None:
        weight = torch.nn.Parameter(torch.ones(()))
        inner = constant(domain, torch.rand(3))
        field = Field(lambda level, coords: weight * inner.evaluate(level, coords), inner.conditioning)
        assert not any(values.requires_grad for values in domain.score(field, truth).values())
        domain.render(field)

    def test_what_was_seen_can_be_drawn_and_hidden_looks_different(self, domain: Domain, truth: Observations) -> None:
        whole = domain.draw(truth)
        assert whole.dtype == np.uint8
        assert len(whole) == len(truth)
        half = domain.draw(truth.split(torch.arange(truth.weight.shape[1]).expand(truth.weight.shape) % 2 == 0)[0])
        assert half.shape == whole.shape
        assert not np.array_equal(half, whole)

    def test_sides_of_an_axis_are_opposite_and_others_are_refused_by_name(self, domain: Domain) -> None:
        for number, name in enumerate("xyz"[: domain.coord_dim]):
            assert domain.axis(name) == (number, -1)
            assert domain.axis(f"-{name}") == (number, 1)
        with pytest.raises(Exception, match="sideways"):
            domain.axis("sideways")
