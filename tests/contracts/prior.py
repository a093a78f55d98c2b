"""Laws of every prior of codes."""

from pathlib import Path

import pytest
import torch
from synthetic import fourier_basis
from torch import Tensor
from torch import distributions as d

import neuralfield.files as files
from neuralfield.latents.priors import Components, Known, Prior
from neuralfield.types import Latent


def log_density(components: Components, codes: Tensor) -> Tensor:
    """log p of codes [n, D] under a mixture, by torch's own normal density, in float64."""
    normal = d.MultivariateNormal(components.means.double(), components.covariance.double())
    return torch.logsumexp(components.log_weights.double() + normal.log_prob(codes.double()[:, None]), 1)


def to_second_order(prior: Prior, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(cost [n], gradient [n, D], curvature [n, D, D]) at codes [n, D], the gradient by autograd."""
    leaf = z.clone().requires_grad_()
    cost = prior.cost(Latent(leaf))
    return cost.detach(), torch.autograd.grad(cost.sum(), leaf)[0], prior.curvature(Latent(z)).expand(len(z), -1, -1)


def bounded(prior: Prior, z: Tensor) -> None:
    """Assert what EM stands on: cost(z + d) <= cost(z) + g . d + d' P d / 2 of a mixture of Gaussians, for steps d of any size.

    With the components' shares r at z, Jensen's inequality bounds the cost by sum_k r_k -log(w_k N_k / r_k), which is quadratic,
    touches the cost at z, and has the curvature P = sum_k r_k S_k^-1.
    """
    exact = prior.double()
    cost, gradient, curvature = to_second_order(exact, z)
    for size in (1e-3, 0.1, 1.0, 10.0, 100.0):
        step = size * torch.randn(z.shape, generator=torch.Generator().manual_seed(4)).double()
        bound = cost + (gradient * step).sum(1) + 0.5 * torch.einsum("bd,bde,be->b", step, curvature, step)
        there = exact.cost(Latent(z + step))
        # of a normal both are equal, up to covariances whose square root or precision is taken of float32 numbers
        assert (there <= bound + 1e-6 * bound.abs() + 1e-9).all()


class PriorContract:
    """Give `make`: a prior of codes of 3 numbers, not fitted yet. `is_mixture` says that it is one of Gaussians."""

    is_mixture = True

    def make(self) -> Prior:
        raise NotImplementedError

    @pytest.fixture
    def codes(self) -> Tensor:
        """4000 correlated codes [n, 3]."""
        mix = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.4, 0.0], [-0.3, 0.2, 0.7]])
        return torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) @ mix.T + torch.tensor([0.2, -0.1, 0.3])

    @pytest.fixture
    def prior(self, codes: Tensor) -> Prior:
        return self.make().fit(codes)

    def test_a_cost_is_one_finite_number_of_nats_per_signal(self, prior: Prior, codes: Tensor) -> None:
        cost = prior.cost(Latent(codes[:5]))
        assert cost.shape == (5,)
        assert cost.isfinite().all()
        torch.testing.assert_close(prior.cost(Latent(codes[3:4]))[0], cost[3])

    def test_a_cost_is_the_logarithm_of_a_density(self, prior: Prior) -> None:
        # the integral of exp(-cost) is 1: importance sampling from N(0, 2^2 I), whose weights vary little here
        reference = torch.distributions.Normal(0.0, 2.0)
        z = torch.randn(30_000, 3, generator=torch.Generator().manual_seed(1)) * 2
        ratio = (-prior.cost(Latent(z)) - reference.log_prob(z).sum(1)).exp()
        error = ratio.std() / len(z) ** 0.5
        assert abs(ratio.mean() - 1) < 4 * error  # four standard errors, of a fixed draw
        assert error < 0.02

    def test_samples_repeat_with_their_generator_and_are_as_many_as_asked(self, prior: Prior) -> None:
        def drawn(seed: int) -> Tensor:
            return prior.sample(6, torch.Generator().manual_seed(seed))

        assert drawn(0).shape == (6, 3)
        assert torch.equal(drawn(0), drawn(0))
        assert not torch.equal(drawn(0), drawn(1))

    def test_fitting_undoes_sampling(self, prior: Prior, codes: Tensor) -> None:
        samples = prior.sample(50_000, torch.Generator().manual_seed(2))
        again = self.make().fit(samples)
        # nine moments of 50,000 samples, each known to about 0.5 %
        torch.testing.assert_close(again.cost(Latent(codes[:50])), prior.cost(Latent(codes[:50])), rtol=0.05, atol=0.05)

    def test_codes_that_were_fitted_cost_less_than_others(self, prior: Prior, codes: Tensor) -> None:
        assert prior.cost(Latent(codes)).mean() < prior.cost(Latent(codes * 3)).mean()

    @pytest.mark.parametrize("codes", [torch.zeros(1, 3), torch.ones(5, 3), torch.eye(3)[:2], torch.full((4, 3), 1e4)])
    def test_few_or_equal_codes_still_give_finite_costs_and_samples(self, codes: Tensor) -> None:
        prior = self.make().fit(codes)
        assert prior.cost(Latent(torch.randn(4, 3))).isfinite().all()
        assert prior.sample(4).isfinite().all()

    def test_what_was_fitted_travels_in_the_state(self, prior: Prior, codes: Tensor) -> None:
        other = self.make()
        files.restore(other, prior.state_dict(), Path("prior.safetensors"))
        assert torch.equal(other.cost(Latent(codes)), prior.cost(Latent(codes)))

    def test_a_mixture_of_gaussians_has_the_cost_of_its_components_or_is_refused(self, prior: Prior, codes: Tensor) -> None:
        for made in (self.make(), prior):
            if not self.is_mixture:
                with pytest.raises(NotImplementedError, match=type(made).__name__):
                    made.components()
                continue
            components = made.components()
            assert components.log_weights.exp().sum().item() == pytest.approx(1, abs=1e-5)
            expected = -log_density(components, codes[:50])
            # the same density in float64, of codes whose costs are a few nats
            torch.testing.assert_close(made.cost(Latent(codes[:50])).double(), expected, rtol=1e-4, atol=1e-4)

    @pytest.fixture
    def places(self, codes: Tensor) -> Tensor:
        """Codes [n, 3] among those that were fitted, between them and far away, in float64."""
        return torch.cat([codes[:20], torch.zeros(1, 3), 4 * codes[20:30], torch.full((1, 3), -50.0)]).double()

    def test_the_curvature_is_symmetric_and_nowhere_negative(self, prior: Prior, places: Tensor) -> None:
        curvature = prior.curvature(Latent(places)).double()
        assert curvature.shape in ((1, 3, 3), (len(places), 3, 3))
        assert curvature.isfinite().all()
        size = curvature.abs().amax()
        assert (curvature - curvature.mT).abs().max() <= 1e-9 * size
        assert torch.linalg.eigvalsh(curvature).min() >= -1e-9 * size

    def test_the_curvature_at_a_code_is_the_same_alone_and_among_others(self, prior: Prior, places: Tensor) -> None:
        together = prior.curvature(Latent(places)).expand(len(places), -1, -1)
        alone = torch.cat([prior.curvature(Latent(place[None])) for place in places])
        torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-9)

    def test_the_curvature_of_a_normal_is_its_precision(self, prior: Prior, places: Tensor) -> None:
        components = prior.components() if self.is_mixture else None
        if components is None or len(components.means) > 1:
            pytest.skip("this prior is no normal")
        expected = torch.linalg.inv(components.covariance.double())
        torch.testing.assert_close(prior.curvature(Latent(places)), expected, rtol=1e-6, atol=1e-9)

    def test_a_mixture_costs_no_more_than_its_quadratic_bound(self, prior: Prior, places: Tensor) -> None:
        if not self.is_mixture:
            pytest.skip("this prior is no mixture of Gaussians")
        bounded(prior, places)

    def test_a_step_to_the_lowest_point_of_the_bound_never_climbs(self, prior: Prior, places: Tensor) -> None:
        if not self.is_mixture:
            pytest.skip("this prior is no mixture of Gaussians")
        cost, gradient, curvature = to_second_order(prior.double(), places)
        there = prior.cost(Latent(places - torch.linalg.solve(curvature, gradient)))  # a step of EM
        assert (there <= cost + 1e-9 * cost.abs()).all()

    def test_what_is_not_known_of_each_code_is_part_of_what_codes_look_like(self, codes: Tensor) -> None:
        spread = torch.tensor([[0.3, 0.1, 0.0], [0.1, 0.2, 0.0], [0.0, 0.0, 0.1]])
        codes = codes[:1000]
        known = Known(torch.cov(codes.T, correction=0) + spread, spread)
        wide, narrow = self.make().fit(codes, known), self.make().fit(codes)
        drawn = [made.sample(50_000, torch.Generator().manual_seed(2)) for made in (wide, narrow)]
        more = (drawn[0].square().mean() - drawn[1].square().mean()).item()
        # a trace of .6 over three dimensions; both means of squares of 150,000 numbers are known to 0.01
        assert more == pytest.approx(0.2, abs=0.05)
        assert wide.cost(Latent(codes)).isfinite().all()

    def test_the_linear_model_of_the_first_codes_is_adopted_or_nothing_is(self) -> None:
        made, basis = self.make(), fourier_basis(1, 1, 2)
        before = {name: value.clone() for name, value in made.state_dict().items()}
        adopted = made.adopt(basis)
        assert adopted != all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
        if not adopted:
            return
        codes = torch.randn(5, 3, generator=torch.Generator().manual_seed(3)) * torch.tensor([1.0, 1.0, 0.0])
        expected = 0.5 * (codes[:, :2].square() / basis.variance).sum(1)
        torch.testing.assert_close(made.cost(Latent(codes)) - made.cost(Latent(torch.zeros(1, 3))), expected, rtol=1e-4, atol=1e-5)

    def test_the_cost_pulls_towards_likely_codes(self, prior: Prior) -> None:
        z = torch.full((1, 3), 5.0, requires_grad=True)
        before = prior.cost(Latent(z))
        before.sum().backward()
        assert z.grad is not None
        assert prior.cost(Latent((z - 0.01 * z.grad).detach())) < before
