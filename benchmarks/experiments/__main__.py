"""Makes the pages of docs/experiments: all of them, or those that are named.

    python benchmarks/experiments                     all, two at a time, under an hour on two cores
    python benchmarks/experiments masks sparse        some
    python benchmarks/experiments --again functions   fits again what it needs

First the fits that pages share, then the pages. Data are those of NF_DATA (or shared/data beside the repository); where they are
missing, the digits that come with the package.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import click

HERE = Path(__file__).parent
sys.path[0] = str(HERE.parent)  # experiments are a package of the folder benchmarks, whose other files they import

NAMES = (
    "functions",
    "autodecoder",
    "embedding",
    "masks",
    "interpolation",
    "linear",
    "autoencoders",
    "holes",
    "sparse",
    "denoising",
    "contractive",
    "variational",
    "glo",
    "encdec",
    "comparison",
)
"""In the order of the index."""


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--train", default=10_000, help="Training digits.")
@click.option("--test", default=1_000, help="Test digits.")
@click.option("--masked", default=128, help="Test digits with hidden centres.")
@click.option("--epochs", type=int, default=None, help="Cut every fit short: the pages are then for trying only.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/experiments"), help="Where fits are kept.")
@click.option("--pages", type=click.Path(path_type=Path), default=HERE.parents[1] / "docs" / "experiments", help="Where pages are.")
@click.option("--again", is_flag=True, help="Fit again what is there already.")
@click.option("--jobs", default=2, help="How many at a time, one thread each.")
@click.option("--fit", default=None, hidden=True, help="Make one fit, and no page.")
def main(names: tuple[str, ...], again: bool, jobs: int, fit: str | None, **settings: object) -> None:
    from experiments.fits import FITS, fitted
    from experiments.laboratory import Laboratory

    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise click.UsageError(f'there is no experiment "{unknown[0]}"; known: {", ".join(NAMES)}')
    laboratory = Laboratory(**settings)  # type: ignore[arg-type]
    if fit is not None:
        fitted(laboratory, fit, again)
        return
    if len(names) == 1:
        _page(laboratory, names[0], again)
        return
    wanted = names or NAMES
    fits = dict.fromkeys(fit for name in wanted for fit in import_module(f"experiments.{name}").FITS)
    options = [word for key, value in settings.items() if value is not None for word in (f"--{key}", str(value))]
    longest_first = sorted(fits, key=lambda name: -FITS[name].minutes)
    _all([[*options, *["--again"] * again, "--fit", name] for name in longest_first], jobs)
    _all([[*options, name] for name in wanted], jobs)
    from experiments.pages import index

    index(laboratory.pages, NAMES)


def _page(laboratory, name: str, again: bool) -> None:  # type: ignore[no-untyped-def]
    """One page, by this process."""
    import torch

    from experiments.fits import fitted
    from experiments.pages import index

    torch.set_num_threads(1)
    module = import_module(f"experiments.{name}")
    for fit in module.FITS if again else ():
        fitted(laboratory, fit, again)
    module.main(laboratory)
    index(laboratory.pages, NAMES)


def _all(commands: list[list[str]], jobs: int) -> None:
    """Each in a process of its own with one thread; says how long each took, and ends with the first that fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def call(words: list[str]) -> None:
        began = time.perf_counter()
        done = subprocess.run([sys.executable, str(HERE), *words], env=environment, capture_output=True, text=True)
        told = f"{'fit ' * ('--fit' in words)}{words[-1]}: {time.perf_counter() - began:.0f} s"
        click.echo(told if done.returncode == 0 else f"{told}, failed:\n{done.stderr}", err=True)
        done.check_returncode()

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(call, commands))


if __name__ == "__main__":
    main()
