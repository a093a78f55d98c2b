"""Several processes that fit one model: who owns which signals, and all that they say to one another.

Every rank calls the same methods in the same order. Alone (`ALONE`) they return what they were given.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.types import spread


class LostRankError(NeuralfieldError):
    """Another rank no longer answers."""


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `world`; on its machine it is number `local`. `folder` is where the run goes."""

    rank: int = 0
    world: int = 1
    local: int = 0
    folder: Path | None = None

    @property
    def first(self) -> bool:
        """Whether it is this one that prints, and writes what all have made."""
        return self.rank == 0

    @property
    def apart(self) -> tuple[int, ...]:
        """What to add to a seed of draws that ranks must not share."""
        return (self.rank,) if self.rank else ()

    def share(self, count: int, rank: int | None = None) -> range:
        """The signals that a rank owns, of `count`: [floor(r count / R), floor((r + 1) count / R))."""
        r = self.rank if rank is None else rank
        return range(r * count // self.world, (r + 1) * count // self.world)

    def owns(self, signals: Int[Tensor, " b"], count: int) -> Bool[Tensor, " b"]:
        """Which of some signals are this rank's, of `count`."""
        own = self.share(count)
        return (signals >= own.start) & (signals < own.stop)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks: one sum of one flat bucket."""
        if self.world == 1 or not tensors:
            return
        bucket = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with answering():
            dist.all_reduce(bucket)
        for tensor, sums in zip(tensors, bucket.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(sums.view_as(tensor))

    def average(self, tensors: Sequence[Tensor], weight: int) -> None:
        """Replace each tensor by its mean over the ranks, weighed by `weight`, by one sum of all."""
        if self.world == 1 or not tensors:
            return
        total = tensors[0].new_full((1,), weight)
        for tensor in tensors:
            tensor.mul_(weight)
        self.add([*tensors, total])
        for tensor in tensors:
            tensor.div_(total)

    def total(self, *numbers: float) -> list[float]:
        """Sums over the ranks, in float64."""
        if self.world == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        with answering():
            dist.all_reduce(sums)
        return sums.tolist()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over the ranks, on its device."""
        if self.world == 1:
            return tensor
        held = tensor.cpu()
        with answering():
            dist.all_reduce(held)
        return held.to(tensor.device)

    def told(self, fact: Any) -> Any:
        """What the first rank says; JSON."""
        if self.world == 1:
            return fact
        text = torch.tensor(list(json.dumps(fact).encode()) if self.first else [], dtype=torch.uint8)
        length = torch.tensor([len(text)])
        with answering():
            dist.broadcast(length, 0)
            text = text if self.first else torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(text, 0)
        return json.loads(bytes(text.tolist()))

    def state(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that the first rank has, whatever others have; on the CPU."""
        if self.world == 1:
            return tensors
        about = self.told([[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in tensors.items()])
        found = {}
        for name, shape, dtype in about:
            kind = getattr(torch, dtype.removeprefix("torch."))
            found[name] = tensors[name].cpu().contiguous() if self.first else torch.empty(shape, dtype=kind)
            with answering():
                dist.broadcast(found[name], 0)
        return found

    def scatter(self, rows: Float[Tensor, "n D"] | None, count: int, width: int) -> Float[Tensor, "m D"]:
        """Each rank's own rows of a float32 matrix [count, width] that the first one has; on the CPU."""
        own = self.share(count)
        if rows is not None:
            held = rows.cpu()
            with answering():
                for rank in range(1, self.world):
                    part = self.share(count, rank)
                    dist.send(held[part.start : part.stop].contiguous(), rank)
            return held[own.start : own.stop]
        found = torch.empty(len(own), width)
        with answering():
            dist.recv(found, 0)
        return found

    def gather(self, rows: Float[Tensor, "m D"], count: int) -> Float[Tensor, "n D"]:
        """All ranks' rows at the first one, on the CPU; elsewhere a rank's own."""
        held = rows.detach().cpu().contiguous()
        if self.world == 1:
            return held
        with answering():
            if not self.first:
                dist.send(held, 0)
                return held
            parts = [held] + [held.new_empty(len(self.share(count, rank)), *held.shape[1:]) for rank in range(1, self.world)]
            for rank in range(1, self.world):
                dist.recv(parts[rank], rank)
        return torch.cat(parts)

    def some(self, rows: Float[Tensor, "m D"], count: int, most: int) -> Float[Tensor, "s D"]:
        """Of all ranks' rows `most`, evenly spread (`spread`), on every rank."""
        which = spread(count, most)
        if self.world == 1:
            return rows[which.to(rows.device)]
        mine, own = self.owns(which, count), self.share(count)
        found = torch.zeros(len(which), *rows.shape[1:])
        found[mine] = rows.detach().cpu()[which[mine] - own.start]
        return self.sum(found).to(rows.device)

    def device(self, name: str) -> str:
        """The device of this rank: of several, each has a GPU of its own where GPUs are meant."""
        if self.world == 1 or not wants_gpu(name):
            return name
        here = torch.cuda.device_count()
        if self.local >= here:
            raise UsageError(
                f"rank {self.rank} needs a GPU of its own; this machine has {here}: say --nproc-per-node {here}, or --device cpu"
            )
        return f"cuda:{self.local}"


ALONE = Ranks()
"""The ordinary case: one process."""


def wants_gpu(name: str) -> bool:
    """Whether a device's name leaves it to us to choose a GPU."""
    return name == "cuda" or (name == "auto" and torch.cuda.is_available())


@contextmanager
def answering() -> Iterator[None]:
    """What torch says when another rank has gone becomes one error."""
    try:
        yield
    except RuntimeError as error:
        raise LostRankError(str(error).splitlines()[0]) from error
