"""Small data and small recipes that tests share."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch import distributions as d

import neuralfield as nf
from neuralfield.decoders.decoder import Decoder
from neuralfield.latents.basis import SpectralBasis
from neuralfield.latents.priors import Components, Prior
from neuralfield.signals.shapes import Sampled, Shapes
from neuralfield.types import Field, Latent

TINY = [
    "latents.code_dim=4",
    "decoder.kind=modulated",
    "decoder.width=8",
    "decoder.depth=2",
    "decoder.frequencies=4",
    "likelihood.std=0.1",
    "training.batch=8",
    "training.warmup=0.1",
    "training.polish=3",
    "inference.kind=adam",
    "inference.steps=10",
]
"""Settings that turn the recipe `image` into one that fits in a fraction of a second."""


def blobs(count: int, height: int = 8, width: int = 8, channels: int = 1, seed: int = 0) -> Tensor:
    """Images [n, h, w, c] in [0, 1], each one smooth bump at its own place: low-dimensional, as real signals are."""
    draw = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    centre = draw.uniform(-0.6, 0.6, (2, count, 1, 1, channels))
    spread = draw.uniform(0.2, 0.5, (count, 1, 1, channels))
    distance = (x[..., None] - centre[0]) ** 2 + (y[..., None] - centre[1]) ** 2
    return torch.from_numpy(np.exp(-distance / spread).astype(np.float32))


def images(count: int = 24, height: int = 8, width: int = 8, channels: int = 1, seed: int = 0, labelled: bool = True) -> nf.Images:
    """`blobs` as a data set."""
    labels = torch.arange(count) % 3 if labelled else None
    return nf.Images(blobs(count, height, width, channels, seed), [f"blob-{i}" for i in range(count)], labels)


def write_npz(path: Path) -> Path:
    """24 training and 12 test images, 8x8, with labels, as a source that a command can name."""
    arrays = {
        f"{name}_{split}": array
        for split, count, seed in (("train", 24, 0), ("test", 12, 1))
        for name, array in (
            ("images", (blobs(count, seed=seed)[..., 0] * 255).round().to(torch.uint8).numpy()),
            ("labels", np.arange(count) % 3),
        )
    }
    np.savez(path, allow_pickle=False, **arrays)
    return path


def waves(count: int = 24, points: int = 20, channels: int = 1, own: bool = True, seed: int = 0, noise: float = 0.05) -> nf.Curves:
    """Smooth curves over [10, 30], sums of three sines with normal coefficients: seen at 3 `own` times or more, or on one grid."""
    draw = np.random.default_rng(seed)
    curves = []
    for i in range(count):
        length = points - (i * 7) % max(1, points - 3) if own else points
        t = np.sort(draw.uniform(10, 30, length)) if own else np.linspace(10, 30, points)
        functions = np.stack([np.sin(t / 4), np.cos(t / 3), np.sin(t / 7)], 1)
        x = 50 + 8 * functions @ draw.standard_normal((3, channels)) + 8 * noise * draw.standard_normal((length, channels))
        curves.append((t, x))
    names = [f"channel-{v}" for v in range(channels)] if channels > 1 else None
    return nf.Curves.from_list(curves, [f"wave-{i}" for i in range(count)], np.arange(count) % 3, names, over=(10.0, 30.0))


def fourier_basis(coord_dim: int, value_dim: int, rank: int, frequencies: int = 3) -> SpectralBasis:
    """A linear model made up at random, whose functions are sums of a few Fourier features of slow frequencies."""
    draw = torch.Generator().manual_seed(7)
    basis = SpectralBasis()
    basis.frequencies = torch.rand(coord_dim, frequencies, generator=draw)
    atoms = (1 + 2 * frequencies) * value_dim
    basis.mean, basis.components = torch.randn(atoms, generator=draw), torch.randn(atoms, rank, generator=draw)
    basis.variance, basis.noise = torch.linspace(2.0, 0.5, rank), torch.tensor(0.01)
    basis.channels = torch.tensor(value_dim)
    return basis


class Linear(Decoder):
    """f(z, t) = z . basis(t) with fixed cosines as basis: the one decoder whose optimal codes are known in closed form."""

    linear_in_code = True

    def __init__(self, code_dim: int = 3, value_dim: int = 1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(code_dim, value_dim, generator=torch.Generator().manual_seed(0)))
        self.register_buffer("frequency", torch.arange(1.0, code_dim + 1))

    def condition(self, z: Tensor) -> Tensor:
        return z

    def basis(self, coords: Tensor) -> Tensor:
        """[G, N, D]"""
        return torch.cos(coords.sum(-1, keepdim=True) * self.frequency + self.frequency)

    def evaluate(self, conditioning: Tensor, coords: Tensor) -> Tensor:
        return (conditioning[:, None] * self.basis(coords)) @ self.weight


class Unlike(Prior):
    """A mixture whose components differ in place, width, direction and weight: kinds of signals, each with its own scatter."""

    log_weights: Tensor
    means: Tensor
    covariance: Tensor

    def __init__(self, count: int = 5) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(6)
        self.register_buffer("log_weights", torch.log_softmax(torch.randn(count, generator=draw), 0))
        self.register_buffer("means", torch.randn(count, 3, generator=draw))
        factor = 0.5 * torch.randn(count, 3, 3, generator=draw) + 0.2 * torch.eye(3)
        self.register_buffer("covariance", factor @ factor.mT + 0.05 * torch.eye(3))

    def cost(self, latent: Latent) -> Tensor:
        normals = d.MultivariateNormal(self.means, self.covariance)
        return -torch.logsumexp(self.log_weights + normals.log_prob(latent.mean[:, None]), 1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        which = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        noise = torch.randn(n, 3, 1, generator=generator)
        return self.means[which] + (torch.linalg.cholesky(self.covariance)[which] @ noise)[..., 0]

    def fit(self, codes: Tensor, known: object = None) -> "Unlike":
        return self

    def components(self) -> Components:
        return Components(self.log_weights, self.means, self.covariance)


class Counting(Decoder):
    """Another decoder, with a count of the points that it was evaluated at: forward 1, backward 2."""

    def __init__(self, inner: Decoder) -> None:
        super().__init__()
        self.inner, self.work, self.linear_in_code = inner, 0, inner.linear_in_code

    def condition(self, z: Tensor) -> object:
        return self.inner.condition(z)

    def evaluate(self, conditioning: object, coords: Tensor) -> Tensor:
        values = self.inner.evaluate(conditioning, coords)
        points = values.shape[0] * values.shape[1]
        self.work += points
        if values.requires_grad:
            values.register_hook(lambda gradient: self._add(2 * points))
        return values

    def _add(self, points: int) -> None:
        self.work += points


def balls(count: int = 6, dims: int = 3, even: int = 300, surface: int = 200, near: int = 200, normals: bool = True) -> Shapes:
    """Spheres (circles, of two dimensions) around 0, each of its own radius, with their exact distances."""
    samples = []
    for i in range(count):
        draw, radius = np.random.default_rng(i), 0.45 + 0.06 * i
        direction = draw.standard_normal((surface + near, dims))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        off = direction[surface:] * (radius + 0.05 * draw.standard_normal((near, 1)))
        points = np.concatenate([draw.uniform(-1, 1, (even, dims)), radius * direction[:surface], off]).clip(-1, 1)
        distance = np.linalg.norm(points, axis=1, keepdims=True) - radius
        distance[even : even + surface] = 0
        both = np.concatenate([points, distance], 1).astype(np.float32)
        samples.append(Sampled(both, direction[:surface].astype(np.float32) if normals else None))
    return Shapes(samples, [f"ball-{i}" for i in range(count)], even=even)


class Ball(Decoder):
    """The distance to a sphere: codes are its centre and its radius, both in tenths, around 0 and 0.5."""

    def __init__(self, dims: int = 3) -> None:
        super().__init__()
        self.unit = torch.nn.Parameter(torch.tensor(0.1))
        self.dims = dims

    def condition(self, z: Tensor) -> Tensor:
        return self.unit * z

    def evaluate(self, conditioning: Tensor, coords: Tensor) -> Tensor:
        away = coords - conditioning[:, None, : self.dims]
        # rounded by a hair at the centre, where a distance has no derivative
        return (away.square().sum(-1, keepdim=True) + 1e-12).sqrt() - (0.5 + conditioning[:, None, -1:])


def sphere(radius: float = 0.7, dims: int = 3, factor: float = 1.0) -> Field:
    """The distance to one sphere around 0, or so many times as much."""
    return spheres(torch.tensor([radius]), dims, factor)


def spheres(radii: Tensor, dims: int = 3, factor: float = 1.0) -> Field:
    """Several, one for each radius."""
    return Field(lambda r, t: factor * (t.norm(dim=-1, keepdim=True) - r[:, None, None]), radii, coord_dim=dims)
