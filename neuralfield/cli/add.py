"""nf add."""

from pathlib import Path

import click

from neuralfield.cli import options


@click.command("add")
@options.run_argument
@options.data
@options.settings
@options.common
def command(
    run_path: Path,
    source: str | None,
    split: str | None,
    limit: int | None,
    skip_bad: bool,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Let new signals join the bank: their codes are searched with the decoder frozen.

    \b
    nf add RUN --data images:more/
    """
    from neuralfield.cli.inferring import opened
    from neuralfield.run import Run

    searching, signals = opened(run_path, source, split, limit, skip_bad, None, settings)
    run = Run.load(run_path)
    before, estimate = len(run.ids), searching.infer(signals, calibrated=False)
    run.join(signals, estimate)  # --set changes this search, not the run
    run.save()
    options.say(
        f"{run_path}  {before} signals + {len(signals)} = {len(run.ids)}; {estimate.converged.float().mean():.0%} converged"
    )
    options.finish(as_json, {"run": str(run_path), "signals": len(run.ids), "added": len(signals)})
