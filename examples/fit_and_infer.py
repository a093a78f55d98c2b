"""Learn handwritten digits, then complete digits whose centre is hidden.

Run with: python examples/fit_and_infer.py
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import neuralfield as nf

OUT = Path("examples_output")
OUT.mkdir(exist_ok=True)

# 1. Fit: one decoder for all digits, one code of 64 numbers for each. Leave out `settings` for a better model.
run = nf.fit("mnist-mini", domain="image", settings=["training.steps=300"])
print(f"fitted {len(run.ids)} digits: {run.facts['scores']['train']['psnr']:.1f} dB")

# 2. Infer: new digits, of which the central 10 x 10 pixels are hidden. Their codes are found from the other pixels alone.
test = nf.load("mnist-mini", split="test", limit=100)
visibility = nf.Visibility(hide=["center:10"])
completion = nf.complete(run, test, visibility)
for side, scores in completion.means().items():
    print(f"completed {len(test)} new digits: {scores['psnr']:.1f} dB on {side} pixels")

# 3. Look: what was seen, what was completed, what was there.
index = torch.arange(0, len(test), 10)
truth = test.truth(index)
seen, _ = truth.split(visibility(truth, run.domain))
completed = run.field(completion.estimate.latent.mean[index])
rows = [run.domain.draw(seen), run.domain.render(completed), run.domain.draw(truth)]
sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
Image.fromarray(sheet.repeat(3, 0).repeat(3, 1)).save(OUT / "completions.png")
print(f"wrote {OUT / 'completions.png'}")

# 4. Keep: nf.Run.load("examples_output/digits") brings it back, and `nf infer examples_output/digits` works on it too.
run.save(OUT / "digits")
print(f"wrote {OUT / 'digits'}")
