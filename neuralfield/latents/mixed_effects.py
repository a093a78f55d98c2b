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
DRAWN = 0.5
"""Correlation length of the process that frequencies are drawn for in more dimensions than one."""
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
PLENTY, FEW_STEPS = 4, 3
"""Values of a signal, as a multiple of the features, that tell all of its coefficients; and steps that are enough then."""
CHOOSING, WORK = 96, 1e8
"""Signals that choose, evenly spread, where there are more; and signals x features^3 of one of their steps, about .1 s."""
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

    def spread(self, count: int) -> Self:
        """At most `count` of the signals, evenly spread over all."""
        return self.rows(torch.linspace(0, len(self.cross) - 1, min(count, len(self.cross))).long())

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
        quadratic, normaliser = self.terms(moments)
        return -0.5 * (quadratic + normaliser)

    def terms(self, moments: Moments) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """-2 log likelihood in two parts: what depends on the values, and what does not."""
        left = moments.centred(self.mean)
        factor = torch.linalg.cholesky(moments.square / self.noise + torch.linalg.inv(self.covariance))
        half = torch.linalg.solve_triangular(factor, left.cross[..., None] / self.noise, upper=False)[..., 0]
        logarithm = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + torch.logdet(self.covariance)
        quadratic = left.energy / self.noise - half.square().sum(-1)
        return quadratic, logarithm + left.count * (2 * math.pi * self.noise).log()


