"""Shapes: fit, complete new ones from one depth map, write them as meshes coloured by how sure each point is.

Run with: python examples/complete_shapes.py
"""

from pathlib import Path

import neuralfield as nf

OUT = Path("examples_output") / "shapes"

# 1. Fit to boxes, capsules, tori, tables and chairs. For your own write "meshes:FOLDER", and leave out the settings.
run = nf.fit("primitives", domain="shape", settings=["signals.count=60", "training.steps=400"])
print(f"fitted {len(run.ids)} shapes: the distance errs by {run.facts['scores']['train']['sdf_l1_near']:.4f} near the surface")

# 2. New shapes, of which a depth camera sees the front: points on the surface, and empty space before it.
shapes = nf.load("primitives", split="test", count=5)
seen = nf.Visibility(observe=["depth:30,20"])
found = nf.complete(run, shapes, seen, samples=16)
hidden = found.means()["hidden"]
print(f"hidden side: chamfer distance {1e3 * hidden['chamfer']:.2f}e-3, volumes overlap by {hidden['iou']:.0%}")

# 3. Write codes, scores, a picture, and a mesh of each, in the units of its file.
picture = nf.write_completions(OUT, run, shapes, seen, found)
print(f"wrote {picture} and {len(list((OUT / 'meshes').glob('*.ply')))} meshes")
