"""The objective around some codes, to second order: exact derivatives of the decoder, Gauss-Newton curvature."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import jacfwd, jvp, vmap
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from neuralfield.decoders.decoder import Decoder
from neuralfield.errors import UsageError
from neuralfield.inference.solver import frozen, points_per_seen
from neuralfield.latents.source import FixedCodes
from neuralfield.measurements import Local
from neuralfield.objective import MAP, Objective
from neuralfield.types import Latent, Observations

AT_ONCE = 2**22
"""Numbers of Jacobians, by codes and by conditionings, that are held at once: 16 MiB, so that much of them stays in cache."""
GRADIENTS_AT_ONCE = 2**15
"""Points, over all signals, whose gradients are taken at once."""
FORWARD_WIDTH = 16
"""Numbers that a decoder holds for each of its outputs while it is differentiated forward, about."""


Slope = tuple[Float[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, "B D"]]
Parts = Iterator[tuple[slice, Observations, Float[Tensor, "B N V"], Float[Tensor, "G N V D"]]]
"""(signals, what was seen of them at some points, predicted values, their derivatives by the code)."""


@dataclass(frozen=True)
class Quadratic:
    """cost(z + d) ~ cost + gradient . d + d . curvature d / 2, in nats and float64, for each signal of a batch."""

    data: Float[Tensor, " B"]
    prior: Float[Tensor, " B"]
    gradient: Float[Tensor, "B D"]
    curvature: Float[Tensor, "B D D"]

    @property
    def cost(self) -> Float[Tensor, " B"]:
        """What `MAP` minimises, in nats."""
        return self.data + self.prior

    def fall(self, step: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """By how much a step should lower the cost."""
        along = einsum(self.gradient, step, "b d, b d -> b")
        return -along - 0.5 * einsum(step, self.curvature, step, "b d, b d e, b e -> b")

    def step(self, damping: Float[Tensor, " B"] | float = 0.0) -> Float[Tensor, "B D"]:
        """To the lowest point of the model, damped: -(H + damping diag H)^-1 gradient."""
        extra = damping * self.curvature.diagonal(dim1=1, dim2=2).T
        return -torch.cholesky_solve(self.gradient[..., None], factor_of(self.curvature + torch.diag_embed(extra.T)))[..., 0]

    def rows(self, which: Tensor) -> "Quadratic":
        """Those of some signals: positions, or a mask."""
        return Quadratic(self.data[which], self.prior[which], self.gradient[which], self.curvature[which])

    def move(self, rows: Tensor, trial: "Quadratic", better: Bool[Tensor, " b"], learned: bool) -> None:
        """Of some signals, in place: go to the trial where it is better; curvature that it has `learned` stays in any case."""
        for name in ("data", "prior", "gradient", "curvature"):
            taken = torch.ones_like(better) if learned and name == "curvature" else better
            getattr(self, name)[rows[taken]] = getattr(trial, name)[taken]


def refuse_others(objective: Objective, what: str) -> MAP:
    """The objective, if it is known to second order by derivatives of each prediction; else one line that says what is not."""
    if not isinstance(objective, MAP):
        raise UsageError(f'{what} needs the objective "map", not {type(objective).__name__}; say --set inference.kind=adam')
    if not objective.likelihood.pointwise:
        raise UsageError(
            f"{what} needs a likelihood whose points are independent, not {type(objective.likelihood).__name__}; "
            "say --set inference.kind=lbfgs, without samples"
        )
    if objective.penalty is not None and objective.penalty.searched:
        raise UsageError(
            f"{what} knows likelihood and prior, not the penalty {type(objective.penalty).__name__}; "
            "say --set inference.kind=lbfgs, without samples"
        )
    if objective.prior.bounded:
        raise UsageError(
            f"{what} knows no bounds, and the prior {type(objective.prior).__name__} has one; "
            "say --set inference.kind=lbfgs, without samples"
        )
    return objective


def quadratic(objective: MAP, decoder: Decoder, observations: Observations, z: Float[Tensor, "B D"]) -> Quadratic:
    """The objective around the codes `z`: the exact gradient, and the curvature J' C J + P of likelihood C and prior P."""
    refuse_others(objective, "a Gauss-Newton curvature")
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        prior = objective.prior.cost(objective.moved(Latent(leaf), observations))
        gradient = torch.autograd.grad(prior.sum(), leaf)[0].double()
    seen_by_prior = objective.moved(Latent(leaf.detach()), observations)
    curvature = objective.prior.curvature(seen_by_prior).double().expand(len(z), -1, -1).clone()
    data = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    for rows, part, predicted, jacobian in jacobians(objective, decoder, observations, z):
        with torch.no_grad():
            pull, bend = objective.slope(predicted, part), objective.curvature(predicted, part)
            data[rows] += objective.nats(predicted, part).sum(1).double()
            flat = jacobian.flatten(1, 2).expand(len(pull), -1, -1)
            gradient[rows] += einsum(flat, pull.flatten(1), "b m d, b m -> b d").double()
            curvature[rows] += (flat.mT @ (flat * bend.flatten(1)[..., None])).double()
    return Quadratic(data, prior.detach().double(), gradient, curvature)


