"""nf interpolate."""

from pathlib import Path

import click

from neuralfield.cli import options


@click.command("interpolate")
@options.run_argument
@click.argument("start", metavar="I")
@click.argument("end", metavar="J")
@click.option("--path", "kind", default="density", show_default=True, metavar="NAME", help="linear, spherical, density or graph.")
@click.option("--steps", type=click.IntRange(min=2), default=9, show_default=True, help="Signals on the way, both ends included.")
@options.written
@options.common
def command(run_path: Path, start: str, end: str, kind: str, steps: int, resolution: int | None, out: Path, as_json: bool) -> None:
    """Go from signal I of the bank to signal J: numbers or ids.

    By default along the density of the bank's codes, so that what lies between looks like a signal (docs/explore.md).

    \b
    nf interpolate RUN 3 8 --out path.png
    nf interpolate RUN 3 8 --steps 25 --resolution 128 --out path.gif
    nf interpolate RUN chair table --path linear --out between.glb
    """
    from neuralfield.explore.interpolation import interpolate
    from neuralfield.export.decoded import row_of, write_decoded
    from neuralfield.run import Run

    run = Run.load(run_path)
    rows = [row_of(run, signal) for signal in (start, end)]
    codes = interpolate(run, rows[0], rows[1], kind, steps)
    evaluations = write_decoded(run, run.roster.rows(rows).between(steps), codes, resolution, out)
    length = codes.diff(dim=0).norm(dim=1).sum().item()
    ends = [run.ids[row] for row in rows]
    options.say(f"{out}  {steps} signals from {ends[0]} to {ends[1]} by path {kind}, {length:.3g} long")
    facts = {"run": str(run_path), "out": str(out), "from": ends[0], "to": ends[1], "path": kind, "steps": steps, "length": length}
    options.finish(as_json, facts | {"evaluations": evaluations})
