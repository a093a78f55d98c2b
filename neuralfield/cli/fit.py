"""nf fit."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from neuralfield.cli import options

if TYPE_CHECKING:
    from neuralfield.domains.domain import Domain


@click.command("fit")
@click.option("--domain", metavar="NAME", help="What the signals are: image, function, ...")
@options.data
@click.option("--recipe", metavar="NAME|FILE", help="A whole model; by default the one named like the domain.")
@options.settings
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder; by default runs/RECIPE.")
@click.option("--epochs", type=click.IntRange(min=1), help="How often to go over the data.")
@click.option("--budget", metavar="TIME", help="How long, instead of epochs: 60s, 5m, 1h; all included.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ...")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on with an interrupted fit in --out.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out.")
@options.common
def command(
    domain: str | None,
    source: str | None,
    split: str | None,
    limit: int | None,
    skip_bad: bool,
    recipe: str | None,
    settings: tuple[str, ...],
    out: Path | None,
    epochs: int | None,
    budget: str | None,
    device: str,
    seed: int,
    resume: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Fit a decoder and one latent code per signal.

    \b
    nf fit --domain image                                      the embedded digits
    nf fit --domain image --data images:photos/ --budget 5m    your own pictures
    nf fit --domain image --data mnist:DATA --set signals.pad=2 --set latents.code_dim=32
    nf fit --domain function --data csv:curves.csv              your own curves
    nf fit --domain shape --data meshes:chairs/                 your own meshes
    """
    from neuralfield.cli.progress import Bar
    from neuralfield.training.fit import fit
    from neuralfield.training.torchrun import first

    if first():
        options.warnings_as_lines()
    else:  # what one rank is warned of, all are
        warnings.simplefilter("ignore")
    if skip_bad:
        settings = (*settings, "signals.skip_bad=true")
    name = Path(recipe).stem if recipe else domain
    folder = out if out or resume or not name else options.new_folder(Path("runs"), name, overwrite)
    bar = Bar() if first() else None
    try:
        run = fit(
            source,
            domain=domain,
            recipe=recipe,
            settings=settings,
            split=split,
            limit=limit,
            out=folder,
            epochs=epochs,
            budget=options.seconds(budget),
            device=device,
            seed=seed,
            resume=resume,
            overwrite=overwrite,
            progress=bar,
        )
    finally:
        if bar is not None:
            bar.stop()
    if bar is None:
        return
    facts = run.facts
    scores = ", ".join(f"{key} {value:.4g}" for key, value in facts["scores"]["train"].items())
    options.say(f"fitted {facts['signals']} signals in {facts['seconds']:.0f} s ({facts['epochs']} epochs): {scores}")
    options.say(f"run              {folder}")
    options.say(f"reconstructions  {folder}/figures/reconstructions.png")
    if run.codes.shape[1]:
        options.say(f"try next         nf infer {folder} {_masked(run.domain)}")
    ending = "glb" if run.domain.solid else "csv" if run.domain.coord_dim == 1 else "png"
    options.say(f"                 nf decode {folder} --signal 0 --resolution 256 --out signal.{ending}")
    options.say(f"                 tensorboard --logdir {folder}")
    shown = {key: facts[key] for key in ("signals", "epochs", "seconds", "points_per_second", "scores")}
    options.finish(as_json, {"run": str(folder), **shown})


def _masked(domain: "Domain") -> str:
    """A completion to try on signals of this domain."""
    if domain.solid:
        return "--observe depth:30,20"
    if domain.coord_dim == 1:
        return "--observe first:0.5"
    return "--hide center:12" if domain.shape and min(domain.shape) > 12 else "--hide random:0.5"
