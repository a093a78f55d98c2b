"""Laws of every domain."""

import numpy as np
import pytest
import torch

from neuralfield.domains.domain import Domain
from neuralfield.domains.ensembles import Drawn
from neuralfield.errors import NeuralfieldError
from neuralfield.registry import names
from neuralfield.types import Field, Observations


def constant(domain: Domain, levels: torch.Tensor) -> Field:
    """Fields that are `levels` [B] everywhere."""
    return Field(lambda level, coords: level[:, None, None].expand(-1, coords.shape[1], domain.value_dim), levels)


def exact(truth: Observations) -> Field:
    """The field whose values at the truth's own points are the truth."""
    return Field(lambda values, coords: values, truth.values)


class DomainContract:
    """Give `domain` and `truth`: three signals, known everywhere, on the domain's own grid where it has one.

    A grid has `least` samples along its longer side, or more. `different` are fields that look different from each other.
    """

    least = 1

    def different(self, domain: Domain, levels: list[float]) -> Field:
        """A field for each level, in (0, 1)."""
        return constant(domain, torch.tensor(levels))

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
        if resolution is not None and resolution < self.least:
            with pytest.raises(NeuralfieldError, match=f"at least {self.least} .*, got {resolution}"):
                domain.grid(resolution)
            return
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
        for field in (constant(domain, torch.tensor([0.0, 0.4, 2.0])), self.different(domain, [0.2, 0.5, 0.9])):
            pictures = domain.render(field, resolution)
            assert pictures.dtype == np.uint8
            assert pictures.shape[0] == 3
            assert pictures.shape[-1] == 3
        assert len({picture.tobytes() for picture in pictures}) == 3

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

    # bands

    @pytest.fixture
    def samples(self, domain: Domain, truth: Observations) -> torch.Tensor:
        """50 draws around every value of the truth [S, B, N, V]."""
        return truth.values + 0.5 * torch.randn(50, *truth.values.shape, generator=torch.Generator().manual_seed(4))

    def test_samples_add_scores_and_change_none(self, domain: Domain, truth: Observations, samples: torch.Tensor) -> None:
        plain, banded = domain.score(exact(truth), truth), domain.score(exact(truth), truth, samples)
        assert all(torch.equal(banded[name], values) for name, values in plain.items())
        assert set(banded) - set(plain) in (set(), {"crps", "width90", "coverage90"})
        for values in banded.values():
            assert values.shape == (3,)
            assert values.isfinite().all()
        if "coverage90" in banded:
            assert (banded["crps"] > 0).all()
            assert (banded["width90"] > 0).all()
            assert ((banded["coverage90"] >= 0) & (banded["coverage90"] <= 1)).all()

    def test_what_is_hidden_has_no_influence_on_scores_of_bands(
        self, domain: Domain, truth: Observations, samples: torch.Tensor
    ) -> None:
        seen = torch.rand(truth.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
        seen[:, 0] = True
        some = truth.split(seen)[0]
        plain = domain.score(exact(truth), some, samples)
        wild = torch.where(seen[..., None], samples, torch.tensor(1e9))
        assert all(torch.equal(values, plain[name]) for name, values in domain.score(exact(truth), some, wild).items())

    def test_a_signal_of_which_nothing_is_known_has_no_score_of_its_band(
        self, domain: Domain, truth: Observations, samples: torch.Tensor
    ) -> None:
        blind = truth.split(torch.tensor([True, False, True])[:, None].expand(truth.weight.shape))[0]
        for values in domain.score(exact(truth), blind, samples).values():
            assert values.isfinite().tolist() == [True, False, True]

    # in the user's units

    def test_columns_name_every_coordinate_and_every_value_once(self, domain: Domain) -> None:
        axes, names = domain.columns
        assert len(axes) == domain.coord_dim
        assert len(names) == domain.value_dim
        assert len({*axes, *names}) == domain.coord_dim + domain.value_dim

    def test_units_rise_along_every_axis(self, domain: Domain, truth: Observations) -> None:
        coords, values = domain.in_units(truth.coords[0], truth.values)
        assert coords.shape == truth.coords[0].shape
        assert values.shape == truth.values.shape
        for outside, inside in ((coords, truth.coords[0]), (values, truth.values)):
            flat, given = outside.double().reshape(-1, outside.shape[-1]), inside.double().reshape(-1, inside.shape[-1])
            for column in range(flat.shape[1]):
                assert flat[given[:, column].argsort(), column].diff().min() >= 0
                assert flat[:, column].isfinite().all()
                assert len(flat[:, column].unique()) == len(given[:, column].unique()) > 1

    # completions, looked at

    @pytest.mark.parametrize("banded", [False, True])
    def test_completed_signals_are_shown_in_rows_of_pictures_of_one_size(
        self, domain: Domain, truth: Observations, banded: bool
    ) -> None:
        seen = torch.arange(truth.weight.shape[1]).expand(truth.weight.shape) % 2 == 0
        field = self.different(domain, [0.1, 0.5, 0.9])
        draws = 0.3 * torch.randn(20, 3, domain.grid().shape[1], domain.value_dim, generator=torch.Generator().manual_seed(0))
        samples = field(domain.grid()) + draws
        drawn = Drawn(samples, samples) if banded else None
        rows = domain.panels(*truth.split(seen), field, drawn)
        pictures = list(rows.values())
        assert len({page.shape[1:] for page in pictures}) == 1
        assert all(page.dtype == np.uint8 and page.shape[-1] == 3 for page in pictures)
        assert sum(map(len, pictures)) >= 3
        other = self.different(domain, [0.9, 0.1, 0.5])
        changed = list(domain.panels(*truth.split(seen), other, drawn).values())
        assert any(not np.array_equal(a, b) for a, b in zip(pictures, changed, strict=True))

    def test_what_was_hidden_is_shown_where_it_is_known(self, domain: Domain, truth: Observations) -> None:
        seen = torch.arange(truth.weight.shape[1]).expand(truth.weight.shape) % 2 == 0
        observed, hidden = truth.split(seen)
        nothing = hidden.split(torch.zeros_like(seen))[0]
        field = constant(domain, torch.tensor([0.1, 0.5, 0.9]))
        known, unknown = (list(domain.panels(observed, other, field).values()) for other in (hidden, nothing))
        assert len(known) != len(unknown) or any(not np.array_equal(a, b) for a, b in zip(known, unknown, strict=True))
