"""Sources of codes beside the bank: encoders and the variational bank, through their laws, their fits and their runs."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import Nf, failed
from contracts.latent_source import LatentSourceContract
from synthetic import TINY, Linear, images, waves
from torch import Tensor
from torch import distributions as d

import neuralfield as nf
from neuralfield.decoders.linear import Linear as GridLinear
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.latents.encoder import Encoder, GaussianEncoder
from neuralfield.latents.penalties import L1
from neuralfield.latents.priors import Gaussian, Isotropic, Prior
from neuralfield.latents.source import LatentSource
from neuralfield.latents.variational_bank import VariationalBank
from neuralfield.likelihoods import Gaussian as Normal
from neuralfield.measurements import Points
from neuralfield.objective import MAP
from neuralfield.recipe import Recipe, build
from neuralfield.signals.corruptions import Mask, Noise
from neuralfield.training.interrupt import InterruptedFitError
from neuralfield.types import Latent, Observations

ENCODER = [*TINY, "latents.kind=encoder", "latents.code_dim=4", "latents.width=16", "latents.depth=1", "training.polish=none"]
GAUSSIAN = [setting.replace("=encoder", "=gaussian-encoder") for setting in ENCODER]
VARIATIONAL = [*TINY, "latents.kind=variational-bank", "latents.code_dim=4", "training.polish=none"]
READING = ["inference.kind=encode", "inference.start=encoder"]


def made(kind: type, network: str, **more: object) -> LatentSource:
    source: LatentSource = kind(24, 2, 1, (8, 8), code_dim=4, network=network, width=8, depth=1, **more)
    return source


@pytest.mark.parametrize("network", ["linear", "mlp", "convolutional", "set"])
class TestEncoder(LatentSourceContract):
    @pytest.fixture(params=[Encoder, GaussianEncoder])
    def source(self, network: str, request: pytest.FixtureRequest) -> LatentSource:
        return made(request.param, network)


class TestLogisticEncoder(LatentSourceContract):
    @pytest.fixture
    def source(self) -> LatentSource:
        return made(Encoder, "mlp", output="logistic")

    def test_codes_lie_between_0_and_1(self, source: LatentSource, observations: Observations) -> None:
        z = source(observations).mean
        assert source.logistic
        assert bool(((z > 0) & (z < 1)).all())


class TestVariationalBank(LatentSourceContract):
    @pytest.fixture
    def source(self) -> LatentSource:
        bank = VariationalBank(24, 4)
        bank.initialise(lambda: images().batches(10), torch.Generator().manual_seed(0))
        return bank


@pytest.mark.parametrize("kind", [Encoder, GaussianEncoder])
def test_an_encoder_keeps_the_codes_of_its_signals_once_it_has_settled(kind: type) -> None:
    source, signals = made(kind, "mlp"), images()
    source.settle(lambda: signals.batches(7))
    latent = source(signals.batch(torch.arange(24)))
    # batches of 7 and of 24: sums of float32 in another order
    torch.testing.assert_close(source.codes, latent.mean, rtol=1e-5, atol=1e-6)
    source.extend(torch.ones(2, 4))
    assert torch.equal(source.codes[24:], torch.ones(2, 4))
    assert set(source.tables()) == ({"codes", "log_std"} if source.variational else {"codes"})
    assert set(source.weights()) | set(source.tables()) == set(source.state_dict())
    assert all(len(table) == 26 for table in source.tables().values())


# the evidence lower bound


@pytest.mark.parametrize("prior", [Isotropic(3, 0.7), Gaussian(3).fit(torch.randn(50, 3) @ torch.randn(3, 3))])
def test_divergence_is_that_of_torch_and_of_a_million_draws(prior: Prior) -> None:
    prior = prior.double()
    latent = Latent(torch.randn(2, 3, dtype=torch.float64), 0.3 * torch.randn(2, 3, dtype=torch.float64))
    assert latent.log_std is not None
    components = prior.components()
    other = d.MultivariateNormal(components.means[0], components.covariance[0])
    normal = d.MultivariateNormal(latent.mean, torch.diag_embed(latent.log_std.exp().square()))
    torch.testing.assert_close(prior.divergence(latent), d.kl_divergence(normal, other))
    z = normal.sample((500_000,))
    each = normal.log_prob(z) - other.log_prob(z)
    error = each.std(0) / math.sqrt(len(each))
    assert bool(((each.mean(0) - prior.divergence(latent)).abs() < 3 * error).all())


def test_divergence_from_the_standard_normal_is_the_textbooks_sum() -> None:
    latent = Latent(torch.randn(4, 3), torch.randn(4, 3))
    assert latent.log_std is not None
    squares = latent.mean.square() + (2 * latent.log_std).exp()
    expected = -0.5 * (1 + 2 * latent.log_std - squares).sum(1)
    torch.testing.assert_close(Isotropic(3).divergence(latent), expected)


def test_a_prior_of_several_gaussians_has_no_divergence() -> None:
    with pytest.raises(NotImplementedError):
        nf.MixturePrior(2, 2).fit(torch.randn(300, 2)).divergence(Latent(torch.zeros(1, 2), torch.zeros(1, 2)))


def linear_model(std: float = 0.3) -> tuple[Linear, MAP, Observations]:
    """A decoder linear in its 3 code dims, and curves of 9 points, of which each signal has lost some."""
    decoder = Linear().double()
    objective = MAP(Points(), Normal(std), Isotropic(3, 0.8), expectation="cubature").double()
    draw = torch.Generator().manual_seed(3)
    coords = torch.rand(1, 9, 1, generator=draw, dtype=torch.float64)
    weight = (torch.rand(6, 9, generator=draw) < 0.7).double()
    values = torch.randn(6, 9, 1, generator=draw, dtype=torch.float64)
    return decoder, objective, Observations(torch.arange(6), coords, values, weight)


def exact_posterior(decoder: Linear, objective: MAP, observations: Observations) -> tuple[Tensor, Tensor]:
    """Mean and covariance of each code, by the formula of Bayesian linear regression."""
    functions = decoder.basis(observations.coords)[0] * decoder.weight[:, 0].detach()
    noise, prior = objective.likelihood.std.square(), objective.prior.std.square()
    precision = torch.einsum("bn,nd,ne->bde", observations.weight, functions, functions) / noise + torch.eye(3) / prior
    covariance = torch.linalg.inv(precision)
    pull = torch.einsum("bn,nd,bn->bd", observations.weight, functions, observations.values[..., 0]) / noise
    return torch.einsum("bde,be->bd", covariance, pull), covariance


def minimised(parameters: list[Tensor], cost: Callable[[], Tensor], steps: int = 400) -> None:
    """By torch's L-BFGS, to the rounding of float64."""
    optimiser = torch.optim.LBFGS(
        parameters, 1.0, steps, 2 * steps, tolerance_grad=1e-12, tolerance_change=0, history_size=50, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimiser.zero_grad()
        total = cost()
        total.backward()
        for p in parameters:
            p.grad = p.grad.to_dense() if p.grad is not None and p.grad.is_sparse else p.grad
        return float(total.detach())

    optimiser.step(closure)


def test_a_variational_bank_finds_the_exact_posterior_of_a_linear_decoder() -> None:
    decoder, objective, observations = linear_model()
    bank = VariationalBank(6, 3).double()
    minimised(list(bank.parameters()), lambda: objective(bank, decoder, observations).total.sum())
    mean, covariance = exact_posterior(decoder, objective, observations)
    # 1e-6 is the seed's; the best diagonal Gaussian has the exact mean, and as precision the diagonal of the exact one
    torch.testing.assert_close(bank.codes.detach(), mean, rtol=0, atol=1e-6)
    variance = (2 * bank.log_std.detach()).exp()
    torch.testing.assert_close(variance, 1 / torch.linalg.inv(covariance).diagonal(dim1=1, dim2=2), rtol=0, atol=1e-6)


def test_where_the_decoders_functions_are_orthogonal_that_is_the_exact_variance() -> None:
    decoder, objective, observations = linear_model()
    basis = torch.linalg.qr(torch.randn(9, 3, dtype=torch.float64)).Q
    decoder.basis = lambda coords: basis[None]  # type: ignore[method-assign]
    decoder.weight.data = torch.ones_like(decoder.weight)
    whole = Observations(observations.index, observations.coords, observations.values, torch.ones_like(observations.weight))
    bank = VariationalBank(6, 3).double()
    minimised(list(bank.parameters()), lambda: objective(bank, decoder, whole).total.sum())
    mean, covariance = exact_posterior(decoder, objective, whole)
    torch.testing.assert_close(bank.codes.detach(), mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.diag_embed((2 * bank.log_std.detach()).exp()), covariance, rtol=0, atol=1e-6)


def test_cubature_is_what_many_draws_come_to() -> None:
    decoder, objective, observations = linear_model()
    bank = VariationalBank(6, 3, spread=0.4).double()
    drawn = MAP(objective.measurement, objective.likelihood, objective.prior)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        each = torch.stack([drawn(bank, decoder, observations, generator).data for _ in range(2000)])
        exact = objective(bank, decoder, observations).data
    assert bool(((each.mean(0) - exact).abs() < 4 * each.std(0) / math.sqrt(2000)).all())


def test_a_linear_variational_autoencoder_reaches_the_likelihood_of_probabilistic_pca() -> None:
    signals = images(60)
    given = signals.batch(torch.arange(60))
    observations = replace(given, coords=given.coords.double(), values=given.values.double(), weight=given.weight.double())
    x = observations.values.flatten(1)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    variance = float(values[:-3].mean())  # of the noise, by maximum likelihood (Tipping and Bishop 1999)
    factor = vectors[:, -3:] * (values[-3:] - variance).sqrt()
    covariance = factor @ factor.T + variance * torch.eye(64, dtype=torch.float64)
    best = d.MultivariateNormal(x.mean(0), covariance).log_prob(x).mean()
    decoder = GridLinear((8, 8), nf.Image(8, 8, 1).grid(), 1, 3).double()
    source = GaussianEncoder(60, 2, 1, (8, 8), code_dim=3, network="linear").double()
    objective = MAP(Points(), Normal(math.sqrt(variance)), Isotropic(3), expectation="cubature").double()
    objective.likelihood.std.fill_(math.sqrt(variance))  # in float64
    bound = lambda: objective(source, decoder, observations)  # noqa: E731
    minimised([*source.parameters(), *decoder.parameters()], lambda: bound().total.mean(), steps=3000)
    reached = -(bound().data + bound().prior).mean().detach()
    assert float(best - reached) < 1e-4  # nats, the seed's
    assert float(best - reached) > -1e-8  # it is a bound


def test_beta_weighs_the_divergence_alone() -> None:
    decoder, objective, observations = linear_model()
    bank = VariationalBank(6, 3).double()
    heavier = MAP(objective.measurement, objective.likelihood, objective.prior, beta=4.0, expectation="cubature")
    once, four = objective(bank, decoder, observations), heavier(bank, decoder, observations)
    torch.testing.assert_close(four.prior, 4 * once.prior)
    assert torch.equal(four.data, once.data)
    torch.testing.assert_close(four.terms["divergence"], once.prior.mean())


# penalties and corruptions


def test_penalties_and_corruptions_count_while_a_fit_trains_and_only_there() -> None:
    signals, source = images(), made(Encoder, "mlp")
    batch = signals.batch(torch.arange(5))
    decoder = GridLinear((8, 8), nf.Image(8, 8, 1).grid(), 1, 4)
    plain = MAP(Points(), Normal(0.1), Isotropic(4))
    noisy = MAP(Points(), Normal(0.1), Isotropic(4), corruption=Noise(0.5))
    draw = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    assert not torch.equal(noisy(source, decoder, batch, draw()).data, plain(source, decoder, batch).data)
    read = Noise(0.5)(batch, draw())
    z = source(read).mean
    torch.testing.assert_close(noisy(source, decoder, batch, draw()).data, plain.nats(decoder(z, batch.coords), batch).sum(1))
    noisy.eval()
    assert torch.equal(noisy(source, decoder, batch, draw()).data, plain(source, decoder, batch).data)
    sparse = MAP(Points(), Normal(0.1), Isotropic(4), penalty=L1(2.0))
    loss, less = sparse(source, decoder, batch), plain(source, decoder, batch)
    torch.testing.assert_close(loss.prior - less.prior, 2 * source(batch).mean.abs().sum(1))
    torch.testing.assert_close(loss.terms["penalty"], (loss.prior - less.prior).mean())


# whole fits


@pytest.mark.parametrize("settings", [ENCODER + READING, GAUSSIAN + READING, VARIATIONAL], ids=["encoder", "gaussian", "bank"])
class TestFits:
    def test_a_run_is_loaded_as_it_was_saved(self, settings: list[str], tmp_path: Path) -> None:
        run = nf.fit(images(), recipe="image", settings=settings, epochs=2, out=tmp_path / "run", device="cpu")
        again = nf.Run.load(tmp_path / "run")
        assert torch.equal(again.codes, run.codes)
        assert (again.std is None) == (run.std is None)
        if run.std is not None and again.std is not None:
            assert torch.equal(again.std, run.std)
        new = images(5, seed=1)
        assert torch.equal(again.infer(new).latent.mean, run.infer(new).latent.mean)
        assert run.facts["scores"]["train"]["mse"] < 0.2

    def test_a_fit_that_is_interrupted_ends_as_one_that_is_not(
        self, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = nf.fit(images(), recipe="image", settings=settings, epochs=3, out=tmp_path / "whole", device="cpu")
        interrupted(monkeypatch, tmp_path / "part", settings)
        resumed = nf.fit(images(), recipe="image", resume=True, out=tmp_path / "part", device="cpu")
        assert torch.equal(resumed.codes, whole.codes)
        for name, tensor in whole.decoder.state_dict().items():
            assert torch.equal(resumed.decoder.state_dict()[name], tensor), name

    def test_new_signals_join(self, settings: list[str], tmp_path: Path) -> None:
        run = nf.fit(images(), recipe="image", settings=settings, epochs=1, device="cpu")
        run.add(images(5, seed=1))
        run.save(tmp_path / "more")
        again = nf.Run.load(tmp_path / "more")
        assert torch.equal(again.codes, run.codes)
        assert len(again.codes) == 29
        if again.std is not None and run.model.source.reads:
            batch = images(5, seed=1).batch(torch.arange(5))
            torch.testing.assert_close(again.std[24:], run.model.source(batch).log_std.exp())

    def test_completions_have_bands(self, settings: list[str]) -> None:
        run = nf.fit(images(), recipe="image", settings=settings, epochs=1, device="cpu")
        completion = nf.complete(run, images(5, seed=1), nf.Visibility(hide=["center:4"]), samples=4)
        assert set(completion.means()) == {"observed", "hidden"}
        assert math.isfinite(completion.means()["hidden"]["coverage90"])


def interrupted(monkeypatch: pytest.MonkeyPatch, folder: Path, settings: list[str]) -> None:
    """A fit of 3 epochs that Ctrl-C ends in its second."""
    from neuralfield.training import running

    steps = {"left": 5}

    class Interrupt:
        def __enter__(self) -> Callable[[], bool]:
            return self.now

        def __exit__(self, *_: object) -> None: ...

        @staticmethod
        def now() -> bool:
            steps["left"] -= 1
            return steps["left"] < 0

    with monkeypatch.context() as patch:
        patch.setattr(running, "interruptible", Interrupt)
        with pytest.raises(InterruptedFitError):
            nf.fit(images(), recipe="image", settings=settings, epochs=3, out=folder, device="cpu")


def test_validation_brings_the_best_encoder_back() -> None:
    settings = [*ENCODER, *READING, "training.validation=0.25", "training.patience=1", "training.decoder_rate=0.3"]
    run = nf.fit(images(), recipe="image", settings=settings, epochs=8, device="cpu")
    signals = images()
    kept = [signals.ids.index(name) for name in run.ids]
    latent = run.model.source(signals.batch(torch.tensor(kept)))
    # the codes are those of the encoder that was brought back, whatever batches they were read in
    torch.testing.assert_close(run.codes, latent.mean, rtol=1e-5, atol=1e-6)


def test_an_autoencoder_encodes_or_searches_or_both() -> None:
    run = nf.fit(images(), recipe="image", settings=[*ENCODER, *READING], epochs=5, device="cpu")
    new = images(5, seed=1)
    read = run.infer(new)
    assert read.reasons == ("encoded",) * 5
    assert torch.equal(read.latent.mean, run.model.source(new.batch(torch.arange(5))).mean)
    assert bool((read.evaluations <= 1).all())
    solver = nf.Adam(50, 0.05)
    searched = run.infer(new, solver)
    assert bool((searched.loss.total <= read.loss.total).all())


def test_a_variational_encoders_posterior_is_its_own() -> None:
    run = nf.fit(images(), recipe="image", settings=[*GAUSSIAN, *READING], epochs=2, device="cpu")
    new = images(5, seed=1)
    found, latent = run.infer(new, samples=4), run.model.source(new.batch(torch.arange(5)))
    torch.testing.assert_close(found.posterior.covariance(), torch.diag_embed((2 * latent.log_std).exp()))
    assert torch.equal(found.posterior.mean, latent.mean)


def test_the_codes_of_a_run_lie_where_its_prior_is_bounded() -> None:
    for settings in (ENCODER + READING, [*TINY, "training.polish=0"]):
        bounded = [*settings, "prior.kind=ball", "prior.radius=0.2", "inference.prior=training"]
        run = nf.fit(images(), recipe="image", settings=bounded, epochs=3, device="cpu")
        assert run.codes.norm(dim=1).max() <= 0.2 * (1 + 1e-6)
        assert nf.sample(run, 50).norm(dim=1).max() <= 0.2 * (1 + 1e-6)
        if run.model.source.reads:  # batches of other sizes: float32 in another order
            torch.testing.assert_close(run.infer(images()).latent.mean, run.codes, rtol=1e-5, atol=1e-6)


def test_a_set_encoders_codes_are_those_of_a_later_inference() -> None:
    settings = [*ENCODER, *READING, "latents.network=set", "training.points=20", "inference.points=30"]
    run = nf.fit(images(), recipe="image", settings=settings, epochs=1, device="cpu")
    torch.testing.assert_close(run.infer(images()).latent.mean, run.codes, rtol=1e-5, atol=1e-6)


def test_posteriors_do_not_leave_a_penalty_out() -> None:
    settings = [*TINY, "penalty.kind=l1", "penalty.weight=5", "inference.kind=lbfgs", "inference.prior=training"]
    run = nf.fit(images(), recipe="image", settings=settings, epochs=1, device="cpu")
    assert run.infer(images(2)).latent.mean.isfinite().all()
    with pytest.raises(UsageError, match="not the penalty L1"):
        run.infer(images(2), samples=4)


def test_there_is_nothing_to_calibrate_where_nothing_is_searched() -> None:
    run = nf.fit(images(), recipe="image", settings=[*GAUSSIAN, *READING], epochs=1, device="cpu")
    with pytest.raises(UsageError, match='solver "encode" makes none'):
        nf.calibrate(run, images(3))


def test_a_mask_that_hides_all_of_a_signal_ends_no_fit() -> None:
    batch = images(4).batch(torch.arange(4))
    domain = nf.Image(8, 8, 1)
    centre = ~nf.Visibility(hide="center:4").seen(batch, domain)
    blind = batch.split(centre)[0]  # seen in the middle alone
    assert float(Mask(domain, "center:4")(blind).weight.sum()) == 0


def test_a_set_encoder_reads_curves_at_times_of_their_own() -> None:
    settings = ["latents.kind=encoder", "latents.network=set", "latents.code_dim=4", "latents.width=16", *READING]
    settings += ["decoder.kind=concat", "training.steps=20", "training.optimiser=adam", "likelihood.noise=fixed"]
    run = nf.fit(waves(24), recipe="function", settings=settings, device="cpu")
    assert run.infer(waves(5, seed=1)).latent.mean.shape == (5, 4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["inference.start=encoder"], ["bank", 'start "encoder"', "inference.start=spectral"]),
        (["corruption.kind=noise"], ["bank", "[corruption]", "corruption.kind=none"]),
        (["penalty.kind=contractive"], ["bank", "does not read what was observed"]),
        (["penalty.kind=kl-sparsity", "latents.kind=encoder"], ["encoder", "between 0 and 1", "latents.output=logistic"]),
        (["latents.kind=gaussian-encoder", "prior.kind=norm"], ["gaussian-encoder", "prior.kind=isotropic"]),
        (["latents.kind=encoder", "training.polish=5"], ["encoder", "training.polish=0"]),
        (["latents.kind=variational-bank", "training.polish=5"], ["variational-bank", "training.polish=0"]),
        (["latents.kind=encoder", "training.draw=samples"], ["encoder", "training.draw=signals"]),
        (["latents.kind=encoder", "training.points=10"], ["encoder", "training.points", "latents.network=set"]),
        (["latents.kind=encoder", "training.latent_optimiser=dense"], ["encoder", "training.latent_optimiser"]),
        (["latents.kind=encoder", "latents.network=mpl"], ["network", 'did you mean "mlp"']),
        (["latents.kind=variational-bank", "latents.spread=0"], ["latents.spread", "0"]),
        (["penalty.kind=l1", "inference.kind=levenberg"], ['"levenberg"', "L1", "inference.kind=lbfgs"]),
        (
            ["penalty.kind=l1", "objective.kind=encdec", "latents.kind=encoder", "inference.kind=encode"],
            ["encdec", "[penalty]", "penalty.kind=none"],
        ),
        (
            ["objective.kind=encdec", "latents.kind=gaussian-encoder", "inference.kind=encode"],
            ["encdec", "distributions", "latents.kind=encoder"],
        ),
        (["training.plateau=foo"], ["training.plateau", '"foo"', "divergence"]),
        (["latents.kind=encoder", "inference.start=encoder", "inference.points=9"], ["inference.points", "latents.network=set"]),
        (["objective.beta=-1"], ["objective.beta", "-1"]),
    ],
)
def test_parts_that_cannot_work_together_are_refused_in_one_line(settings: list[str], words: list[str]) -> None:
    recipe = Recipe.load("image", settings) if "domain.kind=shape" not in settings else Recipe.load("shape", settings[:1])
    recipe = (
        recipe if "domain.kind=shape" in settings else recipe.changed(["domain.height=8", "domain.width=8", "domain.channels=1"])
    )
    with pytest.raises(UsageError) as refusal:
        build(recipe, 5)
    for word in words:
        assert word in str(refusal.value)


