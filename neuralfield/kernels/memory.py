"""What happens to memory that a step has freed."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TRIM, MAPPED = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt(3)
KEPT, ORDINARY = 2**28, 2**17
"""Bytes of freed memory that stay with the process while it trains, and otherwise."""
LARGEST = 2**24
"""Bytes from which an allocation gets pages of its own from the system: a layer of 4,096 points x 512 units takes half of that."""
_WITHIN: list[bool] = []
"""Not empty where memory is kept already: the outermost gives it back."""


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, glibc keeps what is freed: else the buffers of every layer go back to the system, and come again page by page.

    A training step of a SIREN of 5 x 256 takes a CPU 8 % longer without. Whoever has set MALLOC_ variables keeps what they say.
    Other C libraries have no such setting.
    """
    libc, own = _libc(), any(name.startswith("MALLOC_") for name in os.environ)
    if libc is None or own or _WITHIN:
        yield
        return
    libc.mallopt(MAPPED, LARGEST)
    libc.mallopt(TRIM, KEPT)
    _WITHIN.append(True)
    try:
        yield
    finally:
        _WITHIN.clear()
        libc.mallopt(TRIM, ORDINARY)
        libc.malloc_trim(0)


def _libc() -> Any:
    """glibc, where it is the C library."""
    try:
        libc = ctypes.CDLL(None)
        functions: tuple[Callable[..., int], ...] = (libc.mallopt, libc.malloc_trim)
    except (AttributeError, OSError, TypeError):
        return None
    return libc if all(functions) else None
