"""nf import."""

from pathlib import Path

import click

from neuralfield.cli import options


@click.command("import")
@click.argument("kind", metavar="FORMAT", type=click.Choice(["deepsdf"]))
@click.argument("experiment", metavar="EXPERIMENT", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run's folder.")
@click.option("--checkpoint", default="latest", show_default=True, help="Which state of the training: latest, 500, 2000 ...")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out.")
@options.common
def command(kind: str, experiment: Path, out: Path, checkpoint: str, overwrite: bool, as_json: bool) -> None:
    """Make a run of what another program has fitted.

    \b
    nf import deepsdf examples/chairs --out runs/chairs     specs.json, ModelParameters/ and LatentCodes/ of DeepSDF
    nf infer runs/chairs --data deepsdf:data --split test
    """
    from neuralfield.export.deepsdf import read_experiment
    from neuralfield.training import asked

    options.warnings_as_lines()
    asked.claim(out, overwrite)
    run = read_experiment(experiment, checkpoint)
    if overwrite:
        asked.clear(out)
    run.save(out)
    options.say(f"{out}  {len(run.ids)} codes of {run.codes.shape[1]} numbers, epoch {run.facts['epochs']}")
    options.say(f"try next  nf decode {out} --signal 0 --resolution 128 --out shape.ply")
    facts = {"run": str(out), "signals": len(run.ids), "code_dim": run.codes.shape[1], "epochs": run.facts["epochs"]}
    options.finish(as_json, facts)
