"""Likelihoods: the contract, and equality with torch's distributions."""

import pytest
import torch
from contracts.likelihood import LikelihoodContract
from torch import Tensor
from torch import distributions as d

from neuralfield.likelihoods import Bernoulli, ClampedL1, Gaussian, Likelihood, Relative


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


class TestRelative(LikelihoodContract):
    least_squares = True
    knows_quantiles = True
    even = False
    within = 0.05

    @pytest.fixture
    def likelihood(self) -> Likelihood:
        return Relative(0.05, near=0.4)

    def test_it_is_the_normal_density_whose_spread_grows_with_the_value(self, predicted: Tensor, values: Tensor) -> None:
        assert (values < 0.4).any()
        assert (values > 0.4).any()
        spread = 0.05 * torch.where(values > 0.4, values / 0.4, 1.0).double()
        expected = -d.Normal(predicted.double(), spread).log_prob(values.double()).sum(-1)
        torch.testing.assert_close(Relative(0.05, near=0.4).nll(predicted, values).double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(Relative(0.05, 0.4).nll(-predicted, -values), Relative(0.05, 0.4).nll(predicted, values))

    def test_far_away_the_same_share_of_the_value_costs_the_same(self) -> None:
        values = torch.tensor([0.5, 1.0, 8.0]).reshape(1, 3, 1)
        torch.testing.assert_close(Relative().residual(1.1 * values, values), torch.ones(1, 3, 1), rtol=1e-5, atol=0)  # .1 / .1

    @pytest.mark.parametrize(("std", "near"), [(0.0, 0.1), (0.1, -1.0), (float("nan"), 0.1)])
    def test_a_spread_that_is_not_positive_is_refused(self, std: float, near: float) -> None:
        with pytest.raises(ValueError, match=f"must be positive, got {std} and {near}"):
            Relative(std, near)


class TestClampedL1(LikelihoodContract):
    least_squares = False
    knows_quantiles = True
    smooth = False
    within = 0.01

    @pytest.fixture
    def likelihood(self) -> Likelihood:
        return ClampedL1(0.002, clamp=0.1)

    def test_within_the_clamp_it_is_laplaces_density(self, near: Tensor, values: Tensor) -> None:
        expected = -d.Laplace(near.double(), 0.002).log_prob(0.1 * values.double()).sum(-1)
        torch.testing.assert_close(ClampedL1(0.002, 0.1).nll(near, 0.1 * values).double(), expected, rtol=1e-5, atol=1e-4)

    def test_beyond_the_clamp_only_the_side_counts(self, likelihood: Likelihood) -> None:
        def cost(predicted: float, value: float) -> float:
            return likelihood.nll(*(torch.full((1, 1, 1), number) for number in (predicted, value))).item()

        assert cost(0.1, 0.1) == cost(0.7, 0.1) == cost(0.7, 3.0) == cost(0.1, 3.0)
        assert cost(-0.1, -0.1) == cost(-0.7, -3.0)
        # on the wrong side there is a way back
        assert cost(0.1, -0.1) < cost(0.2, -0.1) < cost(3.0, -0.1)

    def test_without_a_leak_it_is_deepsdfs(self, predicted: Tensor, values: Tensor) -> None:
        apart = predicted.clamp(-0.1, 0.1) - (values - 0.5).clamp(-0.1, 0.1)
        ours = ClampedL1(1.0, 0.1, leak=0.0).nll(predicted, values - 0.5)
        torch.testing.assert_close(ours - ours.new_tensor(2.0).log() * 2, apart.abs().sum(-1))

    @pytest.mark.parametrize("wrong", [(0.0, 0.1, 0.0), (0.1, 0.0, 0.0), (0.1, 0.1, -0.1), (0.1, 0.1, 1.1)])
    def test_arguments_that_mean_nothing_are_refused(self, wrong: tuple[float, float, float]) -> None:
        with pytest.raises(ValueError, match=r"likelihood\.scale and clamp must be positive and leak in \[0, 1\]"):
            ClampedL1(*wrong)


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
