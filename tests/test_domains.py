"""Domains: the contract for each, and the laws of images."""

import math

import numpy as np
import pytest
import torch
from contracts.domain import DomainContract, constant, exact
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from synthetic import images

from neuralfield.domains.domain import Domain
from neuralfield.domains.function import Function
from neuralfield.domains.image import Image, as_picture
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.signals.curves import Curves
from neuralfield.types import Field, Observations


def whole(domain: Image) -> Observations:
    return images(3, domain.height, domain.width, domain.channels).truth(torch.arange(3))


class ImageContract(DomainContract):
    shape: tuple[int, int, int]

    @pytest.fixture
    def domain(self) -> Domain:
        return Image(*self.shape)

    @pytest.fixture
    def truth(self, domain: Image) -> Observations:
        return whole(domain)


class TestGreyImage(ImageContract):
    shape = (8, 8, 1)


class TestWideColourImage(ImageContract):
    shape = (9, 13, 3)


class TestTinyImageWithAlpha(ImageContract):
    shape = (3, 2, 4)


class TestTallTwoChannelImage(ImageContract):
    shape = (14, 11, 2)


def curves(times: list[float], channels: int) -> Curves:
    draw = np.random.default_rng(0)
    return Curves.from_arrays(np.array(times), 5 + 3 * draw.standard_normal((3, len(times), channels)))


class TestFunctionOnAGrid(DomainContract):
    @pytest.fixture
    def domain(self) -> Domain:
        return Function(**curves([1.0, 2.0, 4.0, 8.0, 9.0, 9.5, 20.0, 21.0], 1).domain_arguments)

    @pytest.fixture
    def truth(self, domain: Domain) -> Observations:
        return curves([1.0, 2.0, 4.0, 8.0, 9.0, 9.5, 20.0, 21.0], 1).truth(torch.arange(3))


class TestFunctionWithoutAGrid(DomainContract):
    @pytest.fixture
    def domain(self) -> Domain:
        return Function(**curves([1e9, 1e9 + 1, 1e9 + 4, 1e9 + 10], 2).domain_arguments | {"times": None})

    @pytest.fixture
    def truth(self, domain: Domain) -> Observations:
        return curves([1e9, 1e9 + 1, 1e9 + 4, 1e9 + 10], 2).truth(torch.arange(3))


class TestFunctionOfLogarithms(DomainContract):
    @staticmethod
    def made() -> Curves:
        x = np.exp(5 + 2 * np.random.default_rng(0).standard_normal((3, 6, 2)))
        return Curves.from_arrays(np.array([1.0, 2.0, 4.0, 8.0, 9.0, 9.5]), x, names=["a", "b"]).logarithmic()

    @pytest.fixture
    def domain(self) -> Domain:
        return Function(**self.made().domain_arguments)

    @pytest.fixture
    def truth(self, domain: Domain) -> Observations:
        return self.made().truth(torch.arange(3))


def test_a_functions_units_are_those_of_the_user_and_come_back_to_the_last_float32() -> None:
    times = [1.7e9, 1.7e9 + 60, 1.7e9 + 86400]  # Unix seconds, which float32 would round to two minutes
    domain = Function(times[0], times[-1], [20.0, -3.0], [5.0, 0.1], times)
    assert domain.grid().flatten().tolist() == pytest.approx([-1, 120 / 86400 - 1, 1], abs=1e-7)
    assert domain.times_of(domain.grid()).tolist() == [pytest.approx(times, abs=0.01)]  # 86400 s / 2^24
    values = torch.tensor([[20.0, -3.0], [30.0, -2.9]], dtype=torch.float64)
    torch.testing.assert_close(domain.normalised(values), torch.tensor([[0.0, 0.0], [2.0, 1.0]]))
    torch.testing.assert_close(domain.values_of(domain.normalised(values)), values, rtol=1e-7, atol=0)


