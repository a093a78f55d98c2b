"""Priors of codes: the contract, and equality with torch's distributions."""

import pytest
import torch
from contracts.prior import PriorContract, bounded
from synthetic import Unlike, fourier_basis
from torch import Tensor
from torch import distributions as d

from neuralfield.latents.kernel_density import CENTRES, KernelDensity
from neuralfield.latents.mixture import CODES_PER_COMPONENT, LEAST_SHARE, Mixture
from neuralfield.latents.norm import Norm
from neuralfield.latents.priors import Gaussian, Isotropic, Known, Prior
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


class TestNorm(PriorContract):
    is_mixture = False

    def make(self) -> Prior:
        return Norm(3)

    @pytest.mark.parametrize("weight", [0.5, 5000.0])
    def test_it_is_the_weighted_norm_and_the_constant_of_its_density(self, weight: float, codes: Tensor) -> None:
        prior = Norm(3, weight).double()
        # in three dimensions the density is weight^3 exp(-weight |z|) / 8 pi
        expected = weight * codes.double().norm(dim=1) - torch.tensor(weight**3 / (8 * torch.pi), dtype=torch.float64).log()
        torch.testing.assert_close(prior.cost(Latent(codes.double())), expected, rtol=1e-6, atol=1e-6)

    def test_lengths_of_samples_are_those_of_a_gamma_distribution(self) -> None:
        lengths = Norm(256, 50.0).sample(4000, torch.Generator().manual_seed(0)).norm(dim=1)
        # mean D / weight = 5.12, standard deviation sqrt(D) / weight = .32, of 4000 draws
        assert lengths.mean().item() == pytest.approx(5.12, abs=0.02)
        assert lengths.std().item() == pytest.approx(0.32, abs=0.015)

    def test_the_parabola_of_its_curvature_lies_above_the_cost(self, places: Tensor) -> None:
        prior = Norm(3, 2.0).double()
        leaf = places.clone().requires_grad_()
        cost = prior.cost(Latent(leaf))
        gradient = torch.autograd.grad(cost.sum(), leaf)[0]
        curvature = prior.curvature(Latent(places))
        for size in (0.1, 1.0, 100.0):
            step = size * torch.randn(places.shape, generator=torch.Generator().manual_seed(4)).double()
            parabola = cost + (gradient * step).sum(1) + 0.5 * torch.einsum("bd,bde,be->b", step, curvature, step)
            far = places.norm(dim=1) > 0.1  # nearer codes have the curvature of a code that is a hundredth of the usual length
            assert (prior.cost(Latent(places + step)) <= parabola + 1e-9)[far].all()

    def test_a_code_of_zero_has_a_finite_gradient(self) -> None:
        z = torch.zeros(1, 3, requires_grad=True)
        Norm(3).cost(Latent(z)).sum().backward()
        assert z.grad is not None
        assert z.grad.eq(0).all()

    def test_a_weight_that_is_not_positive_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"prior.weight must be positive, got 0"):
            Norm(3, 0.0)


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

    def test_it_adopts_the_variances_of_a_linear_model_and_little_beyond(self) -> None:
        prior, basis = Gaussian(3), fourier_basis(1, 1, 2)
        assert prior.adopt(basis)
        std = basis.variance.sqrt()
        assert torch.equal(prior.mean, torch.zeros(3))
        torch.testing.assert_close(prior.factor, torch.diag(torch.cat([std, 0.01 * basis.variance.mean().sqrt()[None]])))


class TestKernelDensity(PriorContract):
    def make(self) -> Prior:
        return KernelDensity(3)


class TestKernelDensityOfOneDirection(PriorContract):
    def make(self) -> Prior:
        return KernelDensity(3, leading=1)


class TestMixture(PriorContract):
    def make(self) -> Prior:
        return Mixture(3, components=2)

    @pytest.mark.parametrize("components", [0, -1])
    def test_fewer_components_than_one_are_refused(self, components: int) -> None:
        with pytest.raises(ValueError, match=f"at least 1, got {components}") as caught:
            Mixture(3, components)
        assert "\n" not in str(caught.value)


class TestMixtureOfOne(PriorContract):
    def make(self) -> Prior:
        return Mixture(3, components=1)


def moments(prior: KernelDensity) -> tuple[Tensor, Tensor]:
    """(mean, covariance) of the whole mixture, in float64: that of the centres joined by that of a component."""
    weights, means = prior.log_weights.double().exp(), prior.means.double()
    mean = weights @ means
    apart = means - mean
    return mean, (apart * weights[:, None]).T @ apart + prior.factor.double() @ prior.factor.double().T


