"""Short Langevin chains: slow, but of the posterior itself and not of an approximation; what the others are measured against."""

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from neuralfield.decoders.decoder import Decoder
from neuralfield.inference.posterior import Approximation, Posterior
from neuralfield.inference.quadratic import Slope, factor_of, slope
from neuralfield.inference.solver import Solver, points_per_seen
from neuralfield.objective import MAP
from neuralfield.seeds import generator
from neuralfield.types import Observations

CHAINS = 1008  # the seeds' second number; others draw other things
WANTED = 0.57
"""Share of moves to be accepted (Roberts and Rosenthal 1998)."""


class Langevin(Approximation):
    """Every draw is the end of a chain of `steps` Metropolis-adjusted Langevin moves that began at a draw of Laplace's mixture.

    Moves have the covariance of the mixture; their length is learned in the first half of a chain, which no draw comes from.
    """

    def __init__(self, steps: int = 100) -> None:
        if steps < 2:
            raise ValueError(f"chains need at least 2 steps, got {steps}")
        self.steps = steps

    @torch.no_grad()
    def __call__(
        self,
        objective: MAP,
        decoder: Decoder,
        observations: Observations,
        found: Posterior,
        solver: Solver,
        count: int,
        seed: int = 0,
    ) -> tuple[Posterior, Float[Tensor, " B"]]:
        randoms = [generator(seed, CHAINS, number) for number in observations.index.tolist()]
        starts = torch.cat([found.rows(slice(b, b + 1)).sample(count, random) for b, random in enumerate(randoms)], 1)
        factor = factor_of(found.covariance().double())
        draws = [self._chain(objective, decoder, observations, z.double(), factor, randoms) for z in starts]
        work = 3.0 * count * (1 + self.steps) * points_per_seen(decoder, observations, objective.points).cpu()
        return Posterior.of_draws(torch.stack(draws).to(starts)), work

    def _chain(
        self,
        objective: MAP,
        decoder: Decoder,
        observations: Observations,
        z: Float[Tensor, "B D"],
        factor: Float[Tensor, "B D D"],
        randoms: list[torch.Generator],
    ) -> Float[Tensor, "B D"]:
        length = torch.full_like(z[:, 0], 1.5 * z.shape[1] ** (-1 / 6))
        dtype = next(decoder.parameters()).dtype

        def at(codes: Float[Tensor, "B D"]) -> tuple[Float[Tensor, " B"], Float[Tensor, "B D"]]:
            found: Slope = slope(objective, decoder, observations, codes.to(dtype))
            return found[0] + found[1], einsum(factor, found[2], "b d e, b d -> b e")

        cost, pull = at(z)  # `pull` is the gradient in coordinates in which moves are white
        for step in range(self.steps):
            noise = torch.stack([torch.randn(z.shape[1], generator=random, dtype=z.dtype) for random in randoms]).to(z)
            move = length[:, None] * noise - 0.5 * length.square()[:, None] * pull
            there = z + einsum(factor, move, "b d e, b e -> b d")
            new_cost, new_pull = at(there)
            back = (-move + 0.5 * length.square()[:, None] * new_pull) / length[:, None]
            odds = (cost - new_cost + 0.5 * noise.square().sum(1) - 0.5 * back.square().sum(1)).nan_to_num(-torch.inf)
            chance = torch.cat([torch.rand(1, generator=random, dtype=z.dtype) for random in randoms]).to(z)
            taken = chance.log() < odds
            z = torch.where(taken[:, None], there, z)
            cost, pull = torch.where(taken, new_cost, cost), torch.where(taken[:, None], new_pull, pull)
            if step < self.steps // 2:
                length = length * torch.exp(0.3 * (taken.to(z) - WANTED))
        return z
