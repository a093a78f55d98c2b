"""neuralfield: one decoder f(z, t) for a data set of signals, one latent code for each signal.

    import neuralfield as nf
    run = nf.fit("mnist-mini", domain="image")
    field = run.field(run.codes[:1])          # a continuous function: field(coords [N, 2]) -> values [1, N, 1]

Public names are imported when first used; nothing inside the package imports this file's names.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "completion": ["Completion", "complete"],
    "decoders.basis": ["Basis"],
    "decoders.decoder": ["Decoder"],
    "decoders.concat": ["Concat"],
    "decoders.convolutional": ["Convolutional"],
    "decoders.modulated": ["Modulated"],
    "domains.domain": ["Domain"],
    "domains.function": ["Function"],
    "domains.image": ["Image"],
    "domains.shape": ["Shape"],
    "domains.surfaces": ["Surface"],
    "errors": ["NeuralfieldError", "NeuralfieldWarning", "UsageError"],
    "calibration": ["Calibrated", "calibrate"],
    "explore.comparison": ["Comparison", "compare"],
    "explore.interpolation": ["interpolate"],
    "explore.neighbours": ["Gallery", "knn_accuracy"],
    "explore.projection": ["project"],
    "explore.report": ["write_report"],
    "explore.sampling": ["sample"],
    "export.completions": ["write_completions"],
    "inference.adam": ["Adam"],
    "inference.lbfgs": ["LBFGS"],
    "inference.levenberg": ["Levenberg"],
    "inference.posterior": ["Posterior"],
    "inference.solver": ["Solver"],
    "latents.bank": ["Bank"],
    "likelihoods": ["Likelihood"],
    "measurements": ["Average", "Blur", "Local", "Measurement", "Points", "Weighted"],
    "objective": ["MAP", "Objective"],
    "recipe": ["Model", "Recipe", "build"],
    "registry": ["register"],
    "run": ["Run", "load_signals"],
    "signals.curves": ["Curves"],
    "signals.images": ["Images"],
    "signals.roster": ["Numbered"],
    "signals.masks": ["Visibility"],
    "signals.shapes": ["Sampled", "Shapes"],
    "signals.signals": ["Signals", "load"],
    "training.fit": ["fit"],
    "training.optimisers.muon": ["Muon"],
    "training.optimisers.row_adam": ["RowAdam"],
    "types": ["Estimate", "Field", "Latent", "Loss", "Observations"],
}
_HOME_OF = {name: (home, name) for home, names in _HOMES.items() for name in names} | {
    # one name in two rooms
    "GaussianLikelihood": ("likelihoods", "Gaussian"),
    "BernoulliLikelihood": ("likelihoods", "Bernoulli"),
    "ClampedL1Likelihood": ("likelihoods", "ClampedL1"),
    "RelativeLikelihood": ("likelihoods", "Relative"),
    "GaussianPrior": ("latents.priors", "Gaussian"),
    "IsotropicPrior": ("latents.priors", "Isotropic"),
    "MixturePrior": ("latents.mixture", "Mixture"),
    "KernelDensityPrior": ("latents.kernel_density", "KernelDensity"),
    "CodePath": ("explore.interpolation", "Path"),  # beside pathlib's
    "LinearDecoder": ("decoders.linear", "Linear"),
    "LinearSolver": ("inference.linear", "Linear"),
}
__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'neuralfield' has no attribute {name!r}")
    home, attribute = _HOME_OF[name]
    return getattr(import_module(f"neuralfield.{home}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
