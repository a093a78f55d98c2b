"""nf doctor."""

import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import click

from neuralfield.cli import options

if TYPE_CHECKING:
    from neuralfield.kernels.kernel import Kernel

PACKAGES = ("torch", "torchvision", "numpy", "trimesh", "libigl", "scikit-image", "scikit-learn", "tensorboard")
EXTRAS = {"tinycudann": "fused kernels on NVIDIA GPUs", "umap": "UMAP projections of codes", "onnx": "export to ONNX"}


@click.command("doctor")
@options.common
def command(as_json: bool) -> None:
    """What works on this machine: devices, kernels, packages, extras, and every part that is registered."""
    import torch

    from neuralfield.devices import known
    from neuralfield.registry import BUILT_IN, names, resolve

    facts = {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": known(),
        "auto": _automatic(),
        "threads": torch.get_num_threads(),
        "kernels": {name: _kernel(resolve("kernels", name)) for name in names("kernels")},
        "extras": {name: _extra(name, use) for name, use in EXTRAS.items()},
        "parts": {room: names(room) for room in BUILT_IN},
    }
    for key, value in facts.items():
        if isinstance(value, dict):
            for name, state in value.items():
                options.say(f"{key:<9} {name:<15} {', '.join(state) if isinstance(state, list) else state}")
        else:
            options.say(f"{key:<9} {', '.join(value) if isinstance(value, list) else value}")
    options.finish(as_json, facts)


def _automatic() -> dict[str, str]:
    """What --device auto and training.precision = "auto" choose here."""
    from neuralfield.devices import precision_of
    from neuralfield.run import choose_device

    device = choose_device("auto")
    replayed = ", steps replayed as CUDA graphs" if device.type == "cuda" else ""
    return {"device": device.type, "training": str(precision_of("auto", device)).removeprefix("torch.") + replayed}


def _kernel(kernel: "type[Kernel]") -> str:
    return "works" if (reason := kernel.missing()) is None else f"does not work here: {reason}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing: pip install neuralfield again"


def _extra(name: str, use: str) -> str:
    if importlib.util.find_spec(name) is None:
        return f"not installed ({use})"
    return f"installed ({use})"
