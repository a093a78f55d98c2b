"""A fitted signal is a continuous function: ask it for a point, for a picture of any size, or for a magnified detail.

Run with: python examples/decode_any_resolution.py
"""

from pathlib import Path

import torch
from PIL import Image

import neuralfield as nf

OUT = Path("examples_output")
OUT.mkdir(exist_ok=True)

# The recipe image-modulated is a network of the coordinates themselves, so it is smooth between the pixels of the data.
run = nf.fit("mnist-mini", recipe="image-modulated", limit=100, settings=["training.steps=400", "training.batch=32"])
field = run.field(run.codes[7:8])  # codes [1, 64] -> a function of coordinates in [-1, 1]^2, x to the right, y down

with torch.no_grad():
    # Values at single points: coordinates [N, 2] -> values [1, N, 1].
    points = torch.tensor([[0.0, 0.0], [0.1, -0.25]])
    for (x, y), value in zip(points.tolist(), field(points)[0, :, 0].tolist(), strict=True):
        print(f"value at ({x:+.2f}, {y:+.2f}): {value:.3f}")

    # The central quarter, at ten times the resolution of the data: a grid is only a list of coordinates.
    side = torch.linspace(-0.5, 0.5, 140)
    y, x = torch.meshgrid(side, side, indexing="ij")
    detail = field(torch.stack([x, y], -1).reshape(-1, 2)).reshape(140, 140)
    Image.fromarray((detail.clamp(0, 1) * 255).byte().cpu().numpy()).save(OUT / "detail.png")

# The whole picture: the data has 28 x 28 pixels, the field has no pixels at all.
for resolution in (28, 256):
    picture = run.domain.render(field, resolution)[0]  # uint8 [height, width, 3]
    file = OUT / f"digit-at-{resolution}.png"
    Image.fromarray(picture).save(file)
    print(f"wrote {file}, {picture.shape[1]} x {picture.shape[0]} pixels")
print(f"wrote {OUT / 'detail.png'}")
