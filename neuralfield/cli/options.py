"""Options that several verbs share, and how they print."""

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from neuralfield.errors import NeuralfieldError, NeuralfieldWarning, UsageError

Command = Callable[..., Any]

WRITTEN = (
    ".png picture, .gif animation, .npy values on the grid [n, ..., channels], .csv coordinates and values; of shapes .ply .obj "
    ".glb .stl."
)


def common(command: Command) -> Command:
    """--json and --debug."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")(command)
    return click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")(command)


def settings(command: Command) -> Command:
    """--set."""
    return click.option(
        "--set", "settings", multiple=True, metavar="TABLE.KEY=VALUE", help="Change one key of the recipe; repeatable."
    )(command)


def data(command: Command) -> Command:
    """Which signals: --data, --split, --limit, --skip-bad."""
    for option in (
        click.option("--skip-bad", is_flag=True, help="Leave out files that cannot be read, and name them."),
        click.option("--limit", type=click.IntRange(min=1), help="Take the first N signals only."),
        click.option("--split", help="Which part of the data: train or test."),
        click.option("--data", "source", metavar="SOURCE", help="name, name:path, or the path of a file; see nf data --help."),
    ):
        command = option(command)
    return command


def inference(command: Command) -> Command:
    """How to search: what is seen, which solver."""
    for option in (
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ..."),
        click.option("--seed", type=int, default=0, show_default=True, help="For masks that draw at random."),
        click.option(
            "--samples",
            type=click.IntRange(min=0),
            help="Draw so many completions of each signal, for its band; by default the recipe's.",
        ),
        click.option("--solver", metavar="NAME", help="Which solver finds the codes."),
        click.option(
            "--hide",
            multiple=True,
            metavar="WHAT",
            help="What is NOT seen: center:12, half:left, half:late, random:0.5, first:0.5, file:MASK; repeatable.",
        ),
        click.option("--observe", multiple=True, metavar="WHAT", help="What IS seen, in the same words; repeatable."),
    ):
        command = option(command)
    return command


def written(command: Command) -> Command:
    """--resolution and --out, of signals that are decoded."""
    option = click.option(
        "--resolution", type=click.IntRange(min=1), help="Samples along the longer side; by default the signals' own."
    )
    return option(click.option("--out", type=click.Path(path_type=Path), required=True, help=WRITTEN)(command))


def run_argument(command: Command) -> Command:
    """The run folder."""
    return click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))(command)


def seconds(text: str | None) -> float | None:
    """A budget: 60, 60s, 5m or 1h."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not match or not float(match[1]):
        raise UsageError(f'--budget needs a time such as 60s, 5m or 1h, got "{text}"')
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def say(text: str = "") -> None:
    """One line for people."""
    click.echo(text)


def finish(as_json: bool, facts: dict[str, Any]) -> None:
    """The last line of stdout, where --json asks for it: finite numbers only."""
    if as_json:
        click.echo(json.dumps(facts, allow_nan=False))


def new_folder(parent: Path, name: str, overwrite: bool) -> Path:
    """parent/name; where that is taken and not to be overwritten, the first of parent/name-2, -3 ... that is free."""
    number, folder = 2, parent / name
    while folder.exists() and not overwrite:
        number, folder = number + 1, parent / f"{name}-{number}"
    return folder


def warnings_as_lines(as_errors: bool = False) -> None:
    """Our own warnings become one line each on stderr, or the end of the command."""

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if as_errors and issubclass(category, NeuralfieldWarning):
            raise NeuralfieldError(str(message))
        if not issubclass(category, FutureWarning | DeprecationWarning):  # those are for the authors of libraries
            click.echo(f"nf: {message}", err=True)

    warnings.showwarning = show


def output_folder(path: Path) -> Path:
    """The folder, made if need be, or one clear line."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NeuralfieldError(f"{path} cannot be made: {error.strerror}") from None
    return path
