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
    from neuralfield.run import Run, load_signals

    options.warnings_as_lines()
    run = Run.load(run_path, settings)
    signals = load_signals(run, source, split=split or "test", limit=limit, **({"skip_bad": True} if skip_bad else {}))
    before = len(run.ids)
    estimate = run.add(signals)
    run.save()
    options.say(
        f"{run_path}  {before} signals + {len(signals)} = {len(run.ids)}; {estimate.converged.float().mean():.0%} converged"
    )
    options.finish(as_json, {"run": str(run_path), "signals": len(run.ids), "added": len(signals)})
