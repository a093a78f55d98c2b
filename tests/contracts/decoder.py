"""Laws of every decoder f(z, t)."""

import pytest
import torch
from synthetic import fourier_basis
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from neuralfield.decoders.decoder import Decoder

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
"""Matrix products of the same float32 numbers in batches of another size: their sums run in another order."""


class DecoderContract:
    """Give `make`, whose decoders take codes of `code_dim` numbers and give `value_dim` values at `coord_dim` coordinates.

    `adopts` says that they can begin as a linear model of the data.
    """

    coord_dim = 2
    value_dim = 1
    code_dim = 4
    adopts = False

    def make(self) -> Decoder:
        raise NotImplementedError

    @pytest.fixture
    def decoder(self) -> Decoder:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.make()

    @pytest.fixture
    def z(self) -> Tensor:
        return torch.randn(3, self.code_dim, generator=torch.Generator().manual_seed(1))

    @pytest.fixture
    def coords(self) -> Tensor:
        """Points of the domain, and a few beyond it, [1, N, C]."""
        return torch.rand(1, 11, self.coord_dim, generator=torch.Generator().manual_seed(2)) * 2.4 - 1.2

    def test_values_are_finite_at_any_number_of_points(self, decoder: Decoder, z: Tensor) -> None:
        for n in (1, 2, 50):
            values = decoder(z, torch.linspace(-1, 1, n * self.coord_dim).reshape(1, n, self.coord_dim))
            assert values.shape == (3, n, self.value_dim)
            assert values.isfinite().all()

    def test_forward_is_evaluate_after_condition(self, decoder: Decoder, z: Tensor, coords: Tensor) -> None:
        assert torch.equal(decoder(z, coords), decoder.evaluate(decoder.condition(z), coords))

    def test_the_conditioning_has_one_row_per_signal(self, decoder: Decoder, z: Tensor, coords: Tensor) -> None:
        conditioning = decoder.condition(z)
        assert tree_leaves(conditioning)
        assert all(leaf.shape[0] == len(z) for leaf in tree_leaves(conditioning))
        some = tree_map(lambda leaf: leaf[[2, 0]], conditioning)
        torch.testing.assert_close(decoder.evaluate(some, coords), decoder(z, coords)[[2, 0]], **CLOSE)

    def test_signals_and_points_differ(self, decoder: Decoder, z: Tensor, coords: Tensor) -> None:
        values = decoder(z, coords)
        assert (values - values[:1]).abs().amax((1, 2))[1:].gt(1e-6).all()
        assert (values - values[:, :1]).abs().amax((1, 2)).gt(1e-6).all()

    def test_shared_points_are_as_good_as_the_same_points_for_each(self, decoder: Decoder, z: Tensor, coords: Tensor) -> None:
        torch.testing.assert_close(decoder(z, coords), decoder(z, coords.repeat(3, 1, 1)), **CLOSE)

    def test_every_signal_may_have_its_own_points(self, decoder: Decoder, z: Tensor, coords: Tensor) -> None:
        own = torch.cat([coords, -coords, 0.5 * coords])
        values = decoder(z, own)
        for i in range(3):
            torch.testing.assert_close(values[i], decoder(z[i : i + 1], own[i : i + 1])[0], **CLOSE)

    def test_a_signal_has_the_same_values_alone_and_in_a_batch(self, decoder: Decoder, z: Tensor, coords: Tensor) -> None:
        alone = torch.cat([decoder(row[None], coords) for row in z])
        torch.testing.assert_close(decoder(z, coords), alone, **CLOSE)

    def test_points_in_another_order_have_their_values_in_that_order(self, decoder: Decoder, z: Tensor, coords: Tensor) -> None:
        order = torch.randperm(coords.shape[1], generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(decoder(z, coords[:, order]), decoder(z, coords)[:, order], **CLOSE)

    def test_a_point_has_the_same_value_whatever_the_others_are(self, decoder: Decoder, z: Tensor, coords: Tensor) -> None:
        torch.testing.assert_close(decoder(z, coords[:, 3:5]), decoder(z, coords)[:, 3:5], **CLOSE)

    def test_a_pointwise_decoder_allows_a_conditioning_of_its_own_for_every_point(
        self, decoder: Decoder, z: Tensor, coords: Tensor
    ) -> None:
        if not decoder.pointwise:
            pytest.skip("this decoder does not say that it is pointwise")
        n = coords.shape[1]
        copies = tree_map(lambda leaf: leaf.repeat_interleave(n, 0), decoder.condition(z))
        values = decoder.evaluate(copies, coords[0].repeat(len(z), 1)[:, None])
        torch.testing.assert_close(values.reshape(len(z), n, -1), decoder(z, coords), **CLOSE)

    def test_gradients_reach_the_codes_and_every_parameter(self, decoder: Decoder, z: Tensor, coords: Tensor) -> None:
        z = z.clone().requires_grad_()
        decoder(z, coords).square().sum().backward()
        assert z.grad is not None
        assert z.grad.abs().amax(1).gt(0).all()
        for name, parameter in decoder.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name

    def test_a_signals_values_depend_on_its_own_code_alone(self, decoder: Decoder, z: Tensor, coords: Tensor) -> None:
        z = z.clone().requires_grad_()
        decoder(z, coords)[1].sum().backward()
        assert z.grad is not None
        assert z.grad[[0, 2]].eq(0).all()

    def test_weights_carry_the_whole_decoder(self, decoder: Decoder, z: Tensor, coords: Tensor) -> None:
        torch.manual_seed(17)
        other = self.make()
        assert not torch.equal(other(z, coords), decoder(z, coords))
        other.load_state_dict(decoder.state_dict())
        assert torch.equal(other(z, coords), decoder(z, coords))

    def test_values_are_affine_in_the_code_where_the_decoder_says_so(self, decoder: Decoder, z: Tensor, coords: Tensor) -> None:
        if not decoder.linear_in_code:
            pytest.skip("this decoder does not say that it is linear in the code")
        zero, third, other = decoder(torch.zeros(1, self.code_dim), coords), decoder(z / 3, coords), decoder(z, coords)
        torch.testing.assert_close(other - zero, 3 * (third - zero), **CLOSE)
        both = decoder(z[:1] + z[1:2], coords)
        torch.testing.assert_close(both - zero, other[:1] + other[1:2] - 2 * zero, **CLOSE)

    def test_the_conditioning_is_affine_in_the_code_where_the_decoder_says_so(self, decoder: Decoder, z: Tensor) -> None:
        if not decoder.affine_conditioning:
            pytest.skip("this decoder does not say that its conditioning is affine in the code")
        exact, z = decoder.double(), z.double()
        zero = tree_leaves(exact.condition(torch.zeros(1, self.code_dim, dtype=torch.float64)))
        unit = tree_leaves(exact.condition(torch.eye(self.code_dim, dtype=torch.float64)))
        for size in (1.0, 100.0):
            for leaf, origin, each in zip(tree_leaves(exact.condition(size * z)), zero, unit, strict=True):
                expected = origin + torch.einsum("bd,d...->b...", size * z, each - origin)
                torch.testing.assert_close(leaf, expected, rtol=1e-10, atol=1e-9)

    def test_a_conditioning_of_one_row_per_signal_may_have_one_for_every_point(
        self, decoder: Decoder, z: Tensor, coords: Tensor
    ) -> None:
        leaves = tree_leaves(decoder.condition(z))
        if not decoder.pointwise or not all(leaf.ndim == 3 and leaf.shape[1] == 1 for leaf in leaves):
            pytest.skip("the conditioning of this decoder is not [B, 1, K]")
        n = coords.shape[1]
        copies = tree_map(lambda leaf: leaf.expand(-1, n, -1).clone(), decoder.condition(z))
        torch.testing.assert_close(decoder.evaluate(copies, coords), decoder(z, coords), **CLOSE)
        own = torch.cat([coords, -coords, 0.5 * coords])
        torch.testing.assert_close(decoder.evaluate(copies, own), decoder(z, own), **CLOSE)

    def test_it_begins_as_the_linear_model_that_it_adopts_or_is_left_as_it_was(
        self, decoder: Decoder, z: Tensor, coords: Tensor
    ) -> None:
        basis = fourier_basis(self.coord_dim, self.value_dim, rank=self.code_dim - 1)
        before = {name: value.clone() for name, value in decoder.state_dict().items()}
        assert decoder.adopt(basis) == self.adopts
        if not self.adopts:
            assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())
            return
        where = getattr(decoder, "grid", coords)  # a decoder of a grid is that model there, and interpolates between
        mean, functions = basis.functions(where)
        expected = mean + torch.einsum("gnvr,br->bnv", functions, z[:, : basis.rank])
        torch.testing.assert_close(decoder(z, where), expected, **CLOSE)

    def test_the_same_values_on_every_device(self, decoder: Decoder, z: Tensor, coords: Tensor, device: torch.device) -> None:
        here = decoder(z, coords)
        there = decoder.to(device)(z.to(device), coords.to(device)).cpu()
        # other devices multiply matrices in another order, and sines differ in their last digit
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)
