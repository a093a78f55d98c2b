"""A checkpoint of several ranks: each writes the rows that it owns, by torch.distributed.checkpoint; any number of ranks reads it.

A new folder `resume/shards-STEPS` is written first, and then `resume/shards.json`, which names it: what that names is whole. All is
safetensors and JSON.
"""

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import neuralfield.files as files
from neuralfield.errors import NeuralfieldError
from neuralfield.training.ranks import LostRankError, Ranks, answering


def path_of(folder: Path) -> Path:
    """What names the newest whole checkpoint."""
    return folder / "resume" / "shards.json"


def save(
    folder: Path, name: str, tensors: dict[str, Tensor], rows: set[str], about: dict[str, Any], count: int, ranks: Ranks
) -> None:
    """All ranks call it. Tensors named in `rows` hold a rank's own of `count` rows, the others are the same on every rank."""
    if ranks.told(_names(folder, name)):  # the same step: what a fit saves at the end of its last epoch, and when it has ended
        return
    dcp = needed()
    where = folder / "resume" / name
    if ranks.first:
        shutil.rmtree(where, ignore_errors=True)
    ranks.told(None)  # cleared before anyone writes
    first = ranks.share(count).start
    held = {key: _placed(value, first, count) if key in rows else value.detach() for key, value in tensors.items()}
    try:
        with answering():
            dcp.save(held, storage_writer=dcp.HuggingFaceStorageWriter(str(where), save_distributed=True))
    except dcp.CheckpointException as error:
        raise _why(error, where) from error
    if ranks.first:
        sizes = {file.name: file.stat().st_size for file in sorted(where.iterdir())}
        files.write_json(path_of(folder), {"folder": name, "files": sizes, "rows": sorted(rows), "count": count, "about": about})
        remove(folder, but=name)


def _names(folder: Path, name: str) -> bool:
    """Whether the newest whole checkpoint is the one of this name."""
    return path_of(folder).exists() and files.read_json(path_of(folder))["folder"] == name


def load(folder: Path, ranks: Ranks) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, about), of row tensors a rank's own. All ranks call it, however many there were."""
    dcp, table = needed(), files.read_json(path_of(folder))
    where = path_of(folder).with_name(table["folder"])
    for name, size in table["files"].items():
        if not (where / name).is_file() or (where / name).stat().st_size != size:
            raise NeuralfieldError(f"{where / name} is missing or truncated; restore it from a copy, or fit again")
    reader = dcp.HuggingFaceStorageReader(str(where))
    rows, own = set(table["rows"]), ranks.share(table["count"])
    tensors = {}
    for name, known in reader.read_metadata().state_dict_metadata.items():
        size = [len(own), *known.size[1:]] if name in rows else known.size
        empty = torch.empty(size, dtype=known.properties.dtype)
        tensors[name] = _placed(empty, own.start, table["count"]) if name in rows else empty
    try:
        with answering():
            dcp.load(tensors, storage_reader=reader)
    except dcp.CheckpointException as error:
        raise _why(error, where) from error
    return tensors, table["about"]


def remove(folder: Path, but: str = "") -> None:
    """Older checkpoints, once a newer one is whole."""
    if not but:
        path_of(folder).unlink(missing_ok=True)
    for old in path_of(folder).parent.glob("shards-*"):
        if old.name != but:
            shutil.rmtree(old, ignore_errors=True)


def needed() -> Any:
    """torch.distributed.checkpoint; imported here, since one process has no need of it."""
    module = import_module("torch.distributed.checkpoint")
    if not hasattr(module, "CheckpointableTensor"):
        raise NeuralfieldError(f"checkpoints of several ranks need a newer torch than {torch.__version__}: install 2.15")
    return module


def _placed(tensor: Tensor, first: int, count: int) -> Tensor:
    """The same tensor, known to torch.distributed.checkpoint as the rows from `first` on of `count` (its CheckpointableTensor)."""
    placed: Any = tensor.detach()
    placed.global_shape, placed.global_offsets = (count, *tensor.shape[1:]), ((first, *(0 for _ in tensor.shape[1:])),)
    placed.local_offsets, placed.local_sizes = ((0,) * tensor.ndim,), (tuple(tensor.shape),)
    return placed


def _why(error: Any, where: Path) -> NeuralfieldError:
    """The first reason that a rank gave."""
    rank, (reason, _) = next(iter(error.failures.items()))
    if isinstance(reason, RuntimeError) and not isinstance(reason, OSError):
        return LostRankError(str(reason).splitlines()[0])
    return NeuralfieldError(f"{where}: rank {rank}: {reason}; the checkpoint before is untouched")
