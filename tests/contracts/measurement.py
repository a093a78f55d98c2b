"""Laws of every measurement."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from neuralfield.decoders.concat import Concat
from neuralfield.decoders.convolutional import Convolutional
from neuralfield.decoders.decoder import Decoder
from neuralfield.decoders.linear import Linear
from neuralfield.decoders.modulated import Modulated
from neuralfield.domains.grid import pixel_centres
from neuralfield.inference.quadratic import jacobians
from neuralfield.latents.priors import Isotropic
from neuralfield.likelihoods import Gaussian
from neuralfield.measurements import Local, Measurement
from neuralfield.objective import MAP
from neuralfield.types import Conditioning, Field, Observations

SIGNALS, PLACES, CODE_DIM = 3, 6, 4
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.float64: {"rtol": 1e-10, "atol": 1e-10}}
"""The same sums in another order: rounding of values and derivatives of size 1, and nothing more."""
DECODERS = {
    "modulated": lambda: Modulated(2, 1, CODE_DIM, width=6, depth=2, modulation="film", frequencies=3, bandwidth=0.5),
    "concat": lambda: Concat(2, 1, CODE_DIM, width=8, depth=3, activation="silu"),
    "linear": lambda: Linear((4, 5), pixel_centres(4, 5), 1, CODE_DIM),
    "convolutional": lambda: Convolutional((4, 5), 1, CODE_DIM, width=3),
    "not affine": lambda: Bent(),
}
decoders = pytest.mark.parametrize("kind", DECODERS)
shared_or_own = pytest.mark.parametrize("shared", [True, False], ids=["shared places", "own places"])


class Bent(Decoder):
    """Pointwise, with matrices for every signal, bent in the code: no tensor of the conditioning is [B, 1, K]."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.out = torch.nn.Linear(CODE_DIM, 10), torch.nn.Linear(5, 1)

    def condition(self, z: Tensor) -> Conditioning:
        return torch.tanh(self.weights(z)).reshape(-1, 2, 5)

    def evaluate(self, conditioning: Conditioning, coords: Tensor) -> Tensor:
        return self.out(torch.tanh(coords @ conditioning))


def decoder_of(kind: str, dtype: torch.dtype = torch.float64) -> Decoder:
    torch.manual_seed(0)
    return DECODERS[kind]().to(dtype)


def field_of(decoder: Decoder, z: Tensor) -> Field:
    return Field(decoder.evaluate, decoder.condition(z))


