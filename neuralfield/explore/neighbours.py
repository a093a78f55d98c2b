"""What is near: labels of near codes, the nearest code, and the nearest signal among those that a run was fitted to."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuralfield.errors import NeuralfieldError
from neuralfield.run import Run, fitting
from neuralfield.signals import signals as sources
from neuralfield.signals.roster import UNKNOWN
from neuralfield.signals.signals import Signals
from neuralfield.types import Field, spread

AT_ONCE = 1024
"""Rows whose distances to as many others are in memory together."""
MOST = 60_000
"""Signals that are looked through at most, evenly spread: their values are in memory."""
COMPARED_AT = 24
"""Samples along every axis at which signals without a grid of their own are compared: 13,824 of a solid."""


def nearest_codes(
    codes: Float[Tensor, "m D"], bank: Float[Tensor, "n D"], count: int = 1, itself: bool = False
) -> Int[Tensor, "m k"]:
    """Rows of the bank whose codes are nearest, the nearest first. With `itself`, codes ARE the bank: each leaves itself out."""
    found = []
    for rows in torch.arange(len(codes)).split(AT_ONCE):
        apart = torch.cdist(codes[rows].double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist")
        if itself:
            apart[torch.arange(len(rows)), rows] = torch.inf
        found.append(apart.topk(min(count, len(bank) - itself), largest=False).indices)
    return torch.cat(found)


def knn_accuracy(
    bank: Float[Tensor, "n D"],
    labels: Int[Tensor, " n"],
    codes: Float[Tensor, "m D"] | None = None,
    truth: Int[Tensor, " m"] | None = None,
    count: int = 5,
) -> float:
    """Share of codes whose label most of the `count` nearest codes of the bank have (of equally many, the smallest label).

    Of the bank's own codes, each left out in turn, or of other `codes` whose labels are `truth`. Rows without a label are left out.
    """
    known = labels != UNKNOWN
    bank, labels = bank[known], labels[known]
    own = codes is None or truth is None
    if codes is None or truth is None:
        codes, truth = bank, labels
    else:
        codes, truth = codes[truth != UNKNOWN], truth[truth != UNKNOWN]
    if len(bank) < 2 or not len(codes):
        raise NeuralfieldError("the accuracy of neighbours needs at least two labelled codes")
    classes, place = labels.unique(return_inverse=True)
    votes = torch.nn.functional.one_hot(place[nearest_codes(codes, bank, count, own)], len(classes)).sum(1)
    return (classes[votes.argmax(1)] == truth).float().mean().item()


@dataclass(frozen=True)
class Gallery:
    """Signals to look for the nearest among, by the mean squared difference of their values at the points of a run's grid.

    `values` [n, P, V] at `coords`, in the units inside; `weight` [n, P] is 0 where a signal is not known. `index` are their
    numbers in the data set or bank that they come from, `ids` their names. `real` says that these are the signals' own values.
    Signals without a common grid (curves at times of their own, shapes) are compared as a run's fields of them: not real.
    """

    coords: Float[Tensor, "1 P C"]
    values: Float[Tensor, "n P V"]
    weight: Float[Tensor, "n P"]
    index: Int[Tensor, " n"]
    ids: list[str]
    real: bool

    @classmethod
    def of(cls, run: Run, signals: Signals | None, codes: Float[Tensor, "n D"] | None = None, most: int = MOST) -> Self:
        """Those of a data set, where it lies on the run's own grid; else the fields of their codes, or of the bank's."""
        grid = run.domain.grid()
        if signals is not None and run.domain.shape is not None:
            rows = spread(len(signals), most)
            truth = signals.truth(rows)
            if truth.coords.shape == grid.shape and bool(torch.isclose(truth.coords.cpu(), grid, atol=1e-5).all()):
                return cls(grid, truth.values.cpu(), truth.told.cpu(), rows, [signals.ids[i] for i in rows.tolist()], True)
        if codes is not None:
            return cls.of_codes(run, codes[spread(len(codes), most)])
        rows = spread(len(run.ids), most)
        fields = cls.of_codes(run, run.model.source.rows(rows).cpu())
        return replace(fields, index=rows, ids=[run.ids[i] for i in rows.tolist()])

    @classmethod
    def of_codes(cls, run: Run, codes: Float[Tensor, "n D"]) -> Self:
        """The fields of some codes."""
        grid = run.domain.grid(None if run.domain.shape is not None or run.domain.coord_dim == 1 else COMPARED_AT)
        values, rows = values_at(run, codes, grid), torch.arange(len(codes))
        return cls(grid, values, torch.ones(values.shape[:2]), rows, list(map(str, rows.tolist())), False)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, which: Int[Tensor, " m"]) -> Self:
        """Some of the signals."""
        cut = {name: getattr(self, name)[which] for name in ("values", "weight", "index")}
        return replace(self, **cut, ids=[self.ids[i] for i in which.tolist()])

    def nearest(self, others: "Gallery") -> tuple[Float[Tensor, " m"], Int[Tensor, " m"]]:
        """(mean squared difference, place here) of the nearest signal to each of the others, over the points known of both."""
        places = []
        for some in torch.arange(len(others)).split(AT_ONCE):
            part = others.rows(some)
            parts = [self.rows(own)._apart(part) for own in torch.arange(len(self)).split(AT_ONCE)]
            places.append(torch.cat(parts, 1).argmin(1))
        found = torch.cat(places)
        return self.apart(others, found), found

    def apart(self, others: "Gallery", places: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Mean squared difference of each of the others from one signal here."""
        weight = others.weight * self.weight[places]
        squares = (others.values - self.values[places]).square().mean(2) * weight
        return squares.sum(1) / weight.sum(1)

    def _apart(self, others: "Gallery") -> Float[Tensor, "m n"]:
        """The same of all pairs, by products of matrices: to the rounding of float32, which is enough to choose by."""
        x, q = self.values.flatten(1), others.values.flatten(1)
        w, v = (side.weight.repeat_interleave(self.values.shape[2], 1) for side in (self, others))
        squares = (q.square() * v) @ w.T - 2 * (q * v) @ (x * w).T + v @ (x.square() * w).T
        return torch.nan_to_num(squares / (v @ w.T), torch.inf)  # of two that have no point in common


@torch.no_grad()
def values_at(run: Run, codes: Float[Tensor, "n D"], coords: Float[Tensor, "1 P C"]) -> Float[Tensor, "n P V"]:
    """Values of the fields of many codes."""
    fields: list[Field] = [run.field(some) for some in codes.split(256)]
    return torch.cat([field(coords).cpu() for field in fields])


def training_signals(run: Run) -> Signals | None:
    """The signals that a run was fitted to, read again from where its recipe says; None where that is not known or not there."""
    part = run.recipe.signals
    if part is None:
        return None
    try:
        return fitting(sources.build(part.kind, part.arguments), run)
    except (NeuralfieldError, OSError):
        return None