def slope(objective: Objective, decoder: Decoder, observations: Observations, z: Float[Tensor, "B D"]) -> Slope:
    """(data, prior, gradient) at the codes `z`: two numbers of nats and a gradient [D] for each signal, in float64."""
    parts = []
    with frozen(decoder), torch.enable_grad():
        for rows in _rows(len(z), max(1, GRADIENTS_AT_ONCE // max(1, objective.points * observations.weight.shape[1]))):
            codes = FixedCodes(z[rows])
            loss = objective(codes, decoder, observations.rows(rows))
            gradient = torch.autograd.grad((loss.data + loss.prior).sum(), codes.z)[0]
            parts.append((loss.data.detach().double(), loss.prior.detach().double(), gradient.double()))
    data, prior, gradient = (torch.cat(part) for part in zip(*parts, strict=True))
    return data, prior, gradient


def secant(
    objective: MAP,
    decoder: Decoder,
    observations: Observations,
    z: Float[Tensor, "B D"],
    before: Quadratic,
    step: Float[Tensor, "B D"],
) -> Quadratic:
    """The objective around the codes `z` = those of `before` + `step`, from its gradient alone.

    The curvature is the one before, updated so that it explains how the gradient has changed (BFGS, damped as in Powell 1978
    so that it stays positive).
    """
    data, prior, gradient = slope(objective, decoder, observations, z)
    change, expected = gradient - before.gradient, einsum(before.curvature, step, "b d e, b e -> b d")
    along, promised = einsum(step, change, "b d, b d -> b"), einsum(step, expected, "b d, b d -> b")
    trust = torch.where(along < 0.2 * promised, 0.8 * promised / (promised - along), 1.0)[:, None]
    change = trust * change + (1 - trust) * expected
    update = _outer(change) / einsum(step, change, "b d, b d -> b")[:, None, None] - _outer(expected) / promised[:, None, None]
    return Quadratic(data, prior, gradient, before.curvature + update.nan_to_num(0.0, 0.0, 0.0))


def evaluations(objective: MAP, decoder: Decoder, observations: Observations, code_dim: int) -> Float[Tensor, " B"]:
    """What one `quadratic` costs each signal, in forward passes over its observed points."""
    share, value_dim = points_per_seen(decoder, observations, objective.points).cpu(), observations.values.shape[-1]
    if not decoder.pointwise or not isinstance(objective.measurement, Local):
        return share * (1 + code_dim)
    if decoder.linear_in_code and objective.measurement.linear:
        return share * (code_dim + 1) / (len(observations) if len(observations.coords) == 1 else 1)
    return share * (1 + 2 * value_dim)


def jacobians(objective: MAP, decoder: Decoder, observations: Observations, z: Float[Tensor, "B D"]) -> Parts:
    """Predictions and their exact Jacobians, part by part; none is larger than AT_ONCE numbers, but for a single signal or place.

    Where the conditioning acts point by point it is copied to every place: the gradient of the sum over all places then holds each
    place's own derivative, and costs one backward pass for each value dimension. Others, and measurements that look beyond the
    points around their place, go forward along every code dimension.
    """
    measurement = objective.measurement
    with frozen(decoder):
        if not isinstance(measurement, Local) or not decoder.pointwise:
            return (yield from _forward(objective, decoder, observations, z))
        affine = decoder.linear_in_code and measurement.linear
        yield from (_affine if affine else _pointwise)(measurement, decoder, observations, z)


@torch.no_grad()
def _affine(measurement: Local, decoder: Decoder, observations: Observations, z: Float[Tensor, "B D"]) -> Parts:
    """Decoders affine in the code, measured linearly: of the codes 0 and e_1 ... e_D, once where the places are shared."""
    codes = torch.cat([torch.zeros_like(z[:1]), torch.eye(z.shape[1]).to(z)])
    shared = len(observations.coords) == 1
    count, value_dim = observations.values.shape[1:]
    # a shared Jacobian is made once for all signals, and then weighted by each
    each = value_dim * max(measurement.points * len(codes), len(z) * z.shape[1] if shared else 0)
    at_once = max(1, AT_ONCE // each)
    for rows in _rows(len(z), len(z) if shared else max(1, at_once // count)):
        for places in _rows(count, at_once):
            part = observations.rows(rows).span(places)
            around = measurement.around(part.coords)
            values = decoder(codes, rearrange(around, "g n k c -> 1 (g n k) c"))
            g, n, k, _ = around.shape
            values = measurement.combine(rearrange(values, "d (g n k) v -> d g n k v", g=g, n=n, k=k))
            values = rearrange(values, "d g n v -> g n v d")
            mean, jacobian = values[..., 0], values[..., 1:] - values[..., :1]
            along = einsum(jacobian, z[rows], "g n v d, b d -> b n v" if shared else "b n v d, b d -> b n v")
            yield rows, part, mean + along, jacobian


def _pointwise(measurement: Local, decoder: Decoder, observations: Observations, z: Float[Tensor, "B D"]) -> Parts:
    by_code = _conditioning_by_code(decoder, z)
    count, value_dim = observations.values.shape[1:]
    at_once = max(1, AT_ONCE // max(1, measurement.points * sum(matrix.shape[-2] for matrix in by_code) + value_dim * z.shape[1]))
    for rows in _rows(len(z), max(1, at_once // max(1, count))):
        own = [matrix if len(matrix) == 1 else matrix[rows] for matrix in by_code]
        with torch.no_grad():
            leaves, form = tree_flatten(decoder.condition(z[rows]))
        for places in _rows(count, at_once):
            part = observations.rows(rows).span(places)
            b, n = part.weight.shape
            with torch.enable_grad():
                copies, each, at = _copied(leaves, measurement.around(part.coords), b, decoder.broadcasts)
                values = decoder.evaluate(tree_unflatten(each, form), at)
                predicted = measurement.combine(values.reshape(b, n, -1, values.shape[-1]))
                gradients = [
                    torch.autograd.grad(values.sum(), copies, retain_graph=v + 1 < value_dim, materialize_grads=True)
                    for v, values in enumerate(predicted.unbind(-1))
                ]
            jacobian = [
                torch.stack([g.reshape(b, n, -1) @ matrix for g, matrix in zip(each, own, strict=True)]).sum(0)
                for each in gradients
            ]
            yield rows, part, predicted.detach(), torch.stack(jacobian, 2)


def _copied(
    leaves: list[Tensor], around: Float[Tensor, "G N K C"], b: int, broadcasts: bool
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """(a conditioning for every place, what the decoder takes of it, coords).

    Conditionings [B, 1, K] that broadcast over points become [B, N, K]; of others each place is a signal with K points.
    """
    n, k = around.shape[1:3]
    if broadcasts:
        copies = [leaf.expand(-1, n, -1).clone().requires_grad_() for leaf in leaves]
        each = copies if k == 1 else [repeat(copy, "b n m -> b (n k) m", k=k) for copy in copies]
        return copies, each, around.flatten(1, 2)
    copies = [leaf.repeat_interleave(n, 0).requires_grad_() for leaf in leaves]
    return copies, copies, around.expand(b, -1, -1, -1).flatten(0, 1)


def _conditioning_by_code(decoder: Decoder, z: Float[Tensor, "B D"]) -> list[Float[Tensor, "b K D"]]:
    """Of every tensor of the conditioning, its derivative by the code: b is 1 where that is the same for all codes."""
    with torch.no_grad():
        if decoder.affine_conditioning:
            codes = torch.cat([torch.zeros_like(z[:1]), torch.eye(z.shape[1]).to(z)])
            leaves = [leaf.flatten(1) for leaf in tree_leaves(decoder.condition(codes))]
            return [(leaf[1:] - leaf[:1]).T[None] for leaf in leaves]
        by_code = vmap(jacfwd(lambda code: [leaf[0].flatten() for leaf in tree_leaves(decoder.condition(code[None]))]))(z)
        return list(by_code)


def _forward(objective: MAP, decoder: Decoder, observations: Observations, z: Float[Tensor, "B D"]) -> Parts:
    """Forward-mode derivatives along every dimension of the code, several at once."""
    directions = torch.eye(z.shape[1]).to(z)
    numbers = observations.values[0].numel() * objective.measurement.points
    for rows in _rows(len(z), max(1, AT_ONCE // (numbers * z.shape[1]))):
        part, codes = observations.rows(rows), z[rows].detach()

        def predict(code: Tensor, part: Observations = part) -> Tensor:
            return objective.predict(code, decoder, part)

        def along(direction: Tensor, codes: Tensor = codes, predict: Callable[[Tensor], Tensor] = predict) -> Tensor:
            return jvp(predict, (codes,), (direction.expand_as(codes),))[1]

        with torch.no_grad():
            predicted = predict(codes)
            chunk = max(1, AT_ONCE // (FORWARD_WIDTH * numbers * len(codes)))
            try:
                jacobian = vmap(along, out_dims=-1, chunk_size=chunk)(directions)
            except (NotImplementedError, RuntimeError) as error:
                raise UsageError(
                    f"derivatives of {type(decoder).__name__} along its code cannot be taken ({str(error).splitlines()[0]}); "
                    "say --set inference.kind=lbfgs"
                ) from error
        yield rows, part, predicted, jacobian


def factor_of(matrix: Float[Tensor, "B D D"]) -> Float[Tensor, "B D D"]:
    """Lower Cholesky factors; a singular matrix gets just as much on its diagonal as it needs, one that is no number becomes 1."""
    eye = torch.eye(matrix.shape[-1]).to(matrix)
    matrix = torch.where(matrix.isfinite().all(-1, keepdim=True).all(-2, keepdim=True), matrix, eye)
    scale = matrix.diagonal(dim1=1, dim2=2).abs().mean(1).clamp(min=torch.finfo(matrix.dtype).tiny)[:, None, None] * eye
    factor, failed = torch.linalg.cholesky_ex(matrix)
    extra = 1e-12
    while bool(failed.any()):
        factor, failed = torch.linalg.cholesky_ex(torch.where(failed[:, None, None] > 0, matrix + extra * scale, matrix))
        extra *= 100
    return factor


def _outer(vectors: Float[Tensor, "B D"]) -> Float[Tensor, "B D D"]:
    return vectors[:, :, None] * vectors[:, None]


def _rows(count: int, at_once: int) -> list[slice]:
    return [slice(first, min(first + at_once, count)) for first in range(0, count, at_once)]
