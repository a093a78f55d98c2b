"""The objective is the MAP: nats summed over what was seen, the prior once per signal, and nothing of what was hidden."""

from itertools import combinations

import pytest
import torch
from synthetic import Linear
from torch import Tensor
from torch import distributions as d

import neuralfield as nf
from neuralfield.latents.priors import Isotropic
from neuralfield.latents.source import FixedCodes
from neuralfield.likelihoods import Bernoulli, Gaussian
from neuralfield.measurements import Measurement, Points
from neuralfield.objective import MAP
from neuralfield.types import Field, Latent, Observations

STD, PRIOR_STD = 0.3, 2.0


@pytest.fixture
def decoder() -> Linear:
    return Linear(3, value_dim=2)


@pytest.fixture
def z() -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def observations() -> Observations:
    draw = torch.Generator().manual_seed(0)
    weight = (torch.rand(4, 6, generator=draw) < 0.7).float()
    return Observations(torch.arange(4), torch.rand(1, 6, 2, generator=draw), torch.randn(4, 6, 2, generator=draw), weight)


@pytest.fixture
def objective() -> MAP:
    return MAP(Points(), Gaussian(STD), Isotropic(3, PRIOR_STD))


def fillings(observations: Observations) -> list[Observations]:
    """The same observations with other things behind the mask."""
    seen = (observations.weight > 0)[..., None]
    behind = (torch.tensor(torch.nan), torch.tensor(1e9), torch.tensor(-torch.inf), torch.randn(observations.values.shape))
    return [
        Observations(observations.index, observations.coords, torch.where(seen, observations.values, b), observations.weight)
        for b in behind
    ]


