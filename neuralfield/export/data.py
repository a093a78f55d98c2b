"""A data set as a person looks at it: its facts, and a contact sheet."""

from pathlib import Path
from typing import Any

import torch

from neuralfield.domains.pictures import sheet
from neuralfield.errors import NeuralfieldError
from neuralfield.registry import resolve
from neuralfield.signals.signals import Signals

COLUMNS, ROWS = 16, 6


def describe(signals: Signals) -> dict[str, Any]:
    """How many signals of what kind, the range of their values, how much of them is known, and how often each label occurs.

    Of meshes with defects also what they are, by file.
    """
    facts = {"signals": len(signals), "domain": signals.domain, **signals.facts()}
    if "values" not in facts:
        facts |= _range(signals)
    if signals.labels is not None:
        classes, counts = signals.labels.unique(return_counts=True)
        facts["labels"] = dict(zip(map(str, classes.tolist()), counts.tolist(), strict=True))
    # asked for by name, as meshes bring libraries along that other signals do without
    if odd := {name: report.described for name, report in getattr(signals, "reports", {}).items() if str(report)}:
        facts["meshes"] = odd
    return facts


def _range(signals: Signals) -> dict[str, Any]:
    """The lowest and highest value, and the share of points that are known."""
    lowest, highest, known, points = float("inf"), float("-inf"), 0.0, 0
    for batch in signals.batches(256):
        seen = batch.values[batch.weight > 0]
        lowest, highest = min(lowest, seen.min().item()), max(highest, seen.max().item())
        known, points = known + float((batch.weight > 0).sum()), points + batch.weight.numel()
    return {"values": [lowest, highest], "known": known / points}


def write_sheet(signals: Signals, path: Path) -> None:
    """The first signals as one picture."""
    domain = resolve("domains", signals.domain)(**signals.domain_arguments)
    count = min(len(signals), COLUMNS * ROWS)
    pictures = domain.draw(signals.truth(torch.arange(count)))
    rows = {str(first): pictures[first : first + COLUMNS] for first in range(0, count, COLUMNS)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet(rows).save(path)
    except (OSError, ValueError) as error:
        raise NeuralfieldError(f"{path} cannot be written: {error}") from None
