"""Priors of codes: the contract, and equality with torch's distributions."""

import pytest
import torch
from contracts.prior import PriorContract
from torch import Tensor
from torch import distributions as d

from neuralfield.latents.priors import Gaussian, Isotropic, Prior
from neuralfield.types import Latent


class TestIsotropic(PriorContract):
    def make(self) -> Prior:
        return Isotropic(3)

    @pytest.mark.parametrize("std", [0.1, 1.0, 7.0])
    def test_it_is_the_normal_density(self, std: float, codes: Tensor) -> None:
        expected = -d.Normal(0.0, std).log_prob(codes[:100].double()).sum(1)
        torch.testing.assert_close(Isotropic(3, std).cost(Latent(codes[:100])).double(), expected, rtol=1e-5, atol=1e-5)

    def test_fitting_gives_the_root_mean_square(self, codes: Tensor) -> None:
        assert Isotropic(3).fit(codes).state_dict()["std"].item() == pytest.approx(codes.square().mean().sqrt().item())

    def test_a_spread_that_is_not_positive_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"prior.std must be positive, got 0"):
            Isotropic(3, 0.0)


class TestGaussian(PriorContract):
    def make(self) -> Prior:
        return Gaussian(3)

    def test_it_is_the_multivariate_normal_of_its_moments(self, codes: Tensor) -> None:
        prior = Gaussian(3).fit(codes)
        covariance = prior.factor.double() @ prior.factor.double().T
        expected = -d.MultivariateNormal(prior.mean.double(), covariance).log_prob(codes[:100].double())
        torch.testing.assert_close(prior.cost(Latent(codes[:100])).double(), expected, rtol=1e-4, atol=1e-4)

    def test_fitting_recovers_mean_and_covariance(self, codes: Tensor) -> None:
        prior = Gaussian(3).fit(codes)
        torch.testing.assert_close(prior.mean, codes.mean(0))
        # 0.3 pseudo-observations among 4000 move it by less than 1e-4 of its size
        torch.testing.assert_close(prior.factor @ prior.factor.T, torch.cov(codes.T, correction=0), rtol=0, atol=1e-3)

    def test_samples_have_its_moments(self, codes: Tensor) -> None:
        prior = Gaussian(3).fit(codes)
        samples = prior.sample(50_000, torch.Generator().manual_seed(0))
        # standard errors of 50,000 samples are below 0.005 for these moments
        torch.testing.assert_close(samples.mean(0), prior.mean, rtol=0, atol=0.02)
        torch.testing.assert_close(torch.cov(samples.T), prior.factor @ prior.factor.T, rtol=0, atol=0.03)

    def test_before_fitting_it_is_the_standard_normal(self, codes: Tensor) -> None:
        torch.testing.assert_close(Gaussian(3).cost(Latent(codes)), Isotropic(3).cost(Latent(codes)))
