"""How far a bank goes: what a step costs with 1e3 to 1e7 signals, in memory and mapped, and a fit of 1e7 signals in 3 GB.

python benchmarks/scale.py            about fifteen minutes; writes benchmarks/results/scale.md; needs 20 GB of disk in --scratch
python benchmarks/scale.py --quick    tries the script itself, with figures that mean nothing
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import torch
from machine import RESULTS, machine
from shape_measures import Report

import neuralfield as nf
from neuralfield.recipe import Model
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.training.schedules.joint import Joint
from neuralfield.training.schedules.schedule import Optimisers

BATCH, POINTS, DIMS = 64, 1024, 64
RATIO, BOUND = 1.05, 3.0
"""Targets: a step with 1e6 signals against one with 1e3, in memory; GB resident in the fit of 1e7."""
IN_MEMORY = 0.4
"""Share of the machine's memory that a bank in memory and its optimiser may take here."""


@dataclass
class Case:
    """A bank with its optimiser, and what its steps have cost: whole ones, and those of the bank alone."""

    count: int
    kind: str
    bank: nf.Bank
    adam: RowAdam
    whole: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)


def case(count: int, kind: str, scratch: Path) -> Case:
    """With codes in place, so that no first touch is timed; a mapped one lies in `scratch`."""
    bank = nf.Bank(count, DIMS, init="normal", std=0.1, mapped=kind != "memory")
    adam = RowAdam(bank.parameters(), lr=1e-3, beside=bank.files)
    if bank.files is not None:
        bank.files.begin(scratch / f"{kind}-{count}")
    bank.initialise(lambda: iter(()), torch.Generator().manual_seed(0))
    bank.train()
    alone(bank, adam, observations(count, 0, 1))  # makes the state
    return Case(count, kind, bank, adam)


def observations(count: int, repeat: int, points: int) -> nf.Observations:
    """Random signals of the bank, and what was seen of them, which is the same whatever the bank."""
    draw = torch.Generator().manual_seed(repeat)
    coords, values = torch.rand(1, points, 2, generator=draw) * 2 - 1, torch.randn(BATCH, points, 1, generator=draw)
    index = (torch.rand(BATCH, generator=draw, dtype=torch.float64) * count).long()
    return nf.Observations(index, coords, values, torch.ones(BATCH, points))


def alone(bank: nf.Bank, adam: RowAdam, seen: nf.Observations) -> None:
    """What a step asks of the bank: look up, gradient, move."""
    bank(seen).mean.sum().backward()
    adam.step()
    adam.zero_grad(set_to_none=True)


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process; time in the kernel, as for pages of a file, is among them."""
    began = time.process_time()
    work()
    return time.process_time() - began


def evict(bank: nf.Bank) -> None:
    """Let the system forget a mapped bank: its next pages come from the disk."""
    assert bank.files is not None
    bank.files.drop()
    for table in bank.files.tables:
        os.fsync(table.file.fileno())
        os.posix_fadvise(table.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def steps(report: Report, scratch: Path, counts: tuple[int, ...], repeats: int) -> None:
    """Interleaved, so that whatever the machine does meanwhile meets all of them alike."""
    decoder = nf.Modulated(coord_dim=2, value_dim=1, code_dim=DIMS, width=128, depth=4)
    objective = nf.MAP(nf.Points(), nf.GaussianLikelihood(std=0.1), nf.IsotropicPrior(code_dim=DIMS))
    muon, schedule = nf.Muon(decoder.parameters(), lr=1e-4), Joint()
    room = IN_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    kinds = [(n, "memory") for n in counts if n * (12 * DIMS + 4) < room] + [(n, "mapped") for n in counts]
    cases = [case(n, kind, scratch) for n, kind in kinds]
    for repeat in range(-2, repeats):  # two to warm up
        for each in cases:
            seen = observations(each.count, 10 + repeat, POINTS)
            model = Model(None, each.bank, decoder, objective)  # type: ignore[arg-type]
            optimisers, draw = Optimisers(each.adam, muon), torch.Generator().manual_seed(0)
            whole = seconds(lambda: schedule.step(model, optimisers, seen, 0, draw))  # noqa: B023 (called at once)
            some = [observations(each.count, 1000 + 20 * repeat + k, 1) for k in range(20)]
            few = seconds(lambda: [alone(each.bank, each.adam, one) for one in some]) / len(some)  # noqa: B023
            if repeat >= 0:
                each.whole.append(whole)
                each.alone.append(few)
    first = statistics.median(cases[0].whole)
    rows = []
    for each in cases:
        whole, few = statistics.median(each.whole), statistics.median(each.alone)
        spread = (max(each.whole) - min(each.whole)) / whole
        rows.append(
            [f"{each.count:.0e}", each.kind, f"{1e3 * whole:.1f}", f"{spread:.1%}", f"{whole / first:.3f}", f"{1e6 * few:.0f}"]
        )
    head = ["signals", "bank in", "step, ms", "max - min", f"step / that of {counts[0]:.0e} in memory", "of it the bank's, us"]
    report.table(head, rows)
    largest = max((each for each in cases if each.kind == "memory" and each.count <= 10**6), key=lambda each: each.count)
    ratio = statistics.median(largest.whole) / first
    what = f"a step with {largest.count:.0e} signals in memory costs at most {RATIO} times one with {counts[0]:.0e};"
    report.target(what, f"{ratio:.3f}", ratio <= RATIO)
    cold(report, cases[-1])


def cold(report: Report, largest: Case) -> None:
    """The bank's part where every page comes from the disk; waiting is no CPU time, so here the clock counts."""
    waits = []
    for k in range(5):
        evict(largest.bank)
        seen, began = observations(largest.count, 5000 + k, 1), time.perf_counter()
        alone(largest.bank, largest.adam, seen)
        waits.append(time.perf_counter() - began)
    wait = statistics.median(waits)
    report.say(
        f"With the mapped bank of {largest.count:.0e} put out of the system's cache, the bank's part of a step takes "
        f"{1e3 * wait:.1f} ms by the clock ({1e6 * wait / BATCH:.0f} us a row, one read after another).",
        "",
    )


