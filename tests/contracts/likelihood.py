"""Laws of every likelihood."""

import pytest
import torch
from torch import Tensor

from neuralfield.likelihoods import Likelihood


class LikelihoodContract:
    """Give `likelihood`, `predicted` and `values` [3, 5, 2], and whether it is a sum of squares (`least_squares`)."""

    least_squares: bool

    @pytest.fixture
    def likelihood(self) -> Likelihood:
        raise NotImplementedError

    @pytest.fixture
    def predicted(self) -> Tensor:
        return torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))

    @pytest.fixture
    def values(self) -> Tensor:
        return torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(1))

    def test_nats_are_summed_over_value_dimensions(self, likelihood: Likelihood, predicted: Tensor, values: Tensor) -> None:
        each = [likelihood.nll(predicted[..., v : v + 1], values[..., v : v + 1]) for v in range(2)]
        torch.testing.assert_close(likelihood.nll(predicted, values), sum(each))

    def test_points_are_independent(self, likelihood: Likelihood, predicted: Tensor, values: Tensor) -> None:
        assert torch.equal(likelihood.nll(predicted[:, 2:3], values[:, 2:3]), likelihood.nll(predicted, values)[:, 2:3])

    def test_the_mean_is_in_the_data_units_and_is_the_best_prediction(
        self, likelihood: Likelihood, predicted: Tensor, values: Tensor
    ) -> None:
        # p(v | m) is an exponential family with mean m: seeing v = m costs less than any other prediction
        seen = likelihood.mean(predicted)
        assert seen.shape == predicted.shape
        best = likelihood.nll(predicted, seen)
        for step in (-0.3, 0.1):
            assert (likelihood.nll(predicted + step, seen) > best).all()

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
        torch.testing.assert_close(constant, constant[:1, :1].expand_as(constant), rtol=1e-5, atol=1e-4)
