"""nf decode."""

import time
from pathlib import Path

import click

from neuralfield.cli import options


@click.command("decode")
@options.run_argument
@click.option(
    "--signal", "signals", multiple=True, metavar="I", help="Which signal of the bank, by number or id; repeatable; 0 by default."
)
@click.option(
    "--codes",
    type=click.Path(path_type=Path),
    help="Codes from a file instead: .npz as nf codes and nf infer write, or .npy [n, D].",
)
@click.option("--resolution", type=click.IntRange(min=1), help="Samples along the longer side; by default the signals' own.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help=options.WRITTEN,
)
@options.common
def command(run_path: Path, signals: tuple[str, ...], codes: Path | None, resolution: int | None, out: Path, as_json: bool) -> None:
    """Write signals at any resolution.

    \b
    nf decode RUN --signal 7 --resolution 256 --out seven.png
    nf decode RUN --signal chair --resolution 256 --out chair.glb
    """
    from neuralfield.export.decoded import choose_codes, write_decoded
    from neuralfield.run import Run

    run = Run.load(run_path)
    roster, chosen = choose_codes(run, signals, codes)
    began = time.perf_counter()
    evaluations = write_decoded(run, roster, chosen, resolution, out)
    seconds = time.perf_counter() - began
    options.say(f"{out}  {len(chosen)} signals, {evaluations} points, {seconds:.2f} s")
    facts = {"run": str(run_path), "out": str(out), "resolution": resolution, "evaluations": evaluations, "seconds": seconds}
    options.finish(as_json, facts)
