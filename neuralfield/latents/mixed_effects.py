"""A linear model of signals that were seen anywhere: every signal at its own points, a few or many, on no common grid.

x_i(t) = phi(t) . a_i + noise, a_i ~ N(mu, Sigma), phi Fourier features: a mixed-effects model (Laird and Ware 1982; for sparse
curves James, Hastie and Sugar 2000), fitted by expectation and maximisation. Few-point signals shrink to the mean. Sigma shrinks to
a stationary Gaussian process (Matern 5/2), by as much as held-out signals ask for, so that a few dozen curves are enough.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from neuralfield.latents.basis import SpectralBasis, fourier
from neuralfield.types import Observations

SIGNALS = 256
"""Signals that the model is fitted to at most, evenly spread: the second moments of 100 coefficients are well known then."""
PERIOD = 3.0
"""Of the features over a line, in units of the coordinates: half as much again as [-1, 1], so that its ends stay apart."""
HARMONICS = (24, 64)
"""Least and most frequencies. Between them: half the points of a typical signal, which its finest details need."""
LENGTHS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Correlation lengths that are tried, in units of the coordinates."""
NOISES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 0.3, 1.0)
"""Noise variances that are tried with each length, as shares of the variance of the process."""
MEAN_LENGTH = 0.8
"""Correlation length of the mean function: means of many signals are smoother than these."""
SHORTER = (1.0, 0.5, 0.25, 0.125)
"""What the principal functions leave over is rougher than the whole: shares of the best length that are tried for it."""
TRUSTS = (1.0, 0.3, 3.0, 10.0)
"""Numbers of signals that the stationary process counts for. The best of both lists is chosen on held-out signals."""
FOLDS, FOLD_STEPS, STEPS = 3, 8, 20
CHOOSING = 96
"""Signals that choose, evenly spread, where there are more."""
DEGENERATE = 1e-8
"""Share of the first variance under which a function is lost in the digits of float32."""
ALIKE = 0.01
"""Nats per value that tell nothing: where a rough process and noise explain sparse curves alike, the smoother one is taken."""
LEAST_NOISE = 1e-8
"""Of the variance of the values: below it the systems lose their digits, in float64."""


@dataclass(frozen=True)
class Moments:
    """All that the fit needs of n signals: sums over the points of each. `square` is [1, ...] where all have the same points."""

    square: Float[Tensor, "m F F"]  # sum w phi phi'
    cross: Float[Tensor, "n F"]  # sum w phi x
    energy: Float[Tensor, " n"]  # sum w x^2
    count: Float[Tensor, " n"]  # values seen

    def rows(self, which: Tensor) -> Self:
        """Some of the signals."""
        square = self.square if len(self.square) == 1 else self.square[which]
        return type(self)(square, self.cross[which], self.energy[which], self.count[which])

    def centred(self, mean: Float[Tensor, " F"]) -> Self:
        """The moments of what is left when phi . mean is taken away."""
        moved = self.square @ mean
        energy = self.energy - 2 * self.cross @ mean + moved @ mean
        return type(self)(self.square, self.cross - moved, energy.clamp(min=0), self.count)


@dataclass(frozen=True)
class Effects:
    """The model: coefficients N(mean, covariance), and a noise variance."""

    mean: Float[Tensor, " F"]
    covariance: Float[Tensor, "F F"]
    noise: Float[Tensor, ""]

    def posterior(self, moments: Moments) -> tuple[Float[Tensor, "n F"], Float[Tensor, "m F F"]]:
        """(means, covariances) of the signals' coefficients, given what was seen."""
        precision = torch.linalg.inv(self.covariance)
        spread = torch.cholesky_inverse(torch.linalg.cholesky(moments.square / self.noise + precision))
        right = moments.cross / self.noise + precision @ self.mean
        return (spread @ right[..., None])[..., 0], spread

    def log_likelihood(self, moments: Moments) -> Float[Tensor, " n"]:
        """log p(what was seen of a signal), its coefficients integrated out."""
        left = moments.centred(self.mean)
        factor = torch.linalg.cholesky(moments.square / self.noise + torch.linalg.inv(self.covariance))
        half = torch.linalg.solve_triangular(factor, left.cross[..., None] / self.noise, upper=False)[..., 0]
        logarithm = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + torch.logdet(self.covariance)
        quadratic = left.energy / self.noise - half.square().sum(-1)
        return -0.5 * (quadratic + logarithm + left.count * (2 * math.pi * self.noise).log())


