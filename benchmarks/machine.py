"""What a benchmark was measured on, and where the real data lie."""

import os
import platform
import time
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def data_folder() -> Path:
    """NF_DATA, or the folder shared/data beside the repository."""
    return Path(os.environ.get("NF_DATA", Path(__file__).parents[2] / "shared" / "data"))


def machine() -> str:
    """Date, processor and torch version."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{time.strftime('%Y-%m-%d')}, {names[0] if names else platform.processor()}, torch {torch.__version__}"
