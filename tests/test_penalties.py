"""Penalties on codes: each equals what another way of computing it gives."""

import pytest
import torch
from contracts.penalty import OneLayer, PenaltyContract
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.distributions import Bernoulli, Laplace, kl_divergence

from neuralfield.latents.bank import Bank
from neuralfield.latents.encoders.convolutional import Convolutional
from neuralfield.latents.encoders.network import Network
from neuralfield.latents.encoders.points import Points
from neuralfield.latents.penalties import L1, Contractive, KLSparsity, Penalty
from neuralfield.latents.source import LatentSource
from neuralfield.types import Latent, Observations


class Encoding(LatentSource):
    """Codes are what a network reads."""

    reads = True

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network, self.code_dim = network, network.outputs

    def forward(self, observations: Observations) -> Latent:
        return Latent(self.network(observations))


class TestContractive(PenaltyContract):
    def make(self, weight: float = 0.5) -> Penalty:
        return Contractive(weight)


class TestHutchinson(PenaltyContract):
    def make(self, weight: float = 0.5) -> Penalty:
        return Contractive(weight, probes=2)


class TestL1(PenaltyContract):
    def make(self, weight: float = 0.5) -> Penalty:
        return L1(weight)


class TestKLSparsity(PenaltyContract):
    activation = nn.Sigmoid

    def make(self, weight: float = 0.5) -> Penalty:
        return KLSparsity(weight, share=0.1)


@pytest.fixture
def observations() -> Observations:
    """Four signals of 30 points, some of them hidden, in float64."""
    seen = (torch.rand(4, 30) < 0.8).double()
    return Observations(torch.arange(4), torch.rand(1, 30, 2).double(), torch.randn(4, 30, 1).double(), seen)


def cost(penalty: Penalty, source: LatentSource, observations: Observations, seed: int = 0) -> Tensor:
    return penalty.cost(source(observations), source, observations, torch.Generator().manual_seed(seed))


def jacobians(source: LatentSource, observations: Observations) -> Tensor:
    """[B, D, N V] by autograd, one signal after the other."""
    found = []
    for i in range(len(observations)):
        one = observations.rows(slice(i, i + 1))
        whole = jacobian(
            lambda values, one=one: source(Observations(one.index, one.coords, values, one.weight)).mean[0], one.values
        )
        found.append(whole.flatten(1))
    return torch.stack(found)


# contractive


@pytest.mark.parametrize(
    "network", [Convolutional(2, 1, (5, 6), 4, 8, 1, "silu"), Points(2, 1, None, 4, 16, 2, "tanh")], ids=["convolutional", "set"]
)
def test_the_contractive_penalty_is_the_squared_norm_of_autograds_jacobian(network: Network, observations: Observations) -> None:
    source = Encoding(network).double()
    expected = 0.3 * jacobians(source, observations).square().sum((1, 2))
    torch.testing.assert_close(cost(Contractive(0.3), source, observations), expected, rtol=1e-10, atol=1e-10)


def test_the_contractive_penalty_of_a_logistic_layer_is_known_in_closed_form(observations: Observations) -> None:
    source = OneLayer(30, code_dim=7, activation=nn.Sigmoid()).double()
    h, seen = source(observations).mean, observations.weight[:, None]
    expected = ((h * (1 - h)).square() * (source.layer.weight * seen).square().sum(2)).sum(1)
    torch.testing.assert_close(cost(Contractive(1.0), source, observations), expected, rtol=1e-10, atol=1e-10)
    # and so are its gradients, which a fit follows
    mine = torch.autograd.grad(cost(Contractive(1.0), source, observations).sum(), source.layer.weight)[0]
    theirs = torch.autograd.grad(expected.sum(), source.layer.weight)[0]
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_hutchinsons_estimate_is_the_penalty_in_expectation(observations: Observations) -> None:
    source = OneLayer(30, code_dim=7, activation=nn.Sigmoid()).double()
    exact = cost(Contractive(1.0), source, observations)
    draws = torch.stack([cost(Contractive(1.0, probes=1), source, observations, seed) for seed in range(2000)])
    error = draws.std(0) / 2000**0.5
    assert ((draws.mean(0) - exact).abs() <= 3 * error).all()  # three standard errors, of a fixed draw
    assert (error > 0).all()
    many = cost(Contractive(1.0, probes=2000), source, observations)
    assert ((many - exact).abs() <= 3 * error).all()  # as many probes of one draw


def test_probes_are_refused_where_they_are_fewer_than_none() -> None:
    with pytest.raises(ValueError, match=r"penalty\.probes must be 0 \(exact\) or more, got -1"):
        Contractive(probes=-1)


def test_a_bank_has_no_jacobian_and_is_refused_by_name() -> None:
    refusal = Contractive().refusal(Bank(3, 2))
    assert refusal is not None
    assert refusal.startswith("a bank does not read what was observed")
    assert refusal.endswith("use an encoder")


# sparse


def test_l1_is_a_laplace_prior_but_for_its_constant(observations: Observations) -> None:
    source = OneLayer(30).double()
    z = source(observations).mean
    density = Laplace(0.0, 1 / 0.7).log_prob(z).sum(1) - Laplace(0.0, 1 / 0.7).log_prob(torch.zeros_like(z)).sum(1)
    torch.testing.assert_close(cost(L1(0.7), source, observations), -density)
    assert L1.searched


def test_l1_serves_a_bank() -> None:
    bank, penalty = Bank(3, 2), L1(2.0)
    bank.hold(torch.tensor([[1.0, -2.0], [0.0, 0.5], [0.0, 0.0]]))
    observations = Observations(torch.arange(3), torch.zeros(1, 1, 1), torch.zeros(3, 1, 1), torch.ones(3, 1))
    assert penalty.refusal(bank) is None
    assert penalty.cost(bank(observations), bank, observations, None).tolist() == [6.0, 1.0, 0.0]


def test_kl_sparsity_is_that_of_bernoulli_variables(observations: Observations) -> None:
    source = OneLayer(30, code_dim=7, activation=nn.Sigmoid()).double()
    q = source(observations).mean.mean(0)
    expected = 2.0 * kl_divergence(Bernoulli(torch.tensor(0.05).double()), Bernoulli(q)).sum()
    torch.testing.assert_close(
        cost(KLSparsity(2.0, share=0.05), source, observations), expected.expand(4), rtol=1e-7, atol=1e-7
    )  # .05 rounded to float32


def test_units_that_are_as_active_as_wanted_cost_nothing_and_the_others_more_the_further_they_are() -> None:
    penalty, reader = KLSparsity(1.0, share=0.25), OneLayer(1)
    observations = Observations(torch.arange(2), torch.zeros(1, 1, 1), torch.zeros(2, 1, 1), torch.ones(2, 1))

    def at(q: float) -> float:
        return penalty.cost(Latent(torch.tensor([[0.0], [2 * q]])), reader, observations, None)[0].item()

    assert at(0.25) == pytest.approx(0, abs=1e-7)  # rounding of float32
    costs = [at(q) for q in (0.25, 0.3, 0.4, 0.5)]
    assert costs == sorted(costs)
    assert 0 < at(0.2) < at(0.1) < at(0.0) < float("inf")


def test_kl_sparsity_is_refused_where_codes_are_no_activations() -> None:
    for source in (Bank(3, 2), OneLayer(30)):
        refusal = KLSparsity().refusal(source)
        assert refusal is not None
        assert "do not lie between 0 and 1; use latents.kind=encoder with latents.output=logistic" in refusal
    with pytest.raises(ValueError, match=r"penalty\.share must lie between 0 and 1, got 1\.5"):
        KLSparsity(share=1.5)
