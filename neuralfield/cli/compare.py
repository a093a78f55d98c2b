"""nf compare."""

from pathlib import Path

import click

from neuralfield.cli import options


@click.command("compare")
@click.argument("run_paths", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", "source", metavar="SOURCE", help="New signals; by default those of the first run's own source.")
@click.option("--split", default="test", show_default=True, help="Which part of the data.")
@click.option("--limit", type=click.IntRange(min=1), default=256, show_default=True, help="Take the first N signals only.")
@click.option("--hide", multiple=True, metavar="WHAT", help="What is hidden, as in nf infer; repeatable, each by itself.")
@click.option("--seed", type=int, default=0, show_default=True, help="For masks, pairs and samples.")
@click.option("--out", type=click.Path(path_type=Path), help="A folder for compare.md, compare.json and compare.png.")
@options.common
def command(
    run_paths: tuple[Path, ...],
    source: str | None,
    split: str,
    limit: int,
    hide: tuple[str, ...],
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare runs that were fitted to the same signals, each by its own inference.

    \b
    nf compare runs/image runs/image-modulated --limit 100 --hide center:8 --hide center:16 --out compared/
    """
    import neuralfield.files as files
    from neuralfield.cli.progress import Bar
    from neuralfield.domains.pictures import sheet
    from neuralfield.explore.comparison import compare
    from neuralfield.run import Run

    options.warnings_as_lines()
    runs, bar = [Run.load(path) for path in run_paths], Bar()
    try:
        found = compare(runs, source, split, limit, hide, seed, bar.stage)
    finally:
        bar.stop()
    for line in found.lines():
        options.say(line)
    if out is not None:
        options.output_folder(out)
        files.write_bytes(out / "compare.md", ("\n".join(["# Runs compared", "", *found.lines()]) + "\n").encode())
        files.write_json(out / "compare.json", found.facts())
        sheet(found.pictures).save(out / "compare.png")
        options.say(f"written to {out}: compare.md, compare.json, compare.png")
    options.finish(as_json, found.facts() | {"out": str(out) if out else None})
