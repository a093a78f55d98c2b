"""How long codes are: at the end of a fit, and while it went on."""

import torch
from jaxtyping import Float
from torch import Tensor

from neuralfield.run import Run

FACT = "code_lengths"
"""Where metrics.json keeps [mean, standard deviation] of the lengths of the probes' codes, for each epoch."""


def lengths(codes: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
    """Euclidean norms."""
    return codes.norm(dim=1)


def over_time(run: Run) -> Float[Tensor, "epochs 2"]:
    """[mean, standard deviation] after each epoch of the fit, over the signals whose pictures are kept; or empty."""
    return torch.tensor(run.facts.get(FACT) or [], dtype=torch.float32).reshape(-1, 2)
