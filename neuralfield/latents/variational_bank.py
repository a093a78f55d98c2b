"""The variational autodecoder (Zadeh et al. 2019): for each signal of the data set a Gaussian over codes, learned directly."""

import math
from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import embedding

from neuralfield.latents.basis import SpectralBasis
from neuralfield.latents.initialise import Initialiser
from neuralfield.latents.source import LatentSource
from neuralfield.registry import resolve
from neuralfield.types import Latent, Observations


class VariationalBank(LatentSource):
    """`count` Gaussians N(code, exp(log_std)^2) over codes of `code_dim` numbers. Their first standard deviation is `spread`.

    First codes are those of a bank (`init`, `std`). Gradients are sparse, as a bank's.
    """

    variational: ClassVar[bool] = True
    log_std: nn.Parameter

    def __init__(self, count: int, code_dim: int = 64, init: str = "spectral", std: float = 1.0, spread: float = 0.1) -> None:
        super().__init__()
        if not spread > 0:
            raise ValueError(f"latents.spread must be positive, got {spread}")
        self.code_dim, self.init, self.std = code_dim, init, std
        self.codes = nn.Parameter(torch.zeros(count, code_dim))
        self.log_std = nn.Parameter(torch.full((count, code_dim), math.log(spread)))

    def forward(self, observations: Observations) -> Latent:
        index = observations.index.to(self.codes.device)
        return Latent(embedding(index, self.codes, sparse=True), embedding(index, self.log_std, sparse=True))

    @torch.no_grad()
    def initialise(self, batches: Callable[[], Iterable[Observations]], generator: torch.Generator) -> SpectralBasis | None:
        """First codes by the initialiser `init`, of root mean square `std`."""
        initialiser: Initialiser = resolve("initialisers", self.init)(self.std)
        codes, basis = initialiser.codes(batches, len(self.codes), self.code_dim, generator)
        self.codes.copy_(codes)
        return basis

    @torch.no_grad()
    def extend(self, codes: Float[Tensor, "m D"], log_std: Float[Tensor, "m D"] | None = None) -> None:
        """Append codes of new signals; spreads that are not known are the bank's geometric means."""
        spreads = self.log_std.mean(0).expand(len(codes), -1) if log_std is None else log_std.to(self.log_std)
        self.codes = nn.Parameter(torch.cat([self.codes, codes.to(self.codes)]))
        self.log_std = nn.Parameter(torch.cat([self.log_std, spreads]))
