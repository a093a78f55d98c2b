"""Signals as a CSV table: one row for each signal and point."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import neuralfield.files as files
from neuralfield.domains.domain import Domain


def _text(numbers: Tensor) -> list[Any]:
    """Numbers as short as they can be and still be the same: 9 digits of float32, 15 of float64."""
    digits = 9 if numbers.dtype == torch.float32 else 15
    flat = np.array([f"{x:.{digits}g}" for x in numbers.flatten().tolist()], dtype=object)
    return flat.reshape(numbers.shape).tolist()


def write_table(
    path: Path, domain: Domain, ids: Sequence[str], coords: Float[Tensor, "*n N C"], values: Mapping[str, Float[Tensor, "n N V"]]
) -> None:
    """Columns: the signal's id, its coordinates, and every value once for each entry of `values`, whose key ends its name.

    `coords` [N, C] are those of all signals, [n, N, C] those of each.
    """
    axes, names = domain.columns
    columns = torch.stack(list(values.values()), -1).flatten(2)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", *axes, *(name + ending for name in names for ending in values)])
    at, written = _text(coords), _text(columns)
    for name, places, rows in zip(ids, at if coords.ndim == 3 else [at] * len(ids), written, strict=True):
        table.writerows([name, *place, *row] for place, row in zip(places, rows, strict=True))
    files.write_bytes(path, text.getvalue().encode())
