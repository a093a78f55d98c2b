"""Your own images, from a numpy array: colour, any size, not necessarily square.

Run with: python examples/own_images.py
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import neuralfield as nf

OUT = Path("examples_output")
OUT.mkdir(exist_ok=True)
HEIGHT, WIDTH = 24, 36


def paint(count: int, seed: int) -> np.ndarray:
    """A disc of some colour on a gradient between two others: uint8 [count, height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH][..., None]
    one, other, disc = rng.uniform(0, 255, (3, count, 1, 1, 3))
    cx, cy, radius = (rng.uniform(low, high, (count, 1, 1, 1)) for low, high in ((9, 27), (8, 16), (4, 8)))
    inside = 1 / (1 + np.exp(np.hypot(x - cx, y - cy) - radius))  # soft edge, about a pixel wide
    gradient = one + (other - one) * x / WIDTH
    return (gradient + (disc - gradient) * inside).astype(np.uint8)


# uint8 means value / 255; floating point is taken as it is. `ids` and `labels` may be given too.
# Folders and files need no code: nf.load("images:photos/"), nf.load("npz:data.npz"), nf.load("photo.png").
train = nf.Images.from_arrays(paint(500, seed=0))
test = nf.Images.from_arrays(paint(50, seed=1))

run = nf.fit(train, domain="image", settings=["training.steps=400", "latents.code_dim=32"])
print(f"fitted {len(train)} images of {HEIGHT} x {WIDTH} x 3: {run.facts['scores']['train']['psnr']:.1f} dB")

visibility = nf.Visibility(hide=["half:right"])
completion = nf.complete(run, test, visibility)
print(f"right half from the left: {completion.means()['hidden']['psnr']:.1f} dB")

truth = test.truth(torch.arange(6))
seen, _ = truth.split(visibility(truth, run.domain))
field = run.field(completion.estimate.latent.mean[:6])
rows = [run.domain.draw(seen), run.domain.render(field), run.domain.draw(truth)]
sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
Image.fromarray(sheet.repeat(3, 0).repeat(3, 1)).save(OUT / "own-images.png")
print(f"wrote {OUT / 'own-images.png'}")
