"""What a device can take, and how tensors get there while nobody waits for them."""

from typing import Any

import torch
from torch import Tensor

SHARE = 0.5
"""Of a GPU's free memory, what data may fill: the rest is for activations, the optimisers' state and pictures."""


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device. To a GPU it goes through pinned memory, and the copy is only begun: what is computed there waits."""
    if tensor.device.type != "cpu" or torch.device(device).type == "cpu":
        return tensor.to(device)  # back from a GPU, numbers are waited for
    pinned = tensor.pin_memory() if torch.device(device).type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)


def room(device: torch.device) -> int:
    """Bytes that data may fill on a device: `SHARE` of what is free on a GPU; elsewhere 0, for there they lie already."""
    return int(SHARE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0


def precision_of(name: str, device: torch.device) -> torch.dtype:
    """What a decoder computes in while it trains. "auto" is bfloat16 on GPUs that have it in hardware, and float32 elsewhere."""
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def known() -> list[str]:
    """The devices of this machine: models, memory and compute capabilities."""
    return ["cpu", *(described(number, torch.cuda.get_device_properties(number)) for number in range(torch.cuda.device_count()))]


def described(number: int, facts: Any) -> str:
    """One GPU, by what torch says of it."""
    return f"cuda:{number} ({facts.name}, {facts.total_memory / 2**30:.1f} GiB, compute capability {facts.major}.{facts.minor})"
