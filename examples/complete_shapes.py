"""Complete shapes of which one depth map is known, and write them as meshes: a first look takes half a minute.

For your own meshes write "meshes:FOLDER" for "primitives" (with train/ and test/ inside, or name the files that you try it on).
"""

import neuralfield as nf

run = nf.fit("primitives", domain="shape", settings=["signals.count=60", "training.steps=400"], out="runs/shapes", overwrite=True)

test = nf.load("primitives", split="test", count=5)
found = nf.complete(run, test, nf.Visibility(observe=["depth:30,20"]), samples=16)
print(found.means()["hidden"])  # sdf_l1, sdf_l1_near, iou, chamfer, fscore, ... of what the camera did not see

# the surface of the third shape, in the units of its file, coloured by how sure each point of it is
from neuralfield.export.completions import write_completions  # noqa: E402

picture = write_completions(run.path / "completions", run, test, nf.Visibility(observe=["depth:30,20"]), found)
print(picture, *sorted((run.path / "completions" / "meshes").glob("*.ply")), sep="\n")