def test_a_function_is_sampled_at_its_own_times_or_evenly() -> None:
    on_grid, free = Function(0.0, 4.0, [0.0], [1.0], [0.0, 1.0, 4.0]), Function(0.0, 4.0, [0.0], [1.0])
    assert (on_grid.shape, on_grid.grid_shape(), on_grid.grid_shape(9)) == ((3,), (3,), (9,))
    assert (free.shape, free.grid_shape()) == (None, (128,))
    assert on_grid.grid().flatten().tolist() == [-1, -0.5, 1]
    for domain in (on_grid, free):
        assert domain.times_of(domain.grid(5)).flatten().tolist() == [0, 1, 2, 3, 4]
        assert domain.grid(1).tolist() == [[[0]]]
        with pytest.raises(NeuralfieldError, match="at least 1 sample, got 0"):
            domain.grid(0)


def test_errors_of_functions_are_in_the_users_units_and_in_standard_deviations() -> None:
    domain = Function(0.0, 1.0, [7.0, 1.0], [10.0, 1.0])
    truth = Observations(torch.arange(1), torch.zeros(1, 2, 1), torch.zeros(1, 2, 2), torch.tensor([[1.0, 3.0]]))
    field = Field(lambda values, coords: values, torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]))
    scores = domain.score(field, truth)
    # the second point counts three times: (1 * 2^2 + 3 * 1^2) / (4 points x 2 channels)
    assert scores["nrmse"].item() == pytest.approx(math.sqrt(7 / 8))
    assert scores["rmse"].item() == pytest.approx(math.sqrt((20**2 + 3 * 1**2) / 8))


def test_halves_of_a_function_are_early_and_late() -> None:
    domain = Function(0.0, 1.0, [0.0], [1.0])
    assert domain.axis("early") == domain.axis("t") == domain.axis("x") == (0, -1)
    assert domain.axis("late") == domain.axis("-t") == (0, 1)


def test_a_function_without_extent_or_scale_is_refused() -> None:
    with pytest.raises(NeuralfieldError, match=r"start 2.0 and end 2.0"):
        Function(2.0, 2.0, [0.0], [1.0])
    with pytest.raises(NeuralfieldError, match="positive scale"):
        Function(0.0, 2.0, [0.0], [0.0])


SHAPES = [(8, 8, 1), (12, 16, 3), (16, 11, 2), (3, 5, 1)]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (5, 7), (20, 33)])
def test_coordinates_are_pixel_centres_row_by_row(height: int, width: int) -> None:
    grid = Image(height, width).grid()[0].reshape(height, width, 2)
    for i in range(height):
        for j in range(width):
            x, y = grid[i, j].tolist()
            assert x == pytest.approx((2 * j + 1) / width - 1, abs=1e-6)
            assert y == pytest.approx((2 * i + 1) / height - 1, abs=1e-6)


