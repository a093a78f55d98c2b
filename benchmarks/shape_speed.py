"""Shapes: how fast, how good, against DeepSDF, the nearest training shape, dense grids and trimesh, in one run, on one thread.

    python benchmarks/shape_speed.py                          everything, one to two hours
    python benchmarks/shape_speed.py --parts training,singles some; the others are reconstruction, generalise, completion,
                                                              meshing, sampling
    python benchmarks/shape_speed.py --quick                  tries the script itself, with figures that mean nothing

Each part prints its tables and targets as soon as it is done; --out FILE keeps them too, part by part.
"""

import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from machine import machine
from shape_completion import completion
from shape_geometry import meshing, sampling
from shape_inference import generalise, reconstruction, singles
from shape_measures import QUICK, Report, Sizes
from shape_training import training

PARTS: dict[str, Callable[[Sizes, Report], None]] = {
    "training": training,
    "reconstruction": reconstruction,
    "generalise": generalise,
    "completion": completion,
    "meshing": meshing,
    "sampling": sampling,
    "singles": singles,
}


@click.command()
@click.option("--parts", default=",".join(PARTS), help="Which, with commas between.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Also write the report there.")
@click.option("--quick", is_flag=True, help="A few shapes and seconds.")
@click.option("--dense-seats", default=3, help="Seats that are also sampled densely at the fine resolution; all 78 take an hour.")
def main(parts: str, out: Path | None, quick: bool, dense_seats: int) -> None:
    torch.set_num_threads(1)
    chosen = parts.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        raise click.BadParameter(f"there is no part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    sizes, report = QUICK if quick else Sizes(dense=dense_seats), Report()
    report.say("# Shapes: speed and quality", "", f"{machine()}, one thread, `python benchmarks/shape_speed.py`.", "")
    if quick:
        report.say("**--quick: these figures mean nothing.**", "")
    for name in chosen:
        began = time.process_time()
        PARTS[name](sizes, report)
        click.echo(f"{name}: {time.process_time() - began:.0f} CPU s", err=True)
        if out:
            out.write_text("\n".join(report.lines))


if __name__ == "__main__":
    main()
