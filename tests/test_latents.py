"""Where codes come from: the bank and its optimiser touch the rows of the batch alone; spectral codes are exact PCA.

Signals that were seen in part, or at points of their own, are in test_mixed_effects.py.
"""

from typing import Any

import pytest
import torch
from contracts.latent_source import LatentSourceContract
from synthetic import images, waves
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import neuralfield as nf
from neuralfield.errors import NeuralfieldError
from neuralfield.latents.bank import Bank
from neuralfield.latents.basis import SpectralBasis
from neuralfield.latents.grid_pca import grid_pca
from neuralfield.latents.source import FixedCodes, LatentSource
from neuralfield.latents.spectral import spectral_basis
from neuralfield.signals.signals import Signals
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.types import Observations


def prepared(init: str, code_dim: int = 4, seed: int = 0) -> Bank:
    bank = Bank(24, code_dim, init=init)
    bank.initialise(lambda: images().batches(10), torch.Generator().manual_seed(seed))
    return bank


class TestNormalBank(LatentSourceContract):
    @pytest.fixture
    def source(self) -> LatentSource:
        return prepared("normal")


class TestSpectralBank(LatentSourceContract):
    @pytest.fixture
    def source(self) -> LatentSource:
        return prepared("spectral")


class TestSpectralBankOfCurves(LatentSourceContract):
    @pytest.fixture
    def observations(self) -> Observations:
        return waves(24).batch(torch.tensor([4, 0, 2, 1, 3]))

    @pytest.fixture
    def source(self) -> LatentSource:
        bank = Bank(24, 4)
        bank.initialise(lambda: waves(24).batches(10), torch.Generator().manual_seed(0))
        return bank


class TestFixedCodes(LatentSourceContract):
    @pytest.fixture
    def source(self) -> LatentSource:
        return FixedCodes(torch.randn(5, 4))


# the bank


def batch_of(index: list[int]) -> Observations:
    return images().batch(torch.tensor(index))


def test_a_bank_gives_each_signal_its_own_row() -> None:
    bank = prepared("normal")
    assert torch.equal(bank(batch_of([7, 0, 7])).mean, bank.codes[[7, 0, 7]])


@pytest.mark.parametrize("init", ["normal", "spectral"])
def test_first_codes_have_the_spread_asked_for_and_repeat_with_their_seed(init: str) -> None:
    bank = Bank(24, 4, init=init, std=0.3)
    bank.initialise(lambda: images().batches(10), torch.Generator().manual_seed(0))
    # 96 normal numbers: their root mean square has a standard error of 7 %
    assert bank.codes.square().mean().sqrt().item() == pytest.approx(0.3, rel=0.3 if init == "normal" else 1e-4)
    assert torch.equal(prepared(init, seed=3).codes, prepared(init, seed=3).codes)


@pytest.mark.parametrize("size", [1, 7, 24, 100])
def test_first_codes_do_not_depend_on_the_batches_they_are_made_from(size: int) -> None:
    bank = Bank(24, 4)
    bank.initialise(lambda: images().batches(size), torch.Generator().manual_seed(0))
    # up to signs, which no eigenvector has of itself; sums run in another order
    torch.testing.assert_close(bank.codes.abs(), prepared("spectral").codes.abs(), rtol=1e-3, atol=1e-3)


def test_more_code_dimensions_than_the_data_have_rank_start_small_not_zero() -> None:
    bank = Bank(5, 80)
    bank.initialise(lambda: images(5).batches(5), torch.Generator().manual_seed(0))
    assert bank.codes.shape == (5, 80)
    assert bank.codes.isfinite().all()
    beyond = bank.codes[:, 64:]  # an 8x8 image has 64 numbers
    assert 0 < beyond.square().mean().sqrt() < 0.05 * bank.codes.square().mean().sqrt()


def test_an_extended_bank_keeps_its_old_rows_bit_for_bit() -> None:
    bank = prepared("normal")
    before = bank.codes.detach().clone()
    bank.extend(torch.ones(3, 4))
    assert torch.equal(bank.codes[:24], before)
    assert torch.equal(bank.codes[24:], torch.ones(3, 4))
    assert bank(batch_of([7])).mean.requires_grad


def test_a_source_without_rows_cannot_be_extended() -> None:
    with pytest.raises(NeuralfieldError, match="FixedCodes keeps no codes of signals"):
        FixedCodes(torch.zeros(2, 3)).extend(torch.zeros(1, 3))


