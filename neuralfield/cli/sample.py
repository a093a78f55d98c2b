"""nf sample."""

from pathlib import Path

import click

from neuralfield.cli import options


@click.command("sample")
@options.run_argument
@click.option("-n", "count", type=click.IntRange(min=1), default=16, show_default=True, help="How many.")
@click.option(
    "--density",
    default="mixture",
    show_default=True,
    metavar="NAME",
    help="What is fitted to the codes: mixture, gaussian, kernel-density; training: the fit's own prior.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@options.written
@options.common
def command(run_path: Path, count: int, density: str, seed: int, resolution: int | None, out: Path, as_json: bool) -> None:
    """Draw new signals from a density fitted to the bank's codes, and say how far each is from the nearest training signal.

    \b
    nf sample RUN -n 16 --out samples.png
    nf sample RUN -n 4 --density gaussian --out samples.csv
    """
    from neuralfield.explore.neighbours import Gallery, training_signals
    from neuralfield.explore.sampling import sample
    from neuralfield.export.decoded import write_decoded
    from neuralfield.run import Run
    from neuralfield.signals.roster import Roster

    run = Run.load(run_path)
    codes = sample(run, count, density, seed)
    names = [f"sample-{number}" for number in range(count)]
    evaluations = write_decoded(run, Roster(names), codes, resolution, out)
    gallery = Gallery.of(run, training_signals(run))
    distances, rows = gallery.nearest(Gallery.of_codes(run, codes))
    nearest = [gallery.ids[row] for row in rows.tolist()]
    for name, distance, near in zip(names, distances.tolist(), nearest, strict=True):
        options.say(f"{name:<12} {distance:.4g} from {near}")
    kind = "training signal" if gallery.real else "training signal, as the run decodes it"
    options.say(f"{out}  {count} samples, on average {distances.mean():.4g} (mean squared difference) from the nearest {kind}")
    facts = {"run": str(run_path), "out": str(out), "density": density, "seed": seed, "samples": count}
    facts |= {"nearest": nearest, "distances": distances.tolist(), "mean_distance": distances.mean().item(), "real": gallery.real}
    options.finish(as_json, facts | {"evaluations": evaluations})
