"""Super-resolution: from 8 x 8 block averages of a digit to all of its 32 x 32 pixels, and to any others.

Run with: python examples/superresolve_images.py
"""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from PIL import Image
from torch.nn.functional import interpolate

import neuralfield as nf

OUT = Path("examples_output")
FINE, COARSE = 32, 8

# 1. Fit to fine digits. Leave out all of these settings but `signals.pad` for a better model.
settings = ["signals.pad=2", "training.steps=400", "training.points=128", "training.polish=1", "decoder.depth=3"]
fitted = nf.fit("mnist-mini", recipe="image-modulated", settings=settings)
fitted.save(OUT / "fine-digits")
print(f"fitted {len(fitted.ids)} digits: {fitted.facts['scores']['train']['psnr']:.1f} dB")

# 2. The same run, told that a value is now the mean of the field over a coarse pixel: 2 / 8 = 0.25 of [-1, 1] a side.
# Averages are less noisy than pixels, so they may say more: `likelihood.std` is the noise of what is measured.
blocks = ["measurement.kind=average", f"measurement.size={2 / COARSE}", f"measurement.samples={FINE // COARSE}"]
run = nf.Run.load(OUT / "fine-digits", [*blocks, "likelihood.std=0.03", "inference.kind=levenberg"])

# 3. New digits, of which only block averages are seen.
digits = nf.load("mnist-mini", split="test", limit=100, pad=2)
truth = digits.truth(torch.arange(len(digits)))
fine = rearrange(truth.values, "b (h w) v -> b v h w", h=FINE)
coarse = reduce(fine, "b v (h k) (w l) -> b (h w) v", "mean", h=COARSE, w=COARSE)
observed = nf.Observations(truth.index, run.domain.grid(COARSE), coarse, torch.ones(coarse.shape[:2]))
estimate = run.infer(observed)
field = run.field(estimate.latent)
print(f"{estimate.converged.float().mean():.0%} of the searches converged in {estimate.steps.float().mean():.0f} steps")

# 4. Compare with bicubic interpolation of the same 64 numbers.
small = rearrange(coarse, "b (h w) v -> b v h w", h=COARSE)
bicubic = interpolate(small, size=FINE, mode="bicubic", align_corners=False).clamp(0, 1)
bicubic_psnr = (-10 * (bicubic - fine).square().mean((1, 2, 3)).log10()).mean()
psnr = run.domain.score(field, truth)["psnr"].mean()
print(f"{COARSE} x {COARSE} -> {FINE} x {FINE}: {psnr:.1f} dB; bicubic: {bicubic_psnr:.1f} dB")

# 5. Look: what was seen, bicubic, the field at 32 x 32, the truth.
shown = range(0, len(digits), 10)
grey = [(rows[shown, 0] * 255).byte().numpy() for rows in (interpolate(small, size=FINE), bicubic, fine)]
grey.insert(2, run.domain.render(run.field(estimate.latent.mean[shown]))[..., 0])
sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in grey])
Image.fromarray(sheet.repeat(3, 0).repeat(3, 1)).save(OUT / "super-resolved.png")
print(f"wrote {OUT / 'super-resolved.png'}")
