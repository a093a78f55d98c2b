"""nf report."""

from pathlib import Path

import click

from neuralfield.cli import options


@click.command("report")
@options.run_argument
@click.option("--seed", type=int, default=0, show_default=True, help="For samples, and for which signals paths join.")
@click.option("--out", type=click.Path(path_type=Path), help="An .html file; by default RUN/report.html.")
@options.common
def command(run_path: Path, seed: int, out: Path | None, as_json: bool) -> None:
    """Write one self-contained HTML page on a run: codes in the plane, samples, paths, neighbours, reconstructions over time.

    \b
    nf report RUN
    """
    from neuralfield.explore.report import write_report
    from neuralfield.run import Run

    file = write_report(Run.load(run_path), out, seed)
    size = file.stat().st_size
    options.say(f"{file}  {size / 1e6:.1f} MB")
    options.finish(as_json, {"run": str(run_path), "out": str(file), "bytes": size})