def test_noise_of_training_is_drawn_around_the_codes_and_ends_with_training() -> None:
    bank = Bank(24, 4, init="normal", noise=0.3)
    bank.initialise(lambda: images().batches(10), torch.Generator().manual_seed(0))
    latent = bank(batch_of([7, 0]))
    assert torch.equal(latent.mean, bank.codes[[7, 0]])
    assert latent.log_std is not None
    torch.testing.assert_close(latent.log_std.exp(), torch.full((2, 4), 0.3))
    assert bank.eval()(batch_of([7, 0])).log_std is None
    assert prepared("normal")(batch_of([7, 0])).log_std is None
    with pytest.raises(ValueError, match=r"latents.noise must be 0 or more, got -1"):
        Bank(2, 3, noise=-1.0)


# only the rows of the batch


def descend(bank: Bank, optimiser: torch.optim.Optimizer, index: list[int]) -> None:
    target = torch.linspace(-1, 1, bank.code_dim)
    (bank(batch_of(index)).mean - target).square().sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def test_rows_absent_from_the_batch_and_their_state_stay_bit_identical() -> None:
    bank = prepared("normal")
    optimiser = RowAdam(bank.parameters(), lr=0.1)
    for index in ([0, 1, 2, 3], [2, 3, 4, 5], list(range(24))):
        descend(bank, optimiser, index)
    codes = bank.codes.detach().clone()
    state = {name: value.clone() for name, value in optimiser.state[bank.codes].items()}
    for _ in range(3):
        descend(bank, optimiser, [5, 11])
    absent = [i for i in range(24) if i not in (5, 11)]
    assert torch.equal(bank.codes[absent], codes[absent])
    assert not torch.equal(bank.codes[[5, 11]], codes[[5, 11]])
    assert set(state) == set(optimiser.state[bank.codes])
    for name, value in optimiser.state[bank.codes].items():
        assert torch.equal(value[absent], state[name][absent]), name
        assert not torch.equal(value[[5, 11]], state[name][[5, 11]]), name


def test_a_row_moves_as_if_it_were_alone_in_the_bank() -> None:
    together, alone = prepared("normal"), prepared("normal")
    both = RowAdam(together.parameters(), lr=0.1), RowAdam(alone.parameters(), lr=0.1)
    for _ in range(5):  # the others have been met before: counts and momentum are each row's own
        descend(together, both[0], [1, 2, 7])
    for other in ([1, 2], [3], [1, 7, 9]):
        descend(together, both[0], [5, *other])
        descend(alone, both[1], [5])
    assert torch.equal(together.codes[5], alone.codes[5])


def test_on_full_batches_row_adam_is_adam() -> None:
    a = prepared("normal")
    weights = a.codes.detach().clone().requires_grad_()
    ours, theirs = RowAdam(a.parameters(), lr=0.05), torch.optim.Adam([weights], lr=0.05, betas=(0.9, 0.99))
    target = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    everyone = batch_of(list(range(24)))
    for _ in range(30):
        (a(everyone).mean - target).square().sum().backward()
        (weights - target).square().sum().backward()
        for optimiser in (ours, theirs):
            optimiser.step()
            optimiser.zero_grad()
    # the same formula in another order of float32 operations, for codes of size 1
    torch.testing.assert_close(a.codes, weights, rtol=0, atol=1e-6)


def test_a_dense_gradient_moves_all_rows_as_a_sparse_one_would() -> None:
    dense, sparse = prepared("normal"), prepared("normal")
    dense.codes.grad = torch.ones(24, 4)
    sparse.codes.grad = torch.ones(24, 4).to_sparse(1)
    RowAdam(dense.parameters(), lr=0.1).step()
    RowAdam(sparse.parameters(), lr=0.1).step()
    assert torch.equal(dense.codes, sparse.codes)


def test_a_signal_that_is_in_a_batch_twice_counts_twice_in_one_step() -> None:
    twice, once = prepared("normal"), prepared("normal")
    optimisers = RowAdam(twice.parameters()), RowAdam(once.parameters())
    descend(twice, optimisers[0], [3, 3])
    assert int(optimisers[0].state[twice.codes]["steps"][3]) == 1
    descend(once, optimisers[1], [3])
    # Adam's first step is the sign of the gradient, whatever its size
    torch.testing.assert_close(twice.codes[3], once.codes[3], rtol=0, atol=1e-6)


