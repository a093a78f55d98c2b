"""Decoders that train in bfloat16: what is rounded, and what must not be."""

import pytest
import torch
from synthetic import TINY, balls, images, waves

import neuralfield as nf
from neuralfield.decoders.layers import FourierFeatures
from neuralfield.devices import precision_of
from neuralfield.errors import UsageError
from neuralfield.recipe import Model, Recipe, build
from neuralfield.signals.signals import Signals
from neuralfield.training.batches import batches_of
from neuralfield.training.loop import Position, train
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.training.schedules.joint import Joint
from neuralfield.training.schedules.schedule import Optimisers

ROUNDING = 2.0**-8
"""Between neighbouring bfloat16 numbers, relative to them."""
SMALL = [
    "latents.code_dim=4",
    "latents.init=normal",
    "latents.noise=0",
    "decoder.width=16",
    "training.batch=6",
    "training.polish=0",
]
DECODERS = {
    "fourier": (images, "image-modulated", ["decoder.frequencies=8"]),
    "siren": (images, "image-modulated", ["decoder.basis=siren"]),
    "film": (images, "image-modulated", ["decoder.modulation=film"]),
    "convolutional": (images, "image", []),
    "basis": (waves, "functions-joint", ["decoder.kind=basis"]),
    "concat": (waves, "functions-joint", ["training.draw=signals"]),
    "deepsdf": (balls, "shape", ["decoder.kind=concat", "decoder.depth=4", "decoder.width=32", "decoder.skip=2"]),
    "shape": (balls, "shape", []),
    "averages": (images, "image-modulated", ["measurement.kind=average", "measurement.size=0.2"]),
}


def built(name: str, *more: str) -> tuple[Model, Signals, Recipe]:
    """A model of signals, with codes that differ."""
    make, kind, settings = DECODERS[name]
    signals = make()
    without_width = [s for s in SMALL if "width" not in s or name not in ("basis", "deepsdf")]
    recipe = Recipe.load(kind, [*without_width, *settings, *more])
    recipe = Recipe.from_tables(recipe.model_dump() | {"domain": {"kind": recipe.domain.kind, **signals.domain_arguments}})
    model = build(recipe, len(signals))
    model.source.codes.data = torch.randn(model.source.codes.shape, generator=torch.Generator().manual_seed(3))
    return model, signals, recipe


