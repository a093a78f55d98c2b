"""Ctrl-C in the middle of a fit."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from neuralfield.errors import NeuralfieldError


class InterruptedFitError(NeuralfieldError):
    """The fit was stopped by Ctrl-C; its state was saved where it has a folder."""

    exit_code = 130


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C becomes a question that is asked between steps; a second Ctrl-C stops at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return

    def handler(number: int, frame: Any) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield flag.is_set
    finally:
        signal.signal(signal.SIGINT, before)
