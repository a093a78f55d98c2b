"""nf fit."""

from pathlib import Path

import click

from neuralfield.cli import options


@click.command("fit")
@click.option("--domain", metavar="NAME", help="What the signals are functions of: image, ...")
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
    """
    from neuralfield.cli.progress import Bar
    from neuralfield.training.fit import fit

    options.warnings_as_lines()
    if skip_bad:
        settings = (*settings, "signals.skip_bad=true")
    name = Path(recipe).stem if recipe else domain
    folder = out if out or resume or not name else options.new_folder(Path("runs"), name, overwrite)
    bar = Bar()
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
        bar.stop()
    facts = run.facts
    scores = ", ".join(f"{key} {value:.4g}" for key, value in facts["scores"]["train"].items())
    options.say(f"fitted {facts['signals']} signals in {facts['seconds']:.0f} s ({facts['epochs']} epochs): {scores}")
    options.say(f"run              {folder}")
    options.say(f"reconstructions  {folder}/figures/reconstructions.png")
    masked = "center:12" if run.domain.shape and min(run.domain.shape) > 12 else "random:0.5"
    options.say(f"try next         nf infer {folder} --hide {masked}")
    options.say(f"                 nf decode {folder} --signal 0 --resolution 256 --out signal.png")
    options.say(f"                 tensorboard --logdir {folder}")
    shown = {key: facts[key] for key in ("signals", "epochs", "seconds", "points_per_second", "scores")}
    options.finish(as_json, {"run": str(folder), **shown})
