"""Stopping where a part of the loss has stopped falling."""

from typing import Any

from neuralfield.errors import UsageError
from neuralfield.training.session import Session
from neuralfield.types import Loss

MARGIN = 0.01
"""Relative change of an epoch's mean that counts as a rise or a fall: less is the noise of batches."""


def note(state: Session, loss: Loss) -> None:
    """Add the term that `training.plateau` names to the epoch's sum. The sum is a fact, so that a resumed fit goes on with it."""
    name = state.recipe.training.plateau
    if name is None or not len(loss.total):  # a rank may have no signal of a batch
        return
    if name not in loss.terms:
        known = ", ".join(sorted(loss.terms)) or "none"
        raise UsageError(f'training.plateau = "{name}", but the loss has no such term; known here: {known}')
    seen = _of(state)
    seen["sum"] += float(loss.terms[name])
    seen["steps"] += 1


def reached(state: Session) -> str | None:
    """An epoch has ended: why the fit stops, if the term's mean has not fallen for `patience` epochs; None while it goes on."""
    name, patience = state.recipe.training.plateau, state.recipe.training.patience
    if name is None:
        return None
    seen = _of(state)
    total, steps = state.ranks.total(seen["sum"], seen["steps"])
    seen.update(sum=0.0, steps=0.0, means=[*seen["means"], total / max(steps, 1.0)])
    if waited(seen["means"]) < patience:
        return None
    lowest = min(seen["means"][-patience:])
    return f"{name} has not fallen for {patience} epochs, from {lowest:.4g}"


def waited(means: list[float]) -> int:
    """Epochs since the last fall. What comes before the highest mean does not count: codes first grow apart, then shorter.

    While it rises it does not wait either: there is no plateau to stop at before it has been left.
    """
    highest = lowest = means[0]
    last = 0
    for epoch, mean in enumerate(means):
        if mean > highest + MARGIN * abs(highest):
            highest = lowest = mean
            last = epoch
        elif mean < lowest - MARGIN * abs(lowest):
            lowest, last = mean, epoch
    return len(means) - 1 - last


def _of(state: Session) -> dict[str, Any]:
    """What is known of the term so far."""
    found: dict[str, Any] = state.facts.setdefault("plateau", {"sum": 0.0, "steps": 0.0, "means": []})
    return found