def test_shapes_have_no_grid_for_an_encoder_to_read() -> None:
    with pytest.raises(UsageError, match=r"latents\.network=set takes any points"):
        build(Recipe.load("shape", ["latents.kind=encoder", "domain.dims=3"]), 5)


def test_an_encoder_says_how_many_points_it_takes(tmp_path: Path, source: str, nf_: Nf) -> None:
    folder = tmp_path / "run"
    nf.fit(source, recipe="image", settings=[*ENCODER, *READING], epochs=1, out=folder, device="cpu")
    failed(nf_("infer", folder, "--set", "inference.points=10"), 2, "inference.points", "latents.network=set")
    run = nf.Run.load(folder)
    with pytest.raises(NeuralfieldError, match="takes the 64 points of the 8 x 8 grid, but got 63"):
        run.infer(images(2).batch(torch.arange(2)).span(slice(63)))


def test_nf_codes_writes_the_spreads_of_a_variational_source(tmp_path: Path, source: str, nf_: Nf) -> None:
    import numpy as np

    folder = tmp_path / "run"
    run = nf.fit(source, recipe="image", settings=[*GAUSSIAN, *READING], epochs=1, out=folder, device="cpu")
    assert nf_("codes", folder, "--out", tmp_path / "codes.npz").code == 0
    assert run.std is not None
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npz")["std"], run.std.numpy())
    answer = nf_("infer", folder, "--solver", "encode", "--json")
    assert answer.json["reasons"] == {"encoded": 12}


