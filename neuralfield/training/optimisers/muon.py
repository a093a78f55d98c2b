"""Muon: momentum whose update is made orthogonal, for the matrices of a decoder; Adam for the rest.

Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; step length after Liu et al. 2025 (0.2 sqrt(max side), so that
rates mean the same as Adam's). torch.optim.Muon takes matrices only and works in bfloat16, which is slow on a CPU.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from neuralfield.training.ranks import ALONE, Ranks

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Newton-Schulz coefficients of the source: steepest slope at 0 while singular values stay within about 0.7 to 1.2."""
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Kernels of convolutions [in, out, ...] count as matrices [in, out ...]; vectors and single rows get Adam.

    The rate may be a number, or a tensor on the parameters' device. Each of several `ranks` makes some of the updates orthogonal,
    and all get them: most of the work is there.
    """

    capturable: ClassVar[bool] = True
    ranks: Ranks = ALONE

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-2, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        vectors = [p for group in self.param_groups for p in group["params"] if not _is_matrix(p)]
        self._adam = torch.optim.Adam(vectors, betas=(0.9, 0.99)) if vectors else None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            self._move([p for p in group["params"] if p.grad is not None and _is_matrix(p)], group["lr"], group["momentum"])
            if self._adam:
                self._adam.param_groups[0]["lr"] = group["lr"]
        if self._adam:
            self._adam.step()

    def state_dict(self) -> dict[str, Any]:
        return {"matrices": super().state_dict(), "vectors": self._adam.state_dict() if self._adam else {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict["matrices"])
        if self._adam:
            self._adam.load_state_dict(state_dict["vectors"])

    @property
    def inner(self) -> list[torch.optim.Optimizer]:
        """The optimisers that it is made of."""
        return [self._adam] if self._adam else []

    def _move(self, matrices: list[Tensor], lr: float | Tensor, momentum: float) -> None:
        steps = [self._step(p, momentum) for p in matrices]
        owners = _shared_out(steps, self.ranks.world)
        for rank, step in zip(owners, steps, strict=True):
            step.copy_(orthogonalised(step)) if rank == self.ranks.rank else step.zero_()
        self.ranks.add(steps)
        for p, step in zip(matrices, steps, strict=True):
            p.sub_(step.view_as(p) * (lr * (0.2 * max(step.shape) ** 0.5)))

    def _step(self, p: Tensor, momentum: float) -> Float[Tensor, "m n"]:
        """Where the gradient and its average point."""
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        average = state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(average, momentum).flatten(1)  # type: ignore[union-attr]


def _shared_out(matrices: list[Tensor], world: int) -> list[int]:
    """A rank for each matrix, the largest first to who has least to do."""
    owners, busy = [0] * len(matrices), [0] * world
    for i in sorted(range(len(matrices)), key=lambda i: -matrices[i].numel() * min(matrices[i].shape)):
        owners[i] = busy.index(min(busy))
        busy[owners[i]] += matrices[i].numel() * min(matrices[i].shape)
    return owners


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix [m, n] with the same singular vectors and singular values near 1.

    x -> (a + b x x' + c (x x')^2) x never leaves the row space of x, so all iterations are done on x x' [m, m], m <= n, and the
    long side is met twice instead of ten times: 1.7 times faster on the kernels of the convolutional decoder.
    """
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    a, b, c = QUINTIC
    gram = wide @ wide.T
    factor = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for _ in range(ITERATIONS):
        polynomial = b * gram + c * gram @ gram
        polynomial.diagonal().add_(a)
        factor = polynomial @ factor
        gram = polynomial @ gram @ polynomial
    x = factor @ wide
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def _is_matrix(p: Tensor) -> bool:
    return p.ndim >= 2 and p.shape[0] > 1