def mixed_effects(batches: Callable[[], Iterable[Observations]], rank: int, generator: torch.Generator) -> SpectralBasis:
    """The `rank` principal functions of signals seen anywhere, with the variance of each and that of the noise."""
    some = _spread(batches)
    coord_dim, value_dim = some[0].coords.shape[-1], some[0].values.shape[-1]
    frequencies, power = _frequencies(some, coord_dim, value_dim, generator)
    moments = _moments(some, frequencies)
    moments = moments.rows(torch.nonzero(moments.count)[:, 0])
    whole = moments.square.sum(0) * (len(moments.cross) / len(moments.square))
    scale = (moments.energy.sum() / moments.count.sum()).clamp(min=1e-12)
    gram = whole / moments.count.sum() * value_dim
    process = _Process(power(value_dim), gram, scale * value_dim)
    # the mean is what all signals together say of one function, each of them as far off as the values are large
    mean = torch.linalg.solve(whole / scale + process.smoothness, moments.cross.sum(0) / scale)
    length, start = _stationary(moments, mean, process)
    trust = TRUSTS[0]
    if len(moments.cross) >= 2 * FOLDS:
        few = moments.rows(torch.linspace(0, len(moments.cross) - 1, min(CHOOSING, len(moments.cross))).long())
        tried = [process.like(start, length * shorter) for shorter in SHORTER]
        scores = [_held_out(few, each, trust, process) for each in tried]
        start = next(each for each, score in zip(tried, scores, strict=True) if score > max(scores) - ALIKE)
        trust = max(TRUSTS, key=lambda t: _held_out(few, start, t, process))
    return _principal(_expect_and_maximise(moments, start, trust, process, STEPS), frequencies, gram, rank, value_dim)


@dataclass(frozen=True)
class _Process:
    """A stationary process of variance 1 over the points of the data, for every correlation length."""

    power: Callable[[float], Tensor]
    gram: Float[Tensor, "F F"]
    scale: Float[Tensor, ""]

    def covariance(self, length: float) -> Float[Tensor, "F F"]:
        """Of the coefficients."""
        variance = self.power(length)
        return torch.diag((variance / (self.gram.diagonal() * variance).sum()).clamp(min=1e-12))

    @property
    def smoothness(self) -> Float[Tensor, "F F"]:
        """Precision of the mean function before anything is seen: it may be as large as the values. Without it, EM lets the mean
        drift away where no signal was seen.
        """
        return torch.linalg.inv(self.scale * self.covariance(MEAN_LENGTH))

    def like(self, other: Effects, length: float) -> Effects:
        """With the variances of another one."""
        variance = (self.gram * other.covariance).sum()
        return Effects(other.mean, variance * self.covariance(length), other.noise)


def _spread(batches: Callable[[], Iterable[Observations]]) -> list[Observations]:
    """At most SIGNALS of the signals, evenly spread over all."""
    total = sum(len(batch) for batch in batches())
    wanted = torch.linspace(0, total - 1, min(SIGNALS, total)).long()
    found, first = [], 0
    for batch in batches():
        here = wanted[(wanted >= first) & (wanted < first + len(batch))] - first
        first += len(batch)
        if len(here):
            found.append(batch.rows(here))
    return found


