"""Where codes come from: a bank reads which signal it is, an encoder reads what was seen of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar

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

    reads: ClassVar[bool] = False
    """Whether it reads what was observed: an encoder, which gives codes to signals that it has never met."""
    variational: ClassVar[bool] = False
    """Whether it gives distributions, which the objective draws codes from and compares with the prior."""
    whole: bool = False
    """Whether it reads all points of a grid and nothing else."""
    logistic: bool = False
    """Whether codes lie in (0, 1)."""

    code_dim: int
    codes: Tensor
    """[n, D]: one code for each signal of the data set. An encoder's are known once a fit is over."""
    log_std: Tensor
    """[n, D]: the logarithms of the codes' standard deviations, where it is variational."""
    files: RowFiles | None = None
    """Where the codes lie, of a mapped bank."""

    def initialise(self, batches: Callable[[], Iterable[Observations]], generator: torch.Generator) -> SpectralBasis | None:
        """Prepare for training on the signals that `batches()` goes over in order; only a bank has something to do.

        Returns the linear model whose coefficients the first codes are, where there is one: other parts may begin with it.
        """
        return None

    def settle(self, batches: Callable[[], Iterable[Observations]]) -> None:
        """The fit is over, and `batches()` goes over its signals in order; an encoder reads codes, a bank shortens its own."""

    def extend(self, codes: Tensor, log_std: Tensor | None = None) -> None:
        """Append codes [m, D] of new signals, and their spreads where they are known."""
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

    def tables(self) -> dict[str, Tensor | Streamed]:
        """What it knows of each signal, as it is written into a file: its code, and the spread of that where it has one."""
        return {name: getattr(self, name).detach() for name in ("codes", "log_std")[: 1 + self.variational]}

    def weights(self) -> dict[str, Tensor]:
        """What else it has learned: an encoder's network."""
        return {name: tensor for name, tensor in self.state_dict().items() if name not in ("codes", "log_std")}

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
