"""Reading and writing the files of a run: whole or not at all, never a pickle, one clear line when it fails."""

import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from neuralfield.errors import NeuralfieldError


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside the file and rename, so that a full disk or a kill leaves the old file as it was."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):  # the folder itself may be what is wrong
            beside.unlink()
        raise NeuralfieldError(f"{path} cannot be written: {error.strerror}; what was there before is untouched") from error


def write_json(path: Path, content: Any) -> None:
    """JSON with a trailing newline; numbers that are not finite are refused."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NeuralfieldError(f"{path} is damaged or truncated ({error}); restore it from a copy, or remove it") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> None:
    """A safetensors file; `about` is JSON that travels in its header."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(held, {"about": json.dumps(about or {})}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, about) of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            # copies: where a tensor lies in the file decides its alignment, and that the last digit of products with it
            return {name: file.get_tensor(name).clone() for name in names}, json.loads((file.metadata() or {}).get("about", "{}"))
    except FileNotFoundError:
        raise NeuralfieldError(
            f"{path} is missing: the run is half written; finish it with nf fit --resume, or fit again"
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise NeuralfieldError(f"{path} is damaged or truncated ({error}); restore it from a copy, or fit again") from None


def read_about(path: Path) -> dict[str, Any]:
    """The JSON in a safetensors file's header."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("about", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise NeuralfieldError(f"{path} is damaged or truncated ({error}); restore it from a copy, or fit again") from None


def restore(module: torch.nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Put tensors into a module's parameters and buffers, whatever size its buffers had; every one must be there."""
    parameters, buffers = dict(module.named_parameters()), set(module.state_dict())
    if buffers != set(tensors):
        odd = sorted(buffers ^ set(tensors))
        raise NeuralfieldError(
            f"{file} does not fit its recipe: {odd[0]} is {'missing' if odd[0] in buffers else 'not part of it'}"
        )
    for name, tensor in tensors.items():
        if name in parameters:
            if parameters[name].shape != tensor.shape:
                raise NeuralfieldError(
                    f"{file} does not fit its recipe: {name} is {list(tensor.shape)}, not {list(parameters[name].shape)}"
                )
            parameters[name].data.copy_(tensor)
        else:
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, tensor.to(module.get_buffer(name).device))


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """A compressed npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def write_npy(path: Path, array: np.ndarray) -> None:
    """An array that can be mapped from its file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_bytes(path, buffer.getvalue())


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file; a .npy file counts as one array `codes`."""
    try:
        held = np.load(path, allow_pickle=False)
        return {"codes": held} if isinstance(held, np.ndarray) else {name: held[name] for name in held.files}
    except FileNotFoundError:
        raise NeuralfieldError(f"{path} does not exist") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise NeuralfieldError(f"{path} cannot be read as npz or npy ({error})") from None
