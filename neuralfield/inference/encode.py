"""No search: codes are what the start makes of the signals, as an autoencoder's are what its encoder reads."""

from typing import ClassVar

import torch

from neuralfield.decoders.decoder import Decoder
from neuralfield.inference.posterior import Posterior
from neuralfield.inference.solver import Solver, points_per_seen
from neuralfield.latents.source import FixedCodes
from neuralfield.objective import Objective
from neuralfield.types import Estimate, Latent, Observations


class Encode(Solver):
    """The start itself, and what it costs: one evaluation. A start that is a distribution is the posterior."""

    exact: ClassVar[bool] = True
    searches: ClassVar[bool] = False

    @torch.no_grad()
    def solve(self, objective: Objective, decoder: Decoder, observations: Observations, start: Latent) -> Estimate:
        count = len(start)
        posterior = None
        if start.log_std is not None:
            factor = torch.diag_embed(start.log_std.exp())[:, None]
            posterior = Posterior(torch.zeros_like(start.mean[:, :1]), start.mean[:, None], factor)
        return Estimate(
            Latent(start.mean, start.log_std),
            objective(FixedCodes(start.mean), decoder, observations),
            torch.ones(count, dtype=torch.bool),
            torch.zeros(count, dtype=torch.long),
            points_per_seen(decoder, observations, objective.points).cpu(),
            ("encoded",) * count,
            posterior,
        )
