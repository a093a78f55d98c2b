"""Decoders: the contract for each kind, and what makes each kind itself."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from contracts.decoder import CLOSE, DecoderContract
from synthetic import Linear, fourier_basis
from torch import Tensor, nn
from torch.nn.functional import silu

from neuralfield.decoders.basis import Basis
from neuralfield.decoders.concat import Concat
from neuralfield.decoders.convolutional import Convolutional
from neuralfield.decoders.decoder import Decoder
from neuralfield.decoders.linear import Linear as PlainLinear
from neuralfield.decoders.mlp import MLP
from neuralfield.decoders.modulated import Modulated
from neuralfield.domains.grid import pixel_centres
from neuralfield.errors import NeuralfieldError


class TestShiftedFourier(DecoderContract):
    def make(self) -> Decoder:
        return Modulated(2, 1, 4, width=8, depth=3, frequencies=5)


class TestFilmFourier(DecoderContract):
    value_dim = 3

    def make(self) -> Decoder:
        return Modulated(2, 3, 4, width=8, depth=2, modulation="film", frequencies=5)


class TestShiftedSiren(DecoderContract):
    coord_dim = 3

    def make(self) -> Decoder:
        return Modulated(3, 1, 4, width=8, depth=3, basis="siren", w0=5.0)


class TestFilmSiren(DecoderContract):
    coord_dim = 1

    def make(self) -> Decoder:
        return Modulated(1, 1, 4, width=8, depth=3, modulation="film", basis="siren", w0=5.0)


class TestConcat(DecoderContract):
    def make(self) -> Decoder:
        return Concat(2, 1, 4, width=12, depth=3)


class TestConcatWithSkipAndFeatures(DecoderContract):
    value_dim = 2

    def make(self) -> Decoder:
        return Concat(2, 2, 4, width=24, depth=4, skip=2, activation="silu", frequencies=3)


class TestDeepSDF(DecoderContract):
    coord_dim = 3

    def make(self) -> Decoder:
        return Concat(3, 1, 4, width=24, depth=4, skip=2, weight_norm=True, dropout=0.2, bounded=True).eval()


class TestConvolutional(DecoderContract):
    def make(self) -> Decoder:
        return Convolutional((8, 8), 1, 4, width=4)


class TestConvolutionalWideColour(DecoderContract):
    value_dim = 3

    def make(self) -> Decoder:
        return Convolutional((9, 14), 3, 4, width=4, activation="silu")


class TestConvolutionalTooSmallToDouble(DecoderContract):
    def make(self) -> Decoder:
        return Convolutional((5, 7), 1, 4, width=4)


class TestMLP(DecoderContract):
    def make(self) -> Decoder:
        return MLP((5, 7), pixel_centres(5, 7), 1, 4, width=16, activation="silu")


class TestMLPOfCurves(DecoderContract):
    coord_dim = 1
    value_dim = 2

    def make(self) -> Decoder:
        return MLP((9,), torch.linspace(-1, 1, 9)[None, :, None], 2, 4, width=16, activation="silu")


class TestLinearBasis(DecoderContract):
    adopts = True
    coord_dim = 1

    def make(self) -> Decoder:
        return Basis(1, 1, 4, frequencies=6)


class TestBasisOfColoursInThePlane(DecoderContract):
    adopts = True
    value_dim = 2

    def make(self) -> Decoder:
        return Basis(2, 2, 4, frequencies=6)


class TestBasisOfMoreFunctionsThanCodeDimensions(DecoderContract):
    adopts = True
    coord_dim = 1

    def make(self) -> Decoder:
        return Basis(1, 1, 4, functions=7, frequencies=3)


class TestBasisOfFewerFunctionsThanCodeDimensions(DecoderContract):
    adopts = True
    coord_dim = 1

    def make(self) -> Decoder:
        return Basis(1, 1, 4, functions=3, frequencies=4)


class TestBentBasis(DecoderContract):
    """Its network begins at zero, where it is the linear one; here it has been trained a little."""

    coord_dim = 1
    value_dim = 2

    def make(self) -> Decoder:
        made = Basis(1, 2, 4, frequencies=5, branch_depth=2, branch_width=8)
        assert made.bend is not None
        nn.init.normal_(made.bend.weight)
        return made

    def test_it_begins_as_the_linear_model_that_it_adopts_or_is_left_as_it_was(self) -> None:  # type: ignore[override]
        basis, made = fourier_basis(1, 2, 3), Basis(1, 2, 4, frequencies=5, branch_depth=2, branch_width=8)
        assert made.adopt(basis)
        z, coords = torch.randn(3, 4), torch.rand(1, 9, 1)
        mean, functions = basis.functions(coords)
        torch.testing.assert_close(made(z, coords), mean + torch.einsum("gnvr,br->bnv", functions, z[:, :3]), **CLOSE)


class TestBasisOfAnMlp(DecoderContract):
    def make(self) -> Decoder:
        return Basis(2, 1, 4, frequencies=5, trunk_depth=2, trunk_width=8)


class TestBentBasisOfAnMlp(DecoderContract):
    value_dim = 2

    def make(self) -> Decoder:
        made = Basis(2, 2, 4, functions=5, frequencies=5, trunk_depth=1, trunk_width=8, branch_depth=1, branch_width=8)
        assert made.bend is not None
        nn.init.normal_(made.bend.weight)
        return made


class TestLinearOnAnUnevenLine(DecoderContract):
    adopts = True
    coord_dim = 1
    value_dim = 2

    def make(self) -> Decoder:
        return PlainLinear((6,), torch.tensor([-1.0, -0.9, -0.2, 0.1, 0.8, 1.0])[None, :, None], 2, 4)


class TestLinearOnPixels(DecoderContract):
    adopts = True

    def make(self) -> Decoder:
        return PlainLinear((5, 7), pixel_centres(5, 7), 1, 4)


class TestLinearOnColourPixels(DecoderContract):
    adopts = True
    value_dim = 3

    def make(self) -> Decoder:
        return PlainLinear((4, 4), pixel_centres(4, 4), 3, 4)


class TestAUsersOwn(DecoderContract):
    """The contract holds for the linear decoder that other tests use as a known case."""

    code_dim = 3

    def make(self) -> Decoder:
        made = Linear(3)
        nn.init.normal_(made.weight)
        return made


# concat


def naive(decoder: Concat, z: Tensor, coords: Tensor, activation: nn.Module, skip: int | None) -> Tensor:
    """The plain network of the paper: the code is repeated for every point and joined to its coordinates."""
    features = decoder.features(coords).expand(len(z), -1, -1)
    joined = torch.cat([z[:, None].expand(-1, coords.shape[1], -1), features], -1)
    h = joined
    for number, layer in enumerate(decoder.layers):
        h = activation(layer(torch.cat([h, joined], -1) if number == skip else h))
    return decoder.out(h)


@pytest.mark.parametrize("skip", [None, 1, 2, 3])
@pytest.mark.parametrize("frequencies", [0, 3])
def test_concat_is_the_network_that_joins_the_code_to_every_point(skip: int | None, frequencies: int) -> None:
    torch.manual_seed(0)
    decoder = Concat(2, 2, 5, width=32, depth=4, skip=skip, frequencies=frequencies).double()
    z, coords = torch.randn(3, 5, dtype=torch.float64), torch.randn(1, 7, 2, dtype=torch.float64)
    torch.testing.assert_close(decoder(z, coords), naive(decoder, z, coords, nn.ReLU(), skip), rtol=0, atol=1e-12)


def test_a_skip_that_does_not_fit_is_one_clear_line() -> None:
    for skip in (0, 4, 9):
        with pytest.raises(ValueError, match=f"got skip {skip}"):
            Concat(2, 1, 4, width=32, depth=4, skip=skip)
    with pytest.raises(ValueError, match="width 6 must exceed the 6 inputs"):
        Concat(2, 1, 4, width=6, depth=4, skip=2)


# modulated


@pytest.mark.parametrize("basis", ["fourier", "siren"])
@pytest.mark.parametrize("modulation", ["shift", "film"])
def test_modulated_is_the_network_of_its_formula(basis: str, modulation: str) -> None:
    torch.manual_seed(0)
    decoder = Modulated(2, 2, 5, width=6, depth=3, modulation=modulation, basis=basis, frequencies=4, w0=7.0).double()
    z, coords = torch.randn(3, 5, dtype=torch.float64), torch.randn(1, 7, 2, dtype=torch.float64)
    moves = decoder.modulate(z)
    values = []
    for b in range(3):
        shift, scale = moves[b].view(3, -1, 6)[:, 0], torch.ones(3, 6)
        if modulation == "film":
            both = moves[b].view(3, 2, 6)  # for every layer its shifts, then its scales
            shift, scale = both[:, 0], 1 + both[:, 1]
        h = coords[0]
        if basis == "fourier":
            phase = 2 * torch.pi * coords[0] @ decoder.features.frequencies
            h = torch.cat([h, phase.sin(), phase.cos()], -1)
        for number, layer in enumerate(decoder.layers):
            a = layer(h) * (7.0 if basis == "siren" and number == 0 else 1.0) * scale[number] + shift[number]
            h = a.sin() if basis == "siren" else silu(a)
        values.append(decoder.out(h))
    torch.testing.assert_close(decoder(z, coords), torch.stack(values), rtol=0, atol=1e-12)


def test_siren_keeps_the_spread_of_activations_through_its_layers() -> None:
    # Sitzmann et al. 2020, theorem 1.8: with their initialisation pre-activations stay near N(0, 1), whatever the depth
    torch.manual_seed(0)
    decoder = Modulated(2, 1, 4, width=128, depth=6, basis="siren")
    h = (30.0 * decoder.layers[0](torch.rand(500, 2) * 2 - 1)).sin()
    spreads: list[float] = []
    for layer in list(decoder.layers)[1:]:
        spreads.append(float(layer(h).std()))
        h = layer(h).sin()
    assert all(0.5 < spread < 2 for spread in spreads)
    assert all(0.5 < b / a < 2 for a, b in pairwise(spreads))


# convolutional


@pytest.mark.parametrize("shape", [(28, 28), (32, 32), (20, 33), (5, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_convolutional_field_is_its_map_at_pixel_centres(shape: tuple[int, int], channels: int) -> None:
    torch.manual_seed(0)
    decoder = Convolutional(shape, channels, 4, width=2)
    z = torch.randn(2, 4)
    image = decoder.condition(z)
    assert image.shape == (2, channels, *shape)
    y, x = ((2 * torch.arange(n) + 1) / n - 1 for n in shape)
    centres = torch.stack([x.repeat(shape[0]), y.repeat_interleave(shape[1])], -1)[None]
    expected = image.flatten(2).transpose(1, 2)
    assert torch.equal(decoder.evaluate(image, centres), expected)  # the shared grid: the map itself
    torch.testing.assert_close(decoder.evaluate(image, centres.repeat(2, 1, 1)), expected, **CLOSE)  # the general way


def test_a_convolutional_field_does_not_jump_and_stays_flat_beyond_its_border() -> None:
    torch.manual_seed(0)
    decoder = Convolutional((8, 8), 1, 4, width=4)
    z = torch.randn(1, 4)
    line = torch.stack([torch.linspace(-1.5, 1.5, 3001), torch.full((3001,), 0.1)], -1)[None]
    values = decoder(z, line)[0, :, 0].detach()
    contrast = float(values.max() - values.min())
    # 1/1000 of a side is 1/250 pixel; a cubic between pixels is no steeper than about twice the contrast per pixel
    assert values.diff().abs().max() < contrast * 0.01
    beyond = line[0, :, 0].abs() > 1.3
    assert values[beyond & (line[0, :, 0] > 0)].std() < 1e-5 * max(1.0, contrast)


@pytest.mark.parametrize("code_dim", [1, 6])
def test_any_size_from_one_pixel_up_can_be_made(code_dim: int) -> None:
    for shape in ((1, 1), (1, 9), (3, 4), (4, 4), (7, 8), (16, 9)):
        decoder = Convolutional(shape, 2, code_dim, width=2)
        assert decoder.condition(torch.zeros(1, code_dim)).shape == (1, 2, *shape)


# basis


def test_a_basis_is_the_sum_of_its_formula_and_deeponets_where_both_sides_are_networks() -> None:
    torch.manual_seed(0)
    decoder = Basis(2, 2, 4, functions=5, frequencies=3, trunk_depth=2, trunk_width=7, branch_depth=2, branch_width=6).double()
    assert decoder.bend is not None
    nn.init.normal_(decoder.bend.weight)
    z, coords = torch.randn(3, 4, dtype=torch.float64), torch.randn(1, 8, 2, dtype=torch.float64)
    values = []
    for code in z:
        hidden = code
        for layer in decoder.branch:
            hidden = silu(layer(hidden))
        coefficients = decoder.coefficients(code) + decoder.bend(hidden)
        phase = 2 * torch.pi * coords[0] @ decoder.features.frequencies
        h = torch.cat([coords[0], phase.sin(), phase.cos()], -1)
        for layer in decoder.trunk:
            h = silu(layer(h))
        functions = decoder.functions(h).reshape(8, 6, 2)  # the mean first, both values of a function together
        values.append(functions[:, 0] + sum(coefficients[r] * functions[:, 1 + r] for r in range(5)))
    torch.testing.assert_close(decoder(z, coords), torch.stack(values), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "setting"), [({"frequencies": 2}, "decoder.frequencies=3"), ({"functions": 2}, "decoder.functions=3")]
)
def test_a_basis_too_small_for_the_model_of_the_first_codes_says_what_it_needs(arguments: dict[str, int], setting: str) -> None:
    with pytest.raises(NeuralfieldError, match=f"--set {setting}"):
        Basis(1, 1, 4, **arguments).adopt(fourier_basis(1, 1, 3, frequencies=3))


@pytest.mark.parametrize("depth", [1, 2])
def test_a_basis_of_networks_begins_with_its_own_random_functions(depth: int) -> None:
    decoder = Basis(1, 1, 4, trunk_depth=depth)
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    assert not decoder.adopt(fourier_basis(1, 1, 3))
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())


# linear


def test_a_linear_decoder_of_a_line_is_exact_at_its_points_linear_between_and_flat_beyond() -> None:
    torch.manual_seed(0)
    grid = torch.tensor([-1.0, -0.9, -0.2, 0.1, 0.8, 1.0])
    decoder = PlainLinear((6,), grid[None, :, None], 2, 4)
    z = torch.randn(3, 4)
    known = decoder.condition(z).detach()
    assert torch.equal(decoder(z, grid[None, :, None]), known)  # the shared grid: the values themselves
    assert torch.equal(decoder(z, grid[None, :, None].repeat(3, 1, 1)), known)  # the general way
    coords = torch.linspace(-1.5, 1.5, 301)
    for values, at_points in zip(decoder(z, coords[None, :, None]).detach().numpy(), known.numpy(), strict=True):
        for channel in range(2):
            expected = np.interp(coords.numpy(), grid.numpy(), at_points[:, channel])
            # a convex sum of float32 numbers of size 1
            np.testing.assert_allclose(values[:, channel], expected, atol=1e-6)


def test_a_linear_decoder_of_one_time_is_constant() -> None:
    decoder = PlainLinear((1,), torch.zeros(1, 1, 1), 2, 3)
    values = decoder(torch.randn(4, 3), torch.linspace(-1, 1, 5)[None, :, None])
    assert values.shape == (4, 5, 2)
    assert torch.equal(values, values[:, :1].expand(-1, 5, -1))


def test_a_linear_decoder_needs_a_grid_of_one_or_two_axes() -> None:
    with pytest.raises(ValueError, match=r"one or two axes, .* \[2, 2, 2\]"):
        PlainLinear((2, 2, 2), torch.zeros(1, 8, 3), 1, 3)
