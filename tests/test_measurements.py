"""What is seen of a field: closed forms of means, exact derivatives, and runs that are told what was measured."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from contracts.measurement import CODE_DIM, MeasurementContract, decoder_of
from synthetic import Counting, images
from synthetic import Linear as PlainLinear
from torch import Tensor
from torch.nn.functional import interpolate

import neuralfield as nf
from neuralfield import registry
from neuralfield.decoders.decoder import Decoder
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.inference.adam import Adam
from neuralfield.inference.lbfgs import LBFGS
from neuralfield.inference.levenberg import Levenberg
from neuralfield.inference.quadratic import evaluations, jacobians
from neuralfield.inference.solver import Solver
from neuralfield.latents.priors import Isotropic
from neuralfield.latents.source import FixedCodes
from neuralfield.likelihoods import Gaussian
from neuralfield.measurements import Average, Blur, Local, Measurement, Points, Weighted
from neuralfield.objective import MAP
from neuralfield.types import Field, Latent, Observations


class Energy(Local):
    """A user's own, of the points around each place, and not linear: the mean square over three of them."""

    points = 3

    def around(self, coords: Tensor) -> Tensor:
        return coords[:, :, None] + torch.tensor([[0.0, 0.0], [0.3, -0.1], [-0.2, 0.2]]).to(coords)

    def combine(self, values: Tensor) -> Tensor:
        return values.square().mean(-2)


class RowSum(Measurement):
    """A user's own, as in tomography: the field summed along x through each place, and squashed, as a detector saturates."""

    points = 5

    def measure(self, field: Field, observations: Observations) -> Tensor:
        g, n, _ = observations.coords.shape
        x = torch.linspace(-0.8, 0.8, self.points).to(observations.coords)
        ray = torch.stack(torch.broadcast_tensors(x, observations.coords[..., 1:]), -1)
        return torch.tanh(field(ray.reshape(g, -1, 2)).unflatten(1, (n, -1)).sum(2) / 4)


class TestPoints(MeasurementContract):
    def make(self) -> Measurement:
        return Points()


class TestAverage(MeasurementContract):
    def make(self) -> Measurement:
        return Average([0.3, 0.2], samples=3, coord_dim=2)


class TestBlur(MeasurementContract):
    def make(self) -> Measurement:
        return Blur(0.1, samples=4, coord_dim=2)


class TestWeighted(MeasurementContract):
    def make(self) -> Measurement:
        """A difference: weights that do not sum to 1."""
        return Weighted(torch.tensor([[0.1, 0.0], [-0.1, 0.0]]), torch.tensor([5.0, -5.0]))


class TestAUsersOwnLocal(MeasurementContract):
    def make(self) -> Measurement:
        return Energy()


class TestAUsersOwn(MeasurementContract):
    def make(self) -> Measurement:
        return RowSum()


# closed forms


def seen(measurement: Measurement, function: Callable[[Tensor], Tensor], coords: Tensor) -> Tensor:
    """[N]: what is measured of one known scalar function of points [..., C], at places [N, C]."""
    field = Field(lambda _, at: function(at)[..., None], torch.zeros(1, 1))
    observations = Observations(torch.zeros(1).long(), coords[None], torch.zeros(1, len(coords), 1), torch.ones(1, len(coords)))
    return measurement.measure(field, observations)[0, :, 0]


