"""The hot paths on a CPU, one thread: points a second, the share of the machine's matrix-product rate, and the published loops.

    python benchmarks/hot_paths.py               all networks, about ten minutes
    python benchmarks/hot_paths.py --quick       tries the script itself, with figures that mean nothing

Every loop runs in a process of its own, and all of a network's take turns; figures are medians, ratios are medians over the turns.
"""

from pathlib import Path

import click
import hot_cases
from hot_cases import CASES, Case
from hot_references import KINDS, SEARCHED
from machine import RESULTS, machine
from shape_measures import Report
from turns import Loop, in_turns, median, ratio

PATHS = ("train", "latents", "jacobian", "decode")
GEMM, BANDWIDTH, COMPILED, TWIN = "products alone", "copy", "train, torch.compile", "train, reference kernel"
MEMORY = "published train, freed memory kept as in our processes"
CHUNK = 4096
"""Points that go through a decoder together, and so the shape of the products that are compared with."""
COPIED = 2**24
"""Numbers: 64 MiB, more than the caches hold."""
LEAST = {"DeepSDF 8x512": 1.6, "DeepSDF 4x128": 2.8}
"""Of the train steps' speed, against DeepSDF's."""
SHARE, SPREAD = 0.8, 1.1
"""Of the machine's rate, what the SIREN's train step must reach; and what a latents-only step may take of its share of the work."""


@click.command()
@click.option("--networks", default=",".join(CASES), help="Which, with commas between.")
@click.option("--repeats", default=15)
@click.option("--compile/--no-compile", "compiling", default=True, help="Time torch.compile too.")
@click.option("--quick", is_flag=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=RESULTS / "hot_paths.md")
def main(networks: str, repeats: int, compiling: bool, quick: bool, out: Path) -> None:
    report = Report()
    report.say("# Hot paths", "", f"{machine()}, one thread, `python benchmarks/hot_paths.py`.", "")
    if quick:
        report.say("**--quick: these figures mean nothing.**", "")
    for name in networks.split(","):
        _measure(CASES[name], 2 if quick else repeats, compiling and not quick, report)
    if not quick:
        out.write_text("\n".join(report.lines))


def _measure(case: Case, repeats: int, compiling: bool, report: Report) -> None:
    seconds = in_turns(_loops(case, compiling), repeats)
    found, work, points = median(seconds), hot_cases.flops(case), _points(case)
    rate = hot_cases.gemm_flops(case.width, CHUNK) / found[GEMM]
    where = "shared by all" if case.shared else "of each signal's own"
    report.say(f"## {case.name}: {case.signals} signals x {case.points} points, {where}, codes of {case.code_dim}", "")
    report.say(
        f"Products of [{CHUNK}, {case.width}] x [{case.width}, {case.width}] and their gradients: {rate / 1e9:.0f} GFLOP/s; "
        f"a copy: {8 * COPIED / found[BANDWIDTH] / 1e9:.1f} GB/s.",
        "",
    )
    rows = []
    for path in PATHS:
        theirs = f"published {path}"
        share = work[path] * points[path] / found[path] / rate
        row = [path, f"{1e3 * found[path]:.2f}", f"{points[path] / found[path] / 1e3:,.0f} k", f"{100 * share:.0f} %"]
        if theirs in found:
            faster = found[theirs] / points[theirs] / (found[path] / points[path])
            row += [f"{points[theirs] / found[theirs] / 1e3:,.0f} k", f"{faster:.2f}"]
        rows.append([*row, *[""] * (6 - len(row))])
    head = ("path", "CPU ms", "points a second", "of the products' rate", "published loop, points a second", "faster by")
    report.table(head, rows)
    for name in (MEMORY, TWIN, COMPILED):
        if name in seconds:
            report.say(f"{name}: {1e3 * found[name]:.2f} ms, {ratio(seconds[name], seconds['train']):.2f} of ours.", "")
    _targets(case, seconds, work, report)


def _targets(case: Case, seconds: dict[str, list[float]], work: dict[str, float], report: Report) -> None:
    if case.name in LEAST:
        faster = ratio(seconds["published train"], seconds["train"])
        what = f"{case.name}: a train step at least {LEAST[case.name]} times as fast as DeepSDF's."
        report.target(what, f"{faster:.2f}", faster >= LEAST[case.name])
    if case.name.startswith("SIREN"):
        ideal = work["train"] * case.signals * case.points / hot_cases.gemm_flops(case.width, CHUNK)
        share = ideal * ratio(seconds[GEMM], seconds["train"])
        report.target(
            f"{case.name}: a train step at {100 * SHARE:.0f} % of the products' rate.", f"{100 * share:.0f} %", share >= SHARE
        )
    if case.width > 64:
        excess = ratio(seconds["latents"], seconds["train"]) / (work["latents"] / work["train"])
        what = f"{case.name}: a latents-only step within {100 * (SPREAD - 1):.0f} % of its share of a train step's work."
        report.target(what, f"{excess:.3f} of it", excess <= SPREAD)


def _loops(case: Case, compiling: bool) -> dict[str, Loop]:
    loops: dict[str, Loop] = {path: (f"hot_cases:{path}", {"case": case.name}) for path in PATHS}
    loops[GEMM] = ("hot_cases:gemm", {"width": case.width, "points": CHUNK})
    loops[BANDWIDTH] = ("hot_cases:copy", {"numbers": COPIED})
    loops[TWIN] = ("hot_cases:twin", {"case": case.name})
    if compiling:
        loops[COMPILED] = ("hot_cases:compiled", {"case": case.name})
    if kind := KINDS.get(case.name):
        if kind == "deepsdf":
            loops[MEMORY] = ("hot_references:deepsdf_kept", {"case": case.name})
        for path in ("train", "latents", "decode"):
            more = {"points": case.dense} if path == "decode" else {}
            loops[f"published {path}"] = (f"hot_references:{kind}_{path}", {"case": case.name, **more})
    return loops


def _points(case: Case) -> dict[str, int]:
    """That a step of each path evaluates."""
    batch = case.signals * case.points
    points = {"train": batch, "latents": batch, "jacobian": batch, "decode": case.dense}
    published = {f"published {path}": points[path] for path in ("train", "latents", "decode")}
    if KINDS.get(case.name) == "deepsdf":
        published["published latents"] = SEARCHED
    return points | published


if __name__ == "__main__":
    main()