@pytest.mark.parametrize("factor", [3, 5])
def test_an_odd_multiple_of_the_resolution_keeps_the_pixel_centres(factor: int) -> None:
    domain = Image(6, 10)
    fine = domain.grid(10 * factor)[0].reshape(6 * factor, 10 * factor, 2)
    middle = fine[factor // 2 :: factor, factor // 2 :: factor].reshape(-1, 2)
    torch.testing.assert_close(middle, domain.grid()[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("resolution", [1, 10, 33, 256])
def test_any_resolution_keeps_the_aspect_ratio(resolution: int) -> None:
    height, width = Image(20, 33).grid_shape(resolution)
    assert width == resolution
    assert height == max(1, round(20 * resolution / 33))
    assert Image(33, 20).grid_shape(resolution) == (width, height)


def test_a_resolution_below_one_pixel_is_refused() -> None:
    with pytest.raises(NeuralfieldError, match="at least 1 pixel, got 0"):
        Image(4, 4).grid(0)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_exact_copy_has_the_best_scores(shape: tuple[int, int, int]) -> None:
    truth = whole(Image(*shape))
    scores = Image(*shape).score(exact(truth), truth)
    assert scores["mse"].eq(0).all()
    assert scores["psnr"].eq(100).all()
    torch.testing.assert_close(scores["ssim"], torch.ones(3))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.5, 0.1, 0.01])
def test_a_constant_error_has_the_psnr_of_its_size(shape: tuple[int, int, int], offset: float) -> None:
    truth = whole(Image(*shape))
    scores = Image(*shape).score(Field(lambda values, coords: values + offset, truth.values), truth)
    # -10 log10(e^2) = -20 log10 e; a float32 difference of numbers near 1 is good to 1e-7 / e
    torch.testing.assert_close(scores["psnr"], torch.full((3,), -20 * math.log10(offset)), rtol=0, atol=1e-3)
    torch.testing.assert_close(scores["mse"], torch.full((3,), offset**2), rtol=1e-4, atol=0)


def test_scores_are_taken_over_known_pixels_alone() -> None:
    domain = Image(8, 8)
    truth = whole(domain)
    left = truth.coords[..., 0] < 0
    observed, hidden = truth.split(left.expand(3, -1))
    field = Field(lambda values, coords: values + torch.where(left, 0.1, 0.2)[..., None], truth.values)
    torch.testing.assert_close(domain.score(field, observed)["mse"], torch.full((3,), 0.01), rtol=1e-4, atol=0)
    torch.testing.assert_close(domain.score(field, hidden)["mse"], torch.full((3,), 0.04), rtol=1e-4, atol=0)
    assert "ssim" not in domain.score(field, observed)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, with their 11x11 Gaussian window of 1.5 pixels, over windows that lie inside."""

    def blurred(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, 1.5, truncate=3.5, axes=(0, 1))[5:-5, 5:-5]

    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b, cov = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2, blurred(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    return float(np.mean((2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))))


@pytest.mark.parametrize("shape", [(12, 16, 3), (16, 11, 1)])
def test_ssim_is_that_of_the_paper_and_of_skimage(shape: tuple[int, int, int]) -> None:
    domain, draw = Image(*shape), torch.Generator().manual_seed(0)
    truth = whole(domain)
    noisy = truth.values + 0.2 * torch.randn(truth.values.shape, generator=draw)
    scores = domain.score(Field(lambda values, coords: values, noisy), truth)["ssim"]
    for i in range(3):
        a, b = (v[i].reshape(shape).double().numpy() for v in (noisy, truth.values))
        assert float(scores[i]) == pytest.approx(ssim(a, b), abs=1e-4)  # scored in float32
        theirs = structural_similarity(
            a, b, channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert float(scores[i]) == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("resolution", [None, 3, 29])
def test_pictures_are_the_fields_own_values_at_any_resolution(channels: int, resolution: int | None) -> None:
    domain = Image(6, 9, channels)
    slopes = torch.tensor([[0.5, 0.1], [0.2, -0.4]])
    field = Field(lambda slope, coords: (0.5 + 0.5 * (coords @ slope.T).permute(2, 1, 0)).repeat(1, 1, channels), slopes)
    pictures = domain.render(field, resolution)
    height, width = domain.grid_shape(resolution)
    assert pictures.shape == (2, height, width, 3)
    expected = (field(domain.grid(resolution)).reshape(2, height, width, channels).clamp(0, 1) * 255).round()
    assert np.array_equal(pictures[..., 0], expected[..., 0].numpy().astype(np.uint8))


def test_values_out_of_range_are_clipped_not_wrapped() -> None:
    assert as_picture(torch.tensor([-5.0, 0.0, 1.0, 9.0]).reshape(1, 2, 2, 1))[..., 0].tolist() == [[[0, 0], [255, 255]]]


def test_sides_of_an_image_have_everyday_names() -> None:
    domain = Image(4, 6)
    x, y = domain.grid()[0].T
    for side, inside in (("left", x < 0), ("right", x > 0), ("top", y < 0), ("bottom", y > 0)):
        axis, sign = domain.axis(side)
        assert torch.equal(domain.grid()[0, :, axis] * sign > 0, inside)
    with pytest.raises(UsageError, match="left"):
        domain.axis("lft")


def test_rendering_does_not_depend_on_how_the_points_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    domain, field = Image(8, 8), constant(Image(8, 8), torch.tensor([0.2, 0.8]))
    before = domain.render(field, 16)
    monkeypatch.setattr("neuralfield.types.EVALUATED_AT_ONCE", 10)
    assert np.array_equal(domain.render(field, 16), before)
