"""Where codes come from: a bank reads which signal it is, an encoder reads what was seen of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from neuralfield.errors import NeuralfieldError
from neuralfield.latents.basis import SpectralBasis
from neuralfield.types import Latent, Observations


class LatentSource(nn.Module, ABC):
    """source(observations) -> Latent. Its parameters are what training the codes means."""

    code_dim: int
    codes: Tensor
    """[n, D]: one code for each signal of the data set."""

    def initialise(self, batches: Callable[[], Iterable[Observations]], generator: torch.Generator) -> SpectralBasis | None:
        """Prepare for training on the signals that `batches()` goes over in order; only a bank has something to do.

        Returns the linear model whose coefficients the first codes are, where there is one: other parts may begin with it.
        """
        return None

    def extend(self, codes: Tensor) -> None:
        """Append codes [m, D] of new signals; only a bank can."""
        raise NeuralfieldError(f"{type(self).__name__} keeps no codes of signals, so none can join it")

    @abstractmethod
    def forward(self, observations: Observations) -> Latent:
        """One code for each signal of the batch."""


class FixedCodes(LatentSource):
    """Codes `z` [B, D] for one batch, in its order: what inference optimises."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.code_dim = z.shape[1]
        self.z = nn.Parameter(z.detach().clone())

    def forward(self, observations: Observations) -> Latent:
        return Latent(self.z)
