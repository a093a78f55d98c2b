"""Names of parts to the classes behind them, resolved when first asked for, so that no room imports one above it.

Built-in parts are listed here as "module:Class", exactly as another package lists its own under the entry point
group `neuralfield.ROOM` in its pyproject.toml. In a notebook, `register("decoders", "mine", MyDecoder)` does the same.
"""

import difflib
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from neuralfield.errors import NeuralfieldError, UsageError

BUILT_IN: dict[str, dict[str, str]] = {
    "domains": {
        "function": "neuralfield.domains.function:Function",
        "image": "neuralfield.domains.image:Image",
        "shape": "neuralfield.domains.shape:Shape",
    },
    "signals": {
        "mnist": "neuralfield.signals.torchvision_sets:mnist",
        "fashion-mnist": "neuralfield.signals.torchvision_sets:fashion_mnist",
        "cifar10": "neuralfield.signals.torchvision_sets:cifar10",
        "mnist-mini": "neuralfield.signals.mnist_mini:mnist_mini",
        "images": "neuralfield.signals.image_folder:image_folder",
        "npz": "neuralfield.signals.npz:npz",
        "csv": "neuralfield.signals.csv_file:csv_file",
        "sines": "neuralfield.signals.sines:sines",
        "deepsdf": "neuralfield.signals.deepsdf:deepsdf",
        "meshes": "neuralfield.signals.meshes:meshes",
        "scan": "neuralfield.signals.scans:scan",
        "primitives": "neuralfield.signals.primitives:primitives",
    },
    "masks": {
        "center": "neuralfield.signals.masks:Center",
        "half": "neuralfield.signals.masks:Half",
        "random": "neuralfield.signals.masks:Random",
        "first": "neuralfield.signals.masks:First",
        "file": "neuralfield.signals.masks:File",
        "depth": "neuralfield.signals.depth:Depth",
    },
    "latents": {
        "bank": "neuralfield.latents.bank:Bank",
        "encoder": "neuralfield.latents.encoder:Encoder",
        "gaussian-encoder": "neuralfield.latents.encoder:GaussianEncoder",
        "variational-bank": "neuralfield.latents.variational_bank:VariationalBank",
    },
    "initialisers": {
        "normal": "neuralfield.latents.initialise:Normal",
        "spectral": "neuralfield.latents.initialise:Spectral",
    },
    "networks": {
        "linear": "neuralfield.latents.encoders.linear:Linear",
        "mlp": "neuralfield.latents.encoders.mlp:MLP",
        "convolutional": "neuralfield.latents.encoders.convolutional:Convolutional",
        "set": "neuralfield.latents.encoders.points:Points",
    },
    "penalties": {
        "contractive": "neuralfield.latents.penalties:Contractive",
        "kl-sparsity": "neuralfield.latents.penalties:KLSparsity",
        "l1": "neuralfield.latents.penalties:L1",
    },
    "corruptions": {
        "dropout": "neuralfield.signals.corruptions:Dropout",
        "mask": "neuralfield.signals.corruptions:Mask",
        "noise": "neuralfield.signals.corruptions:Noise",
    },
    "priors": {
        "isotropic": "neuralfield.latents.priors:Isotropic",
        "gaussian": "neuralfield.latents.priors:Gaussian",
        "kernel-density": "neuralfield.latents.kernel_density:KernelDensity",
        "mixture": "neuralfield.latents.mixture:Mixture",
        "norm": "neuralfield.latents.norm:Norm",
        "ball": "neuralfield.latents.ball:Ball",
    },
    "decoders": {
        "basis": "neuralfield.decoders.basis:Basis",
        "linear": "neuralfield.decoders.linear:Linear",
        "mlp": "neuralfield.decoders.mlp:MLP",
        "modulated": "neuralfield.decoders.modulated:Modulated",
        "concat": "neuralfield.decoders.concat:Concat",
        "convolutional": "neuralfield.decoders.convolutional:Convolutional",
    },
    "kernels": {
        "auto": "neuralfield.kernels.kernel:Auto",
        "cpu": "neuralfield.kernels.cpu:CPU",
        "reference": "neuralfield.kernels.reference:Reference",
        "tinycudann": "neuralfield.kernels.tinycudann:TinyCudaNN",
        "triton": "neuralfield.kernels.fused:Triton",
    },
    "paths": {
        "density": "neuralfield.explore.interpolation:Density",
        "graph": "neuralfield.explore.interpolation:Graph",
        "linear": "neuralfield.explore.interpolation:Linear",
        "spherical": "neuralfield.explore.interpolation:Spherical",
    },
    "likelihoods": {
        "gaussian": "neuralfield.likelihoods:Gaussian",
        "bernoulli": "neuralfield.likelihoods:Bernoulli",
        "clamped-l1": "neuralfield.likelihoods:ClampedL1",
        "laplacian-pyramid": "neuralfield.pyramid:LaplacianPyramid",
        "relative": "neuralfield.likelihoods:Relative",
    },
    "measurements": {
        "average": "neuralfield.measurements:Average",
        "blur": "neuralfield.measurements:Blur",
        "points": "neuralfield.measurements:Points",
    },
    "objectives": {
        "encdec": "neuralfield.contrastive:EncDec",
        "map": "neuralfield.objective:MAP",
    },
    "schedules": {
        "joint": "neuralfield.training.schedules.joint:Joint",
        "alternating": "neuralfield.training.schedules.alternating:Alternating",
    },
    "optimisers": {
        "adam": "torch.optim:Adam",
        "muon": "neuralfield.training.optimisers.muon:Muon",
        "sgd": "torch.optim:SGD",
    },
    "solvers": {
        "adam": "neuralfield.inference.adam:Adam",
        "adam-deepsdf": "neuralfield.inference.adam:adam_deepsdf",
        "encode": "neuralfield.inference.encode:Encode",
        "lbfgs": "neuralfield.inference.lbfgs:LBFGS",
        "levenberg": "neuralfield.inference.levenberg:Levenberg",
        "linear": "neuralfield.inference.linear:Linear",
    },
    "posteriors": {
        "laplace": "neuralfield.inference.laplace:Laplace",
        "langevin": "neuralfield.inference.langevin:Langevin",
        "randomised": "neuralfield.inference.randomised:Randomised",
    },
    "starts": {
        "amortised": "neuralfield.inference.amortised:Amortised",
        "encoder": "neuralfield.inference.starts:Encoder",
        "mean": "neuralfield.inference.starts:Mean",
        "nearest": "neuralfield.inference.starts:Nearest",
        "spectral": "neuralfield.inference.starts:Spectral",
    },
}