def fit(report: Report, scratch: Path, count: int, budget: float | None) -> None:
    """In a process of its own."""
    words = [
        str(Path(__file__).with_name("scale_fit.py")),
        "--signals",
        str(count),
        "--dims",
        str(DIMS),
        "--out",
        str(scratch / "run"),
    ]
    words += [] if budget is None else ["--budget", str(budget)]
    done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True)
    facts = json.loads(done.stdout.splitlines()[-1])
    peak = max(stage["peak"] for stage in facts["stages"])
    report.say(f"## A fit of {count:.0e} signals of {DIMS} dims", "")
    report.say(f"`nf.fit` with `latents.mapped=true`: {facts['steps']} steps in {facts['seconds']:.0f} s.", "")
    head = ["stage", "peak resident, GB", "CPU s", "s"]
    report.table(head, [[s["stage"], f"{s['peak']:.2f}", f"{s['cpu']:.0f}", f"{s['seconds']:.0f}"] for s in facts["stages"]])
    report.target(f"less than {BOUND} GB resident at any time;", f"{peak:.2f} GB", peak < BOUND)
    for when, held in (("at most, while it was fitted", facts["disk"]), ("afterwards", facts["left"])):
        large = ", ".join(f"`{name}` {size:.2f}" for name, size in sorted(held.items()) if size > 0.005)
        report.say(f"On the disk {when}: {sum(held.values()):.2f} GB{': ' if large else ''}{large}.", "")


@click.command()
@click.option("--quick", is_flag=True, help="Small banks.")
@click.option("--repeats", default=15, help="Steps of each bank.")
@click.option("--budget", type=float, default=None, help="Seconds of the large fit; by default one epoch.")
@click.option("--scratch", type=click.Path(file_okay=False, path_type=Path), default=None, help="Where large files may lie.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=RESULTS / "scale.md", show_default=True)
def main(quick: bool, repeats: int, budget: float | None, scratch: Path | None, out: Path) -> None:
    torch.set_num_threads(1)
    report = Report()
    report.say("# Scale", "", f"{machine()}, one thread, `python benchmarks/scale.py`.", "")
    if quick:
        report.say("**--quick: these figures mean nothing.**", "")
    report.say(f"## A step of {BATCH} signals x {POINTS} points through a decoder 4x128, codes of {DIMS} dims", "")
    report.say("CPU time of the process, medians of interleaved repeats. Mapped banks lie in the system's cache.", "")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        steps(report, Path(folder), (1000, 20_000) if quick else (1000, 100_000, 1_000_000, 10_000_000), 2 if quick else repeats)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        fit(report, Path(folder), 50_000 if quick else 10_000_000, budget)
    if not quick:
        out.write_text("\n".join(report.lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
