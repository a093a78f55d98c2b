"""Who the rows of a data set, or of a bank, are."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

UNKNOWN = -1
"""The label of a row that has none, where others have."""


class Numbered(Sequence[str]):
    """The ids "0", "1" ... of `count` signals, made when they are asked for: ten million names would fill most of a gigabyte."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, which: Any) -> Any:
        picked = range(self._count)[which]
        return [str(i) for i in picked] if isinstance(picked, range) else str(picked)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.isdecimal() and str(int(name)) == name and int(name) < self._count

    def index(self, value: str, *between: Any) -> int:
        if value not in self:
            raise ValueError(f"{value} is not one of {self._count} numbers")
        return int(value)


def stored_ids(ids: Sequence[str]) -> Any:
    """Ids as JSON: their list, or how many where they are numbers."""
    return {"numbered": len(ids)} if isinstance(ids, Numbered) else list(ids)


def read_ids(held: Any) -> Sequence[str]:
    """What `stored_ids` wrote."""
    return Numbered(held["numbered"]) if isinstance(held, dict) else held


@dataclass(frozen=True)
class Roster:
    """Ids; and, where signals have them, `labels` [n] and `frames` [n, C + 1]: centre and scale that each was normalised by."""

    ids: Sequence[str]
    labels: Int[Tensor, " n"] | None = None
    frames: Float[Tensor, "n F"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, which: Sequence[int]) -> Self:
        """Some of them."""
        tensors = {name: tensor[list(which)] for name, tensor in self.tensors().items()}
        return type(self)([self.ids[i] for i in which], **tensors)

    def between(self, steps: int) -> "Roster":
        """`steps` signals on the way from the first to the last, both among them, where frames go evenly from one to the other."""
        shares = torch.linspace(0, 1, steps, dtype=torch.float64)
        ids = [f"{self.ids[0]}-{self.ids[-1]}-{share:.3f}" for share in shares.tolist()]
        frames = None if self.frames is None else torch.lerp(self.frames[0], self.frames[-1], shares.to(self.frames)[:, None])
        return Roster(ids, frames=frames)

    def joined(self, others: "Roster") -> "Roster":
        """Followed by others. An id that is taken gets a number; what only one side has is unknown of the other."""
        ids, taken = list(self.ids), set(self.ids)
        for name in others.ids:
            ids.append(_free(name, taken))
            taken.add(ids[-1])
        held = {**others.tensors(), **self.tensors()}
        tensors = {name: torch.cat([part._held(name, held[name]) for part in (self, others)]) for name in held}
        return Roster(ids, **tensors)

    def unframed(self, coords: Float[Tensor, "N C"], values: Float[Tensor, "n N V"]) -> tuple[Tensor, Tensor]:
        """Places and distances there in the units that each was given in: coords [n, N, C]; or as they are, without frames."""
        if self.frames is None:
            return coords, values
        centre, scale = self.frames[:, None, :-1], self.frames[:, None, -1:]
        return (coords.double() * scale + centre), (values.double() * scale)

    def tensors(self) -> dict[str, Tensor]:
        """Those parts that are there, by name."""
        return {name: tensor for name in ("labels", "frames") if (tensor := getattr(self, name)) is not None}

    def _held(self, name: str, like: Tensor) -> Tensor:
        own: Tensor | None = getattr(self, name)
        if own is not None:
            return own
        if name == "labels":
            return torch.full((len(self),), UNKNOWN)
        return torch.tensor([0.0] * (like.shape[1] - 1) + [1.0], dtype=like.dtype).repeat(len(self), 1)


def _free(name: str, taken: set[str]) -> str:
    """The name, or name-2, name-3 ... where it is taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)