_registered: dict[str, dict[str, Any]] = {}


def register(room: str, name: str, part: Any) -> None:
    """Make `part` (a class or function) known under `name` in this process."""
    _registered.setdefault(room, {})[name] = part


def names(room: str) -> list[str]:
    """All names known in a room, sorted."""
    return sorted({*BUILT_IN.get(room, ()), *_registered.get(room, ()), *_plugins(room)})


def resolve(room: str, name: str) -> Any:
    """The class or function called `name` in `room`."""
    if name in _registered.get(room, {}):
        return _registered[room][name]
    target = BUILT_IN.get(room, {}).get(name) or _plugins(room).get(name)
    if target is None:
        raise UsageError(f'there is no {_one_of(room)} "{name}"{nearest(name, names(room))}; known: {", ".join(names(room))}')
    module, _, attribute = target.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise NeuralfieldError(f'{_one_of(room)} "{name}" ({target}) cannot be loaded: {error}') from error


def nearest(word: str, known: Sequence[str]) -> str:
    """', did you mean "x"?' where something close is known, else nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f', did you mean "{close[0]}"?' if close else ""


def _one_of(room: str) -> str:
    """ "penalty" of "penalties"."""
    return f"{room.removesuffix('ies')}y" if room.endswith("ies") else room.rstrip("s")


def _plugins(room: str) -> dict[str, str]:
    return {e.name: e.value for e in entry_points(group=f"neuralfield.{room}")}
