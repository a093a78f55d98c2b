"""Muon: an orthogonal update for matrices, Adam for the rest."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from neuralfield.training.optimisers.muon import Muon, _shared_out, orthogonalised

SHAPES = [(8, 32), (32, 8), (4, 100), (16, 24), (2, 2)]


def matrix(shape: tuple[int, int], spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(matrix, U, V) with singular values from 1 down to 1 / spread."""
    draw = torch.Generator().manual_seed(seed)
    rank = min(shape)
    u, v = (torch.linalg.qr(torch.randn(n, rank, generator=draw))[0] for n in shape)
    return u @ torch.logspace(0, -torch.tensor(spread).log10(), rank).diag() @ v.T, u, v


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [1.0, 3.0, 20.0])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_singular_values_become_nearly_one_and_vectors_stay(shape: tuple[int, int], spread: float, scale: float) -> None:
    given, u, v = matrix(shape, spread)
    made = orthogonalised(given * scale)
    assert made.shape == given.shape
    # the source: "singular values in about [0.7, 1.2]"; a little wider, because five steps stop before the cycle
    values = torch.linalg.svdvals(made)
    assert values.min() >= 0.6
    assert values.max() <= 1.3
    core = u.T @ made @ v  # in the given matrix's own singular vectors it is diagonal
    torch.testing.assert_close(core, core.diagonal().diag(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [(8, 32), (32, 8)])
def test_random_matrices_become_nearly_orthogonal(shape: tuple[int, int]) -> None:
    for seed in range(10):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape, generator=torch.Generator().manual_seed(seed))))
        assert values.min() >= 0.6
        assert values.max() <= 1.3


@pytest.mark.parametrize("shape", [(8, 32), (32, 8)])
def test_directions_that_are_not_there_are_not_made_up(shape: tuple[int, int]) -> None:
    # rank 2 of 8: rounding (1e-7) is raised by at most 3.4445^5 = 485 in five steps, and must stay small beside 1
    _, u, v = matrix(shape, 3.0)
    values = torch.linalg.svdvals(orthogonalised(u[:, :2] @ v[:, :2].T))
    assert values[:2].min() >= 0.6
    assert values[:2].max() <= 1.3
    assert values[2:].max() < 1e-3


def test_a_gradient_of_zero_moves_nothing_and_stays_finite() -> None:
    assert orthogonalised(torch.zeros(3, 5)).eq(0).all()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Flatten(), nn.Linear(27, 4), nn.Linear(4, 1))


def step(model: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> float:
    x = torch.randn(6, 2, 2, 2, generator=torch.Generator().manual_seed(seed))
    loss = (model(x)[:, 0] - x.sum((1, 2, 3))).square().mean()
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    return float(loss.detach())


def test_the_first_step_of_a_matrix_has_the_length_of_its_rate() -> None:
    model = network()
    before = model[2].weight.detach().clone()
    optimiser = Muon(model.parameters(), lr=0.01)
    step(model, optimiser, 0)
    moved = torch.linalg.svdvals(before - model[2].weight.detach())
    # 0.2 sqrt(longest side) x rate x singular values near 1 (rank 4; small ones may not have come up to 1 yet)
    assert 0.6 <= moved.max() / (0.01 * 0.2 * 27**0.5) <= 1.3


def test_vectors_and_single_rows_move_as_adam_moves_them() -> None:
    ours, theirs = network(), network()
    vectors = [p for p in theirs.parameters() if p.ndim < 2 or p.shape[0] == 1]
    muon, adam = Muon(ours.parameters(), lr=0.01), torch.optim.Adam(vectors, lr=0.01, betas=(0.9, 0.99))
    step(ours, muon, 0)
    step(theirs, adam, 0)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        if b.ndim < 2 or b.shape[0] == 1:
            assert torch.equal(a, b)
        else:
            assert not torch.equal(a, b)


def test_it_learns_and_its_rate_counts_for_all_parameters() -> None:
    model = network()
    optimiser = Muon(model.parameters(), lr=0.02)
    losses = [step(model, optimiser, seed) for seed in range(150)]
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10])
    before = [p.detach().clone() for p in model.parameters()]
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    step(model, optimiser, 0)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_a_restored_state_goes_on_bit_for_bit() -> None:
    model, other = network(), network()
    optimiser = Muon(model.parameters(), lr=0.01)
    for seed in range(3):
        step(model, optimiser, seed)
    other.load_state_dict(model.state_dict())
    restored = Muon(other.parameters(), lr=0.01)
    restored.load_state_dict(deepcopy(optimiser.state_dict()))  # torch's own would share its tensors
    for seed in range(3, 6):
        step(model, optimiser, seed)
        step(other, restored, seed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_parameters_without_a_gradient_stay() -> None:
    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.detach().clone()
    optimiser = Muon(model.parameters(), lr=0.1)
    step(model, optimiser, 0)
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_ranks_share_out_all_matrices_and_none_has_more_than_its_part_and_the_largest(world: int) -> None:
    matrices = [torch.zeros(shape) for shape in ((512, 64), (128, 67), (128, 128), (128, 128), (128, 128), (3, 128))]
    work = [matrix.numel() * min(matrix.shape) for matrix in matrices]
    owners = _shared_out(matrices, world)
    assert len(owners) == len(matrices)
    assert set(owners) <= set(range(world))
    busy = [sum(each for each, owner in zip(work, owners, strict=True) if owner == rank) for rank in range(world)]
    assert max(busy) <= sum(work) / world + max(work)  # as of any list that is given out to who has least