@pytest.mark.parametrize("settings", [ENCODER + READING, GAUSSIAN + READING, VARIATIONAL], ids=["encoder", "gaussian", "bank"])
def test_every_verb_works_with_every_source(settings: list[str], tmp_path: Path, source: str, nf_: Nf) -> None:
    folder, words = tmp_path / "run", [word for setting in settings for word in ("--set", setting)]
    told = nf_("fit", "--domain", "image", "--data", source, "--out", folder, "--epochs", "2", *words)
    assert told.code == 0, told.err
    for verb, *more in (
        ["infer", "--hide", "center:4", "--samples", "4"],
        ["infer", "--solver", "adam", "--set", "inference.steps=5"],
        ["infer", "--solver", "levenberg", "--set", "inference.start=mean"],
        ["eval"],
        ["calibrate", "--hide", "center:4", "--set", "inference.kind=lbfgs"],
        ["add"],
        ["decode", "--signal", "30", "--out", str(tmp_path / "a.png")],
        ["codes", "--out", str(tmp_path / "codes.npz")],
    ):
        answer = nf_(verb, folder, *more)
        assert answer.code == 0, (verb, more, answer.err)


OTHERS = {
    "concat": ["decoder.kind=concat", "decoder.width=8", "decoder.depth=2"],
    "convolutional": ["decoder.kind=convolutional", "decoder.width=2"],
    "linear": ["decoder.kind=linear"],
    "basis": ["decoder.kind=basis"],
    "bernoulli": ["likelihood.kind=bernoulli"],
    "alternating": ["schedule.kind=alternating", "schedule.latent_epochs=1", "schedule.decoder_epochs=1", "schedule.rounds=1"],
    "samples of points": ["latents.network=set", "training.points=20"],
    "a full Gaussian prior": ["prior.kind=gaussian"],
}


@pytest.mark.parametrize("settings", [ENCODER + READING, GAUSSIAN + READING, VARIATIONAL], ids=["encoder", "gaussian", "bank"])
@pytest.mark.parametrize("other", OTHERS)
def test_every_source_works_with_every_other_part(settings: list[str], other: str) -> None:
    changes = [c for c in OTHERS[other] if not c.startswith("latents.network") or settings != VARIATIONAL]
    kept = [s for s in settings if not (s.startswith("decoder.") and any(c.startswith("decoder.kind") for c in changes))]
    kept = [s for s in kept if not (s.startswith("likelihood.") and any(c.startswith("likelihood.kind") for c in changes))]
    run = nf.fit(images(), recipe="image", settings=[*kept, *changes], epochs=2, device="cpu")
    assert run.codes.isfinite().all()
    assert run.codes.std(0).min() > 0
    assert math.isfinite(run.facts["scores"]["train"]["psnr"])
