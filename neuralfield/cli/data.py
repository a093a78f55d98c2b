"""nf data."""

from pathlib import Path

import click

from neuralfield.cli import options
from neuralfield.errors import UsageError


@click.command("data")
@click.argument("source")
@click.option("--split", default="train", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), help="Take the first N signals only.")
@click.option("--skip-bad", is_flag=True, help="Leave out files that cannot be read, and name them.")
@click.option("--strict", is_flag=True, help="Refuse a data set with anything odd in it.")
@options.settings
@click.option("--out", type=click.Path(path_type=Path), help="Write a contact sheet of the first signals (PNG).")
@options.common
def command(
    source: str,
    split: str,
    limit: int | None,
    skip_bad: bool,
    strict: bool,
    settings: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Look at a data set: how many signals, of what kind, which labels.

    \b
    SOURCE is a name, name:path, or the path of a file or folder:
      mnist-mini         2,000 + 500 handwritten digits, embedded
      mnist[:ROOT]       fashion-mnist[:ROOT]   cifar10[:ROOT]
      images:DIR         PNG and JPEG files; DIR/train and DIR/test answer to --split
      npz:FILE           images [n, h, w(, c)] and optionally labels
    \b
    Functions of one variable:
      sines              500 + 200 sines, each seen at times of its own, embedded
      csv:FILE           a row for each curve, below a header of times; or a row for each sample: id, t, values
      npz:FILE           times t [T] or [n, T], values x [n, T(, V)] or x_train and x_test; NaN = not observed
    \b
    Shapes:
      primitives         64 + 16 boxes, capsules, tori, tables and chairs, made when asked for
      meshes:DIR         PLY, OBJ, STL, GLB ... files; DIR/train and DIR/test answer to --split
      deepsdf:DIR        SdfSamples/DATASET/CLASS/ID.npz of DeepSDF, with split files
    """
    from neuralfield.export.data import describe, write_sheet
    from neuralfield.recipe import split_settings
    from neuralfield.signals.signals import load

    options.warnings_as_lines(as_errors=strict)
    chosen, others = split_settings("signals", settings)
    if others:
        raise UsageError(f"only [signals] can be set here, as in signals.pad=2; got {others[0]}")
    signals = load(source, split=split, limit=limit, **chosen, **({"skip_bad": True} if skip_bad else {}))
    facts = describe(signals)
    for key, value in facts.items():
        if key != "meshes":
            options.say(f"{key:<10} {value}")
    for name, found in facts.get("meshes", {}).items():
        options.say(f"{name:<10} {found}")
    if out is not None:
        write_sheet(signals, out)
        options.say(f"sheet      {out}")
    options.finish(as_json, facts)
