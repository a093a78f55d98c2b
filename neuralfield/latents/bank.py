"""The bank: one code per signal of the data set, learned directly."""

import math
from collections.abc import Callable, Iterable
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding

from neuralfield.files import Streamed
from neuralfield.latents.basis import SpectralBasis
from neuralfield.latents.initialise import Initialiser
from neuralfield.latents.row_files import RowFiles
from neuralfield.latents.source import LatentSource
from neuralfield.registry import resolve
from neuralfield.types import Latent, Observations, spread

OVERVIEW = 2**18
"""Codes that stand for a mapped bank: a covariance of 64 dims is known to 0.3 % from so many."""
AT_ONCE = 2**10  # rows that are gathered before pages may be let go of


class Bank(LatentSource):
    """`count` codes of `code_dim` numbers, each met with noise of standard deviation `noise` while it trains.

    The noise makes decoders smooth between codes: completions gain, reconstructions lose a little.
    Gradients are sparse, so a step costs the same for 1e3 and for 1e6 signals.

    `bound` is the largest norm of a code: longer ones are shortened to it, in place, when they are looked up while it trains, as
    by torch.nn.Embedding(max_norm), and all of them when training has ended.

    Where several ranks train, each holds the codes of its own signals, which begin at `first`.

    A bank that is `mapped` keeps its codes in a file, and in memory what was just looked at: it may be larger than that. Rows then
    lie on the CPU, and go to the observations' device when they are looked up.

    Use an optimiser that leaves absent rows alone: neuralfield's RowAdam, or torch.optim.SparseAdam. For a mapped bank
    `RowAdam(bank.parameters(), beside=bank.files)` keeps its state in files too.
    """

    def __init__(
        self,
        count: int,
        code_dim: int = 64,
        init: str = "spectral",
        std: float = 1.0,
        noise: float = 0.0,
        bound: float | None = None,
        mapped: bool = False,
    ) -> None:
        super().__init__()
        if noise < 0:
            raise ValueError(f"latents.noise must be 0 or more, got {noise}")
        if bound is not None and not bound > 0:
            raise ValueError(f"latents.bound must be positive, got {bound}")
        self.code_dim, self.init, self.std, self.noise, self.bound = code_dim, init, std, noise, bound
        self.mapped, self.files, self.first = mapped, RowFiles(count) if mapped else None, 0
        self.codes = nn.Parameter(torch.zeros(0 if mapped else count, code_dim))
        if self.files is not None:
            self.files.table("codes", [self.codes])

    def forward(self, observations: Observations) -> Latent:
        here = observations.index.device
        index = (observations.index - self.first if self.first else observations.index).to(self.codes.device)
        self._announce(index)
        mean = embedding(index, self.codes, max_norm=self.bound if self.training else None, sparse=True).to(here)
        return Latent(mean, torch.full_like(mean, math.log(self.noise)) if self.noise and self.training else None)

    @torch.no_grad()
    def initialise(self, batches: Callable[[], Iterable[Observations]], generator: torch.Generator) -> SpectralBasis | None:
        """First codes by the initialiser `init`, of root mean square `std`."""
        initialiser: Initialiser = resolve("initialisers", self.init)(self.std)
        if self.files is not None:
            return self._initialise_files(self.files, initialiser, batches, generator)
        codes, basis = initialiser.codes(batches, len(self.codes), self.code_dim, generator)
        self.codes.copy_(codes)
        self.shorten()
        return basis

    @torch.no_grad()
    def extend(self, codes: Float[Tensor, "m D"], log_std: Tensor | None = None) -> None:
        """Append codes of new signals. A mapped bank then lies in memory."""
        self.hold(torch.cat([self.codes, codes.to(self.codes)]))

    def hold(self, codes: Float[Tensor, "n D"], first: int = 0) -> None:
        """Take these codes as they are, without a copy: those of the signals from `first` on, which keep their numbers."""
        self.codes, self.files, self.first = nn.Parameter(codes), None, first

    def overview(self) -> Float[Tensor, "m D"]:
        """All codes, or of a mapped bank at most OVERVIEW, evenly spread: they tell a mean or a covariance as well."""
        if not self.mapped or len(self.codes) <= OVERVIEW:
            return self.codes.detach()
        rows = spread(len(self.codes), OVERVIEW)
        return torch.cat([self.rows(some) for some in rows.split(AT_ONCE)])

    def rows(self, index: Int[Tensor, " m"]) -> Float[Tensor, "m D"]:
        if self.files is not None:
            self.files.looked_at(len(index))
        return self.codes.detach()[index.to(self.codes.device)]

    @torch.no_grad()
    def put(self, index: Int[Tensor, " m"], codes: Float[Tensor, "m D"]) -> None:
        index = index.to(self.codes.device)
        if self.files is not None:
            self.files.looked_at(len(index))
            self.files.moves(index)
        self.codes[index] = codes.to(self.codes)

    def settle(self, batches: Callable[[], Iterable[Observations]]) -> None:
        self.shorten()

    @torch.no_grad()
    def shorten(self) -> None:
        """Shorten the codes that are longer than the bound."""
        if self.bound is None:
            return
        for rows in torch.arange(len(self.codes)).split(AT_ONCE):
            codes = self.rows(rows)
            long = codes.norm(dim=1) > self.bound
            if bool(long.any()):
                self.put(rows[long.cpu()], torch.renorm(codes[long], 2, 0, self.bound))

    def tables(self) -> dict[str, Tensor | Streamed]:
        codes = self.codes.detach()
        return {"codes": codes if self.files is None else Streamed(tuple(codes.shape), codes.dtype, self.files.pieces(codes))}

    def _announce(self, index: Int[Tensor, " B"]) -> None:
        """Tell the files what is about to be looked up, and moved where the bank trains."""
        if self.files is not None:
            self.files.looked_at(len(index))
            if self.training:
                self.files.moves(index)

    def _initialise_files(
        self, files: RowFiles, initialiser: Initialiser, batches: Callable[[], Iterable[Observations]], generator: torch.Generator
    ) -> SpectralBasis | None:
        files.reserve()
        basis = initialiser.fill(files.pieces(self.codes.detach()), batches, len(self.codes), self.code_dim, generator)
        files.drop()
        self.shorten()
        return basis

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return self if self.mapped else super()._apply(fn, recurse)
