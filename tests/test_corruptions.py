"""What an encoder is shown in place of what was observed."""

import pytest
import torch
from contracts.corruption import CorruptionContract
from synthetic import images

from neuralfield.domains.function import Function
from neuralfield.domains.image import Image
from neuralfield.errors import UsageError
from neuralfield.signals.corruptions import Corruption, Dropout, Mask, Noise
from neuralfield.signals.masks import Visibility
from neuralfield.types import Observations

DOMAIN = Image(height=8, width=8, channels=1)


class TestNoise(CorruptionContract):
    def make(self, domain: Image) -> Corruption:
        return Noise(0.2)


class TestDropout(CorruptionContract):
    def make(self, domain: Image) -> Corruption:
        return Dropout(0.4)


class TestMask(CorruptionContract):
    draws = False

    def make(self, domain: Image) -> Corruption:
        return Mask(domain, "center:4")


class TestRandomMask(CorruptionContract):
    def make(self, domain: Image) -> Corruption:
        return Mask(domain, "random:0.5", scores="seen")


@pytest.fixture
def many() -> Observations:
    """200 images of ones, half of each hidden."""
    weight = torch.ones(200, 64)
    weight[:, 32:] = 0
    return Observations(torch.arange(200), DOMAIN.grid(), torch.ones(200, 64, 1), weight)


def test_noise_is_normal_of_its_standard_deviation(many: Observations) -> None:
    noise = (Noise(0.3)(many, torch.Generator().manual_seed(0)).values - 1)[:, :32].flatten()
    error = 0.3 / len(noise) ** 0.5
    assert abs(noise.mean()) < 3 * error
    assert abs(noise.std() - 0.3) < 3 * error / 2**0.5
    # kurtosis 3, of which 6400 numbers tell the 24 / n variance
    assert abs((noise / 0.3).pow(4).mean() - 3) < 3 * (96 / len(noise)) ** 0.5


def test_dropout_sets_its_share_to_0_and_leaves_the_rest(many: Observations) -> None:
    seen = Dropout(0.3)(many, torch.Generator().manual_seed(0))
    assert torch.equal(seen.weight, many.weight)
    values = seen.values[:, :32].flatten()
    assert set(values.tolist()) == {0.0, 1.0}
    assert abs((values == 0).float().mean() - 0.3) < 3 * (0.21 / len(values)) ** 0.5  # three standard errors of a share


@pytest.mark.parametrize("what", ["center:4", "half:left"])
def test_a_mask_hides_what_infer_would_hide(what: str) -> None:
    observations = images().batch(torch.arange(6))
    seen = Mask(DOMAIN, what)(observations, None)
    expected, _ = Visibility(hide=what).split(observations, DOMAIN)
    assert torch.equal(seen.values, expected.values)
    assert torch.equal(seen.weight, expected.weight)


def test_a_mask_may_be_hidden_from_the_likelihood_too() -> None:
    assert [Mask(DOMAIN, scores=scores).scores for scores in ("all", "seen")] == ["all", "seen"]
    assert Noise().scores == Dropout().scores == "all"


def test_a_curve_is_masked_on_its_own_domain() -> None:
    times = torch.linspace(-1, 1, 10)[None, :, None]
    observations = Observations(torch.arange(2), times, torch.ones(2, 10, 1), torch.ones(2, 10))
    seen = Mask(Function(0.0, 9.0, [0.0], [1.0]), "first:0.5")(observations, None)
    assert seen.weight.tolist() == [[0.0] * 5 + [1.0] * 5] * 2


def test_what_is_no_corruption_is_refused() -> None:
    with pytest.raises(ValueError, match=r"corruption\.std must be 0 or more, got -0\.1"):
        Noise(-0.1)
    with pytest.raises(ValueError, match=r"corruption\.share must be 0 or more and below 1, got 1\.0"):
        Dropout(1.0)
    with pytest.raises(UsageError, match='there is no mask "centre", did you mean "center"'):
        Mask(DOMAIN, "centre:4")
