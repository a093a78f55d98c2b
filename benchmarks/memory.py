"""Peak memory of `nf fit` on all 60,000 MNIST digits at 32x32, code included.

python benchmarks/memory.py      about four minutes; writes benchmarks/results/memory.md
"""

import resource
import subprocess
import sys
import tempfile

from machine import RESULTS, data_folder, machine

BOUND = 2.5  # GB


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = f"mnist:{data_folder() / 'mnist'}"
        fit = ["fit", "--domain", "image", "--data", source, "--set", "signals.pad=2", "--out", f"{folder}/run"]
        done = subprocess.run([sys.executable, "-m", "neuralfield", *fit], check=True, stdout=subprocess.PIPE, text=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # kB on Linux
    lines = [
        "# Peak memory of a fit",
        "",
        f"{machine()}, `python benchmarks/memory.py`: `nf {' '.join(fit[:3])}` on 60,000 digits at 32x32.",
        "",
        f"Peak resident memory {peak:.2f} GB (bound: {BOUND}). {done.stdout.splitlines()[0].capitalize()}.",
    ]
    print("\n".join(lines))
    (RESULTS / "memory.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
