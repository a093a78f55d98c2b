"""Short fits of each domain: on the GPU in both precisions, with and without graphs, and on the CPU for its scores."""

import time
from typing import Any

import torch
from shape_measures import Report

import neuralfield as nf

FITS = {
    "function": ("functions-joint", "sines", ["training.epochs=300"], ["training.epochs=3"]),
    "image": ("image", "mnist-mini", ["training.steps=780"], ["training.steps=30", "training.polish=2"]),
    "shape": ("shape", "primitives", ["training.steps=3000"], ["training.steps=30", "training.polish=1"]),
}
"""(recipe, embedded data, settings, settings of --quick)."""
CLOSE = 0.1
"""Of the CPU's score: what another precision and another order of sums may change in so short a fit."""


def fitted(domain: str, device: str, quick: bool, settings: list[str]) -> dict[str, Any]:
    """Points a second, seconds, and the headline's score of the training signals."""
    recipe, data, full, short = FITS[domain]
    began = time.perf_counter()
    try:
        run = nf.fit(data, recipe=recipe, settings=[*(short if quick else full), *settings], device=device, seed=0)
    except Exception as error:  # one fit that fails leaves the others
        return {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"}
    score = run.facts["scores"]["train"][run.domain.headline]
    speed = run.facts["points_per_second"]
    return {"points": speed, "seconds": time.perf_counter() - began, "name": run.domain.headline, "score": score}


def fits(device: torch.device, quick: bool, report: Report) -> dict[str, Any]:
    """A table for each domain."""
    report.say("## Fits", "", f"Scores of the GPU are to be within {CLOSE:.0%} of the CPU's (float32).", "")
    found: dict[str, Any] = {}
    here = device.type
    for domain in FITS:
        rows = {"CPU, float32": fitted(domain, "cpu", quick, ["training.precision=float32"])}
        for precision in ("float32", "bfloat16"):
            for graphs in ("true", "false") if here == "cuda" else ("true",):
                settings = [f"training.precision={precision}", f"training.graphs={graphs}"]
                name = f"{here}, {precision}{', graphs' if graphs == 'true' else ''}"
                rows[name] = fitted(domain, here, quick, settings)
        found[domain] = rows
        _tell(domain, rows, report)
    return found


def _tell(domain: str, rows: dict[str, dict[str, Any]], report: Report) -> None:
    report.say(f"### {domain}", "")
    done = {name: row for name, row in rows.items() if "score" in row}
    lines = [
        (name, f"{row['points'] / 1e6:.2f}", f"{row['seconds']:.1f}", f"{row['score']:.4g} {row['name']}")
        for name, row in done.items()
    ]
    lines += [(name, "", "", row["failed"]) for name, row in rows.items() if "failed" in row]
    report.table(("fit", "M points/s", "s", "score"), lines)
    if "CPU, float32" not in done:
        return
    expected = done["CPU, float32"]["score"]
    off = {name: abs(row["score"] / expected - 1) for name, row in done.items()}
    worst = max(off, key=lambda name: off[name])
    close = off[worst] <= CLOSE and len(done) == len(rows)
    report.target(
        f"{domain}: as good on every device.", f"at most {off[worst]:.1%} off ({worst}), {len(rows) - len(done)} failed:", close
    )
