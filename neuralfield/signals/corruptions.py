"""What an encoder is shown of signals in place of what was observed, so that it learns to do without the rest."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuralfield.domains.domain import Domain
from neuralfield.seeds import normal, uniform
from neuralfield.signals.masks import Visibility
from neuralfield.types import Observations

SEEDS = 2**31
"""Seeds of masks that draw: any number below."""


class Corruption(nn.Module, ABC):
    """corruption(observations, generator) -> what the encoder sees.

    What it draws for a signal depends on the generator and the signal's number alone, not on its batch.
    """

    scores: str = "all"
    """What the likelihood scores in training: "all" that was observed, clean, or only what is "seen" by the encoder."""

    @abstractmethod
    def forward(self, observations: Observations, generator: torch.Generator | None = None) -> Observations:
        """What the encoder sees of the same signals."""


class Noise(Corruption):
    """Gaussian noise of standard deviation `std` on every observed value, in the values' units (Vincent et al. 2008)."""

    def __init__(self, std: float = 0.3) -> None:
        super().__init__()
        if not std >= 0:
            raise ValueError(f"corruption.std must be 0 or more, got {std}")
        self.std = std

    def forward(self, observations: Observations, generator: torch.Generator | None = None) -> Observations:
        noise = _for_each_value(normal, observations, generator)
        return replace(observations, values=observations.values + self.std * noise.to(observations.values))


class Dropout(Corruption):
    """Each observed value is 0 with probability `share`. It still counts as seen: the encoder cannot tell it from a true 0."""

    def __init__(self, share: float = 0.3) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"corruption.share must be 0 or more and below 1, got {share}")
        self.share = share

    def forward(self, observations: Observations, generator: torch.Generator | None = None) -> Observations:
        dropped = _for_each_value(uniform, observations, generator) < self.share
        return replace(observations, values=observations.values.masked_fill(dropped, 0.0))


class Mask(Corruption):
    """Hides the region `what`, as `nf infer --hide` does: "center:16", "half:left", "random:0.5" (drawn anew in every step).

    With `scores` "seen" what is hidden is hidden from the likelihood too: the model never learns what is there.
    """

    def __init__(self, domain: Domain, what: str = "center:16", scores: Literal["all", "seen"] = "all") -> None:
        super().__init__()
        if scores not in ("all", "seen"):
            raise ValueError(f'corruption.scores must be "all" or "seen", got "{scores}"')
        Visibility(hide=what)  # refuses what is no mask
        self.domain, self.what, self.scores = domain, what, scores

    def forward(self, observations: Observations, generator: torch.Generator | None = None) -> Observations:
        seed = int(torch.randint(SEEDS, (), generator=generator))
        return observations.split(Visibility(hide=self.what, seed=seed).seen(observations, self.domain))[0]


def _for_each_value(
    draw: Callable[[torch.Generator | None, Tensor, int], Tensor], observations: Observations, generator: torch.Generator | None
) -> Float[Tensor, "B N V"]:
    """Numbers of `seeds` for every value of every signal."""
    b, n, v = observations.values.shape
    return draw(generator, observations.index, n * v).reshape(b, n, v)
