"""nf infer."""

from pathlib import Path
from typing import Any

import click

from neuralfield.cli import options
from neuralfield.cli.inferring import Inferred, infer_from_options
from neuralfield.errors import UsageError


@click.command("infer")
@options.run_argument
@options.data
@options.inference
@options.settings
@click.option("--out", type=click.Path(path_type=Path), help="Where completions go; by default RUN/completions.")
@options.common
def command(run_path: Path, out: Path | None, as_json: bool, **chosen: Any) -> None:
    """Find the codes of new signals, whole or partly seen, and write their completions.

    \b
    nf infer RUN --hide center:12                     test digits without their centre
    nf infer RUN --data digit.png --observe half:left
    nf infer RUN --observe random:0.1 --set inference.steps=300
    """
    from neuralfield.export.completions import write_completions

    folder = out or run_path / "completions"
    if (folder / "recipe.toml").exists():
        raise UsageError(f"{folder} is a run; choose another --out, or none: completions then go to {run_path}/completions")
    inferred: Inferred = infer_from_options(run_path, **chosen)
    options.output_folder(folder)
    picture = write_completions(folder, inferred.run, inferred.signals, inferred.visibility, inferred.completion)
    for line in inferred.lines():
        options.say(line)
    options.say(f"completions  {folder}")
    options.say(f"picture      {picture}")
    options.finish(as_json, inferred.facts() | {"out": str(folder)})