def clusters(count: int = 200, dim: int = 3) -> Tensor:
    """Codes around four points of a cross that is 20 times as large as they are."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.zeros(4, dim)
    centres[0, 0], centres[1, 0], centres[2, 1], centres[3, 1] = 2.0, -2.0, 2.0, -2.0
    return centres[torch.arange(count) % 4] + 0.1 * torch.randn(count, dim, generator=draw)


@pytest.mark.parametrize("leading", [1, 2, 3, 8])
@pytest.mark.parametrize("cloud", ["normal", "clusters"])
def test_a_kernel_density_has_the_mean_and_the_covariance_of_what_it_was_fitted_to(leading: int, cloud: str) -> None:
    codes = clusters() if cloud == "clusters" else torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    spread = torch.tensor([[0.05, 0.01, 0.0], [0.01, 0.02, 0.0], [0.0, 0.0, 0.001]])
    known = Known(torch.cov(codes.T, correction=0) + spread, spread)
    mean, covariance = moments(KernelDensity(3, leading).fit(codes, known))
    # float32 means and factors of numbers of size 4
    torch.testing.assert_close(mean, codes.double().mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(covariance, known.covariance.double(), rtol=1e-4, atol=1e-5)
    alone, gaussian = KernelDensity(3, leading).fit(codes), Gaussian(3).fit(codes)
    # without `known`, .3 pseudo-observations join the covariance, but not the centres: 0.3 / 200 of the average variance
    expected = gaussian.factor.double() @ gaussian.factor.double().T
    torch.testing.assert_close(moments(alone)[1], expected, rtol=0, atol=0.3 / 200 * float(expected.diagonal().mean()) * 2)


def test_more_codes_than_centres_keep_mean_and_covariance_up_to_the_choice_of_centres() -> None:
    codes = clusters(3 * CENTRES)
    prior = KernelDensity(3).fit(codes)
    assert len(prior.means) == CENTRES
    mean, covariance = moments(prior)
    torch.testing.assert_close(mean, codes.double().mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(covariance, torch.cov(codes.T.double(), correction=0), rtol=0, atol=0.05)


def share_of_width(prior: KernelDensity) -> float:
    """Of the standard deviation of the whole along the first coordinate, what a component has: the bandwidth where it leads."""
    return float((prior.factor @ prior.factor.T)[0, 0].sqrt()) / float(moments(prior)[1][0, 0].sqrt())


def test_codes_in_clusters_get_narrow_components_and_none_between_them() -> None:
    codes = clusters()
    prior, gaussian = KernelDensity(3, leading=2).fit(codes), Gaussian(3).fit(codes)
    assert share_of_width(prior) < 0.5
    at, between = torch.tensor([[2.0, 0, 0], [0, -2.0, 0]]), torch.zeros(1, 3)
    assert (prior.cost(Latent(at)) < prior.cost(Latent(between)) - 1).all()  # e times as likely at least
    assert (gaussian.cost(Latent(at)) > gaussian.cost(Latent(between))).all()  # which cannot know
    assert prior.cost(Latent(codes)).mean() < gaussian.cost(Latent(codes)).mean() - 1


def test_normal_codes_get_components_about_as_wide_as_the_whole() -> None:
    codes = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    assert share_of_width(KernelDensity(3).fit(codes)) > 0.5


def test_one_component_as_wide_as_the_whole_is_the_gaussian_prior() -> None:
    codes = clusters(2)  # too few to choose a bandwidth by
    mixture, gaussian = KernelDensity(3).fit(codes), Gaussian(3).fit(codes)
    z = Latent(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(mixture.cost(z), gaussian.cost(z), rtol=1e-4, atol=1e-4)


# mixtures whose components have covariances of their own


@pytest.fixture
def places() -> Tensor:
    """Codes among the components, where several have a share, and far from all of them."""
    near = 1.5 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    return torch.cat([near, 20 * near[:5]]).double()


def test_of_unlike_components_the_curvature_is_that_of_each_by_its_share(places: Tensor) -> None:
    prior = Unlike().double()
    normals = d.MultivariateNormal(prior.means, prior.covariance)
    shares = torch.softmax(prior.log_weights + normals.log_prob(places[:, None]), 1)
    assert ((shares > 0.1).sum(1) > 1).any()
    expected = torch.einsum("bk,kde->bde", shares, torch.linalg.inv(prior.covariance))
    torch.testing.assert_close(prior.curvature(Latent(places)), expected, rtol=1e-9, atol=1e-9)


def test_unlike_components_too_cost_no_more_than_their_quadratic_bound(places: Tensor) -> None:
    bounded(Unlike(), places)


def test_equal_components_have_the_curvature_of_one_that_they_share(places: Tensor) -> None:
    apart, shared = Unlike().double(), KernelDensity(3).fit(torch.randn(12, 3)).double()
    apart.means, apart.log_weights = shared.means, shared.log_weights
    apart.covariance = (shared.factor @ shared.factor.T).expand(len(shared.means), -1, -1).clone()
    expected = shared.curvature(Latent(places)).expand(len(places), -1, -1)
    torch.testing.assert_close(apart.curvature(Latent(places)), expected, rtol=1e-9, atol=1e-9)


# a mixture that is fitted by EM


@pytest.mark.parametrize(("codes", "components"), [(1, 1), (199, 1), (200, 2), (399, 3), (1000, 4), (3000, 4)])
def test_small_banks_get_fewer_components(codes: int, components: int) -> None:
    prior = Mixture(3, components=4).fit(torch.randn(codes, 3, generator=torch.Generator().manual_seed(0)))
    assert len(prior.means) == components == max(1, min(4, codes // CODES_PER_COMPONENT))


def test_a_bank_too_small_for_two_components_has_the_gaussian_prior() -> None:
    codes = clusters(150)
    spread = torch.tensor([[0.05, 0.01, 0.0], [0.01, 0.02, 0.0], [0.0, 0.0, 0.001]])
    z = Latent(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)))
    for known in (None, Known(torch.cov(codes.T, correction=0) + spread, spread)):
        one, gaussian = Mixture(3).fit(codes, known), Gaussian(3).fit(codes, known)
        torch.testing.assert_close(one.cost(z), gaussian.cost(z), rtol=1e-4, atol=1e-4)


def kinds(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(codes of two kinds far apart, their means, their covariances): a third and two thirds of them."""
    draw = torch.Generator().manual_seed(0)
    means = torch.tensor([[4.0, 0.0, 0.0], [-4.0, 0.0, 1.0]])
    factors = torch.tensor([[[1.0, 0, 0], [0.5, 0.5, 0], [0, 0, 0.4]], [[0.3, 0, 0], [0, 1.0, 0], [0, -0.6, 0.5]]])
    which = (torch.arange(count) % 3 > 0).long()
    noise = torch.randn(count, 3, 1, generator=draw)
    return means[which] + (factors[which] @ noise)[..., 0], means, factors @ factors.mT