class MeasurementContract:
    """Give `make`: a measurement of fields over two coordinates, with as many values as the field has."""

    def make(self) -> Measurement:
        raise NotImplementedError

    @pytest.fixture
    def measurement(self) -> Measurement:
        return self.make()

    @staticmethod
    def observations(shared: bool, dtype: torch.dtype = torch.float64) -> Observations:
        """Values in [0, 1]; each signal has its own places hidden."""
        draw = torch.Generator().manual_seed(2)
        coords = (torch.rand(1 if shared else SIGNALS, PLACES, 2, generator=draw) * 1.6 - 0.8).to(dtype)
        values = torch.rand(SIGNALS, PLACES, 1, generator=draw).to(dtype)
        weight = (torch.rand(SIGNALS, PLACES, generator=draw) < 0.7).to(dtype)
        return Observations(torch.arange(SIGNALS), coords, values, weight)

    @staticmethod
    def codes(dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(SIGNALS, CODE_DIM, generator=torch.Generator().manual_seed(1)).to(dtype)

    def seen(self, measurement: Measurement, kind: str, observations: Observations, z: Tensor) -> Tensor:
        with torch.no_grad():
            return measurement.measure(field_of(decoder_of(kind, z.dtype), z), observations)

    @shared_or_own
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_there_is_one_prediction_for_every_value(self, measurement: Measurement, shared: bool, dtype: torch.dtype) -> None:
        observations = self.observations(shared, dtype)
        predicted = self.seen(measurement, "modulated", observations, self.codes(dtype))
        assert predicted.shape == observations.values.shape
        assert predicted.dtype == dtype
        assert predicted.isfinite().all()

    def test_shared_places_are_as_good_as_the_same_places_for_each(self, measurement: Measurement) -> None:
        one = self.observations(shared=True)
        each = replace(one, coords=one.coords.repeat(SIGNALS, 1, 1))
        alike = [self.seen(measurement, "modulated", observations, self.codes()) for observations in (one, each)]
        torch.testing.assert_close(*alike, **CLOSE[torch.float64])

    def test_a_signal_is_seen_the_same_alone_and_in_a_batch(self, measurement: Measurement) -> None:
        observations, z = self.observations(shared=False), self.codes()
        together = self.seen(measurement, "modulated", observations, z)
        for i in range(SIGNALS):
            row = slice(i, i + 1)
            alone = self.seen(measurement, "modulated", observations.rows(row), z[row])
            torch.testing.assert_close(together[row], alone, **CLOSE[torch.float64])

    def test_what_was_observed_has_no_influence_on_what_should_have_been(self, measurement: Measurement) -> None:
        observations, z = self.observations(shared=True), self.codes()
        others = replace(observations, values=observations.values + 1)
        assert torch.equal(*(self.seen(measurement, "modulated", each, z) for each in (observations, others)))

    def test_a_local_measurement_takes_its_points_and_no_others(self, measurement: Measurement) -> None:
        if not isinstance(measurement, Local):
            pytest.skip("this measurement does not say that it is local")
        observations, z = self.observations(shared=True), self.codes()
        assert measurement.around(observations.coords).shape == (1, PLACES, measurement.points, 2)
        predicted = self.seen(measurement, "modulated", observations, z)
        some = self.seen(measurement, "modulated", observations.span(slice(2, 4)), z)
        torch.testing.assert_close(some, predicted[:, 2:4], **CLOSE[torch.float64])

    def test_a_measurement_is_linear_where_it_says_so(self, measurement: Measurement) -> None:
        if not (isinstance(measurement, Local) and measurement.linear):
            pytest.skip("this measurement does not say that it is linear")
        observations, z = self.observations(shared=True), self.codes()
        field, other = (field_of(decoder_of(kind), z) for kind in ("modulated", "concat"))
        both = Field(lambda conditioning, coords: 2 * field(coords) - 3 * other(coords), z)
        with torch.no_grad():
            expected = 2 * measurement.measure(field, observations) - 3 * measurement.measure(other, observations)
            torch.testing.assert_close(measurement.measure(both, observations), expected, **CLOSE[torch.float64])

    @decoders
    @shared_or_own
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("at_once", [2**22, 1, 700], ids=["whole", "place by place", "in parts"])
    def test_its_jacobian_is_that_of_autograd(
        self,
        measurement: Measurement,
        kind: str,
        shared: bool,
        dtype: torch.dtype,
        at_once: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("neuralfield.inference.quadratic.AT_ONCE", at_once)
        decoder, observations, z = decoder_of(kind, dtype), self.observations(shared, dtype), self.codes(dtype)
        objective = MAP(measurement, Gaussian(0.4), Isotropic(CODE_DIM)).to(dtype)
        predicted, found = [[] for _ in z], [[] for _ in z]
        for rows, part, values, jacobian in jacobians(objective, decoder, observations, z):
            assert values.shape == part.values.shape
            for i, each, by_code in zip(range(SIGNALS)[rows], values, jacobian.expand(len(values), -1, -1, -1), strict=True):
                predicted[i].append(each)
                found[i].append(by_code)
        every = torch.autograd.functional.jacobian(lambda at: objective.predict(at, decoder, observations), z)
        expected = torch.stack([every[i, :, :, i] for i in range(SIGNALS)])
        torch.testing.assert_close(torch.stack([torch.cat(parts) for parts in found]), expected, **CLOSE[dtype])
        whole = objective.predict(z, decoder, observations).detach()
        torch.testing.assert_close(torch.stack([torch.cat(parts) for parts in predicted]), whole, **CLOSE[dtype])
