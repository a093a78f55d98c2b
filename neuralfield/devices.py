"""What a device can take, and how tensors get there while nobody waits for them."""

import torch
from torch import Tensor

SHARE = 0.5
"""Of a GPU's free memory, what data may fill: the rest is for activations, the optimisers' state and pictures."""


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device. To a GPU it goes through pinned memory, and the copy is only begun: what is computed there waits."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def room(device: torch.device) -> int:
    """Bytes that data may fill on a device: `SHARE` of what is free on a GPU; elsewhere 0, for there they lie already."""
    return int(SHARE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0


def precision_of(name: str, device: torch.device) -> torch.dtype:
    """What a decoder computes in while it trains. "auto" is bfloat16 on GPUs that have it in hardware, and float32 elsewhere."""
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def described(number: int) -> dict[str, str | float]:
    """What there is to say of a GPU."""
    facts = torch.cuda.get_device_properties(number)
    return {
        "name": f"cuda:{number}",
        "model": facts.name,
        "memory_gib": round(facts.total_memory / 2**30, 1),
        "capability": f"{facts.major}.{facts.minor}",
        "precision": str(precision_of("auto", torch.device("cuda", number))).removeprefix("torch."),
    }
