"""Fits on several ranks, each a process of its own: forked from a server that has imported everything once."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import install_import_hook

install_import_hook("neuralfield", "shapes.checked")

import torch  # noqa: E402
from synthetic import TINY, balls, images, waves  # noqa: E402

import neuralfield.files as files  # noqa: E402
from neuralfield.cli.main import main  # noqa: E402
from neuralfield.training import fit as fitting  # noqa: E402
from neuralfield.training import running  # noqa: E402
from neuralfield.training.schedules.joint import Joint  # noqa: E402

JOINT = ["latents.code_dim=3", "decoder.width=8", "decoder.depth=2", "training.batch=6", "training.epochs=none"]
SHAPES = ["latents.code_dim=4", "decoder.width=8", "decoder.depth=2", "decoder.frequencies=4", "training.polish=0"]
SHAPES += ["training.batch=4", "training.points=20", "inference.points=50", "objective.eikonal=0.1"]
ALTERNATING = ["schedule.latent_epochs=1", "schedule.decoder_epochs=1", "schedule.rounds=2"]
STOPPING = ["training.optimiser=adam", "training.decoder_rate=0.05", "training.decay=constant", "training.warmup=0"]
JOBS: dict[str, tuple[Any, str, list[str]]] = {
    "images": (lambda: images(24), "image", [*TINY, "training.points=30"]),
    "ragged": (lambda: images(23), "image", [*TINY, "training.optimiser=adam"]),
    "lbfgs": (lambda: images(24), "image", [*TINY, "inference.kind=lbfgs", "inference.tolerance=1e-3"]),
    "shapes": (lambda: balls(7), "shape", SHAPES),
    "curves": (lambda: waves(13), "functions-joint", [*JOINT, "training.draw=signals", "training.points=5"]),
    "basis": (lambda: waves(40), "function", ["latents.code_dim=12"]),
    "samples": (lambda: images(6), "image", [*TINY, "training.draw=samples", "training.batch=50", "latents.init=normal"]),
    "dense": (lambda: images(5), "image", [*TINY, "training.latent_optimiser=dense", "training.batch=2"]),
    "stopping": (lambda: images(24), "image", [*TINY, "training.validation=0.25", "training.patience=1", *STOPPING]),
    "alternating": (lambda: waves(13), "functions-alternating", [*JOINT, *ALTERNATING]),
    "few": (lambda: images(2), "image", TINY),
}
"""Data, recipe and settings of each kind of fit."""


@dataclass
class Ended:
    """How each rank ended."""

    codes: list[int]
    seconds: float
    said: list[str] = field(default_factory=list)
    """Lines on stderr, all ranks together."""


def arguments(job: str) -> dict[str, Any]:
    """Of nf.fit."""
    make, recipe, settings = JOBS[job]
    return {"data": make(), "recipe": recipe, "settings": settings, "epochs": None if job == "basis" else 3}


def numbers(folder: Path) -> dict[str, torch.Tensor]:
    """All that a run has learned."""
    names = ("decoder", "latents", "inference")
    return {
        f"{name}.{key}": value for name in names for key, value in files.read_tensors(folder / f"{name}.safetensors")[0].items()
    }


def on_ranks(world: int, work: Any, *words: Any, within: float = 60.0) -> Ended:
    """Call work(*words) on so many ranks; returns when all have ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ranked"])
    log, began = Path(words[0]).with_suffix(".log"), time.monotonic()
    log.write_text("")
    port = _free_port()
    processes = [context.Process(target=_rank, args=(rank, world, port, log, work, words)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(max(0.1, began + within - time.monotonic()))
    hung = [process for process in processes if process.is_alive()]
    for process in hung:
        process.kill()
        process.join()
    said = [line for line in log.read_text().splitlines() if line.startswith("nf: ")]
    assert not hung, f"{len(hung)} ranks hang: {log.read_text()[-2000:]}"
    return Ended([int(process.exitcode or 0) for process in processes], time.monotonic() - began, said)


def fit(out: Path, job: str, stop: tuple[int, int, int] | None = None, resume: bool = False, every: float = 0.0) -> None:
    """One rank of a fit; `stop` (rank, step, signal): what a rank sends to itself in a step. Errors are said as by nf."""
    running.CHECKPOINT_EVERY = every
    if stop is not None and stop[0] == int(os.environ["RANK"]):
        _watch(*stop[1:])
    given = {"resume": True, "data": arguments(job)["data"]} if resume else arguments(job)
    _as_nf(lambda: fitting.fit(**given, out=out, overwrite=not resume))


def fit_within(out: Path, job: str, budget: float) -> None:
    """One rank of a fit with a budget in seconds."""
    _as_nf(lambda: fitting.fit(**(arguments(job) | {"epochs": None}), budget=budget, out=out))


def words(out: Path, *given: str) -> None:
    """One rank of a command."""
    main(list(given))


def killed_while_saving(out: Path, job: str, rank: int, nth: int) -> None:
    """A rank is killed when it has written half of its part of a checkpoint."""
    import torch.distributed.checkpoint as dcp

    write, left = dcp.HuggingFaceStorageWriter.write_data, [nth]

    def dying(self: Any, *rest: Any) -> Any:
        left[0] -= 1
        if not left[0] and rank == int(os.environ["RANK"]):
            (Path(self.path) / "shard-half").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, *rest)

    dcp.HuggingFaceStorageWriter.write_data = dying
    fit(out, job)


def _watch(step: int, number: int) -> None:
    made, left = Joint.step, [step]

    def stopping(self: Joint, *rest: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), number)
        return made(self, *rest)

    Joint.step = stopping  # type: ignore[method-assign]


def _as_nf(work: Any) -> None:
    """Errors as the command line says them."""
    from neuralfield.cli import main as cli

    cli._run = lambda given: work() and 0  # type: ignore[assignment]
    main([])


def _rank(rank: int, world: int, port: int, log: Path, work: Any, given: tuple[Any, ...]) -> None:
    own = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(own, 1), os.dup2(own, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    here = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in here.items()}
    torch.set_num_threads(1)
    work(*given)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
