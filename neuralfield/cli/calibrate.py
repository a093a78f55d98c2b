"""nf calibrate."""

from dataclasses import asdict
from pathlib import Path

import click

from neuralfield.cli import options

LIMIT, SAMPLES = 200, 32
"""Signals and samples where nobody asks for other numbers."""


@click.command("calibrate")
@options.run_argument
@options.data
@options.inference
@options.settings
@options.common
def command(
    run_path: Path,
    source: str | None,
    split: str | None,
    limit: int | None,
    skip_bad: bool,
    observe: tuple[str, ...],
    hide: tuple[str, ...],
    solver: str | None,
    samples: int | None,
    seed: int,
    device: str,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Fit temperature, trust in the evidence and noise level, so that 90 % of hidden values lie in their bands; the run keeps them.

    Take signals that the fit has not seen, and hide what will be hidden: bands are as wide as that kind of mask needs.

    \b
    nf calibrate RUN --data mnist:DATA --split test --limit 200 --hide center:12
    nf infer RUN --data new.png --hide center:12 --samples 32
    """
    from neuralfield.calibration import calibrate
    from neuralfield.cli.inferring import opened
    from neuralfield.cli.progress import Bar
    from neuralfield.run import Run
    from neuralfield.signals.masks import Visibility

    searching, signals = opened(run_path, source, split, limit or LIMIT, skip_bad, solver, settings, device)
    bar = Bar()
    bar.stage("calibrating")
    try:
        found = calibrate(
            searching, signals, Visibility(observe, hide, seed), SAMPLES if samples is None else samples, seed, bar.share
        )
    finally:
        bar.stop()
    run = Run.load(run_path)  # --set changes these searches, not the run
    run.calibration.load_state_dict(searching.calibration.state_dict())
    run.facts["calibration"] = searching.facts["calibration"]
    run.save()
    options.say(
        f"{run_path}  temperature {found.temperature:g}, evidence {found.evidence:g}, noise {found.noise:.3g}: "
        f"{found.coverage90:.0%} of what was hidden of {found.signals} signals lies in its bands"
    )
    options.finish(as_json, {"run": str(run_path), **asdict(found)})
