"""Laws of every likelihood."""

import pytest
import torch
from torch import Tensor

from neuralfield.likelihoods import Likelihood

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class LikelihoodContract:
    """Give `likelihood`, and whether it is a sum of squares (`least_squares`) and knows its quantiles.

    `smooth` says that it has a second derivative everywhere; a kind without gives the curvature of a parabola above it.
    `even` says that the spread is the same whatever the value is. Predictions of size `within` are where it is no flatter than
    near its value, and where quantiles are asked for.
    """

    least_squares: bool
    knows_quantiles: bool
    smooth = True
    even = True
    within = 1.0

    @pytest.fixture
    def likelihood(self) -> Likelihood:
        raise NotImplementedError

    @pytest.fixture
    def predicted(self) -> Tensor:
        return torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))

    @pytest.fixture
    def near(self, predicted: Tensor) -> Tensor:
        return self.within * predicted

    @pytest.fixture
    def values(self) -> Tensor:
        return torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(1))

    def test_nats_are_summed_over_value_dimensions(self, likelihood: Likelihood, predicted: Tensor, values: Tensor) -> None:
        each = [likelihood.nll(predicted[..., v : v + 1], values[..., v : v + 1]) for v in range(2)]
        torch.testing.assert_close(likelihood.nll(predicted, values), sum(each))

    def test_points_are_independent(self, likelihood: Likelihood, predicted: Tensor, values: Tensor) -> None:
        if not likelihood.pointwise:
            pytest.skip("this likelihood compares signals as a whole")
        assert torch.equal(likelihood.nll(predicted[:, 2:3], values[:, 2:3]), likelihood.nll(predicted, values)[:, 2:3])

    def test_the_mean_is_in_the_data_units_and_is_the_best_prediction(
        self, likelihood: Likelihood, near: Tensor, values: Tensor
    ) -> None:
        # seeing v = m costs less than any other prediction
        seen = likelihood.mean(near)
        assert seen.shape == near.shape
        best = likelihood.nll(near, seen)
        for step in (-0.3, 0.1):
            assert (likelihood.nll(near + step, seen) > best).all()

    def test_signals_are_independent(self, likelihood: Likelihood, predicted: Tensor, values: Tensor) -> None:
        torch.testing.assert_close(likelihood.nll(predicted[1:2], values[1:2]), likelihood.nll(predicted, values)[1:2])

    def test_the_gradient_vanishes_where_the_prediction_is_the_value(self, likelihood: Likelihood, predicted: Tensor) -> None:
        predicted = predicted.clone().requires_grad_()
        likelihood.nll(predicted, likelihood.mean(predicted).detach()).sum().backward()
        assert predicted.grad is not None
        assert predicted.grad.abs().max() < 1e-5  # of gradients that are 1 and more elsewhere

    def test_residuals_are_the_nll_or_are_refused(self, likelihood: Likelihood, predicted: Tensor, values: Tensor) -> None:
        if not self.least_squares:
            with pytest.raises(NotImplementedError, match=type(likelihood).__name__):
                likelihood.residual(predicted, values)
            return
        residual = likelihood.residual(predicted, values)
        assert residual.shape == values.shape
        constant = likelihood.nll(predicted, values) - residual.square().sum(-1) / 2
        other = likelihood.nll(values, values) - likelihood.residual(values, values).square().sum(-1) / 2
        torch.testing.assert_close(constant, other, rtol=1e-5, atol=1e-4)
        if self.even:
            torch.testing.assert_close(constant, constant[:1, :1].expand_as(constant), rtol=1e-5, atol=1e-4)

    @pytest.fixture
    def far(self) -> Tensor:
        """What a search may pass: predictions of all sizes, in float64."""
        size = torch.logspace(-6, 4, 30, dtype=torch.float64).reshape(3, 5, 2)
        return size * torch.tensor([1.0, -1.0], dtype=torch.float64)

    def test_the_slope_is_the_derivative_of_the_nll(
        self, likelihood: Likelihood, predicted: Tensor, far: Tensor, values: Tensor
    ) -> None:
        for at in (predicted.double(), far):
            leaf = at.clone().requires_grad_()
            expected = torch.autograd.grad(likelihood.double().nll(leaf, values.double()).sum(), leaf)[0]
            torch.testing.assert_close(likelihood.slope(at, values.double()), expected, rtol=1e-10, atol=1e-10)

    def test_the_curvature_is_the_second_derivative_where_that_is_positive(
        self, likelihood: Likelihood, predicted: Tensor, far: Tensor, values: Tensor
    ) -> None:
        if not self.smooth:
            pytest.skip("this likelihood is not smooth: its curvature is that of a parabola above it")
        for at in (predicted.double(), far):
            each = torch.autograd.functional.hessian(lambda p: likelihood.double().nll(p, values.double()).sum(), at)
            assert isinstance(each, Tensor)
            expected = each.reshape(at.numel(), -1).diagonal().reshape(at.shape).clamp(min=0)
            torch.testing.assert_close(likelihood.curvature(at, values.double()), expected, rtol=1e-10, atol=1e-10)

    def test_without_a_second_derivative_the_parabola_of_slope_and_curvature_lies_above(
        self, likelihood: Likelihood, predicted: Tensor, far: Tensor, near: Tensor, values: Tensor
    ) -> None:
        if self.smooth or not likelihood.pointwise:
            pytest.skip("its curvature is its second derivative, or it has one law for a whole signal")
        values, found = values.double().flatten(), 0
        for at in (predicted.double().flatten(), far.flatten(), far.flatten().flip(0), near.double().flatten()):
            pairs = [each.reshape(1, -1, 1) for each in (at, values)]
            slope, curvature = likelihood.slope(*pairs), likelihood.curvature(*pairs)
            moved = slope != 0  # where it is flat nothing moves, whatever the curvature
            found += int(moved.sum())
            for other in torch.linspace(-3, 3, 301, dtype=torch.float64):
                step = other - pairs[0]
                above = likelihood.nll(*pairs) + (slope * step + curvature / 2 * step.square()).sum(-1)
                assert (above - likelihood.nll(pairs[0] + step, pairs[1]))[moved[..., 0]].min() > -1e-9
        assert found > 20

    def test_of_a_whole_signal_that_parabola_lies_above_along_every_step(
        self, likelihood: Likelihood, predicted: Tensor, values: Tensor
    ) -> None:
        if likelihood.pointwise:
            pytest.skip("of independent points each has its own parabola")
        likelihood, values, draw = likelihood.double(), values.double(), torch.Generator().manual_seed(4)
        for size in (1.0, 100.0):  # predictions so far off that no difference is taken for a larger one
            at = values + size * (3 + predicted.double().abs())
            slope, curvature, before = likelihood.slope(at, values), likelihood.curvature(at, values), likelihood.nll(at, values)
            for length in (0.01, 1.0, 10.0, 1000.0):
                step = length * torch.randn(at.shape, generator=draw, dtype=torch.float64)
                promised = (slope * step + curvature / 2 * step.square()).sum((1, 2))
                rise = (likelihood.nll(at + step, values) - before).sum(1)
                assert (rise <= promised + 1e-9 * rise.abs()).all()

    def test_the_curvature_is_finite_and_nowhere_negative(
        self, likelihood: Likelihood, predicted: Tensor, far: Tensor, values: Tensor
    ) -> None:
        for at in (predicted, far.float(), far.float().flip(-1), likelihood.mean(predicted)):
            curvature = likelihood.curvature(at, values)
            assert curvature.shape == at.shape
            assert curvature.isfinite().all()
            assert (curvature >= 0).all()
            assert likelihood.slope(at, values).isfinite().all()

    def test_slope_and_curvature_carry_no_gradient_and_need_none(
        self, likelihood: Likelihood, predicted: Tensor, values: Tensor
    ) -> None:
        for derivative in (likelihood.slope, likelihood.curvature):
            plain = derivative(predicted, values)
            with torch.no_grad():
                assert torch.equal(derivative(predicted, values), plain)
            assert not plain.requires_grad

    def test_what_a_likelihood_says_of_its_derivatives_is_what_autograd_says(
        self, likelihood: Likelihood, predicted: Tensor, values: Tensor
    ) -> None:
        if not self.smooth:
            pytest.skip("this likelihood is not smooth: its curvature is that of a parabola above it")
        # in float32, derivatives of size 1 / spread^2
        torch.testing.assert_close(likelihood.slope(predicted, values), Likelihood.slope(likelihood, predicted, values), **CLOSE)
        said = likelihood.curvature(predicted, values)
        torch.testing.assert_close(said, Likelihood.curvature(likelihood, predicted, values), **CLOSE)

    @pytest.mark.parametrize("level", [0.05, 0.3, 0.5, 0.95])
    def test_a_share_of_the_density_of_the_nll_lies_below_a_quantile_or_it_is_the_mean(
        self, likelihood: Likelihood, near: Tensor, level: float
    ) -> None:
        predicted, levels = near.double(), torch.full((3, 1, 1), level, dtype=torch.float64)
        if not self.knows_quantiles:
            assert torch.equal(likelihood.quantile(predicted, levels), predicted)
            return
        quantile = likelihood.double().quantile(predicted, levels)
        assert quantile.shape == predicted.shape
        step = 0.001 * self.within
        below = quantile[:, :, :1, None] - step * (torch.arange(20_000) + 0.5)  # the first channel alone
        for b, n in ((0, 0), (2, 4)):
            values = below[b, n, 0][None, :, None]
            density = (-likelihood.nll(predicted[b, n, 0].expand_as(values), values)).exp()
            # midpoints of steps a hundredth of the spread and less, over all that is not zero
            assert float(density.sum()) * step == pytest.approx(level, abs=1e-4)

    def test_quantiles_rise_with_their_level_and_many_are_taken_at_once(self, likelihood: Likelihood, predicted: Tensor) -> None:
        if not self.knows_quantiles:
            pytest.skip("this likelihood knows no quantiles")
        levels = torch.tensor([0.1, 0.5, 0.8])[:, None, None, None].expand(3, 3, 1, 1)
        quantiles = likelihood.quantile(predicted.expand(3, *predicted.shape), levels)
        assert (quantiles.diff(dim=0) > 0).all()
        for level, quantile in zip(levels, quantiles, strict=True):
            assert torch.equal(likelihood.quantile(predicted, level), quantile)

    def test_a_noise_that_was_found_changes_nothing_where_nobody_asked(
        self, likelihood: Likelihood, predicted: Tensor, values: Tensor
    ) -> None:
        before = likelihood.nll(predicted, values)
        likelihood.learn(0.7)
        assert torch.equal(likelihood.nll(predicted, values), before)
