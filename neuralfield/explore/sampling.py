"""What the codes of a bank are distributed as, and new codes drawn from it."""

import torch
from jaxtyping import Float
from torch import Tensor

from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.latents.priors import Prior
from neuralfield.recipe import TRAINING_PRIOR
from neuralfield.registry import resolve
from neuralfield.run import Run
from neuralfield.types import Latent, spread

FITTED_TO = 20_000
"""Codes that a density is fitted to at most, evenly spread: a mixture of 50 knows its components from so many."""
DENSITY = "mixture"
"""The kind of density where nobody asks for another: on MNIST its samples are recognised as digits, a Gaussian's are not."""


def bank_codes(run: Run) -> Float[Tensor, "m D"]:
    """Codes that stand for all of the bank's, on the CPU; a run without codes has nothing to explore."""
    codes = run.model.source.overview().detach().cpu()
    if not codes.numel():
        raise NeuralfieldError(f"{run.path or 'this run'} has no codes to explore: it was fitted to one signal without a code")
    return codes


def density_of(codes: Float[Tensor, "n D"], kind: str = DENSITY) -> Prior:
    """A prior of that kind ("gaussian", "mixture", "kernel-density" ...) fitted to the codes alone.

    What is known of codes beyond their values, their posterior spread, is left out: draws shall look like codes of the bank.
    """
    prior: Prior = resolve("priors", kind)(code_dim=codes.shape[1])
    return prior.fit(codes[spread(len(codes), FITTED_TO)])


def sample(run: Run, count: int, density: str | Prior = DENSITY, seed: int = 0) -> Float[Tensor, "count D"]:
    """`count` codes drawn from a density fitted to the bank's codes, the same for the same seed.

    `density` is a kind of prior, a prior that is fitted already, or "training", the prior of the fit itself.
    """
    if count < 1:
        raise UsageError(f"at least 1 sample must be drawn, got {count}")
    if density == TRAINING_PRIOR:
        density = run.model.objective.prior
    prior = density_of(bank_codes(run), density) if isinstance(density, str) else density
    return allowed(run, prior.sample(count, torch.Generator().manual_seed(seed)))


def allowed(run: Run, codes: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
    """Codes as the run could have them, on the CPU: those of a logistic encoder lie in (0, 1), others within a bound, and densities
    know neither.
    """
    codes = run.model.objective.within(Latent(codes.to(run.device))).mean.cpu()
    bound = getattr(run.model.source, "bound", None)
    codes = codes if bound is None else torch.renorm(codes, 2, 0, bound)
    return codes.clamp(0, 1) if run.model.source.logistic else codes
