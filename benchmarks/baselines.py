"""What statisticians would do with partly seen curves: the methods that function_quality.py compares with.

All of them see the same standardised values at the same points as ours.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

import neuralfield as nf

RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
FOLDS = 5


@dataclass(frozen=True)
class Prediction:
    """Means [n, T] and, where a method has them, standard deviations of the values, noise included."""

    mean: np.ndarray
    std: np.ndarray | None = None


@dataclass(frozen=True)
class Curves:
    """Curves on the union `t` [T] of their times in [-1, 1]: `values` [n, T], what is `seen` and what is `hidden`."""

    t: np.ndarray
    values: np.ndarray
    seen: np.ndarray
    hidden: np.ndarray

    @classmethod
    def of(cls, signals: nf.Signals, visibility: nf.Visibility, domain: nf.Domain) -> Self:
        """From signals of a run, by the same masks that the run meets."""
        truth = signals.truth(torch.arange(len(signals)))
        seen = (visibility(truth, domain) & (truth.weight > 0)).numpy()
        coords = truth.coords.expand(len(truth), -1, -1)[..., 0].double().numpy()
        known = truth.weight.numpy() > 0
        t = np.unique(coords[known])
        rows, columns = np.nonzero(known)[0], np.searchsorted(t, coords[known])
        held = [np.zeros((len(truth), len(t))) for _ in range(3)]
        for array, of in zip(held, (truth.values[..., 0].numpy(), seen, known & ~seen), strict=True):
            array[rows, columns] = of[known]
        return cls(t, held[0], held[1] > 0, held[2] > 0)

    @property
    def shared(self) -> bool:
        """Whether every curve is known at every time."""
        return bool((self.seen | self.hidden).all())

    def scores(self, prediction: Prediction) -> "Scores":
        """Of the hidden points, means over the curves that have some."""
        each = [self._score(prediction, i) for i in range(len(self.values)) if self.hidden[i].any()]
        return Scores(*np.mean(each, 0)) if prediction.std is not None else Scores(float(np.mean([e[0] for e in each])), None, None)

    def _score(self, prediction: Prediction, i: int) -> tuple[float, float, float]:
        error = (prediction.mean[i] - self.values[i])[self.hidden[i]]
        rmse = float(np.sqrt(np.mean(error**2)))
        if prediction.std is None:
            return rmse, math.nan, math.nan
        std = prediction.std[i][self.hidden[i]]
        z = np.abs(error) / std
        density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
        inside = np.vectorize(math.erf)(z / math.sqrt(2))
        crps = std * (z * inside + 2 * density - 1 / math.sqrt(math.pi))  # Gneiting and Raftery 2007, eq. 5 of a normal
        return rmse, float(crps.mean()), float((z <= 1.6448536).mean())


@dataclass(frozen=True)
class Scores:
    """nrmse, CRPS in standard deviations, coverage of 90 % bands."""

    nrmse: float
    crps: float | None
    coverage: float | None

    def band(self) -> str:
        """The two of the band, as a table shows them."""
        return "no band" if self.crps is None or self.coverage is None else f"{self.crps:.3f}, {self.coverage:.0%}"


def mean_curve(known: Curves, test: Curves) -> Prediction:
    """Mean and standard deviation of the training curves at every time, interpolated where none was known."""
    have = known.seen.any(0)
    counts = known.seen.sum(0)[have]
    mean = (known.values * known.seen).sum(0)[have] / counts
    spread = np.sqrt((((known.values[:, have] - mean) ** 2) * known.seen[:, have]).sum(0) / counts)
    rows = [np.interp(test.t, known.t[have], row) for row in (mean, np.maximum(spread, 1e-3))]
    return Prediction(*(np.tile(row, (len(test.values), 1)) for row in rows))


def conditional(known: Curves, test: Curves, mask: str) -> Prediction:
    """Probabilistic PCA of the training curves given what was seen; its rank by cross-validation on the same kind of mask."""
    fold = np.random.default_rng(0).permutation(len(known.values)) % FOLDS
    seen = _masked(known, mask)
    ranks = [rank for rank in RANKS if rank < 0.8 * len(known.values)]

    def error(rank: int) -> float:
        found = []
        for k in range(FOLDS):
            part = Curves(known.t, known.values[fold == k], seen[fold == k], ~seen[fold == k])
            found.append(part.scores(_conditioned(_pca(known.values[fold != k], rank), part)).nrmse)
        return float(np.mean(found))

    return _conditioned(_pca(known.values, min(ranks, key=error)), test)


def _masked(known: Curves, mask: str) -> np.ndarray:
    count = max(1, round(len(known.t) / 2))
    order = np.arange(len(known.t)) if mask.startswith("first") else None
    draw = np.random.default_rng(1)
    seen = np.zeros(known.values.shape, bool)
    for row in seen:
        row[(draw.permutation(len(known.t)) if order is None else order)[:count]] = True
    return seen


def _pca(x: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    mean = x.mean(0)
    _, s, v = np.linalg.svd(x - mean, full_matrices=False)
    variance = s**2 / len(x)
    rank = min(rank, len(x) - 1)
    noise = max(variance[rank:].sum() / max(x.shape[1] - rank, 1), 1e-6 * variance.sum() / x.shape[1])
    return mean, v[:rank], variance[:rank], float(noise)


def _conditioned(model: tuple[np.ndarray, np.ndarray, np.ndarray, float], test: Curves) -> Prediction:
    mean, v, variance, noise = model
    means, stds = [], []
    for x, s in zip(test.values, test.seen, strict=True):
        covariance = np.linalg.inv(v[:, s] @ v[:, s].T / noise + np.diag(1 / variance))
        means.append(mean + v.T @ (covariance @ (v[:, s] @ (x[s] - mean[s]))) / noise)
        stds.append(np.sqrt(np.einsum("rt,rs,st->t", v, covariance, v) + noise))
    return Prediction(np.array(means), np.array(stds))


def gaussian_process(test: Curves) -> Prediction:
    """One process for each curve, fitted to its own seen points by scikit-learn."""
    means, stds = [], []
    for x, s in zip(test.values, test.seen, strict=True):
        kernel = ConstantKernel(1.0) * RBF(0.3, (1e-2, 1e1)) + WhiteKernel(1e-2, (1e-6, 1e1))
        process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=1, random_state=0)
        mean, std = process.fit(test.t[s, None], x[s]).predict(test.t[:, None], return_std=True)
        means.append(mean)
        stds.append(np.maximum(std, 1e-6))
    return Prediction(np.array(means), np.array(stds))


def interpolation(test: Curves) -> Prediction:
    """Straight lines between the seen points, flat beyond them."""
    return Prediction(np.array([np.interp(test.t, test.t[s], x[s]) for x, s in zip(test.values, test.seen, strict=True)]))
