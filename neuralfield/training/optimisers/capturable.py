"""Optimisers as CUDA graphs need them: their rates and counts of steps are tensors on the GPU, which replays read."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

DEVICES = ("cuda",)
"""Where torch's own optimisers know captures; elsewhere they refuse to be asked."""


def is_capturable(optimiser: torch.optim.Optimizer) -> bool:
    """Whether its steps can be captured: torch's that have a setting for it, and those that say so themselves."""
    return all(getattr(each, "capturable", False) or "capturable" in each.defaults for each in parts_of(optimiser))


def make_capturable(optimiser: torch.optim.Optimizer) -> None:
    """Put rates and counts of steps on the parameters' device."""
    for each in parts_of(optimiser):
        for group in each.param_groups:
            device = group["params"][0].device
            # on a CPU in float64, so that steps are those of the number itself, bit for bit
            group["lr"] = torch.tensor(float(group["lr"]), device=device, dtype=torch.float64 if device.type == "cpu" else None)
            if "capturable" in group:
                group["capturable"] = device.type in DEVICES
                each._warned_capturable_if_run_uncaptured = True  # type: ignore[attr-defined]  # a ragged batch is no mistake
            for p in group["params"]:
                if isinstance(steps := each.state[p].get("step") if p in each.state else None, Tensor):
                    each.state[p]["step"] = steps.to(device)


def plain(state: Any) -> Any:
    """An optimiser's state dictionary with rates that are numbers, and without captures: what goes on on any device."""
    if isinstance(state, list):
        return [plain(each) for each in state]
    if not isinstance(state, dict):
        return state
    changed = {"lr": float(state["lr"])} if "lr" in state else {}
    return {key: plain(value) for key, value in state.items()} | changed | ({"capturable": False} if "capturable" in state else {})


def parts_of(optimiser: torch.optim.Optimizer) -> Iterator[torch.optim.Optimizer]:
    """An optimiser, and those that it is made of."""
    yield optimiser
    for each in getattr(optimiser, "inner", []):
        yield from parts_of(each)
