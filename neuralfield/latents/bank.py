"""The bank: one code per signal of the data set, learned directly."""

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import embedding

from neuralfield.latents.basis import SpectralBasis
from neuralfield.latents.initialise import Initialiser
from neuralfield.latents.source import LatentSource
from neuralfield.registry import resolve
from neuralfield.types import Latent, Observations


class Bank(LatentSource):
    """`count` codes of `code_dim` numbers, each met with noise of standard deviation `noise` while it trains.

    The noise makes decoders smooth between codes: completions gain, reconstructions lose a little.
    Gradients are sparse, so a step costs the same for 1e3 and for 1e6 signals.

    `bound` is the largest norm of a code: while it trains, longer ones are shortened to it, in place, when they are looked up, as
    by torch.nn.Embedding(max_norm).

    Where several ranks train, each holds the codes of its own signals, which begin at `first`.

    Use an optimiser that leaves absent rows alone: neuralfield's RowAdam, or torch.optim.SparseAdam.
    """

    def __init__(
        self,
        count: int,
        code_dim: int = 64,
        init: str = "spectral",
        std: float = 1.0,
        noise: float = 0.0,
        bound: float | None = None,
    ) -> None:
        super().__init__()
        if noise < 0:
            raise ValueError(f"latents.noise must be 0 or more, got {noise}")
        if bound is not None and not bound > 0:
            raise ValueError(f"latents.bound must be positive, got {bound}")
        self.code_dim, self.init, self.std, self.noise, self.bound = code_dim, init, std, noise, bound
        self.codes = nn.Parameter(torch.zeros(count, code_dim))
        self.first = 0

    def forward(self, observations: Observations) -> Latent:
        index = observations.index - self.first if self.first else observations.index
        mean = embedding(index, self.codes, max_norm=self.bound if self.training else None, sparse=True)
        return Latent(mean, torch.full_like(mean, math.log(self.noise)) if self.noise and self.training else None)

    @torch.no_grad()
    def initialise(self, batches: Callable[[], Iterable[Observations]], generator: torch.Generator) -> SpectralBasis | None:
        """First codes by the initialiser `init`, of root mean square `std`."""
        initialiser: Initialiser = resolve("initialisers", self.init)(self.std)
        codes, basis = initialiser.codes(batches, len(self.codes), self.code_dim, generator)
        self.codes.copy_(codes)
        return basis

    @torch.no_grad()
    def hold(self, codes: Float[Tensor, "m D"], first: int) -> None:
        """Be the part of a larger bank that begins with the signal of number `first`; signals keep their numbers."""
        self.codes, self.first = nn.Parameter(codes.to(self.codes)), first

    @torch.no_grad()
    def extend(self, codes: Float[Tensor, "m D"]) -> None:
        """Append codes of new signals."""
        self.codes = nn.Parameter(torch.cat([self.codes, codes.to(self.codes)]))
