"""Encoders: codes are read from what was observed, so that a new signal has one without a search."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neuralfield.latents.encoders.network import Network
from neuralfield.latents.source import LatentSource
from neuralfield.registry import resolve
from neuralfield.types import Latent, Observations


class Reader(LatentSource):
    """A network that reads observations, and the codes that it gave the signals of the data set when the fit was over."""

    reads: ClassVar[bool] = True
    codes: Tensor

    def __init__(self, network: Network, count: int, code_dim: int) -> None:
        super().__init__()
        self.code_dim, self.network, self.whole = code_dim, network, network.whole
        self.register_buffer("codes", torch.zeros(count, code_dim))

    @abstractmethod
    def forward(self, observations: Observations) -> Latent:
        """One code for each signal of the batch."""

    @torch.no_grad()
    def settle(self, batches: Callable[[], Iterable[Observations]]) -> None:
        found = [self(batch.to(self.codes.device)) for batch in batches()]
        self.codes = torch.cat([latent.mean for latent in found])
        if self.variational:
            self.log_std = torch.cat([latent.log_std for latent in found if latent.log_std is not None])

    def extend(self, codes: Float[Tensor, "m D"], log_std: Float[Tensor, "m D"] | None = None) -> None:
        """Append codes of new signals; spreads that were searched and not read are the geometric means of the others."""
        self.codes = torch.cat([self.codes, codes.to(self.codes)])
        if self.variational:
            spreads = self.log_std.mean(0).expand(len(codes), -1) if log_std is None else log_std.to(self.log_std)
            self.log_std = torch.cat([self.log_std, spreads])


class Encoder(Reader):
    """z = network(observations): the code of an autoencoder.

    `network` is "linear", "mlp", "convolutional" (whole signals on a grid) or "set" (any points), of `width` units in `depth`
    hidden layers. With `output` "logistic" codes lie in (0, 1), as sparsity by Kullback-Leibler needs them.
    """

    def __init__(
        self,
        count: int,
        coord_dim: int,
        value_dim: int,
        shape: tuple[int, ...] | None = None,
        code_dim: int = 64,
        network: str = "mlp",
        width: int = 256,
        depth: int = 2,
        activation: str = "relu",
        output: Literal["linear", "logistic"] = "linear",
    ) -> None:
        made = resolve("networks", network)(coord_dim, value_dim, shape, code_dim, width, depth, activation)
        super().__init__(made, count, code_dim)
        self.logistic = output == "logistic"

    def forward(self, observations: Observations) -> Latent:
        found = self.network(observations)
        return Latent(found.sigmoid() if self.logistic else found)


class GaussianEncoder(Reader):
    """q(z | observations) = N(mean, exp(log_std)^2), both read by one network (Kingma and Welling 2014); the rest as `Encoder`."""

    variational: ClassVar[bool] = True

    def __init__(
        self,
        count: int,
        coord_dim: int,
        value_dim: int,
        shape: tuple[int, ...] | None = None,
        code_dim: int = 64,
        network: str = "mlp",
        width: int = 256,
        depth: int = 2,
        activation: str = "relu",
    ) -> None:
        made = resolve("networks", network)(coord_dim, value_dim, shape, 2 * code_dim, width, depth, activation)
        super().__init__(made, count, code_dim)
        self.register_buffer("log_std", torch.zeros(count, code_dim))

    def forward(self, observations: Observations) -> Latent:
        mean, log_std = self.network(observations).chunk(2, 1)
        return Latent(mean, log_std)
