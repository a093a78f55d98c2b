"""Encoder, decoder, encoder: three contrasts of codes in closed form, whom they move, and when they say to stop."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import Nf, failed
from synthetic import Linear
from synthetic import images as blobs_of
from test_training import Watching, identical
from torch import Tensor, nn

import neuralfield as nf
from neuralfield.contrastive import EncDec, length
from neuralfield.errors import UsageError
from neuralfield.inference.adam import Adam
from neuralfield.inference.lbfgs import LBFGS
from neuralfield.inference.levenberg import Levenberg
from neuralfield.inference.solver import Solver
from neuralfield.latents.priors import Isotropic
from neuralfield.latents.source import FixedCodes, LatentSource
from neuralfield.likelihoods import Bernoulli, Gaussian, Likelihood
from neuralfield.measurements import Points
from neuralfield.training.interrupt import InterruptedFitError
from neuralfield.training.plateau import waited
from neuralfield.types import Latent, Observations

CODE, POINTS = 3, 12


class Reading(LatentSource):
    """An encoder as plain as it can be: a linear map of the values, 0 where hidden."""

    reads = True

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.code_dim, draw = CODE, torch.Generator().manual_seed(5)
        self.matrix = nn.Parameter(scale * torch.randn(POINTS, CODE, generator=draw))
        self.seen = list[Observations]()

    def forward(self, observations: Observations) -> Latent:
        self.seen.append(observations)
        return Latent(observations.values[..., 0] @ self.matrix)


@pytest.fixture
def decoder() -> Linear:
    return Linear(CODE)


@pytest.fixture
def observations() -> Observations:
    """Four signals at shared places, of which some are hidden."""
    draw = torch.Generator().manual_seed(3)
    coords, values = torch.rand(1, POINTS, 2, generator=draw), torch.randn(4, POINTS, 1, generator=draw)
    return Observations(torch.arange(4), coords, values, (torch.rand(4, POINTS, generator=draw) < 0.7).float())


def objective(likelihood: Likelihood | None = None, margin: float = 1.0, fake: float = 2.0) -> EncDec:
    return EncDec(Points(), likelihood or Gaussian(), Isotropic(CODE), margin, fake)


def gradients(cost: Tensor, *modules: nn.Module) -> list[Tensor]:
    parameters = [p for module in modules for p in module.parameters()]
    return list(torch.autograd.grad(cost, parameters, materialize_grads=True))


# what it costs


@pytest.mark.parametrize("likelihood", [Gaussian(), Bernoulli()])
@pytest.mark.parametrize("scale", [0.02, 0.3])  # codes within the margin and beyond it
def test_the_three_terms_are_what_they_say(
    likelihood: Likelihood, scale: float, decoder: Linear, observations: Observations
) -> None:
    source = Reading(scale)
    loss = objective(likelihood, margin=0.8, fake=3.0)(source, decoder, observations)

    def rms(a: Tensor, b: Tensor) -> float:
        return math.sqrt((a - b).detach().square().mean().item())

    weight = observations.weight[..., None]
    z = (observations.values * weight)[..., 0] @ source.matrix
    values = likelihood.mean(decoder(z, observations.coords)) * weight  # what the encoder may look at
    again = values[..., 0] @ source.matrix
    pull = [rms(again[b], z[b]) ** 2 for b in range(4)]
    push = [max(0.0, 0.8 - rms(z[b], z[b - 1])) ** 2 for b in range(4)]
    fake = [3 * max(0.0, 0.8 - rms(again[b], z[b])) ** 2 for b in range(4)]
    assert sum(push) > 0
    total = torch.tensor(pull) + torch.tensor(push) + torch.tensor(fake)
    torch.testing.assert_close(loss.total, total)
    torch.testing.assert_close(loss.data, total * observations.weight.sum(1))
    assert loss.prior.eq(0).all()
    assert loss.batch == 0
    expected = {"pull": pull, "push": push, "fake": fake, "code_length": [rms(row, 0 * row) for row in z]}
    assert loss.terms.keys() == expected.keys()
    for name, each in expected.items():
        torch.testing.assert_close(loss.terms[name], torch.tensor(each).mean())
        assert not loss.terms[name].requires_grad


def test_the_encoder_reads_the_decoded_signal_where_and_as_far_as_it_saw_the_first(
    decoder: Linear, observations: Observations
) -> None:
    source = Reading()
    objective()(source, decoder, observations)
    first, *others = source.seen
    assert len(others) == 2
    for seen in others:
        assert torch.equal(seen.index, first.index)
        assert torch.equal(seen.coords, first.coords)
        assert torch.equal(seen.weight, first.weight)
        assert seen.values[first.weight == 0].eq(0).all()


@pytest.mark.parametrize("filling", [torch.nan, 1e9])
def test_what_is_hidden_leaves_the_loss_bit_identical(decoder: Linear, observations: Observations, filling: float) -> None:
    seen = (observations.weight > 0)[..., None]
    filled = torch.where(seen, observations.values, torch.tensor(filling))
    other = Observations(observations.index, observations.coords, filled, observations.weight)
    losses = [objective()(Reading(), decoder, each) for each in (observations, other)]
    assert torch.equal(losses[0].total, losses[1].total)


# whom it moves


def test_the_term_of_decoded_signals_sends_the_decoder_no_gradient(decoder: Linear, observations: Observations) -> None:
    # the pull is the decoder's only term: with and without the others its gradient is the same, the encoder's is not
    found = {}
    for fake in (0.0, 2.0):
        source = Reading(0.02)
        loss = objective(fake=fake)(source, decoder, observations)
        assert (loss.terms["fake"] > 0) == (fake > 0)
        found[fake] = gradients(loss.total.sum(), decoder, source)
    assert torch.equal(found[0.0][0], found[2.0][0])
    assert found[0.0][0].abs().max() > 0
    assert not torch.allclose(found[0.0][1], found[2.0][1])


def test_the_pull_moves_encoder_and_decoder_the_right_way(decoder: Linear, observations: Observations) -> None:
    source, one = Reading(0.3), objective(margin=1e-6, fake=0.0)  # no codes are so near: nothing but the pull
    before = one(source, decoder, observations).total.sum()
    for module in (decoder, source):
        (gradient,), (parameter,) = gradients(before, module), tuple(module.parameters())
        with torch.no_grad():
            parameter.sub_(1e-4 * gradient)
            assert one(source, decoder, observations).total.sum() < before
            parameter.add_(1e-4 * gradient)
        before = one(source, decoder, observations).total.sum()


@pytest.mark.parametrize("make", [lambda: Reading(0.0), lambda: Reading(1e-30), lambda: Reading(1.0)])
def test_gradients_are_finite_at_equal_codes(make: Callable[[], Reading], decoder: Linear, observations: Observations) -> None:
    # all codes are 0, or so small that their squares are; or the same signal twice
    twice = Observations(
        observations.index, observations.coords, observations.values[:1].expand(4, -1, -1), observations.weight[:1].expand(4, -1)
    )
    source = make()
    loss = objective()(source, decoder, twice)
    assert loss.total.isfinite().all()
    assert loss.terms["push"] == 1  # no distance, and a margin of 1
    assert all(gradient.isfinite().all() for gradient in gradients(loss.total.sum(), source, decoder))


def test_the_length_is_the_root_mean_square_and_smooth_to_the_last_digit() -> None:
    codes = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-12, 0.0]], dtype=torch.float64, requires_grad=True)
    found = length(codes)
    torch.testing.assert_close(found, torch.tensor([12.5**0.5, 0.0, 0.5**0.5 * 1e-12], dtype=torch.float64), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(found.sum(), codes)
    assert gradient[1].eq(0).all()
    torch.testing.assert_close(gradient[0], torch.tensor([3.0, 4.0], dtype=torch.float64) / (2 * 12.5**0.5))
    torch.testing.assert_close(gradient[2], torch.tensor([0.5**0.5, 0.0], dtype=torch.float64))


def test_a_batch_of_one_has_nothing_to_push_from(decoder: Linear, observations: Observations) -> None:
    source = Reading()
    loss = objective()(source, decoder, observations.rows(slice(0, 1)))
    assert loss.terms["push"] == 0
    assert loss.total.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(loss.total.sum(), source, decoder))


def test_its_field_is_in_the_data_units(decoder: Linear) -> None:
    z, coords = torch.randn(2, CODE), torch.rand(1, 5, 2)
    torch.testing.assert_close(objective(Bernoulli()).field(Latent(z), decoder)(coords), decoder(z, coords).sigmoid())


# what cannot serve it


@pytest.mark.parametrize("solver", [Adam(), LBFGS(), Levenberg()], ids=["adam", "lbfgs", "levenberg"])
def test_searches_refuse_it(solver: Solver, decoder: Linear) -> None:
    with pytest.raises(UsageError, match="EncDec"):
        solver.check(objective(), decoder)


TINY_ENCDEC = ["latents.code_dim=4", "latents.width=4", "decoder.width=4", "training.batch=8"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("latents.kind=bank", "latents.kind=encoder"),
        (
            "inference.kind=adam",
            "EncDec has no likelihood, so solver Adam has nothing to search by; say --set",
        ),
        ("inference.kind=lbfgs", "say --set inference.kind=encode"),
        ("training.validation=0.2", "say training.plateau=code_length"),
        ("training.plateau=code_lenght", '"code_lenght" is no part of its loss; known: pull, push, fake, code_length'),
        ("objective.margin=0", "objective.margin must be positive"),
        ("objective.fake=-1", "fake 0 or more"),
    ],
)
def test_what_does_not_go_together_is_one_line(images: nf.Images, setting: str, words: str) -> None:
    inference = ["inference.start=mean"] if setting.startswith("latents") else []
    with pytest.raises(UsageError) as refusal:
        nf.fit(images, recipe="encdec", settings=[*TINY_ENCDEC, setting, *inference], epochs=1)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


# a fit


def test_a_run_encodes_new_signals_and_adds_them(images: nf.Images, tmp_path: Path) -> None:
    nf.fit(images, recipe="encdec", settings=TINY_ENCDEC, epochs=2, out=tmp_path / "run")
    run = nf.Run.load(tmp_path / "run")
    new = blobs_of(5, seed=3)
    estimate = run.infer(new)
    assert torch.equal(estimate.latent.mean, run.model.source(new.batch(torch.arange(5))).mean)
    run.add(new)
    assert len(run.codes) == 29
    values = run.field(estimate.latent)(run.domain.grid())
    assert values.min() >= 0
    assert values.max() <= 1


def test_infer_refuses_a_search_by_name(nf_: Nf, images: nf.Images, tmp_path: Path, source: str) -> None:
    nf.fit(images, recipe="encdec", settings=TINY_ENCDEC, epochs=1, out=tmp_path / "run")
    assert nf_("infer", tmp_path / "run", "--data", source, "--out", tmp_path / "seen", "--json").code == 0
    failed(nf_("infer", tmp_path / "run", "--data", source, "--set", "inference.kind=adam"), 2, "EncDec", "inference.kind=encode")


# the plateau


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([1.0], 0),
        ([1.0, 0.9, 0.8], 0),  # it falls
        ([1.0, 0.9, 0.9, 0.9], 2),
        ([1.0, 0.9, 0.895, 0.893, 0.8], 0),  # less than a hundredth is no fall, twice that is
        ([1.0, 0.9, 0.895], 1),
        ([0.1, 2.0, 1.5, 1.5], 1),  # what was before the highest does not count
        ([0.1, 0.2, 0.3, 0.4], 0),  # it has not begun to fall
        ([1.0, 0.5, 0.7, 0.6], 2),  # above the lowest, whatever it does there
        ([0.0, 0.0, 0.0], 2),
        ([-1.0, -2.0, -2.0], 1),
    ],
)
def test_epochs_since_the_last_fall_are_counted(means: list[float], expected: int) -> None:
    assert waited(means) == expected


STILL = [*TINY_ENCDEC, "training.plateau=code_length", "training.patience=2", "training.decoder_rate=1e-9", "training.warmup=0"]
"""Nothing moves, so that the plateau is reached as soon as can be; latent rates are the encoder's."""