class Operations(TorchDispatchMode):
    """Every tensor operation, with the shapes of what it makes: of sparse tensors, those of the numbers that they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[tuple[int, ...], ...]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        shapes = [(leaf._nnz(), *leaf.shape[1:]) if leaf.is_sparse else tuple(leaf.shape) for leaf in made]
        self.seen.append((function.overloadpacket.__name__, tuple(shapes)))
        return result


MOVES_ONLY_ROWS = {"index_add_", "index_copy_", "detach"}
"""Operations whose work is that of the rows they are given; what they return is the whole tensor itself, not a copy."""


def operations_of_a_step(count: int) -> list[str]:
    """Names of the operations of the second step (the first makes the state), after a check of how large they are."""
    bank = Bank(count, 4, init="normal")
    optimiser = RowAdam(bank.parameters())
    index = torch.tensor([5, 11, 7])
    batch = Observations(index, torch.zeros(1, 1, 2), torch.zeros(3, 1, 1), torch.ones(3, 1))
    for _ in range(2):
        with Operations() as operations:
            bank(batch).mean.square().sum().backward()
            assert bank.codes.grad is not None
            assert bank.codes.grad.is_sparse
            assert bank.codes.grad._nnz() == 3
            optimiser.step()
        optimiser.zero_grad()
    large = {name for name, shapes in operations.seen if any(count in shape for shape in shapes)}
    assert large <= MOVES_ONLY_ROWS
    return [name for name, _ in operations.seen]


def test_a_step_does_the_same_operations_on_the_same_sizes_whatever_the_size_of_the_bank() -> None:
    assert operations_of_a_step(1_000) == operations_of_a_step(100_000)


# spectral codes


def flat(signals: Signals) -> Tensor:
    return signals.truth(torch.arange(len(signals))).values.flatten(1).double()


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 7, 3)])
def test_the_spectral_basis_spans_the_principal_subspace(shape: tuple[int, int, int]) -> None:
    signals = images(60, *shape)
    basis = grid_pca(lambda: signals.batches(17), 6, torch.Generator().manual_seed(0))
    data = flat(signals)
    torch.testing.assert_close(basis.mean.double(), data.mean(0), rtol=0, atol=1e-6)
    exact = torch.linalg.svd(data - data.mean(0), full_matrices=False)
    cosines = torch.linalg.svdvals(exact.Vh[:6] @ basis.components.double())
    assert cosines.clamp(max=1).arccos().max() <= 1e-3
    torch.testing.assert_close(basis.variance.double(), exact.S[:6] ** 2 / 60, rtol=1e-3, atol=0)
    left = (exact.S[6:] ** 2).sum() / 60
    assert float(basis.noise) * data.shape[1] == pytest.approx(float(left), rel=1e-2)


@pytest.fixture
def basis() -> SpectralBasis:
    return spectral_basis(lambda: images(60).batches(60), 6, torch.Generator().manual_seed(0))


def masked(share: float, each: bool) -> Observations:
    batch = images(5, seed=3).batch(torch.arange(5))
    draw = torch.rand(5 if each else 1, 64, generator=torch.Generator().manual_seed(0))
    return batch.split((draw < share).expand(5, -1))[0]


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("each", [True, False])
def test_coefficients_are_the_posterior_mean_given_what_was_seen(basis: SpectralBasis, share: float, each: bool) -> None:
    # the same posterior from its other side, in the space of the data: a = L P' (P L P' + s^2 I)^-1 (x - m)
    observed = masked(share, each)
    components, variance, mean = (basis.get_buffer(k).double() for k in ("components", "variance", "mean"))
    for b, coefficients in enumerate(basis.encode(observed)):
        seen = observed.weight[b] > 0
        psi, x = components[seen], observed.values[b, seen, 0].double() - mean[seen]
        covariance = psi @ variance.diag() @ psi.T + basis.noise.double() * torch.eye(len(x), dtype=torch.float64)
        expected = variance.diag() @ psi.T @ torch.linalg.solve(covariance, x)
        # both systems are solved in float64, and the answer is rounded to float32
        torch.testing.assert_close(coefficients.double(), expected, rtol=1e-6, atol=1e-7)


def test_whole_signals_of_the_set_are_reconstructed_as_well_as_pca_can(basis: SpectralBasis) -> None:
    data = flat(images(60))
    codes = torch.cat([basis.encode(batch) for batch in images(60).batches(7)]).double()
    error = (data - basis.mean.double() - codes @ basis.components.double().T).square().sum()
    best = torch.linalg.svdvals(data - data.mean(0))[6:].square().sum()
    assert error < best * 1.01  # a posterior mean shrinks a little towards the mean


def test_where_nothing_is_seen_the_code_is_that_of_the_mean(basis: SpectralBasis) -> None:
    for each in (True, False):
        assert basis.encode(masked(0.0, each)).eq(0).all()


def test_points_off_the_grid_take_the_nearest_grid_point(basis: SpectralBasis) -> None:
    whole = images(5, seed=3).batch(torch.arange(5))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    moved = Observations(
        whole.index, (whole.coords + 0.02)[:, order].repeat(5, 1, 1), whole.values[:, order], whole.weight[:, order]
    )
    # the same float64 systems, whose sums run in another order, rounded to float32
    torch.testing.assert_close(basis.encode(moved), basis.encode(whole), rtol=1e-6, atol=1e-6)


def test_many_signals_with_masks_of_their_own_are_encoded_part_by_part(
    basis: SpectralBasis, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed = masked(0.5, each=True)
    whole = basis.encode(observed)
    monkeypatch.setattr("neuralfield.latents.basis.AT_ONCE", 2 * 64 * basis.rank)  # two signals at once
    torch.testing.assert_close(basis.encode(observed), whole, rtol=1e-6, atol=1e-7)


def test_a_scaled_basis_is_the_same_model_with_larger_coefficients(basis: SpectralBasis) -> None:
    observed, coords = masked(0.3, each=True), masked(1.0, each=False).coords
    other = basis.scaled(2.5)
    torch.testing.assert_close(other.encode(observed), 2.5 * basis.encode(observed), rtol=1e-5, atol=1e-6)
    mean, psi = basis.functions(coords)
    scaled_mean, scaled_psi = other.functions(coords)
    assert torch.equal(scaled_mean, mean)
    covariance, expected = (((p * v) @ p.mT) for p, v in ((scaled_psi, other.variance), (psi, basis.variance)))
    torch.testing.assert_close(covariance, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(other.noise, basis.noise)


def test_whole_images_of_one_size_get_principal_components_and_others_mixed_effects() -> None:
    def of(observations: Observations) -> SpectralBasis:
        return spectral_basis(lambda: iter([observations]), 3, torch.Generator().manual_seed(0))

    whole = images(12).truth(torch.arange(12))
    assert len(of(whole).coords) == 64
    partly = whole.split(torch.rand(12, 64, generator=torch.Generator().manual_seed(0)) < 0.5)[0]
    scattered = Observations(whole.index, torch.rand(12, 64, 2) * 2 - 1, whole.values, whole.weight)
    curves = Observations(whole.index, torch.linspace(-1, 1, 64)[None, :, None], whole.values, whole.weight)
    for observations in (partly, scattered, curves):
        basis = of(observations)
        assert not len(basis.coords)
        assert basis.frequencies.numel()
        assert basis.encode(observations).isfinite().all()


def test_signals_too_large_for_principal_components_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuralfield.latents.grid_pca.LARGEST", 63)
    with pytest.raises(NeuralfieldError, match=r'64 points x 1 values are too large .*--set latents.init="normal"'):
        grid_pca(lambda: images(5).batches(5), 3, torch.Generator())


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_equal_signals_have_finite_codes(level: float) -> None:
    same = nf.Images(torch.full((6, 4, 4, 1), level))
    bank = Bank(6, 3)
    bank.initialise(lambda: same.batches(4), torch.Generator().manual_seed(0))
    assert bank.codes.isfinite().all()


def test_noise_of_a_bank_is_drawn_while_it_trains_and_never_in_inference() -> None:
    bank = Bank(50, 40, noise=0.3)
    torch.nn.init.normal_(bank.codes)
    observations = images(50).batch(torch.arange(50))
    latent = bank(observations)
    drawn = latent.sample(observations.index, torch.Generator().manual_seed(0)) - latent.mean
    # 2,000 draws: the standard deviation is known to 0.3 / sqrt(4000) = 0.005; five of those are allowed
    assert abs(drawn.std().item() - 0.3) < 0.025
    assert torch.equal(latent.sample(observations.index, torch.Generator().manual_seed(0)), latent.mean + drawn)
    assert bank.eval()(observations).log_std is None
    assert FixedCodes(bank.codes)(observations).log_std is None
