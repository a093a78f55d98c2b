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

from neuralfield.errors import NeuralfieldError

Conditioning = Any
"""A pytree of tensors [B, ...]: what a decoder needs of the codes, computed once per signal."""

EVALUATED_AT_ONCE = 2**18
"""Points, over all signals, that a field evaluates in one go: 2^18 x 128 units x 4 bytes = 128 MiB a layer."""


class _Tensors:
    """What every noun made of tensors can do."""

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **{k: v.to(device) for k, v in moved.items() if isinstance(v, Tensor)})  # type: ignore[type-var]


@dataclass(frozen=True)
class Observations(_Tensors):
    """What was seen of some signals.

    `weight` counts how often a point stands for the whole: 1 seen, 0 not seen, N/n where n points were drawn from N.
    Values of weight 0 are set to 0 on construction, whatever they were, so nothing behind a mask can leak.
    """

    index: Int[Tensor, " B"]
    coords: Float[Tensor, "G N C"]
    values: Float[Tensor, "B N V"]
    weight: Float[Tensor, "B N"]

    def __post_init__(self) -> None:
        b, n, _ = self.values.shape
        if (
            self.coords.shape[0] not in (1, b)
            or self.coords.shape[1] != n
            or self.weight.shape != (b, n)
            or self.index.shape != (b,)
        ):
            shapes = {f.name: list(getattr(self, f.name).shape) for f in fields(self)}
            raise NeuralfieldError(f"observations do not fit together: {shapes}; expected [B], [B or 1, N, C], [B, N, V], [B, N]")
        seen = (self.weight > 0)[..., None]
        object.__setattr__(self, "values", torch.where(seen, self.values, torch.zeros((), device=self.values.device)))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def observed(self) -> Float[Tensor, " B"]:
        """Number of observed values per signal (points that stand for several count as several)."""
        return self.weight.sum(1) * self.values.shape[-1]

    def rows(self, which: slice | Tensor) -> "Observations":
        """Some of the signals: a slice, or positions [b] in this batch."""
        coords = self.coords if self.coords.shape[0] == 1 and len(self) > 1 else self.coords[which]
        return Observations(self.index[which], coords, self.values[which], self.weight[which])

    def points(self, which: Int[Tensor, " n"]) -> "Observations":
        """Some of the points, the same for every signal; those kept stand for all N."""
        scale = self.weight.shape[1] / len(which)
        return Observations(self.index, self.coords[:, which], self.values[:, which], self.weight[:, which] * scale)

    def span(self, points: slice) -> "Observations":
        """Some points in a row, each standing for as many as before."""
        return Observations(self.index, self.coords[:, points], self.values[:, points], self.weight[:, points])

    def without_unseen(self) -> "Observations":
        """Less the points that were seen of no signal: they cost work and say nothing."""
        seen = (self.weight > 0).any(0)
        if bool(seen.all()) or not bool(seen.any()):
            return self
        return Observations(self.index, self.coords[:, seen], self.values[:, seen], self.weight[:, seen])

    def split(self, seen: Bool[Tensor, "B N"]) -> tuple["Observations", "Observations"]:
        """(observed, hidden): one observation for each side of a mask. Unseen points stay unseen on both sides."""
        return replace(self, weight=self.weight * seen), replace(self, weight=self.weight * ~seen)


@dataclass(frozen=True)
class Latent(_Tensors):
    """Codes `mean` [B, *D]; `log_std` of the same shape only where a source is variational."""

    mean: Float[Tensor, "B *D"]
    log_std: Float[Tensor, "B *D"] | None = None

    def __len__(self) -> int:
        return len(self.mean)

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "B *D"]:
        """Codes drawn from N(mean, exp(log_std)^2), with gradients to both; the mean itself where there is no log_std."""
        if self.log_std is None:
            return self.mean
        noise = torch.randn(self.mean.shape, generator=generator)  # on the CPU, where the generator is, for every device
        return self.mean + self.log_std.exp() * noise.to(self.mean)


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
        chunk = max(1, coords.shape[1] if wanted else EVALUATED_AT_ONCE // len(self))
        parts = [self.link(self.evaluate(self.conditioning, part)) for part in coords.split(chunk, 1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

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