def _frequencies(
    some: list[Observations], coord_dim: int, value_dim: int, generator: torch.Generator
) -> tuple[Float[Tensor, "C H"], Callable[[int], Callable[[float], Float[Tensor, " F"]]]]:
    """Frequencies in cycles per unit, and the Matern process' variance of every feature as a function of its length.

    On a line they are the harmonics of one period; in more dimensions they are drawn at random (Rahimi and Recht 2007).
    """
    known = torch.cat([(batch.weight > 0).sum(1) for batch in some]).double()
    least, most = HARMONICS
    count = min(most, max(least, int(known.median()) // 2), 4 * most // value_dim)
    if coord_dim == 1:
        frequencies = torch.arange(1, count + 1, dtype=torch.float64)[None] / PERIOD
    else:  # Matern 5/2 frequencies of length .5 are Student's with 5 degrees of freedom
        normal = torch.randn(coord_dim, count, generator=generator, dtype=torch.float64)
        frequencies = normal / torch.randn(5, count, generator=generator, dtype=torch.float64).square().mean(0).sqrt() / math.pi

    def power(value_dim: int) -> Callable[[float], Float[Tensor, " F"]]:
        def of_length(length: float) -> Float[Tensor, " F"]:
            angular = 2 * math.pi * frequencies.norm(dim=0)
            density = (1 + (length * angular).square() / 5) ** -(2.5 + 0.5 * coord_dim)
            if coord_dim > 1:  # what was drawn from a density of its own is weighted by the ratio of the two
                density = density / (1 + (0.5 * angular).square() / 5) ** -(2.5 + 0.5 * coord_dim)
            every = torch.cat([density.max()[None], density, density])
            return every.repeat_interleave(value_dim)

        return of_length

    return frequencies, power


def _moments(some: list[Observations], frequencies: Float[Tensor, "C H"]) -> Moments:
    parts = [_moments_of(batch, frequencies) for batch in some]
    squares = torch.cat([part.square for part in parts])
    if all(len(part.square) == 1 for part in parts) and bool((squares == squares[:1]).all()):
        squares = squares[:1]
    else:
        squares = torch.cat([part.square.expand(len(part.cross), -1, -1) for part in parts])
    joined = (torch.cat([getattr(part, name) for part in parts]) for name in ("cross", "energy", "count"))
    return Moments(squares, *joined)


def _moments_of(batch: Observations, frequencies: Float[Tensor, "C H"]) -> Moments:
    phi, values, weight = fourier(batch.coords.double(), frequencies), batch.values.double(), batch.weight.double()
    alike = len(phi) == 1 and bool((weight == weight[:1]).all())
    each = weight[:1] if alike else weight
    square = einsum(phi.expand(len(each), -1, -1) * each[..., None], phi.expand(len(each), -1, -1), "b n f, b n g -> b f g")
    cross = einsum(phi.expand(len(values), -1, -1), values * weight[..., None], "b n f, b n v -> b f v")
    energy = (values.square() * weight[..., None]).sum((1, 2))
    channels = torch.eye(values.shape[-1], dtype=square.dtype)
    return Moments(torch.kron(square, channels[None]), rearrange(cross, "b f v -> b (f v)"), energy, weight.sum(1) * len(channels))


def _stationary(moments: Moments, mean: Float[Tensor, " F"], process: _Process) -> tuple[float, Effects]:
    """(length, process) of greatest likelihood around a mean, of a few dozen signals."""
    some = moments.rows(torch.linspace(0, len(moments.cross) - 1, min(32, len(moments.cross))).long()).centred(mean)
    tried = []
    for length, share in itertools.product(LENGTHS, NOISES):
        covariance, noise = process.covariance(length), torch.tensor(share, dtype=mean.dtype)
        value, amplitude = _profiled(Effects(torch.zeros_like(mean), covariance, noise), some)
        tried.append((value, length, Effects(mean, amplitude * covariance, amplitude * noise)))
    return max(tried, key=lambda each: each[0])[1:]


def _profiled(model: Effects, moments: Moments) -> tuple[float, Tensor]:
    """(log likelihood, amplitude): the best common factor of a model's variances."""
    count = moments.count.sum()
    zero = Moments(moments.square, torch.zeros_like(moments.cross), torch.zeros_like(moments.energy), moments.count)
    determinant = model.log_likelihood(zero).sum()
    amplitude = (2 * (determinant - model.log_likelihood(moments).sum()) / count).clamp(min=1e-12)
    return float(determinant - 0.5 * count * (1 + amplitude.log())), amplitude


def _expect_and_maximise(moments: Moments, start: Effects, trust: float, process: _Process, steps: int) -> Effects:
    """EM from the stationary process, whose shape counts for `trust` signals with the variance that the signals have."""
    model, count = start, len(moments.cross)
    shape = start.covariance / (process.gram * start.covariance).sum()
    eye, smoothness = torch.eye(len(shape), dtype=shape.dtype), process.smoothness
    least = LEAST_NOISE * moments.energy.sum() / moments.count.sum() + 1e-15
    for _ in range(steps):
        means, spreads = model.posterior(moments)
        mean = torch.linalg.solve(eye + model.covariance @ smoothness / count, means.mean(0))
        left = moments.centred(mean)
        apart = means - mean
        moved = (moments.square @ apart[..., None])[..., 0]
        residual = (left.energy - 2 * (left.cross * apart).sum(1) + (moved * apart).sum(1)).sum()
        many = count / len(spreads)
        noise = (residual + many * (moments.square * spreads).sum()) / moments.count.sum()
        scatter = apart.T @ apart + many * spreads.sum(0)
        variance = (process.gram * scatter).sum() / count
        model = Effects(mean, (scatter + trust * variance * shape) / (count + trust), noise.clamp(min=least))
    return model


def _held_out(moments: Moments, start: Effects, trust: float, process: _Process) -> float:
    """Log likelihood per value of held-out signals. The median over them: one odd curve must not choose for all."""
    fold = torch.arange(len(moments.cross)) % FOLDS
    found = []
    for k in range(FOLDS):
        held_out = moments.rows(torch.nonzero(fold == k)[:, 0])
        model = _expect_and_maximise(moments.rows(torch.nonzero(fold != k)[:, 0]), start, trust, process, FOLD_STEPS)
        found.append(model.log_likelihood(held_out) / held_out.count)
    return float(torch.cat(found).median())


def _principal(
    model: Effects, frequencies: Float[Tensor, "C H"], gram: Float[Tensor, "F F"], rank: int, value_dim: int
) -> SpectralBasis:
    """Functions that are orthonormal over the points of the data, by falling variance; what is cut off joins the noise."""
    factor = torch.linalg.cholesky(gram + 1e-9 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype))
    values, vectors = torch.linalg.eigh(factor.T @ model.covariance @ factor)
    order = values.argsort(descending=True)[:rank]
    order = order[values[order] > DEGENERATE * values.max()]
    basis = SpectralBasis()
    basis.frequencies, basis.channels = frequencies.float(), torch.tensor(value_dim)
    basis.mean = model.mean.float()
    # the inverse of the factor times the vectors, by way of the covariance: the features are nearly dependent, and it is smooth
    basis.components = (model.covariance @ factor @ vectors[:, order] / values[order]).float()
    basis.variance = values[order].float()
    cut = (values.clamp(min=0).sum() - values[order].sum()) / value_dim
    basis.noise = (model.noise + cut).float()
    return basis
