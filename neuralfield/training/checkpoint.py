"""The state of a fit in one file, written whole or not at all, so that a killed fit goes on bit for bit."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

import neuralfield.files as files
from neuralfield.errors import UsageError
from neuralfield.recipe import Model
from neuralfield.training import shards
from neuralfield.training.loop import Position
from neuralfield.training.optimisers.capturable import plain
from neuralfield.training.ranks import Ranks
from neuralfield.training.schedules.schedule import Optimisers


def path_of(folder: Path) -> Path:
    """Where a run keeps it."""
    return folder / "resume" / "state.safetensors"


def newest(folder: Path) -> Position | None:
    """Where the newest checkpoint of a folder stands; None without any."""
    alone = files.read_about(path_of(folder))["position"] if path_of(folder).exists() else None
    shared = files.read_json(shards.path_of(folder))["about"]["position"] if shards.path_of(folder).exists() else None
    found = [Position(**each) for each in (alone, shared) if each is not None]
    return max(found, key=lambda position: position.steps, default=None)


def bank_of(folder: Path) -> Path:
    """Where a run that is being fitted keeps the files of a mapped bank."""
    return folder / "resume" / "bank"


def agree(folder: Path, mapped: bool) -> None:
    """Refuse to resume a bank in another way than it was begun, before anything is written."""
    if path_of(folder).exists() and (begun := files.read_about(path_of(folder)).get("mapped") is not None) != mapped:
        raise UsageError(f"{folder} was begun with latents.mapped={str(begun).lower()}; resume it so")


def save(
    folder: Path,
    model: Model,
    optimisers: Optimisers,
    position: Position,
    facts: dict[str, Any],
    kept: dict[str, Tensor],
    count: int,
) -> None:
    """Everything that the rest of the fit depends on. `facts` are JSON (time spent, early stopping), `kept` other tensors.

    Of `count` signals; several ranks share the work (shards.py). A mapped bank is not copied: its own files are flushed, and hold
    what the checkpoint says once their undo log is rolled back.
    """
    rows = model.source.files
    mark = None if rows is None else rows.flushed()
    tensors: dict[str, Tensor] = {}
    skeletons = {
        "decoder": _flatten(model.decoder.state_dict(), "decoder", tensors),
        "source": _flatten({} if mark else model.source.state_dict(), "source", tensors),
        "objective": _flatten(model.objective.state_dict(), "objective", tensors),
        "latents": _flatten(plain(optimisers.latents.state_dict()), "latents", tensors),
        "weights": _flatten(plain(optimisers.decoder.state_dict()), "weights", tensors),
        "kept": _flatten(kept, "kept", tensors),
    }
    about = {"position": asdict(position), "facts": facts, "skeletons": skeletons, "mapped": mark}
    if optimisers.ranks.world == 1:
        files.write_tensors(path_of(folder), tensors, about)
        shards.remove(folder)
        if rows is not None and mark is not None:
            rows.committed(mark)
        return
    shards.save(folder, f"shards-{position.steps}", tensors, _rows(tensors), about, count, optimisers.ranks)
    if optimisers.ranks.first:
        path_of(folder).unlink(missing_ok=True)


def load(folder: Path, model: Model, optimisers: Optimisers, count: int) -> tuple[Position, dict[str, Any], dict[str, Tensor]]:
    """Put the saved state in place; returns (position, facts, kept). It may come from any number of ranks."""
    tensors, about = _read(folder, count, optimisers.ranks)
    parts = {name: _unflatten(skeleton, tensors) for name, skeleton in about["skeletons"].items()}
    files.restore(model.decoder, parts["decoder"], path_of(folder))
    rows, mark = model.source.files, about.get("mapped")
    if rows is None:
        files.restore(model.source, parts["source"], path_of(folder))
    files.restore(model.objective, parts["objective"], path_of(folder))
    optimisers.latents.load_state_dict(parts["latents"])
    optimisers.decoder.load_state_dict(parts["weights"])
    if rows is not None and mark is not None:
        rows.roll_back(mark)
    return Position(**about["position"]), about["facts"], parts["kept"]


def _read(folder: Path, count: int, ranks: Ranks) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The newest state, of codes and what goes with them the rank's own rows."""
    position = newest(folder)
    if path_of(folder).exists() and Position(**files.read_about(path_of(folder))["position"]) == position:
        tensors, about = files.read_tensors(path_of(folder))
        own, rows = ranks.share(count), _rows(tensors) if ranks.world > 1 else set()
        return {name: tensor[own.start : own.stop] if name in rows else tensor for name, tensor in tensors.items()}, about
    return shards.load(folder, ranks)


def _rows(tensors: dict[str, Tensor]) -> set[str]:
    """Names of tensors with a row for each signal: codes, and what their optimiser keeps of them."""
    return {name for name, tensor in tensors.items() if name.startswith(("source.", "latents.", "kept.source.")) and tensor.ndim}


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