def test_it_is_the_negative_log_posterior_in_nats(objective: MAP, decoder: Linear, z: Tensor, observations: Observations) -> None:
    loss = objective(FixedCodes(z), decoder, observations)
    expected = torch.zeros(4, dtype=torch.float64)
    for b in range(4):
        for n in range(6):
            if observations.weight[b, n]:
                predicted = (z[b] * decoder.basis(observations.coords)[0, n]) @ decoder.weight
                expected[b] -= d.Normal(predicted.double(), STD).log_prob(observations.values[b, n].double()).sum()
    torch.testing.assert_close(loss.data.double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(loss.prior, -d.Normal(0.0, PRIOR_STD).log_prob(z).sum(1))
    torch.testing.assert_close(loss.total, (loss.data + loss.prior) / (2 * observations.weight.sum(1)))
    assert loss.batch == 0


def test_codes_with_a_spread_are_drawn_by_the_generator_that_is_given(
    objective: MAP, decoder: Linear, z: Tensor, observations: Observations
) -> None:
    class Spread(FixedCodes):
        def forward(self, observations: Observations) -> Latent:
            return Latent(self.z, torch.full_like(self.z, -1.0))

    drawn = Latent(z, torch.full_like(z, -1.0)).sample(torch.arange(len(z)), torch.Generator().manual_seed(3))
    loss = objective(Spread(z), decoder, observations, torch.Generator().manual_seed(3))
    at_drawn = objective(FixedCodes(drawn), decoder, observations)
    assert torch.equal(loss.data, at_drawn.data)
    assert not torch.equal(objective(Spread(z), decoder, observations, torch.Generator().manual_seed(4)).data, loss.data)


@pytest.mark.parametrize("times", [2, 10])
def test_the_prior_counts_once_however_much_was_seen(
    objective: MAP, decoder: Linear, z: Tensor, observations: Observations, times: int
) -> None:
    once = objective(FixedCodes(z), decoder, observations)
    more = objective(
        FixedCodes(z),
        decoder,
        Observations(
            observations.index,
            observations.coords.repeat(1, times, 1),
            observations.values.repeat(1, times, 1),
            observations.weight.repeat(1, times),
        ),
    )
    assert torch.equal(more.prior, once.prior)
    torch.testing.assert_close(more.data, times * once.data)
    torch.testing.assert_close(more.observed, times * once.observed)


def test_a_mask_takes_away_data_and_nothing_else(objective: MAP, decoder: Linear, z: Tensor, observations: Observations) -> None:
    seen = torch.tensor([True, False, True, True, False, False]).expand(4, -1)
    sides = observations.split(seen)
    observed, hidden = (objective(FixedCodes(z), decoder, side) for side in sides)
    whole = objective(FixedCodes(z), decoder, observations)
    torch.testing.assert_close(observed.data + hidden.data, whole.data)
    assert torch.equal(observed.prior, whole.prior)


def test_what_is_hidden_leaves_the_loss_bit_identical(
    objective: MAP, decoder: Linear, z: Tensor, observations: Observations
) -> None:
    plain = objective(FixedCodes(z), decoder, observations)
    for likelihood in (Gaussian(STD), Bernoulli()):
        plain = MAP(Points(), likelihood, objective.prior)(FixedCodes(z), decoder, observations)
        for filled in fillings(observations):
            loss = MAP(Points(), likelihood, objective.prior)(FixedCodes(z), decoder, filled)
            for name in ("data", "prior", "observed", "total"):
                assert torch.equal(getattr(loss, name), getattr(plain, name))


def test_what_is_hidden_leaves_gradients_bit_identical(
    objective: MAP, decoder: Linear, z: Tensor, observations: Observations
) -> None:
    gradients = []
    for filled in (observations, *fillings(observations)):
        source = FixedCodes(z)
        decoder.zero_grad()
        objective(source, decoder, filled).total.sum().backward()
        assert source.z.grad is not None
        gradients.append((source.z.grad.clone(), decoder.weight.grad.clone()))
    assert all(torch.equal(g, gradients[0][0]) and torch.equal(w, gradients[0][1]) for g, w in gradients)


@pytest.mark.parametrize("start", ["mean", "spectral", "nearest"])
def test_what_is_hidden_leaves_inferred_codes_bit_identical(fitted: str, images: nf.Images, start: str) -> None:
    run = nf.Run.load(fitted)
    if start != "spectral":
        run = nf.Run.load(fitted, [f"inference.start={start}"])
    batch = images.batch(torch.arange(5))
    observed = batch.split(torch.rand(batch.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5)[0]
    codes = [run.infer(filled).latent.mean for filled in (observed, *fillings(observed))]
    assert codes[0].isfinite().all()
    assert all(torch.equal(z, codes[0]) for z in codes)


@pytest.mark.parametrize("n", [1, 3])
def test_the_data_term_of_drawn_points_is_unbiased(
    objective: MAP, decoder: Linear, z: Tensor, observations: Observations, n: int
) -> None:
    whole = objective(FixedCodes(z), decoder, observations)
    draws = [objective(FixedCodes(z), decoder, observations.points(torch.tensor(which))) for which in combinations(range(6), n)]
    torch.testing.assert_close(torch.stack([draw.data for draw in draws]).mean(0), whole.data)
    assert all(torch.equal(draw.prior, whole.prior) for draw in draws)


def test_signals_do_not_mix(objective: MAP, decoder: Linear, z: Tensor, observations: Observations) -> None:
    loss = objective(FixedCodes(z), decoder, observations)
    for i in range(4):
        alone = objective(FixedCodes(z[i : i + 1]), decoder, observations.rows(slice(i, i + 1)))
        torch.testing.assert_close(alone.total[0], loss.total[i])


def test_weight_l2_is_a_term_of_the_batch_over_the_matrices_of_the_decoder(decoder: Linear, observations: Observations) -> None:
    objective = MAP(Points(), Gaussian(STD), Isotropic(3), weight_l2=0.5)
    source = FixedCodes(torch.zeros(4, 3))
    torch.testing.assert_close(objective(source, decoder, observations).batch, 0.5 * decoder.weight.square().sum())
    decoder.requires_grad_(False)  # inference: nothing of the decoder can be changed, so nothing is charged
    assert objective(source, decoder, observations).batch == 0


def test_a_field_is_in_the_data_units(decoder: Linear, z: Tensor) -> None:
    coords = torch.rand(5, 2)
    for likelihood, link in ((Gaussian(STD), lambda v: v), (Bernoulli(), torch.sigmoid)):
        field = MAP(Points(), likelihood, Isotropic(3)).field(Latent(z), decoder)
        torch.testing.assert_close(field(coords), link(decoder(z, coords[None])))


def test_a_measurement_of_ones_own_is_what_is_compared(decoder: Linear, z: Tensor, observations: Observations) -> None:
    class Doubled(Measurement):
        def measure(self, field: Field, observations: Observations) -> Tensor:
            return 2 * field(observations.coords)

    loss = MAP(Doubled(), Gaussian(STD), Isotropic(3))(FixedCodes(z), decoder, observations)
    same = MAP(Points(), Gaussian(STD), Isotropic(3))(FixedCodes(2 * z), decoder, observations)
    torch.testing.assert_close(loss.data, same.data)


# penalties of a decoder that trains


@pytest.mark.parametrize("points", [1, 7])
def test_the_eikonal_term_is_the_mean_square_of_what_slopes_miss_of_one(points: int) -> None:
    # f(z, t) = z0 * 3 t0 + z1 * 4 t1: of the codes (1, 1), (0, 1) and (0, 0) the slopes are 5, 4 and 0
    decoder = nf.Concat(2, 1, 2, width=8, depth=1)
    slopes = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    decoder.evaluate = lambda z, coords: ((z * slopes)[:, None] * coords).sum(-1, keepdim=True)  # type: ignore[method-assign]
    decoder.condition = lambda z: z  # type: ignore[method-assign]
    codes = FixedCodes(torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 1e-12]]))
    seen = Observations(torch.arange(3), torch.rand(1, points, 2), torch.zeros(3, points, 1), torch.ones(3, points))
    loss = MAP(Points(), Gaussian(1.0), Isotropic(2), eikonal=0.5)(codes, decoder, seen)
    torch.testing.assert_close(loss.batch, torch.tensor(0.5 * (16 + 9 + 1) / 3))
    loss.batch.backward()
    assert slopes.grad is not None
    assert slopes.grad.abs().sum() > 0
    with torch.no_grad():  # while nothing trains it costs nothing, in time or nats
        assert MAP(Points(), Gaussian(1.0), Isotropic(2), eikonal=0.5)(codes, decoder, seen).batch == 0


def test_penalties_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weight_l2 and eikonal must be 0 or more, got 0\.0 and -1\.0"):
        MAP(Points(), Gaussian(1.0), Isotropic(2), eikonal=-1.0)
