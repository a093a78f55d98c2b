"""Ctrl-C, or the end of a job, in the middle of a fit."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from neuralfield.errors import NeuralfieldError

STOPS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what schedulers of jobs and torchrun send when a process is to end."""


class InterruptedFitError(NeuralfieldError):
    """The fit was stopped by Ctrl-C; its state was saved where it has a folder."""

    exit_code = 130


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C becomes a question that is asked between steps, and SIGTERM too; a second one stops at once."""
    flag, seen = threading.Event(), set[int]()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return

    def handler(number: int, frame: Any) -> None:
        if number in seen:  # torchrun answers Ctrl-C with a SIGTERM, which is no second Ctrl-C
            raise KeyboardInterrupt
        seen.add(number)
        flag.set()

    before = {number: signal.signal(number, handler) for number in STOPS}
    try:
        yield flag.is_set
    finally:
        for number, old in before.items():
            signal.signal(number, old)
