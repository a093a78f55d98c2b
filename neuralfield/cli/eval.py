"""nf eval."""

from pathlib import Path
from typing import Any

import click

from neuralfield.cli import options
from neuralfield.cli.inferring import infer_from_options


@click.command("eval")
@options.run_argument
@options.data
@options.inference
@options.settings
@options.common
def command(run_path: Path, as_json: bool, **chosen: Any) -> None:
    """Infer the codes of signals and score them; writes nothing.

    \b
    nf eval RUN --data mnist:DATA --split test --limit 1000
    """
    inferred = infer_from_options(run_path, **chosen)
    for line in inferred.lines():
        options.say(line)
    options.finish(as_json, inferred.facts())
