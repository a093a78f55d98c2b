"""nf codes."""

from pathlib import Path

import click
import numpy as np

from neuralfield.cli import options


@click.command("codes")
@options.run_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, help="An .npz file.")
@options.common
def command(run_path: Path, out: Path, as_json: bool) -> None:
    """Write the codes of a run: arrays ids [n], codes [n, D], std [n, D] (NaN where codes have none), labels [n] (-1: none).

    Of shapes also frames [n, C + 1], the centre and scale that each was normalised by.
    """
    import neuralfield.files as files
    from neuralfield.run import Run

    run = Run.load(run_path)
    codes = run.codes.cpu().numpy()
    known = {name: tensor.numpy() for name, tensor in run.roster.tensors().items()}
    std = np.full_like(codes, np.nan) if run.std is None else run.std.cpu().numpy()
    files.write_npz(out, ids=np.array(run.ids), codes=codes, std=std, **known)
    options.say(f"{out}  {len(codes)} codes of {codes.shape[1]} numbers{', with labels' if run.labels is not None else ''}")
    options.finish(as_json, {"run": str(run_path), "out": str(out), "signals": len(codes), "code_dim": codes.shape[1]})
