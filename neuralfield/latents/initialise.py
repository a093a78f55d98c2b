"""First codes of a bank, before any training."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from neuralfield.latents.basis import SpectralBasis
from neuralfield.latents.spectral import spectral_basis
from neuralfield.types import Observations


class Initialiser(ABC):
    """Gives a bank its first codes."""

    @abstractmethod
    def codes(
        self, batches: Callable[[], Iterable[Observations]], count: int, code_dim: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n D"], SpectralBasis | None]:
        """One code for each of `count` signals, which `batches()` goes over in order, and the linear model behind them, if any."""

    def fill(
        self,
        pieces: Iterable[Float[Tensor, "_ D"]],
        batches: Callable[[], Iterable[Observations]],
        count: int,
        code_dim: int,
        generator: torch.Generator,
    ) -> SpectralBasis | None:
        """The same codes, written into the pieces of a bank, in order. Most kinds hold all of them in memory before that."""
        codes, basis = self.codes(batches, count, code_dim, generator)
        first = 0
        for piece in pieces:
            piece.copy_(codes[first : first + len(piece)])
            first += len(piece)
        return basis


class Normal(Initialiser):
    """Random codes N(0, std^2): what published autodecoders do."""

    def __init__(self, std: float = 0.1) -> None:
        self.std = std

    def codes(
        self, batches: Callable[[], Iterable[Observations]], count: int, code_dim: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n D"], SpectralBasis | None]:
        return torch.randn(count, code_dim, generator=generator) * self.std, None

    def fill(
        self,
        pieces: Iterable[Float[Tensor, "_ D"]],
        batches: Callable[[], Iterable[Observations]],
        count: int,
        code_dim: int,
        generator: torch.Generator,
    ) -> SpectralBasis | None:
        for piece in pieces:
            piece.copy_(torch.randn(piece.shape, generator=generator) * self.std)
        return None


class Spectral(Initialiser):
    """Principal coefficients of the signals, scaled by one number to the root mean square `std` (not whitened).

    Code dimensions beyond the rank of the data start as small random numbers.
    """

    def __init__(self, std: float = 1.0) -> None:
        self.std = std

    def codes(
        self, batches: Callable[[], Iterable[Observations]], count: int, code_dim: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n D"], SpectralBasis | None]:
        basis = spectral_basis(batches, code_dim, generator)
        if not basis.rank:  # signals that are all alike
            return torch.randn(count, code_dim, generator=generator) * 0.01 * self.std, None
        coefficients = torch.cat([basis.encode(batch) for batch in batches()])
        scale = self.std / coefficients.square().mean().sqrt().clamp(min=1e-12)
        rest = torch.randn(count, code_dim - basis.rank, generator=generator) * 0.01 * self.std
        return torch.cat([coefficients * scale, rest], 1), basis.scaled(float(scale))
