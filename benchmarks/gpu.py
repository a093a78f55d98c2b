"""Kernels and fits on an NVIDIA GPU: right, how fast, and of what the GPU can do. One command.

    python benchmarks/gpu.py                      everything, about a quarter of an hour
    python benchmarks/gpu.py --parts checks,times some; the other is fits
    python benchmarks/gpu.py --quick              tries the script itself, with figures that mean nothing
    python benchmarks/gpu.py --interpret          checks the kernels under Triton's interpreter, on a CPU and at tiny sizes

Writes benchmarks/results/gpu_NAME.md and .json, named after the GPU.
"""

import json
import os
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

PARTS = ("checks", "times", "fits")


@click.command()
@click.option("--parts", default=",".join(PARTS), help="Which, with commas between.")
@click.option("--quick", is_flag=True, help="Small sizes and a few steps.")
@click.option("--interpret", is_flag=True, help="Only the checks, under Triton's interpreter; needs no GPU.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Another folder for the results.")
def main(parts: str, quick: bool, interpret: bool, out: Path | None) -> None:
    chosen = ["checks"] if interpret else parts.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        raise click.BadParameter(f"there is no part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    if interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # triton reads it when it is imported
    import torch

    if not interpret and not torch.cuda.is_available():
        click.echo("no NVIDIA GPU here; --interpret checks the kernels without one, under Triton's interpreter", err=True)
        sys.exit(1)
    sys.exit(0 if measured(chosen, torch.device("cpu" if interpret else "cuda"), quick or interpret, out) else 1)


def measured(chosen: list[str], device: Any, quick: bool, out: Path | None) -> bool:
    """Run the parts, print and write; whether every kernel computes what it should."""
    from gpu_checks import checks
    from gpu_fits import fits
    from gpu_times import times
    from machine import RESULTS, machine
    from shape_measures import Report

    run = {"checks": checks, "times": times, "fits": fits}
    report, found, where = Report(), {"about": about(device)}, None
    if device.type == "cuda":
        where = (out or RESULTS) / f"gpu_{short_name(found['about']['device'])}"
    elif out:
        where = out / "gpu_interpreted"
    report.say(f"# {found['about']['device']}", "", f"{machine()}, `python benchmarks/gpu.py`.", "")
    report.table(("what", ""), list(found["about"].items()))
    if quick:
        report.say("**Small sizes: speeds mean nothing.**", "")
    for name in chosen:
        began = time.perf_counter()
        found[name] = run[name](device, quick, report)
        click.echo(f"{name}: {time.perf_counter() - began:.0f} s", err=True)
        if where is not None:  # part by part: what is done is kept
            where.parent.mkdir(parents=True, exist_ok=True)
            where.with_suffix(".md").write_text("\n".join(report.lines) + "\n")
            where.with_suffix(".json").write_text(json.dumps(_json(found), indent=1) + "\n")
    return not any(case.get("wrong") for cases in found.get("checks", {}).values() for case in cases)


def about(device: Any) -> dict[str, str]:
    """The device, its driver, and what runs on it."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "Triton's interpreter, on a CPU"
    facts = {"device": name, "driver": driver(), "CUDA": str(torch.version.cuda)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"memory": f"{properties.total_memory / 2**30:.1f} GiB", "capability": f"{properties.major}.{properties.minor}"}
    return facts | {package: installed(package) for package in ("torch", "triton", "tinycudann")}


def driver() -> str:
    """Of NVIDIA, as nvidia-smi says."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return (asked.stdout.splitlines() or ["none"])[0].strip()


def installed(package: str) -> str:
    """A package's version; bindings that were built by hand may have none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def short_name(device: str) -> str:
    """Of a GPU, for files: "NVIDIA H100 80GB HBM3" is h100_80gb_hbm3."""
    plain = re.sub(r"\b(nvidia|geforce|tesla|quadro)\b", "", device.lower())
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")


def _json(tree: Any) -> Any:
    """Without numbers that JSON has not."""
    if isinstance(tree, dict):
        return {key: _json(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_json(value) for value in tree]
    return str(tree) if isinstance(tree, float) and tree - tree != 0 else tree


if __name__ == "__main__":
    main()
