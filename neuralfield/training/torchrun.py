"""How the processes that torchrun has started come together, part, and say that one of them has died.

torchrun --nproc-per-node 2 -m neuralfield fit --domain image --out runs/x
"""

import gc
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from functools import cache, wraps
from itertools import count
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]

from neuralfield.errors import NeuralfieldError, SaidError, UsageError
from neuralfield.training import checkpoint
from neuralfield.training.interrupt import InterruptedFitError
from neuralfield.training.ranks import ALONE, LostRankError, Ranks, wants_gpu

PATIENCE = timedelta(hours=24)
"""How long ranks wait for the first one to initialise and to score. One that dies is noticed by its connection, not by this."""
ROLL_CALL = 3.0
"""Seconds in which ranks that still live answer: each notices at once that another has gone, and waits for nothing else."""
BUSY = 60.0
"""Seconds in which ranks that live may still be at work, where one has an error to say: they hear of it at the next exchange."""
LATER = 0.3
"""Seconds that others wait with what they have to say, as it may be the same for all."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_HERE: ContextVar[Ranks] = ContextVar("ranks", default=ALONE)
_FITS = count()


class EndedError(NeuralfieldError):
    """SIGTERM, where nothing asks between steps whether to stop."""

    exit_code = 143


def here() -> Ranks:
    """This process among those of the fit that is going on."""
    return _HERE.get()


def first() -> bool:
    """Whether this process is the one that prints."""
    return os.environ.get("RANK", "0") == "0" or int(os.environ.get("WORLD_SIZE", "1")) == 1


def together(fit: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that all processes of torchrun call alike: they are joined when it begins and part when it ends."""

    @wraps(fit)
    def joined(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return fit(*args, **kwargs)
        with _joined(str(kwargs.get("device", "auto")), kwargs.get("out")) as ranks:
            return fit(*args, **(kwargs | {"out": ranks.folder}))  # type: ignore[arg-type]

    return joined


@contextmanager
def _joined(device: str, out: Any) -> Iterator[Ranks]:
    if dist.is_initialized():
        raise UsageError("nf.fit joins its ranks itself; end the process group of this program before")
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(f"WORLD_SIZE asks for several ranks, but {missing[0]} is not set: start them with torchrun, or unset it")
    rank, world, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    ranks = Ranks(rank, world, local)
    store = PrefixStore(f"neuralfield-{next(_FITS)}", _store())
    token, before = _HERE.set(ranks), _on_sigterm(_end)
    try:
        gpu = wants_gpu(device)
        if gpu:
            torch.cuda.set_device(ranks.device(device))
        backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
        group = PrefixStore("group", store)
        dist.init_process_group(backend, store=group, rank=ranks.rank, world_size=ranks.world, timeout=PATIENCE)
        folder = ranks.told(None if out is None else str(out))  # of one name, however many looked for a free one
        if folder is None:
            raise UsageError("several ranks hand the run over in a folder: say out=...")
        ranks = replace(ranks, folder=Path(folder))
        _HERE.set(ranks)
        yield ranks
        _await_others(ranks, store)
    except (Exception, KeyboardInterrupt) as error:
        _on_sigterm(signal.SIG_IGN)  # torchrun ends those that are left; one of them has a line to say before
        _part()
        _forget(error)
        raise _last_word(error, ranks, store) from error
    finally:
        _part()
        _HERE.reset(token)
        _on_sigterm(before)


def _await_others(ranks: Ranks, store: Store) -> None:
    """Until all are done, for a while: a connection that closes while the other side still reads from it can abort that process."""
    with suppress(RuntimeError):  # the first rank held the store, and has gone on
        store.set(f"done/{ranks.rank}", "")
        until = time.monotonic() + ROLL_CALL
        while time.monotonic() < until and not store.check([f"done/{rank}" for rank in range(ranks.world)]):
            time.sleep(0.02)


@cache
def _store() -> Store:
    """Where ranks leave notes; torchrun holds it, and so it outlives them."""
    store: Store = next(rendezvous("env://"))[0]
    return store


def _part() -> None:
    if dist.is_initialized():
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _forget(error: BaseException | None) -> None:
    """Close the connections, which wakes ranks that wait for this one: gloo does so when nobody refers to them any more."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()


def _end(number: int, frame: Any) -> None:
    raise EndedError("the fit was ended by SIGTERM before there was a state to save")


def _on_sigterm(handler: Any) -> Any:
    """Set what SIGTERM does; returns what it did before."""
    if threading.current_thread() is threading.main_thread():
        return signal.signal(signal.SIGTERM, handler)
    return signal.SIG_DFL


def _last_word(error: BaseException, ranks: Ranks, store: Store) -> BaseException:
    """The error to raise: one rank says what is wrong, the others leave quietly with the same exit code."""
    lost = isinstance(error, LostRankError | EndedError)
    code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
    absent: list[int] = []
    try:
        if lost:
            absent = _roll_call(ranks, store)
        elif not ranks.first:
            time.sleep(LATER)
        speaks = not lost or ranks.rank == min(set(range(ranks.world)) - set(absent), default=None)
        quiet = store.check(["said"]) or not speaks or store.add("said", 1) > 1
        _leave(ranks, store, ROLL_CALL if lost else BUSY)
        if quiet:
            return SaidError(code)
    except RuntimeError:  # the first rank held the store, and has died
        absent = [0] if lost else []
    if isinstance(error, LostRankError) or absent:
        return _without(absent, ranks, error)
    if isinstance(error, UsageError | InterruptedFitError | EndedError) or not isinstance(error, NeuralfieldError) or ranks.first:
        return error
    return NeuralfieldError(f"rank {ranks.rank}: {error}")


def _roll_call(ranks: Ranks, store: Store) -> list[int]:
    """The ranks that do not answer; none, once one has said why it left."""
    store.set(f"here/{ranks.rank}", "")
    absent, until = list(range(ranks.world)), time.monotonic() + ROLL_CALL
    while absent and time.monotonic() < until and not store.check(["said"]):
        time.sleep(0.05)
        absent = [rank for rank in absent if not store.check([f"here/{rank}"])]
    return absent


def _leave(ranks: Ranks, store: Store, patience: float) -> None:
    """The first rank goes last, where it holds the store and not torchrun."""
    store.set(f"left/{ranks.rank}", "")
    if ranks.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        until = time.monotonic() + patience
        while time.monotonic() < until and not store.check([f"left/{rank}" for rank in range(ranks.world)]):
            time.sleep(0.05)


def _without(absent: list[int], ranks: Ranks, error: BaseException) -> NeuralfieldError:
    """What to say of ranks that died, and how to go on."""
    who = " and ".join(f"rank {rank}" for rank in absent) or "another rank"
    answers = "no longer answer" if len(absent) > 1 else "no longer answers"
    position = checkpoint.newest(ranks.folder) if ranks.folder is not None else None
    if position is None:
        then = "there was no checkpoint yet, fit again with --overwrite"
    else:
        at = f"{position.epoch} epochs" if not position.step else f"{position.steps} steps"
        then = f"the checkpoint after {at} is whole, go on with nf fit --resume --out {ranks.folder}, on any number of ranks"
    return NeuralfieldError(f"{who} of {ranks.world} {answers}; {then}" + ("" if absent else f" ({error})"))