def test_two_kinds_of_codes_are_found_with_their_shares_and_covariances() -> None:
    codes, means, covariances = kinds(6000)
    prior = Mixture(3, components=2).fit(codes)
    order = prior.means[:, 0].argsort(descending=True)
    # standard errors of 2000 codes of variance 1: .022 of means, .032 of variances; and a fiftieth of the average variance
    least = LEAST_SHARE * float(torch.cov(codes.T, correction=0).diagonal().mean())
    torch.testing.assert_close(prior.log_weights[order].exp(), torch.tensor([1 / 3, 2 / 3]), rtol=0, atol=1e-3)
    torch.testing.assert_close(prior.means[order], means, rtol=0, atol=0.1)
    found = prior.components().covariance[order]
    torch.testing.assert_close(found, covariances + least * torch.eye(3), rtol=0, atol=0.13)


def test_what_is_not_known_of_each_code_is_added_to_every_component() -> None:
    codes, _, _ = kinds(600)
    spread = torch.tensor([[0.3, 0.1, 0.0], [0.1, 0.2, 0.0], [0.0, 0.0, 0.1]])
    known = Known(torch.cov(codes.T, correction=0) + spread, spread)
    wide, narrow = (Mixture(3, components=2).fit(codes, each).components() for each in (known, None))
    assert torch.equal(wide.means, narrow.means)
    assert torch.equal(wide.log_weights, narrow.log_weights)
    # the least that every direction has is a share of the average variance, to which the spread belongs
    expected = spread + LEAST_SHARE * spread.diagonal().mean() * torch.eye(3)
    torch.testing.assert_close(wide.covariance - narrow.covariance, expected.expand(2, -1, -1), rtol=1e-4, atol=1e-5)


def test_a_mixture_of_several_kinds_costs_no_more_than_its_quadratic_bound(places: Tensor) -> None:
    bounded(Mixture(3, components=2).fit(kinds(600)[0]), places)


def test_fitting_a_mixture_repeats_and_draws_no_random_numbers_of_others() -> None:
    codes, state = kinds(600)[0], torch.get_rng_state()
    one, two = (Mixture(3, components=3).fit(codes).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), state)
