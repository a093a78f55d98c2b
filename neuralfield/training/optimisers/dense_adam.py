"""Adam on a whole bank, as published autodecoders have it: every step moves every code that was ever met, by its old momentum."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def dense_adam(parameters: Iterable[Tensor]) -> torch.optim.Adam:
    """torch.optim.Adam that also takes the sparse gradients of a bank: rows without one have the gradient 0.

    A step costs as much as the bank is large. `RowAdam` leaves absent rows alone.
    """
    adam = torch.optim.Adam(parameters)
    adam.register_step_pre_hook(_densify)
    return adam


def _densify(optimiser: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimiser.param_groups:
        for p in group["params"]:
            if p.grad is not None and p.grad.is_sparse:
                p.grad = p.grad.to_dense()
