"""The state of a fit in one file, written whole or not at all, so that a killed fit goes on bit for bit."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

import neuralfield.files as files
from neuralfield.errors import UsageError
from neuralfield.recipe import Model
from neuralfield.training.loop import Position
from neuralfield.training.schedules.schedule import Optimisers


def path_of(folder: Path) -> Path:
    """Where a run keeps it."""
    return folder / "resume" / "state.safetensors"


def bank_of(folder: Path) -> Path:
    """Where a run that is being fitted keeps the files of a mapped bank."""
    return folder / "resume" / "bank"


def save(
    folder: Path, model: Model, optimisers: Optimisers, position: Position, facts: dict[str, Any], kept: dict[str, Tensor]
) -> None:
    """Everything that the rest of the fit depends on. `facts` are JSON (time spent, early stopping), `kept` other tensors.

    A mapped bank is not copied: its own files are flushed, and hold what the checkpoint says once their undo log is rolled back.
    """
    rows = model.source.files
    mark = None if rows is None else rows.flushed()
    tensors: dict[str, Tensor] = {}
    skeletons = {
        "decoder": _flatten(model.decoder.state_dict(), "decoder", tensors),
        "source": _flatten({} if mark else model.source.state_dict(), "source", tensors),
        "objective": _flatten(model.objective.state_dict(), "objective", tensors),
        "latents": _flatten(optimisers.latents.state_dict(), "latents", tensors),
        "weights": _flatten(optimisers.decoder.state_dict(), "weights", tensors),
        "kept": _flatten(kept, "kept", tensors),
    }
    about = {"position": asdict(position), "facts": facts, "skeletons": skeletons, "mapped": mark}
    files.write_tensors(path_of(folder), tensors, about)
    if rows is not None and mark is not None:
        rows.committed(mark)


def load(folder: Path, model: Model, optimisers: Optimisers) -> tuple[Position, dict[str, Any], dict[str, Tensor]]:
    """Put the saved state in place; returns (position, facts, kept)."""
    tensors, about = files.read_tensors(path_of(folder))
    parts = {name: _unflatten(skeleton, tensors) for name, skeleton in about["skeletons"].items()}
    files.restore(model.decoder, parts["decoder"], path_of(folder))
    rows, mark = model.source.files, about.get("mapped")
    if (rows is None) != (mark is None):
        raise UsageError(f"{folder} was begun with latents.mapped={str(mark is not None).lower()}; resume it so")
    if rows is None:
        files.restore(model.source, parts["source"], path_of(folder))
    files.restore(model.objective, parts["objective"], path_of(folder))
    optimisers.latents.load_state_dict(parts["latents"])
    optimisers.decoder.load_state_dict(parts["weights"])
    if rows is not None and mark is not None:
        rows.roll_back(mark)
    return Position(**about["position"]), about["facts"], parts["kept"]


def _flatten(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The tree with each tensor replaced by {"tensor": its name in `tensors`}."""
    if isinstance(tree, Tensor):
        tensors[name] = tree
        return {"tensor": name}
    if isinstance(tree, dict):
        return {"items": [[key, _flatten(value, f"{name}.{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return {kind: [_flatten(value, f"{name}.{i}", tensors) for i, value in enumerate(tree)]}
    return {"value": tree}


def _unflatten(skeleton: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    if "tensor" in skeleton:
        return tensors[skeleton["tensor"]]
    if "items" in skeleton:
        return {key: _unflatten(value, tensors) for key, value in skeleton["items"]}
    for kind in (list, tuple):
        if kind.__name__ in skeleton:
            return kind(_unflatten(value, tensors) for value in skeleton[kind.__name__])
    return skeleton["value"]
