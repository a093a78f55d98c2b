"""Reading and writing the files of a run: whole or not at all, never a pickle, one clear line when it fails."""

import io
import json
import math
import mmap
import os
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from neuralfield.errors import NeuralfieldError

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of the safetensors format."""
ABOUT = "about.json"
LONGEST_ABOUT = 2**25
"""Characters in a header at most: safetensors reads none above 100 MB, and escapes may double them."""


@dataclass(frozen=True)
class Streamed:
    """A tensor that need not be in memory as a whole: its `pieces` in order, along the first axis, which are gone over once."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Iterable[Tensor]


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside the file and rename, so that a full disk or a kill leaves the old file as it was."""
    write_pieces(path, [content])


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """The same for a content that need not be in memory as a whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            for piece in pieces:
                file.write(piece)
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


def write_tensors(path: Path, tensors: Mapping[str, Tensor | Streamed], about: Mapping[str, Any] | None = None) -> None:
    """A safetensors file, written in pieces; `about` is JSON that travels in its header, or beside the tensors where it is long."""
    text = json.dumps(about or {})
    held: dict[str, Tensor | Streamed] = dict(tensors)
    if len(text) > LONGEST_ABOUT:
        held[ABOUT], text = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8), "{}"
    # as safetensors lays them out: wide numbers first, so that all are aligned
    order = sorted(held, key=lambda name: (-held[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"about": text}}
    end = 0
    for name in order:
        begin, end = end, end + math.prod(held[name].shape) * held[name].dtype.itemsize
        header[name] = {"dtype": DTYPES[held[name].dtype], "shape": list(held[name].shape), "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    write_pieces(path, chain([len(head).to_bytes(8, "little"), head], *(_bytes_of(held[name]) for name in order)))


def _bytes_of(tensor: Tensor | Streamed) -> Iterator[memoryview]:
    """A tensor as its file holds it, piece by piece."""
    for piece in [tensor] if isinstance(tensor, Tensor) else tensor.pieces:
        flat = piece.detach().cpu().reshape(-1)
        if len(flat):
            # one number alone counts as contiguous whatever its stride is, but is no bytes then
            packed = flat if flat.stride(0) == 1 else flat.clone(memory_format=torch.contiguous_format)
            yield packed.view(torch.uint8).numpy().data


def read_tensors(path: Path, leave: Collection[str] = ()) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, about) of a safetensors file, without those of the names to `leave`."""
    with _opened(path) as file:
        # copies: where a tensor lies in the file decides its alignment, and that the last digit of products with it
        tensors = {name: file.get_tensor(name).clone() for name in file.keys() if name not in leave}  # noqa: SIM118
        about = (file.metadata() or {}).get("about", "{}")
        return tensors, json.loads(tensors.pop(ABOUT).numpy().tobytes() if ABOUT in tensors else about)


def map_tensor(path: Path, name: str) -> Tensor:
    """One tensor of a safetensors file, read from there when it is looked at. What is changed stays in memory."""
    with _opened(path) as file:
        part = file.get_slice(name)
        shape, dtype = part.get_shape(), part.get_dtype()
    with open(path, "rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        begin, end = json.loads(raw.read(length))[name]["data_offsets"]
        kind = next(key for key, value in DTYPES.items() if value == dtype)
        if begin == end:
            return torch.zeros(shape, dtype=kind)
        held = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_COPY)
    return torch.frombuffer(held, dtype=kind, offset=8 + length + begin, count=math.prod(shape)).view(shape)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; one that cannot be read is one clear line."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
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
