"""The nouns that flow between the parts: observations, latent codes, fields, losses and estimates.

Letters in shapes: B signals in a batch, N points, C coordinate dimensions, V value dimensions, D code dimensions.
`G` is B, or 1 where all signals share one set of points.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from neuralfield.devices import sent
from neuralfield.errors import NeuralfieldError
from neuralfield.seeds import normal

Conditioning = Any
"""A pytree of tensors [B, ...]: what a decoder needs of the codes, computed once per signal."""

EQUAL, AT_LEAST = 0, 1
"""Relations of a field to what was observed of it: it is the value, or not below it (of a signed distance: free space)."""

EVALUATED_AT_ONCE = 2**18
"""Points, over all signals, that a field evaluates in one go at most: 2^18 x 128 units x 4 bytes = 128 MiB a layer."""
CACHED = 2**13
"""Points that a CPU evaluates in one go: 4 MiB a layer stay in its cache, and the allocator keeps them."""
LEAST_CHUNK = 2**10
"""Points of each signal that are evaluated together in any case: decoders that read tables do so faster as a whole."""


class _Tensors:
    """What every noun made of tensors can do."""

    def to(self, device: torch.device | str) -> Self:
        """The same on another device; what lies there already is not made again."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        moved = {name: sent(tensor, device) for name, tensor in own.items() if isinstance(tensor, Tensor)}
        same = all(tensor is own[name] for name, tensor in moved.items())
        return self if same else replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class Observations(_Tensors):
    """What was seen of some signals.

    `weight` counts how often a point stands for the whole: 1 seen, 0 not seen, N/n where n points were drawn from N.
    Values and normals of weight 0 are set to 0 on construction, whatever they were, so nothing behind a mask can leak.
    `relation` says whether a value is EQUAL to the field's (all are, where it is None) or AT_LEAST a bound that the field keeps to;
    `normals` are of unit length at points on a surface, and 0 where none is known.
    """

    index: Int[Tensor, " B"]
    coords: Float[Tensor, "G N C"]
    values: Float[Tensor, "B N V"]
    weight: Float[Tensor, "B N"]
    relation: Int[Tensor, "B N"] | None = None
    normals: Float[Tensor, "B N C"] | None = None

    def __post_init__(self) -> None:
        b, n, _ = self.values.shape
        expected = {"index": (b,), "weight": (b, n), "relation": (b, n), "normals": (b, n, self.coords.shape[-1])}
        given = {f.name: tuple(x.shape) for f in fields(self) if (x := getattr(self, f.name)) is not None}
        wrong = [name for name, shape in given.items() if expected.get(name, shape) != shape]
        if wrong or self.coords.shape[0] not in (1, b) or self.coords.shape[1] != n:
            shapes = {name: list(shape) for name, shape in given.items()}
            raise NeuralfieldError(
                f"observations do not fit together: {shapes}; expected [B], [B or 1, N, C], [B, N, V], [B, N]"
                " (of relation and normals, where there are any, [B, N] and [B, N, C])"
            )
        seen = (self.weight > 0)[..., None]
        for name in ("values", "normals"):
            if (own := getattr(self, name)) is not None:
                object.__setattr__(self, name, torch.where(seen, own, torch.zeros((), device=own.device)))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def observed(self) -> Float[Tensor, " B"]:
        """Number of observed values per signal (points that stand for several count as several)."""
        return self.weight.sum(1) * self.values.shape[-1]

    def rows(self, which: slice | Tensor) -> "Observations":
        """Some of the signals: a slice, or positions [b] in this batch."""
        coords = self.coords if self.coords.shape[0] == 1 and len(self) > 1 else self.coords[which]
        return replace(self, index=self.index[which], coords=coords, **self._points(lambda x: x[which]))

    def points(self, which: Int[Tensor, " n"]) -> "Observations":
        """Some of the points, the same for every signal; those kept stand for all N."""
        part = self.span(sent(which, self.weight.device))
        return replace(part, weight=part.weight * (self.weight.shape[1] / len(which)))

    def span(self, points: slice | Tensor) -> "Observations":
        """Some points, the same for every signal, each standing for as many as before."""
        return replace(self, coords=self.coords[:, points], **self._points(lambda x: x[:, points]))

    def chosen(self, which: Int[Tensor, "B n"]) -> "Observations":
        """Points of each signal's own, each standing for as many as before."""
        rows = torch.arange(len(self), device=which.device)[:, None]
        coords = self.coords.expand(len(self), -1, -1)[rows, which]
        return replace(self, coords=coords, **self._points(lambda x: x[rows, which]))

    def without_unseen(self) -> "Observations":
        """Less the points that were seen of no signal: they cost work and say nothing."""
        seen = (self.weight > 0).any(0)
        if bool(seen.all()) or not bool(seen.any()):
            return self
        return self.span(seen)

    def split(self, seen: Bool[Tensor, "B N"]) -> tuple["Observations", "Observations"]:
        """(observed, hidden): one observation for each side of a mask. Unseen points stay unseen on both sides."""
        return replace(self, weight=self.weight * seen), replace(self, weight=self.weight * ~seen)

    @property
    def told(self) -> Float[Tensor, "B N"]:
        """Weights of the points whose values are known; of bounds 0."""
        return self.weight if self.relation is None else self.weight * (self.relation == EQUAL)

    def unmet(self, predicted: Float[Tensor, "B N V"]) -> Bool[Tensor, "B N V"] | None:
        """Where a prediction is to be compared with the value: not where it keeps to a bound. None: everywhere."""
        return None if self.relation is None else (self.relation == EQUAL)[..., None] | (predicted < self.values)

    def _points(self, cut: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """What each signal has at each point, less the coordinates, after a cut."""
        own = {name: getattr(self, name) for name in ("values", "weight", "relation", "normals")}
        return {name: cut(tensor) for name, tensor in own.items() if tensor is not None}


@dataclass(frozen=True)
class Latent(_Tensors):
    """Codes `mean` [B, *D]; `log_std` of the same shape only where a source is variational."""

    mean: Float[Tensor, "B *D"]
    log_std: Float[Tensor, "B *D"] | None = None

    def __len__(self) -> int:
        return len(self.mean)

    def sample(self, index: Int[Tensor, " B"], generator: torch.Generator | None = None) -> Float[Tensor, "B *D"]:
        """Codes drawn from N(mean, exp(log_std)^2), with gradients to both; the mean itself where there is no log_std.

        What the signal of number `index` gets is its own, whatever batch it is in (`seeds.normal`).
        """
        if self.log_std is None:
            return self.mean
        noise = normal(generator, index, self.mean.shape[1:].numel()).view(self.mean.shape)
        return self.mean + self.log_std.exp() * noise.to(self.mean)


def spread(count: int, most: int) -> Int[Tensor, " s"]:
    """Numbers of `most` of `count` things, evenly spread; float32 would not know those above 2^24."""
    return torch.linspace(0, count - 1, min(most, count), dtype=torch.float64).long()


def unchanged(predicted: Tensor) -> Tensor:
    """The link of decoders whose output is the value itself."""
    return predicted


@dataclass(frozen=True)
class Field:
    """A decoder bound to codes: a continuous function of coordinates, at any resolution.

    `link` maps what the decoder puts out to values in the data's space (a sigmoid, for logits).
    """

    evaluate: Callable[[Conditioning, Tensor], Tensor]
    conditioning: Conditioning
    link: Callable[[Tensor], Tensor] = unchanged
    coord_dim: int | None = None
    """Where known, coordinates of another size are refused by name."""

    def __call__(self, coords: Float[Tensor, "*G N C"]) -> Float[Tensor, "B N V"]:
        """Values at `coords` [N, C] (the same points for every signal), [1, N, C] or [B, N, C]."""
        if coords.ndim not in (2, 3) or coords.shape[-1] != (self.coord_dim or coords.shape[-1]):
            raise NeuralfieldError(
                f"a field needs coords [N, {self.coord_dim or 'C'}] or [B, N, {self.coord_dim or 'C'}], got {list(coords.shape)}"
            )
        coords = (coords if coords.ndim == 3 else coords[None]).to(self.device)
        # in parts where no gradient is asked for, so that a picture of any resolution fits in memory
        wanted = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in (coords, *tree_leaves(self.conditioning)))
        chunk = max(1, coords.shape[1] if wanted else self._at_once(coords.device.type))
        parts = [self.link(self.evaluate(self.conditioning, part)) for part in coords.split(chunk, 1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _at_once(self, device: str) -> int:
        """Points of each signal."""
        most = EVALUATED_AT_ONCE // len(self)
        return min(most, max(LEAST_CHUNK, CACHED // len(self))) if device == "cpu" else most

    def __len__(self) -> int:
        return len(tree_leaves(self.conditioning)[0])

    def rows(self, which: slice) -> "Field":
        """The fields of some of the signals."""
        return replace(self, conditioning=tree_map(lambda leaf: leaf[which], self.conditioning))

    @property
    def device(self) -> torch.device:
        """Where the codes live, and so where coordinates must be."""
        device: torch.device = tree_leaves(self.conditioning)[0].device
        return device


@dataclass(frozen=True)
class Loss:
    """Negative log probability per signal, in nats; never a mean over the batch: the caller reduces.

    `data` is the SUM over observed values, `prior` counts once per signal, `batch` is a scalar that only a batch has.
    """

    data: Float[Tensor, " B"]
    prior: Float[Tensor, " B"]
    observed: Float[Tensor, " B"]
    batch: Float[Tensor, ""]
    terms: dict[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Float[Tensor, " B"]:
        """(data + prior) / number of observed values: the MAP objective, scaled so that learning rates keep their meaning."""
        return (self.data + self.prior) / self.observed.clamp(min=1)


@dataclass(frozen=True)
class Estimate:
    """The answer of inference, one row per signal. Failure is a value with a reason, not an exception.

    `evaluations` is decoder work spent / work of one forward pass over the points: forward 1, backward 2.
    """

    latent: Latent
    loss: Loss
    converged: Bool[Tensor, " B"]
    steps: Int[Tensor, " B"]
    evaluations: Float[Tensor, " B"]
    reasons: tuple[str, ...]
    posterior: Any = None
    """What more is known of the codes, where the solver gives it: an object with `sample(count, generator) -> [S, B, D]`."""