@dataclass(frozen=True)
class Features:
    """Fourier features of `frequencies` [C, H] in cycles per unit, F = (1 + 2 H) V with one of each for every channel.

    On a line they are the harmonics of one period; in more dimensions they are drawn at random (Rahimi and Recht 2007).
    """

    frequencies: Float[Tensor, "C H"]
    value_dim: int

    @classmethod
    def of(cls, some: list[Observations], generator: torch.Generator) -> Self:
        """As many as the points of a typical signal need."""
        known = torch.cat([(batch.weight > 0).sum(1) for batch in some]).double()
        coord_dim, value_dim = some[0].coords.shape[-1], some[0].values.shape[-1]
        least, most = HARMONICS
        count = min(most, max(least, int(known.median()) // 2), max(1, 2 * most // value_dim))
        if coord_dim == 1:
            return cls(torch.arange(1, count + 1, dtype=torch.float64)[None] / PERIOD, value_dim)
        # those of a Matern 5/2 process of length DRAWN have Student's distribution with 5 degrees of freedom
        normal = torch.randn(coord_dim, count, generator=generator, dtype=torch.float64)
        spread = torch.randn(5, count, generator=generator, dtype=torch.float64).square().mean(0).sqrt()
        return cls(normal / spread / (2 * math.pi * DRAWN), value_dim)

    def power(self, length: float) -> Float[Tensor, " F"]:
        """Variance of every feature in a Matern 5/2 process of a correlation length, up to a factor."""
        density = self._density(length)
        if len(self.frequencies) > 1:  # they were drawn from a density of their own
            density = density / self._density(DRAWN)
        return torch.cat([density.max()[None], density, density]).repeat_interleave(self.value_dim)

    def _density(self, length: float) -> Float[Tensor, " H"]:
        angular = 2 * math.pi * self.frequencies.norm(dim=0)
        return (1 + (length * angular).square() / 5) ** -(2.5 + 0.5 * len(self.frequencies))

    def moments(self, some: list[Observations]) -> Moments:
        """Those of all signals."""
        parts = [self._moments(batch) for batch in some]
        squares = torch.cat([part.square for part in parts])
        if all(len(part.square) == 1 for part in parts) and bool((squares == squares[:1]).all()):
            squares = squares[:1]
        else:
            squares = torch.cat([part.square.expand(len(part.cross), -1, -1) for part in parts])
        return Moments(squares, *(torch.cat([getattr(part, name) for part in parts]) for name in ("cross", "energy", "count")))

    def _moments(self, batch: Observations) -> Moments:
        coords, values, weight = batch.coords.double(), batch.values.double(), batch.weight.double()
        shared = fourier(coords[:1], self.frequencies)[0]
        alike = len(coords) == 1 and bool((weight == weight[:1]).all())
        square: list[Tensor] = []
        cross: list[Tensor] = []
        for b, (x, w) in enumerate(zip(values, weight, strict=True)):  # all at once would not fit where curves are long
            phi = shared if len(coords) == 1 else fourier(coords[b : b + 1], self.frequencies)[0]
            weighted = (phi * w[:, None]).T
            cross.append(weighted @ x)
            if not (alike and square):
                square.append(weighted @ phi)
        energy = (values.square() * weight[..., None]).sum((1, 2))
        squares = torch.kron(torch.stack(square), torch.eye(self.value_dim, dtype=values.dtype)[None])
        return Moments(squares, torch.stack(cross).flatten(1), energy, weight.sum(1) * self.value_dim)


@dataclass(frozen=True)
class Process:
    """A stationary process of variance 1 over the points of the data, for every correlation length."""

    features: Features
    gram: Float[Tensor, "F F"]
    scale: Float[Tensor, ""]

    def covariance(self, length: float) -> Float[Tensor, "F F"]:
        """Of the coefficients."""
        variance = self.features.power(length)
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


def mixed_effects(batches: Callable[[], Iterable[Observations]], rank: int, generator: torch.Generator) -> SpectralBasis:
    """The `rank` principal functions of signals seen anywhere, with the variance of each and that of the noise."""
    some = _spread(batches)
    features = Features.of(some, generator)
    moments = features.moments(some)
    whole = moments.square.sum(0) * (len(moments.cross) / len(moments.square))
    scale = (moments.energy.sum() / moments.count.sum()).clamp(min=1e-12)
    gram = whole / moments.count.sum() * features.value_dim
    process = Process(features, gram, scale * features.value_dim)
    # the mean is what all signals together say of one function, each of them as far off as the values are large
    mean = torch.linalg.solve(whole / scale + process.smoothness, moments.cross.sum(0) / scale)
    length, start = _stationary(moments, mean, process)
    trust = TRUSTS[0]
    seen = min(int((each.weight > 0).sum(1).min()) for each in some)
    # of more than one dimension; along a line features are many and nearly dependent, and the process fills what lies between
    if len(features.frequencies) > 1 and seen >= PLENTY * len(mean):  # every signal tells its own coefficients
        return _principal(_expect_and_maximise(moments, start, trust, process, FEW_STEPS), features, gram, rank)
    if len(moments.cross) >= 2 * FOLDS:
        few = moments.spread(_choosing(moments))
        tried = [process.like(start, length * shorter) for shorter in SHORTER]
        scores = [_held_out(few, each, trust, process) for each in tried]
        start = next(each for each, score in zip(tried, scores, strict=True) if score > max(scores) - ALIKE)
        trust = max(TRUSTS, key=lambda t: _held_out(few, start, t, process))
    return _principal(_expect_and_maximise(moments, start, trust, process, STEPS), features, gram, rank)


def _choosing(moments: Moments) -> int:
    """Signals that choose: fewer where each of them has a large system of its own."""
    affordable = int(WORK / len(moments.square[0]) ** 3) if len(moments.square) > 1 else CHOOSING
    return min(CHOOSING, max(8 * FOLDS, affordable))


def _spread(batches: Callable[[], Iterable[Observations]]) -> list[Observations]:
    """At most SIGNALS of the signals of which something is known, evenly spread over all."""
    known = torch.nonzero(torch.cat([(batch.weight > 0).any(1) for batch in batches()]))[:, 0]
    wanted = known[torch.linspace(0, len(known) - 1, min(SIGNALS, len(known))).long()]
    found, first = [], 0
    for batch in batches():
        here = wanted[(wanted >= first) & (wanted < first + len(batch))] - first
        first += len(batch)
        if len(here):
            found.append(batch.rows(here))
    return found


def _stationary(moments: Moments, mean: Float[Tensor, " F"], process: Process) -> tuple[float, Effects]:
    """(length, process) of greatest likelihood around a mean, of a few dozen signals."""
    some = moments.spread(32).centred(mean)
    tried = []
    for length, share in itertools.product(LENGTHS, NOISES):
        covariance, noise = process.covariance(length), torch.tensor(share, dtype=mean.dtype)
        value, amplitude = _profiled(Effects(torch.zeros_like(mean), covariance, noise), some)
        tried.append((value, length, Effects(mean, amplitude * covariance, amplitude * noise)))
    return max(tried, key=lambda each: each[0])[1:]


def _profiled(model: Effects, moments: Moments) -> tuple[float, Tensor]:
    """(log likelihood, amplitude): the best common factor of a model's variances."""
    count, (quadratic, normaliser) = moments.count.sum(), model.terms(moments)
    amplitude = (quadratic.sum() / count).clamp(min=1e-12)
    return float(-0.5 * (normaliser.sum() + count * (1 + amplitude.log()))), amplitude


def _expect_and_maximise(moments: Moments, start: Effects, trust: float, process: Process, steps: int) -> Effects:
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


def _held_out(moments: Moments, start: Effects, trust: float, process: Process) -> float:
    """Log likelihood per value of held-out signals. The median over them: one odd curve must not choose for all."""
    fold = torch.arange(len(moments.cross)) % FOLDS
    found = []
    for k in range(FOLDS):
        held_out = moments.rows(torch.nonzero(fold == k)[:, 0])
        model = _expect_and_maximise(moments.rows(torch.nonzero(fold != k)[:, 0]), start, trust, process, FOLD_STEPS)
        found.append(model.log_likelihood(held_out) / held_out.count)
    return float(torch.cat(found).median())


def _principal(model: Effects, features: Features, gram: Float[Tensor, "F F"], rank: int) -> SpectralBasis:
    """Functions that are orthonormal over the points of the data, by falling variance; what is cut off joins the noise."""
    factor = torch.linalg.cholesky(gram + 1e-9 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype))
    values, vectors = torch.linalg.eigh(factor.T @ model.covariance @ factor)
    order = values.argsort(descending=True)[:rank]
    order = order[values[order] > DEGENERATE * values.max()]
    basis = SpectralBasis()
    basis.frequencies, basis.channels = features.frequencies.float(), torch.tensor(features.value_dim)
    basis.mean = model.mean.float()
    # the inverse of the factor times the vectors, by way of the covariance: the features are nearly dependent, and it is smooth
    basis.components = (model.covariance @ factor @ vectors[:, order] / values[order]).float()
    basis.variance = values[order].float()
    cut = (values.clamp(min=0).sum() - values[order].sum()) / features.value_dim
    basis.noise = (model.noise + cut).float()
    return basis