def test_a_fit_stops_at_a_plateau_and_says_so(images: nf.Images, tmp_path: Path) -> None:
    run = nf.fit(images, recipe="encdec", settings=[*STILL, "training.latent_rate=1e-9"], epochs=9, out=tmp_path / "run")
    assert run.facts["epochs"] == 3
    assert run.facts["stopped"].startswith("code_length has not fallen for 2 epochs, from ")
    assert nf.Run.load(tmp_path / "run").facts["stopped"] == run.facts["stopped"]


def test_without_a_plateau_it_goes_on(images: nf.Images) -> None:
    settings = [*STILL, "training.latent_rate=1e-9", "training.plateau=none"]
    run = nf.fit(images, recipe="encdec", settings=settings, epochs=5)
    assert run.facts["epochs"] == 5
    assert "stopped" not in run.facts


@pytest.mark.parametrize("stop", [2, 3, 7])  # within an epoch of three steps, and between two
def test_a_fit_that_is_interrupted_stops_at_the_same_plateau_bit_identical(tmp_path: Path, stop: int) -> None:
    arguments = {"recipe": "encdec", "settings": [*STILL, "training.latent_rate=1e-5"], "epochs": 9}
    whole = nf.fit(blobs_of(), **arguments)
    assert whole.facts["epochs"] < 9
    with pytest.raises(InterruptedFitError):
        nf.fit(blobs_of(), **arguments, out=tmp_path / "run", progress=Watching(stop))
    resumed = nf.fit(blobs_of(), out=tmp_path / "run", resume=True)
    assert identical(resumed, whole)
    assert resumed.facts["stopped"] == whole.facts["stopped"]
    assert resumed.facts["epochs"] == whole.facts["epochs"]


def test_codes_that_are_given_cost_nothing(decoder: Linear, observations: Observations) -> None:
    # there is no likelihood: `encode` reports that nothing is known of their cost
    loss = objective()(FixedCodes(torch.ones(4, CODE)), decoder, observations)
    assert loss.total.eq(0).all()
    assert loss.terms["code_length"] == 1
