"""What happens to freed memory: it stays while it is to, and goes back at the end."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from neuralfield.kernels.memory import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(2**20).add_(1)  # 4 MiB, 1,024 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

with freed_memory_kept():
    with freed_memory_kept():
        faults()
    kept = faults()
    many = [torch.ones(2**19) for _ in range(100)]  # 200 MB in pieces of 2 MiB
    full = resident()
    del many
    held = resident()
print(kept, full - held, held - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is the C library of Linux")
def test_freed_memory_is_kept_inside_and_given_back_at_the_end() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
    faults, inside, outside = map(int, done.stdout.split())
    assert faults < 5000  # of the 20,480 pages that are written
    assert inside < 50e6  # 200 MB were freed, and stay
    assert outside > 150e6
