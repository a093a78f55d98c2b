"""Where codes come from: a bank reads which signal it is, an encoder reads what was seen of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuralfield.errors import NeuralfieldError
from neuralfield.files import Streamed
from neuralfield.latents.basis import SpectralBasis
from neuralfield.latents.row_files import RowFiles
from neuralfield.types import Latent, Observations


class LatentSource(nn.Module, ABC):
    """source(observations) -> Latent. Its parameters are what training the codes means."""

    code_dim: int
    codes: Tensor
    """[n, D]: one code for each signal of the data set."""
    files: RowFiles | None = None
    """Where the codes lie, of a mapped bank."""

    def initialise(self, batches: Callable[[], Iterable[Observations]], generator: torch.Generator) -> SpectralBasis | None:
        """Prepare for training on the signals that `batches()` goes over in order; only a bank has something to do.

        Returns the linear model whose coefficients the first codes are, where there is one: other parts may begin with it.
        """
        return None

    def extend(self, codes: Tensor) -> None:
        """Append codes [m, D] of new signals; only a bank can."""
        raise NeuralfieldError(f"{type(self).__name__} keeps no codes of signals, so none can join it")

    def hold(self, codes: Float[Tensor, "n D"], first: int = 0) -> None:
        """Take these codes as they are, without a copy: those of the signals from `first` on; only a bank can."""
        raise NeuralfieldError(f"{type(self).__name__} keeps no codes of signals, so none can be given to it")

    def overview(self) -> Float[Tensor, "m D"]:
        """Codes that stand for all, in order: all of them, where they lie in memory."""
        return self.codes.detach()

    def rows(self, index: Int[Tensor, " m"]) -> Float[Tensor, "m D"]:
        """The codes of some signals."""
        return self.codes.detach()[index.to(self.codes.device)]

    def put(self, index: Int[Tensor, " m"], codes: Float[Tensor, "m D"]) -> None:
        """Replace the codes of some signals."""
        self.codes.data[index.to(self.codes.device)] = codes.to(self.codes)

    def shorten(self) -> None:
        """Training has ended: bring the codes within their bound; only a bank has one."""
        return None

    def stored(self) -> Tensor | Streamed:
        """The codes, as they are written into a file."""
        return self.codes.detach()

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