def places(coord_dim: int) -> Tensor:
    return torch.rand(7, coord_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("coord_dim", [1, 2, 3])
def test_means_of_a_linear_function_are_its_values(coord_dim: int) -> None:
    def plane(at: Tensor) -> Tensor:
        return 3 - at @ torch.arange(1.0, coord_dim + 1, dtype=at.dtype)

    for measurement in (Average(0.7, coord_dim=coord_dim), Blur(0.2, samples=5, coord_dim=coord_dim)):
        torch.testing.assert_close(seen(measurement, plane, places(coord_dim)), plane(places(coord_dim)))


def test_an_average_of_a_sine_is_that_of_its_integral() -> None:
    # over [t - h/2, t + h/2] the mean of sin(k t) is sin(k t) sinc(k h / 2)
    sizes, frequencies = torch.tensor([0.5, 0.3]).double(), torch.tensor([4.0, 7.0]).double()
    expected = (torch.sin(places(2) * frequencies) * torch.special.sinc(frequencies * sizes / 2 / math.pi)).prod(1)
    found = seen(Average(sizes.tolist(), samples=64, coord_dim=2), lambda at: torch.sin(at * frequencies).prod(-1), places(2))
    # the midpoint rule errs by the share (k h / samples)^2 / 24
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_an_average_with_the_samples_of_a_finer_grid_is_the_mean_of_its_pixels() -> None:
    function = lambda at: torch.sin(3 * at[..., 0]) * at[..., 1].exp()  # noqa: E731
    fine, coarse = (nf.Image(side, side).grid()[0].double() for side in (32, 8))
    blocks = function(fine).reshape(8, 4, 8, 4).mean((1, 3)).flatten()
    torch.testing.assert_close(seen(Average(0.25, samples=4, coord_dim=2), function, coarse), blocks, rtol=0, atol=1e-7)


def test_a_blurred_sine_is_damped_by_its_frequency() -> None:
    # convolved with N(0, s^2), sin(k t) is exp(-k^2 s^2 / 2) sin(k t)
    std, frequency = 0.1, 5.0
    expected = math.exp(-((frequency * std) ** 2) / 2) * torch.sin(frequency * places(1)[:, 0])
    found = seen(Blur(std, reach=6.0, samples=61, coord_dim=1), lambda at: torch.sin(frequency * at[..., 0]), places(1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)  # what is cut off beyond 6 deviations
    default = seen(Blur(std, coord_dim=1), lambda at: torch.sin(frequency * at[..., 0]), places(1))
    torch.testing.assert_close(default, expected, rtol=0.01, atol=0)  # 0.3 % of the weight lies beyond 3 deviations


@pytest.mark.parametrize("size", [0.2, [0.2, 0.2], (0.2, 0.2)])
def test_a_size_is_one_number_for_all_axes_or_one_for_each(size: float | list[float]) -> None:
    measurement = Average(size, samples=3, coord_dim=2)
    assert torch.equal(measurement.offsets, Average(0.2, samples=3, coord_dim=2).offsets)
    assert measurement.points == 9


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (["kind=average"], ["measurement", "needs", "size"]),
        (["kind=average", "size=0"], ["measurement.size", "positive", "0"]),
        (["kind=average", "size=[0.1,-0.1]"], ["measurement.size", "positive"]),
        (["kind=average", "size=[0.1,0.1,0.1]"], ["measurement.size", "2 axes"]),
        (["kind=average", "size=inf"], ["measurement.size", "inf"]),
        (["kind=average", "size=0.1", "samples=0"], ["measurement.samples", "at least 1"]),
        (["kind=average", "siz=0.1"], ["siz", "size"]),
        (["kind=average", "size=0.1", "coord_dim=3"], ["coord_dim"]),
        (["kind=blur", "std=-1"], ["measurement.std", "positive", "-1"]),
        (["kind=blur", "std=0.1", "reach=0"], ["reach", "positive"]),
        (["kind=blur", "std=0.1", "samples=1"], ["measurement.samples", "at least 2"]),
        (["kind=averag", "size=0.1"], ["averag", "average"]),
    ],
)
def test_bad_arguments_are_refused_in_one_line(setting: list[str], words: list[str], fitted: Path) -> None:
    with pytest.raises(UsageError) as caught:
        nf.Run.load(fitted, [f"measurement.{each}" for each in setting])
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_a_measurement_of_other_coordinates_is_refused_by_name() -> None:
    with pytest.raises(NeuralfieldError, match=r"coord_dim=1.* 2 coordinate dims"):
        Average(0.1, coord_dim=1).around(torch.zeros(1, 3, 2))


# work


