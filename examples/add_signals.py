"""Let new signals join a fitted bank: their codes are searched with the decoder frozen, and nothing else changes.

Run with: python examples/add_signals.py
"""

from pathlib import Path

import torch

import neuralfield as nf

OUT = Path("examples_output")


def psnr(run: nf.Run, signals: nf.Signals, codes: torch.Tensor) -> float:
    """Mean over the signals, in dB."""
    truth = signals.truth(torch.arange(len(signals)))
    return run.domain.score(run.field(codes), truth)["psnr"].mean().item()


train = nf.load("mnist-mini", split="train", limit=500)
new = nf.load("mnist-mini", split="test", limit=100)

run = nf.fit(train, domain="image", settings=["training.steps=300"])
print(f"bank of {len(run.ids)} codes, {psnr(run, train, run.codes):.1f} dB")

before = run.codes.clone()
estimate = run.add(new)
print(f"bank of {len(run.ids)} codes; the new ones have {psnr(run, new, run.codes[len(train) :]):.1f} dB")
print(f"{estimate.converged.float().mean():.0%} of the searches converged, {estimate.evaluations.mean():.0f} evaluations per point")
print(f"the old codes are bit for bit the same: {torch.equal(before, run.codes[: len(train)])}")

# The enlarged bank is saved with the run. The shell does the same with: nf add RUN --data SOURCE
run.save(OUT / "enlarged")
print(f"wrote {OUT / 'enlarged'}, last signal {nf.Run.load(OUT / 'enlarged').ids[-1]}")
