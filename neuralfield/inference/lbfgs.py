"""Limited-memory BFGS (Nocedal and Wright, 7.2), every signal of a batch with a history and a line search of its own."""

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from neuralfield.decoders.decoder import Decoder
from neuralfield.inference.quadratic import factor_of, slope
from neuralfield.inference.solver import Solver, frozen, negligible, points_per_seen, reasons_of
from neuralfield.objective import MAP, Objective
from neuralfield.seeds import generator
from neuralfield.types import Estimate, Latent, Loss, Observations

ARMIJO = 1e-4
"""Share of what the slope promises that a step must bring."""
LOOKED_AT, PROBES = 256, 2
"""Codes of the bank at which the decoder's curvature is estimated, and random signs for each."""
PROBING = 1006  # the first number of their seed
PROBED_AT_ONCE = 32
LEAST_LENGTH = 1e-6
"""A step this much shorter than the one proposed ends a search."""


class LBFGS(Solver):
    """Steps along -H g, H from the last `memory` changes of the gradient, shortened until they lower the objective.

    The first H is the inverse of the mean Gauss-Newton curvature over the bank, plus the prior's, estimated once:
    what is seen of a signal scales the former. A signal has converged, and leaves the batch, when the model promises less than
    `tolerance` nats per observed value. `steps` counts evaluations of the objective and its gradient.
    """

    def __init__(self, steps: int = 40, tolerance: float = 1e-4, memory: int = 20) -> None:
        if steps < 1 or memory < 1 or not tolerance > 0:
            raise ValueError(
                f"inference.steps and memory must be at least 1 and tolerance positive, got {steps}, {memory} and {tolerance}"
            )
        self.steps, self.tolerance, self.memory = steps, tolerance, memory
        self._per_point: Tensor | None = None

    def prepare(self, objective: Objective, decoder: Decoder, codes: Float[Tensor, "n D"], coords: Float[Tensor, "1 N C"]) -> None:
        if isinstance(objective, MAP):
            some = codes[torch.linspace(0, len(codes) - 1, min(LOOKED_AT, len(codes))).long().to(codes.device)]
            self._per_point = _curvature_per_point(objective, decoder, some, coords.to(codes.device))

    @torch.no_grad()
    def solve(self, objective: Objective, decoder: Decoder, observations: Observations, start: Latent) -> Estimate:
        z = start.mean.clone()
        data, prior, gradient = slope(objective, decoder, observations, z)
        first = self._first(objective, observations, z, gradient)
        history = torch.zeros(2, self.memory, *z.shape, dtype=torch.float64, device=z.device)  # changes of codes and of gradients
        direction, length = _direction(gradient, history, first), torch.ones_like(data)
        tried = torch.zeros(len(z), dtype=torch.long, device=z.device)
        for _ in range(self.steps):
            promised = -einsum(gradient, direction, "b d, b d -> b")
            active = (~self._settled(promised, data + prior, observations) & (length > LEAST_LENGTH)).nonzero()[:, 0]
            if not len(active):
                break
            tried[active] += 1
            step, wanted = length[active, None] * direction[active], length[active] * promised[active]
            there = z[active] + step.to(z)
            trial = slope(objective, decoder, observations.rows(active), there)
            fall = data[active] + prior[active] - trial[0] - trial[1]
            better = fall >= ARMIJO * wanted  # false where the trial is not a number
            # where it is too long: the lowest point of the parabola through both values and the slope here
            shorter = (wanted / (2 * (wanted - fall))).nan_to_num(0.1).clamp(0.1, 0.5)
            length[active] = torch.where(better, 1.0, length[active] * shorter)
            moved = active[better]
            history[:, :, moved] = _remembered(history[:, :, moved], step[better], trial[2][better] - gradient[moved])
            z[moved] = there[better]
            for kept, new in zip((data, prior, gradient), trial, strict=True):
                kept[moved] = new[better]
            direction[moved] = _direction(gradient[moved], history[:, :, moved], first[moved])
        promised = -einsum(gradient, direction, "b d, b d -> b")
        converged = self._settled(promised, data + prior, observations).cpu()
        loss = Loss(data.to(z), prior.to(z), observations.observed, torch.zeros((), device=z.device))
        work = 3.0 * (1 + tried.cpu()) * points_per_seen(decoder, observations, objective.points).cpu()
        return Estimate(Latent(z), loss, converged, tried.cpu(), work, reasons_of(converged, tried.cpu(), self.steps))

    def _settled(self, promised: Float[Tensor, " B"], cost: Float[Tensor, " B"], observations: Observations) -> Bool[Tensor, " B"]:
        return promised / 2 <= negligible(cost, observations, self.tolerance)

    def _first(
        self, objective: Objective, observations: Observations, z: Float[Tensor, "B D"], gradient: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B D D"]:
        """The first curvature of each signal, as its Cholesky factor; without one of the bank a first step of length 1."""
        if self._per_point is None:
            return torch.diag_embed(gradient.norm(dim=1, keepdim=True).clamp(min=1e-12).sqrt().expand(-1, z.shape[1]))
        seen = observations.weight.sum(1).double()[:, None, None] / objective.temperature
        return factor_of(objective.prior.curvature(Latent(z)).double() + seen * self._per_point)


def _direction(
    gradient: Float[Tensor, "B D"], history: Float[Tensor, "2 M B D"], first: Float[Tensor, "B D D"]
) -> Float[Tensor, "B D"]:
    """-H gradient by the two loops; changes that are all 0 have no part in it."""
    steps, changes = history
    along = einsum(steps, changes, "m b d, m b d -> m b")
    inverse = torch.where(along > 0, 1 / along, 0.0)
    shares = torch.zeros_like(along)
    pull = gradient
    for m in reversed(range(len(steps))):
        shares[m] = inverse[m] * einsum(steps[m], pull, "b d, b d -> b")
        pull = pull - shares[m, :, None] * changes[m]
    pull = torch.cholesky_solve(pull[..., None], first)[..., 0]
    for m in range(len(steps)):
        back = inverse[m] * einsum(changes[m], pull, "b d, b d -> b")
        pull = pull + (shares[m] - back)[:, None] * steps[m]
    return -pull


def _remembered(
    history: Float[Tensor, "2 M B D"], step: Float[Tensor, "B D"], change: Float[Tensor, "B D"]
) -> Float[Tensor, "2 M B D"]:
    """With the newest changes at the end; those along which the gradient does not rise would make H indefinite and are left out."""
    rising = einsum(step, change, "b d, b d -> b") > 1e-10 * step.norm(dim=1) * change.norm(dim=1)
    longer = torch.cat([history[:, 1:], torch.stack([step, change])[:, None]], 1)
    return torch.where(rising[None, None, :, None], longer, history)


def _curvature_per_point(
    objective: MAP, decoder: Decoder, codes: Float[Tensor, "n D"], coords: Float[Tensor, "1 N C"]
) -> Float[Tensor, "D D"]:
    """J' C J / N, C the likelihood's curvature, averaged over codes.

    It is E[(J' C^1/2 u)(J' C^1/2 u)'] for random signs u (Hutchinson 1990):
    in float64, by one backward pass for each of PROBES vectors u. Measurements other than points do not change it.
    """
    draw = generator(PROBING)
    total = torch.zeros(codes.shape[1], codes.shape[1], dtype=torch.float64, device=codes.device)
    with frozen(decoder), torch.enable_grad():
        for some in codes.split(PROBED_AT_ONCE):
            leaf = some.detach().requires_grad_()
            predicted = decoder(leaf, coords)
            scale = objective.likelihood.curvature(predicted.detach(), objective.likelihood.mean(predicted.detach())).sqrt()
            for probe in range(PROBES):
                signs = torch.randint(0, 2, predicted.shape, generator=draw).to(predicted) * 2 - 1
                found = torch.autograd.grad(predicted, leaf, signs * scale, retain_graph=probe + 1 < PROBES)[0].double()
                total += found.T @ found
    return total / (PROBES * len(codes) * coords.shape[1])