@pytest.mark.parametrize(
    "measurement", [Points(), Average(0.2, samples=2, coord_dim=2), Energy(), RowSum()], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("make", [lambda: PlainLinear(CODE_DIM), lambda: decoder_of("modulated", torch.float32)])
def test_evaluations_charge_for_every_point(measurement: Measurement, shared: bool, make: Callable[[], Decoder]) -> None:
    decoder, observations = Counting(make()), MeasurementContract.observations(shared, torch.float32)
    objective, z = MAP(measurement, Gaussian(0.4), Isotropic(CODE_DIM)), MeasurementContract.codes(torch.float32)
    charged = evaluations(objective, decoder, observations, CODE_DIM) * (observations.weight > 0).sum(1)
    if not isinstance(measurement, Local):  # forward mode: a pass for the values, one for each code dimension at once
        count = measurement.points * observations.weight.numel()
        assert float(charged.sum()) == pytest.approx(count * (1 + CODE_DIM))
        return
    for _ in jacobians(objective, decoder, observations, z):
        pass
    assert float(charged.sum()) == pytest.approx(decoder.work)


# solvers


@pytest.mark.parametrize("measurement", [Average(0.4, samples=2, coord_dim=2), Energy(), RowSum()], ids=lambda m: type(m).__name__)
def test_solvers_that_differ_reach_the_same_objective(measurement: Measurement) -> None:
    decoder, observations = decoder_of("modulated", torch.float32), MeasurementContract.observations(False, torch.float32)
    objective, truth = MAP(measurement, Gaussian(0.1), Isotropic(CODE_DIM)), MeasurementContract.codes(torch.float32)
    with torch.no_grad():
        observations = Observations(
            observations.index, observations.coords, objective.predict(truth, decoder, observations), observations.weight
        )
    start = Latent(torch.zeros_like(truth))
    solvers: list[Solver] = [Levenberg(steps=60, tolerance=1e-6), LBFGS(steps=200, tolerance=1e-6), Adam(steps=1000, rate=0.05)]
    totals = [solver.solve(objective, decoder, observations, start).loss.total for solver in solvers]
    for total in totals[1:]:
        torch.testing.assert_close(total, totals[0], rtol=0, atol=1e-3)  # nats per value
    before = objective(FixedCodes(start.mean), decoder, observations).total
    assert (totals[0] < before - 1e-3).all()


# through a run


BUMPS = ["decoder.kind=modulated", "decoder.width=32", "decoder.depth=2", "decoder.frequencies=16", "decoder.bandwidth=0.5"]
BUMPS += ["latents.code_dim=8", "latents.noise=0.05", "likelihood.std=0.05", "training.batch=32"]

BLOCKS = ["measurement.kind=average", "measurement.size=0.5", "measurement.samples=2", "inference.kind=levenberg"]


@pytest.fixture(scope="module")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows bumps well: 8x8 images, whose blocks of 2x2 are 4x4."""
    folder = tmp_path_factory.mktemp("runs") / "sharp"
    nf.fit(images(200, labelled=False), recipe="image", settings=BUMPS, epochs=60, out=folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def truth() -> Observations:
    return images(40, seed=5, labelled=False).truth(torch.arange(40))


def coarse(truth: Observations) -> Observations:
    """Their means over blocks of 2x2 pixels."""
    values = truth.values.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16, 1)
    return Observations(truth.index, nf.Image(4, 4).grid(), values, torch.ones(values.shape[:2]))


def psnr(run: nf.Run, codes: Tensor, truth: Observations) -> float:
    return run.domain.score(run.field(codes), truth)["psnr"].mean().item()


def test_super_resolution_through_a_run_beats_interpolation_and_coarse_pixels_taken_for_points(
    sharp: Path, truth: Observations
) -> None:
    run, plain = nf.Run.load(sharp, BLOCKS), nf.Run.load(sharp, ["inference.kind=levenberg"])
    blocks = coarse(truth)
    estimate = run.infer(blocks)
    assert estimate.converged.all()
    small = blocks.values.reshape(-1, 1, 4, 4)
    bicubic = interpolate(small, size=8, mode="bicubic", align_corners=False).reshape(-1, 64, 1)
    by_bicubic = -10 * (bicubic - truth.values).square().mean((1, 2)).log10().mean()
    found = psnr(run, estimate.latent.mean, truth)
    assert found > by_bicubic + 2
    assert found > psnr(plain, plain.infer(blocks).latent.mean, truth) + 2


def test_blurred_images_are_sharpened_through_a_run(sharp: Path, truth: Observations) -> None:
    run = nf.Run.load(sharp, ["measurement.kind=blur", "measurement.std=0.3", "inference.kind=levenberg"])
    plain = nf.Run.load(sharp, ["inference.kind=levenberg"])
    sharpest = plain.infer(truth).latent.mean
    with torch.no_grad():
        values = run.model.objective.predict(sharpest, run.decoder, truth)
    blurred = Observations(truth.index, truth.coords, values, truth.weight)
    assert psnr(run, run.infer(blurred).latent.mean, truth) > psnr(plain, plain.infer(blurred).latent.mean, truth) + 2


def test_a_run_that_is_told_what_is_measured_has_the_same_field_and_remembers(sharp: Path, tmp_path: Path) -> None:
    plain, run = nf.Run.load(sharp), nf.Run.load(sharp, BLOCKS)
    grid = run.domain.grid(5)
    assert torch.equal(run.field(run.codes[:3])(grid), plain.field(plain.codes[:3])(grid))
    run.save(tmp_path / "told")
    again = nf.Run.load(tmp_path / "told")
    assert again.recipe.measurement == run.recipe.measurement
    assert isinstance(again.model.objective.measurement, Average)
    back = nf.Run.load(tmp_path / "told", ["measurement.kind=points"])
    assert isinstance(back.model.objective.measurement, Points)
    assert torch.equal(back.codes, plain.codes)


def test_sizes_for_each_axis_are_saved_and_read(sharp: Path, tmp_path: Path) -> None:
    nf.Run.load(sharp, ["measurement.kind=average", "measurement.size=[0.25,0.5]"]).save(tmp_path / "told")
    measurement = nf.Run.load(tmp_path / "told").model.objective.measurement
    assert torch.equal(measurement.offsets, Average((0.25, 0.5), coord_dim=2).offsets)


def test_points_are_measured_bit_for_bit_as_the_field_itself(sharp: Path, truth: Observations) -> None:
    run = nf.Run.load(sharp)
    field = run.field(run.codes[:40])
    assert torch.equal(Points().measure(field, truth), field(truth.coords))


def test_noisier_observations_are_told_apart_by_their_known_std(sharp: Path, truth: Observations) -> None:
    noise = 0.3 * torch.randn(truth.values.shape, generator=torch.Generator().manual_seed(6))
    noisy = Observations(truth.index, truth.coords, truth.values + noise, truth.weight)
    errors = {}
    for std in (0.05, 0.3):  # that of the fit, and that of the noise
        run = nf.Run.load(sharp, [f"likelihood.std={std}", "inference.kind=levenberg"])
        errors[std] = -psnr(run, run.infer(noisy).latent.mean, truth)
    assert errors[0.3] < errors[0.05] - 0.5  # dB


def test_a_fit_to_averages_alone_learns_the_field_that_has_them(truth: Observations) -> None:
    # trained and inferred with the same measurement, without ever a fine pixel
    fine = images(200, labelled=False).truth(torch.arange(200))
    blocks = nf.Images(coarse(fine).values.reshape(-1, 4, 4, 1))
    run = nf.fit(blocks, recipe="image", settings=[*BUMPS, *BLOCKS[:3]], epochs=60, device="cpu")
    seen = coarse(truth)
    field = run.field(run.infer(seen).latent)
    with torch.no_grad():
        means, at_centres = run.model.objective.measurement.measure(field, seen), field(seen.coords)
    # what was seen are the means of the field, and not its values
    assert (means - seen.values).square().mean() < 0.5 * (at_centres - seen.values).square().mean()


def test_a_users_own_measurement_is_a_name_like_any_other(
    sharp: Path, truth: Observations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    nf.register("measurements", "row-sum", RowSum)
    run = nf.Run.load(
        sharp, ["measurement.kind=row-sum", "inference.start=mean", "inference.kind=levenberg", "likelihood.std=0.01"]
    )
    with torch.no_grad():
        rows = run.model.objective.predict(run.codes[:40], run.decoder, coarse(truth))
    seen = Observations(truth.index, coarse(truth).coords, rows, torch.ones(rows.shape[:2]))
    found = run.infer(seen).latent.mean
    with torch.no_grad():
        again = run.model.objective.predict(found, run.decoder, seen)
    assert (again - rows).square().mean().sqrt() < 0.02  # explained to about their noise


def test_draws_of_codes_explain_the_averages_that_were_seen(sharp: Path, truth: Observations) -> None:
    run, blocks = nf.Run.load(sharp, BLOCKS), coarse(truth)
    estimate = run.infer(blocks, samples=8)
    for z in estimate.posterior.sample(8, torch.Generator().manual_seed(0)):
        with torch.no_grad():
            means = run.model.objective.predict(z, run.decoder, blocks)
        assert (means - blocks.values).square().mean().sqrt() < 0.1  # the likelihood's std is 0.05
