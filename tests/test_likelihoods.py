"""Likelihoods: the contract, and equality with torch's distributions."""

import pytest
import torch
from contracts.likelihood import LikelihoodContract
from torch import Tensor
from torch import distributions as d

from neuralfield.likelihoods import Bernoulli, Gaussian, Likelihood


class TestGaussian(LikelihoodContract):
    least_squares = True
    knows_quantiles = True

    @pytest.fixture
    def likelihood(self) -> Likelihood:
        return Gaussian(0.3)

    @pytest.mark.parametrize("std", [0.04, 1.0, 20.0])
    def test_it_is_the_normal_density(self, std: float, predicted: Tensor, values: Tensor) -> None:
        expected = -d.Normal(predicted.double(), std).log_prob(values.double()).sum(-1)
        torch.testing.assert_close(Gaussian(std).nll(predicted, values).double(), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(("noise", "std"), [(0.25, 0.5), (4.0, 2.0), (0.0, 1e-4), (1e-12, 1e-4)])
    def test_where_asked_it_learns_the_noise_of_the_data_down_to_a_least_one(self, noise: float, std: float) -> None:
        likelihood = Gaussian(0.3, noise="learned")
        likelihood.learn(noise)
        assert likelihood.std.item() == pytest.approx(std)

    @pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
    def test_a_spread_that_is_not_positive_is_refused(self, std: float) -> None:
        with pytest.raises(ValueError, match=f"likelihood.std must be positive, got {std}"):
            Gaussian(std)


class TestBernoulli(LikelihoodContract):
    least_squares = False
    knows_quantiles = False

    @pytest.fixture
    def likelihood(self) -> Likelihood:
        return Bernoulli()

    def test_it_is_torchs_bernoulli_for_black_and_white(self, predicted: Tensor, values: Tensor) -> None:
        values = values.round()
        expected = -d.Bernoulli(logits=predicted.double()).log_prob(values.double()).sum(-1)
        torch.testing.assert_close(Bernoulli().nll(predicted, values).double(), expected, rtol=1e-5, atol=1e-5)

    def test_grey_is_between_black_and_white(self, predicted: Tensor, values: Tensor) -> None:
        black, white = (Bernoulli().nll(predicted, torch.full_like(values, level)) for level in (0.0, 1.0))
        grey = Bernoulli().nll(predicted, torch.full_like(values, 0.25))
        torch.testing.assert_close(grey, 0.75 * black + 0.25 * white)

    def test_certain_logits_stay_finite(self) -> None:
        assert Bernoulli().nll(torch.full((1, 1, 1), 1e4), torch.zeros(1, 1, 1)).item() == pytest.approx(1e4)


class Cauchy(Likelihood):
    """A user's own: nothing but its density and its mean are given, and it is convex near the value alone."""

    def nll(self, predicted: Tensor, values: Tensor) -> Tensor:
        return torch.log1p(((predicted - values) / 0.3).square()).sum(-1)

    def mean(self, predicted: Tensor) -> Tensor:
        return predicted


class TestAUsersOwn(LikelihoodContract):
    least_squares = False
    knows_quantiles = False

    @pytest.fixture
    def likelihood(self) -> Likelihood:
        return Cauchy()

    def test_where_it_is_concave_no_curvature_is_left(self, values: Tensor) -> None:
        assert Cauchy().curvature(values + 0.31, values).eq(0).all()  # beyond its scale of .3
        assert (Cauchy().curvature(values + 0.29, values) > 0).all()


class Joined(Cauchy):
    """A cost of the sum over the channels: its second derivatives by two channels are not 0."""

    def nll(self, predicted: Tensor, values: Tensor) -> Tensor:
        return 0.5 * ((predicted - values).sum(-1) ** 2) + (predicted - values).square().sum(-1)


class Laplace(Cauchy):
    def nll(self, predicted: Tensor, values: Tensor) -> Tensor:
        return (predicted - values).abs().sum(-1)


class Straight(Cauchy):
    def nll(self, predicted: Tensor, values: Tensor) -> Tensor:
        return 2 * predicted.sum(-1)


def test_of_channels_that_hang_together_the_curvature_is_that_along_each(predicted: Tensor, values: Tensor) -> None:
    torch.testing.assert_close(Joined().curvature(predicted, values), torch.full_like(predicted, 3.0))


@pytest.mark.parametrize("likelihood", [Laplace(), Straight()])
def test_of_what_is_straight_the_curvature_is_zero(likelihood: Likelihood, predicted: Tensor, values: Tensor) -> None:
    assert likelihood.curvature(predicted, values).eq(0).all()
    assert likelihood.slope(predicted, values).abs().ge(1).all()


@pytest.fixture
def predicted() -> Tensor:
    return torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def values() -> Tensor:
    return torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(1))