def after_backward(model: Model, signals: Signals, precision: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(predictions, losses) of the first signals, with gradients left in the model."""
    model.objective.precision = precision
    batch = signals.batch(torch.arange(6))
    loss = model.objective(model.source, model.decoder, batch)
    loss.total.sum().backward()
    predicted = model.objective.predict(model.source(batch).mean, model.decoder, batch)
    model.objective.precision = torch.float32
    return predicted.detach(), loss.total.detach()


@pytest.mark.parametrize("name", DECODERS)
def test_only_the_decoder_is_rounded(name: str) -> None:
    model, signals, _ = built(name)
    exact, cost = after_backward(model, signals, torch.float32)
    exact_gradients = {key: p.grad.clone() for key, p in model.decoder.named_parameters() if p.grad is not None}
    model.decoder.zero_grad()
    rounded, rounded_cost = after_backward(model, signals, torch.bfloat16)
    assert rounded.dtype == rounded_cost.dtype == torch.float32
    assert not torch.equal(rounded, exact)  # something was in bfloat16
    # each of up to five layers rounds its inputs, weights and outputs once, relative to what is summed up
    spread = exact.abs().max() + 1
    assert (rounded - exact).abs().max() < 10 * ROUNDING * spread
    torch.testing.assert_close(rounded_cost.mean(), cost.mean(), rtol=0.1, atol=0.02)
    for key, p in model.decoder.named_parameters():
        if key in exact_gradients:
            assert p.grad is not None
            assert p.grad.dtype == torch.float32
            apart = (p.grad - exact_gradients[key]).norm() / exact_gradients[key].norm().clamp(min=1e-6)
            assert apart < 0.2, key  # directions hold


@pytest.mark.parametrize("bandwidth", [1.5, 20.0])
def test_features_of_coordinates_are_not_rounded(bandwidth: float) -> None:
    features = FourierFeatures(2, 16, bandwidth)
    coords = torch.rand(1, 50, 2) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        inside = features(coords)
    assert torch.equal(inside, features(coords))


@pytest.mark.parametrize("per_signal", [False, True])
def test_the_first_layer_of_a_siren_is_not_rounded(per_signal: bool) -> None:
    # values are the units of the one hidden layer, sin(30 (W t + b) + shift), which are rounded twice: to 2^-9 as they enter the
    # last product, and as they leave it
    decoder = nf.Modulated(coord_dim=2, value_dim=64, code_dim=3, width=64, depth=1, basis="siren", w0=30.0)
    torch.nn.init.eye_(decoder.out.weight)
    torch.nn.init.zeros_(decoder.out.bias)
    coords = torch.rand(4 if per_signal else 1, 400, 2) * 2 - 1
    conditioning = decoder.condition(torch.zeros(4, 3))
    exact = decoder.evaluate(conditioning, coords)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = decoder.evaluate(conditioning, coords)
    assert (rounded.float() - exact).abs().max() <= ROUNDING
    # the test can see it: with coordinates of 8 bits, phases are off by up to 30 |W| 2^-9
    assert (decoder.evaluate(conditioning, coords.bfloat16().float()) - exact).abs().max() > 5 * ROUNDING


@pytest.mark.parametrize("name", ["fourier", "convolutional", "shape"])
def test_the_objective_is_in_full_precision_between_steps(name: str) -> None:
    model, signals, recipe = built(name, "training.precision=bfloat16")
    batch = signals.batch(torch.arange(6))
    optimisers = Optimisers(RowAdam(model.source.parameters()), torch.optim.Adam(model.decoder.parameters()))
    batches = batches_of(signals, recipe.training)
    seen = []
    evaluate = model.decoder.evaluate
    model.decoder.evaluate = lambda *given: (seen.append(torch.is_autocast_enabled("cpu")), evaluate(*given))[1]  # type: ignore[method-assign]
    for _ in train(model, optimisers, Joint(), batches, recipe.training, Position(), 0, lambda at: at.steps / 3):
        assert model.objective.precision == torch.float32
        assert seen
        assert all(seen)
        seen.clear()
        with torch.no_grad():
            model.objective(model.source, model.decoder, batch)
        assert not any(seen)
        seen.clear()


@pytest.mark.parametrize("name", ["fourier", "siren", "concat", "shape"])
def test_a_fit_in_bfloat16_ends_where_one_in_float32_does(name: str) -> None:
    make, kind, settings = DECODERS[name]
    scores = {}
    for precision in ("float32", "bfloat16"):
        chosen = [*SMALL, *settings, f"training.precision={precision}"]
        run = nf.fit(make(), recipe=kind, settings=chosen, epochs=40, device="cpu")
        headline = run.domain.headline
        scores[precision] = run.facts["scores"]["train"][headline]
        assert all(p.dtype == torch.float32 for p in [run.codes, *run.decoder.parameters()])
    # PSNR in dB is a logarithm; errors are compared by their ratio. Fits of some hundred steps differ by a few per cent
    if headline == "psnr":
        assert scores["bfloat16"] > scores["float32"] - 0.7
    else:
        assert scores["bfloat16"] < 1.15 * scores["float32"]


def test_auto_is_float32_on_a_cpu(images: nf.Images) -> None:
    assert precision_of("auto", torch.device("cpu")) == torch.float32
    runs = [
        nf.fit(images, recipe="image", settings=[*TINY, f"training.precision={p}"], epochs=2, device="cpu")
        for p in ("auto", "float32")
    ]
    assert torch.equal(runs[0].codes, runs[1].codes)


def test_an_unknown_precision_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"precision.*float32.*bfloat16") as caught:
        Recipe.load("image", ["training.precision=float16"])
    assert "\n" not in str(caught.value)


def test_slopes_of_fields_are_in_full_precision() -> None:
    model, signals, _ = built("shape", "objective.eikonal=1.0", "decoder.kernel=reference")
    batch, costs = signals.batch(torch.arange(3)), []
    for precision in (torch.float32, torch.bfloat16):
        model.objective.precision = precision
        costs.append(model.objective(model.source, model.decoder, batch).batch)
    assert torch.equal(*costs)
