"""Loops that are timed in turns, each in a process of its own, as its users run it.

What one does to memory or to caches of torch stays with it, and a slow moment of the machine hits all of them.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

LEAST = 0.05
"""Seconds of a turn at least: short steps are repeated within it."""

KEPT = ExitStack()
"""What lasts as long as a process."""

Step = Callable[[], object]
Loop = tuple[str, dict[str, Any]]
"""("module:function", its arguments); the function returns a step."""


def in_turns(loops: Mapping[str, Loop], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of a step of each loop, in every repeat. Each is warmed up before the first, and has one thread."""
    context, pipes, workers = get_context("spawn"), {}, []
    for name, loop in loops.items():
        pipes[name], far = context.Pipe()
        workers.append(context.Process(target=_work, args=(far, *loop), daemon=True))
        workers[-1].start()
        pipes[name].recv()  # one after another: building and warming up is not to be in anyone's way
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(repeats):
        for name, pipe in pipes.items():
            pipe.send("step")
            seconds[name].append(pipe.recv())
    for worker in workers:
        worker.terminate()
        worker.join()
    return seconds


def median(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Of each loop."""
    return {name: statistics.median(each) for name, each in seconds.items()}


def ratio(above: list[float], below: list[float]) -> float:
    """Median of the ratios of the turns."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _work(pipe: Connection, function: str, arguments: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    module, _, name = function.partition(":")
    step: Step = getattr(import_module(module), name)(**arguments)
    step()
    times = max(1, round(LEAST / max(1e-6, _timed(step, 1))))
    pipe.send("ready")
    while True:
        pipe.recv()
        pipe.send(_timed(step, times))


def _timed(step: Step, times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        step()
    return (time.process_time() - began) / times
