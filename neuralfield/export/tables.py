"""Signals as a CSV table: one row for each signal and point."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

import neuralfield.files as files
from neuralfield.domains.domain import Domain


def write_table(
    path: Path, domain: Domain, ids: Sequence[str], coords: Float[Tensor, "N C"], values: Mapping[str, Float[Tensor, "n N V"]]
) -> None:
    """Columns: the signal's id, its coordinates, and every value once for each entry of `values`, whose key ends its name."""
    axes, names = domain.columns
    columns = torch.stack(list(values.values()), -1).flatten(2)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", *axes, *(name + ending for name in names for ending in values)])
    at = [[f"{t:.10g}" for t in point] for point in coords.tolist()]
    for name, rows in zip(ids, columns.tolist(), strict=True):
        table.writerows([name, *place, *(f"{x:.8g}" for x in row)] for place, row in zip(at, rows, strict=True))
    files.write_bytes(path, text.getvalue().encode())
