"""nf export."""

from pathlib import Path

import click

from neuralfield.cli import options


@click.command("export")
@options.run_argument
@click.option("--format", "kind", type=click.Choice(["deepsdf"]), required=True, help="What shall read it.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A folder.")
@options.common
def command(run_path: Path, kind: str, out: Path, as_json: bool) -> None:
    """Write a run as another program reads it.

    \b
    nf export RUN --format deepsdf --out experiment/     specs.json, ModelParameters/ and LatentCodes/ of DeepSDF
    """
    from neuralfield.export.deepsdf import write_experiment
    from neuralfield.run import Run

    run = Run.load(run_path)
    write_experiment(run, out)
    options.say(f"{out}  {len(run.ids)} codes of {run.codes.shape[1]} numbers")
    options.finish(as_json, {"run": str(run_path), "out": str(out), "format": kind, "signals": len(run.ids)})
