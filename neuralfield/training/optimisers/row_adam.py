"""Adam for banks: only the rows of the batch move, and each row counts its own steps."""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuralfield.latents.row_files import RowFiles


class RowAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba 2015) on sparse gradients of shape [n, D].

    torch.optim.SparseAdam corrects its bias by one step count for all rows, so that a row met for the first time late takes a
    first step .1 / sqrt(.001) = 3.2 times too long; here each row has its own count, and its momentum decays when it is met.

    Nothing here waits for a GPU: how many different rows there are is never asked. The rate may be a tensor on the codes' device.
    With `beside`, the files of a mapped bank, its state is kept there, and is no part of the `state_dict`.
    """

    capturable: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        beside: RowFiles | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})
        self._beside = beside
        if beside is not None:
            (codes,) = (p for group in self.param_groups for p in group["params"])
            mean, square = torch.zeros(0, codes.shape[1]), torch.zeros(0, codes.shape[1])
            columns = beside.table("adam", [mean, square, torch.zeros(0, 1, dtype=torch.int32)])
            self.state[codes] = dict(zip(("mean", "square", "steps"), columns, strict=True))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move the rows that have gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group["lr"], group["betas"], group["eps"])

    def state_dict(self) -> dict[str, Any]:
        whole = super().state_dict()
        return whole if self._beside is None else {**whole, "state": {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        held = self.state
        super().load_state_dict(state_dict)
        if self._beside is not None:
            self.state = held

    def _move(self, p: Tensor, lr: float | Tensor, betas: tuple[float, float], eps: float) -> None:
        state = self.state[p]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
            state["steps"] = torch.zeros(len(p), 1, dtype=torch.int32, device=p.device)
        gradient: Tensor = p.grad if p.grad.is_sparse else p.grad.to_sparse(1)  # type: ignore[union-attr, assignment]
        rows, g = summed(gradient._indices()[0], gradient._values())
        steps = state["steps"][rows] + 1
        mean = state["mean"][rows].lerp_(g, 1 - betas[0])
        square = state["square"][rows].lerp_(g.square(), 1 - betas[1])
        step = (mean / (1 - betas[0] ** steps)) / ((square / (1 - betas[1] ** steps)).sqrt() + eps)
        for name, value in (("steps", steps), ("mean", mean), ("square", square)):
            state[name].index_copy_(0, rows, value)
        p.index_copy_(0, rows, p[rows] - lr * step)


def summed(rows: Int[Tensor, " m"], values: Float[Tensor, "m D"]) -> tuple[Int[Tensor, " m"], Float[Tensor, "m D"]]:
    """Values in the order of their rows; where a row comes several times, each time with the sum.

    `coalesce` would leave such a row once, but must wait for the GPU to know how many there are.
    """
    order = rows.argsort(stable=True)
    rows, values = rows[order], values[order]
    first = torch.ones_like(rows)
    first[1:] = rows[1:] != rows[:-1]
    group = first.cumsum(0) - 1
    return rows, torch.zeros_like(values).index_add_(0, group, values)[group]
