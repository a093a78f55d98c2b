"""`nf`: the group of all verbs. Each verb is imported when it is called, so that `nf --help` answers at once."""

import keyword
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from neuralfield.errors import NeuralfieldError, SaidError
from neuralfield.kernels.memory import freed_memory_kept

VERBS = {
    "fit": "fit a decoder and a bank of codes to signals",
    "infer": "find the codes of new signals, whole or partly seen, and complete them",
    "decode": "write signals at any resolution",
    "eval": "infer, then score; writes nothing",
    "codes": "write the codes of a run",
    "interpolate": "go from one signal to another",
    "sample": "draw new signals",
    "compare": "compare runs: new signals, masks, neighbours, paths, samples, seconds",
    "report": "one HTML page on a run, with figures",
    "calibrate": "fit the width of bands to signals that the fit has not seen",
    "add": "let new signals join the bank of a run",
    "data": "look at a data set",
    "import": "make a run of what another program has fitted",
    "export": "write a run as another program reads it",
    "recipes": "list the recipes, or show one",
    "doctor": "what works on this machine: devices, kernels, extras",
}


class Verbs(click.Group):
    """Finds a verb's command in the file named after it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        file = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name  # nothing can be imported from a file import.py
        command: click.Command = import_module(f"neuralfield.cli.{file}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="neuralfield")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def nf() -> None:
    """neuralfield: one decoder for a data set of signals, one latent code for each signal.

    \b
    nf fit --domain image            learn the embedded handwritten digits
    nf infer RUN --hide center:12    complete digits whose centre is hidden
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `nf`; every failure is one clear line and an exit code (0 done, 1 failed, 2 wrong usage, 130 interrupted)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(_run(words))
    except SaidError as error:
        sys.exit(error.exit_code)
    except NeuralfieldError as error:
        _fail(str(error), error.exit_code, words)
    except KeyboardInterrupt:
        _fail("interrupted", 130, words)
    except OSError as error:  # a full disk, a folder without permission; files of a run are written whole or not at all
        what = error.strerror or " ".join(str(error).split()) or type(error).__name__
        _fail(f"{error.filename}: {what}" if error.filename else what, 1, words)
    except Exception as error:
        first = str(error).strip().splitlines()[:1] or ["no message"]
        _fail(f"unexpected {type(error).__name__}: {first[0]} (--debug shows where; please report it)", 1, words)


def _run(words: list[str]) -> int:
    try:
        with freed_memory_kept():
            result: Any = nf.main(words, prog_name="nf", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None


def _fail(message: str, code: int, words: list[str]) -> None:
    if "--debug" in words:
        import traceback

        traceback.print_exc()
    click.echo(f"nf: {' '.join(message.split())}", err=True)
    sys.exit(code)
