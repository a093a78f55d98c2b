"""Paths between codes: straight, on the sphere, along the density of the bank's codes, or over its nearest neighbours."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components, dijkstra
from torch import Tensor

from neuralfield.errors import UsageError
from neuralfield.explore.sampling import allowed, bank_codes, density_of
from neuralfield.latents.priors import Prior
from neuralfield.registry import resolve
from neuralfield.run import Run
from neuralfield.types import Latent, spread

PATH = "density"
"""The path where nobody asks for another."""
STRIDE, STRIDES = 0.2, 100
"""Of the way to where EM would go, what one step of a density path makes; and steps at most."""
LOOKED_AT = 2_000
"""Codes whose median density is the typical one, at most."""
HALVINGS = 20
"""Of the last step, so that a point stops where the density is as high as it must be: within a millionth of a step."""
NODES, NEIGHBOURS = 20_000, 10
"""Codes that a graph joins at most, and how many of its nearest each is joined to."""


class Path(ABC):
    """How to go from one code to another. `codes` [n, D] are those of the bank."""

    def __init__(self, codes: Float[Tensor, "n D"]) -> None:
        self.codes = codes

    @abstractmethod
    def between(
        self, start: Float[Tensor, "B D"], end: Float[Tensor, "B D"], shares: Float[Tensor, " S"]
    ) -> Float[Tensor, "S B D"]:
        """Codes at `shares` of the way, from 0, where the start lies exactly, to 1, the end."""


class Linear(Path):
    """The straight line."""

    def between(self, start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
        return torch.lerp(start, end, shares[:, None, None].to(start))


class Spherical(Path):
    """The great circle around 0, while the norm goes evenly from one to the other (Shoemake 1985); a line where none is defined."""

    def between(self, start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
        t = shares[:, None, None].to(start)
        from_norm, to_norm = (z.norm(dim=1, keepdim=True).clamp(min=1e-12) for z in (start, end))
        a, b = start / from_norm, end / to_norm
        angle = torch.arccos((a * b).sum(1, keepdim=True).clamp(-1, 1))
        direction = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / angle.sin()
        straight = torch.lerp(start, end, t)
        # parallel, or opposite, or one of them 0: below this, float32 does not know the angle
        ill = (angle.sin() < 1e-3) | (from_norm < 1e-9) | (to_norm < 1e-9)
        on_sphere = torch.where(ill, straight, direction * torch.lerp(from_norm, to_norm, t))
        return torch.where((t == 0) | (t == 1), straight, on_sphere)  # its ends are exact


class Density(Path):
    """The straight line, each point of it moved uphill until it is as likely as a typical code of the bank.

    Points between two signals may be unlike all signals. Here -log p(z) goes down, by short steps of EM, until it is that of
    the bank's median code, and no farther, so that nothing becomes a copy of the likeliest signals. An end that is less likely
    stays; what it is above the median is allowed of the points near it, and of none in the middle. So the density is nowhere
    below that of the line, and a line that is likely enough, as any is between typical codes of a single Gaussian, is the path.
    `density` is a mixture fitted to `codes` by default.
    """

    def __init__(self, codes: Float[Tensor, "n D"], density: Prior | None = None) -> None:
        super().__init__(codes)
        self.density = density or density_of(codes)
        self.typical = float(self.density.cost(Latent(codes[spread(len(codes), LOOKED_AT)])).median())

    def between(self, start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
        line = torch.lerp(start, end, shares[:, None, None].to(start))
        first, last = ((self.density.cost(Latent(z)) - self.typical).clamp(min=0) for z in (start, end))
        t = shares[:, None].to(start)
        allowed = self.typical + first * (1 - 2 * t).clamp(min=0) + last * (2 * t - 1).clamp(min=0)
        inner = ((shares > 0) & (shares < 1))[:, None, None]
        uphill = torch.stack([self._uphill(z, most) for z, most in zip(line, allowed, strict=True)])
        return torch.where(inner, uphill, line)

    def _uphill(self, z: Float[Tensor, "B D"], allowed: Float[Tensor, " B"]) -> Float[Tensor, "B D"]:
        z = z.clone()
        for _ in range(STRIDES):
            far = (self.density.cost(Latent(z)) > allowed).nonzero()[:, 0]
            if not len(far):
                break
            before = z[far]
            after = before + STRIDE * self._ascent(before)
            z[far] = self._first_likely(before, after, allowed[far])
        return z

    def _ascent(self, z: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The step of EM: to the minimum of the quadratic bound on -log p that touches it here."""
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.density.cost(Latent(at)).sum(), at)
        curvature = self.density.curvature(Latent(z))
        ridge = 1e-6 * curvature.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(z.shape[1]).to(curvature)
        return -torch.linalg.solve(curvature + ridge, slope.double()[..., None])[..., 0].to(z)

    def _first_likely(
        self, before: Float[Tensor, "B D"], after: Float[Tensor, "B D"], allowed: Float[Tensor, " B"]
    ) -> Float[Tensor, "B D"]:
        """Where the way from `before` to `after` becomes likely enough; `after`, where it does not."""
        low, high = torch.zeros_like(allowed), torch.ones_like(allowed)
        if bool((self.density.cost(Latent(after)) > allowed).all()):
            return after
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            likely = self.density.cost(Latent(torch.lerp(before, after, middle[:, None]))) <= allowed
            low, high = torch.where(likely, low, middle), torch.where(likely, middle, high)
        return torch.lerp(before, after, high[:, None])


class Graph(Path):
    """The shortest way over the bank's codes, each joined to its nearest, where a hop costs its squared length: many short ones.

    Between the codes it goes straight, evenly in length. It keeps to what was seen, so its points are nearly copies of signals.
    """

    def __init__(self, codes: Float[Tensor, "n D"]) -> None:
        super().__init__(codes[spread(len(codes), NODES)])

    def between(self, start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
        nodes, graph = self._joined(torch.cat([start, end]))
        first = len(nodes) - 2 * len(start)
        paths = []
        for b in range(len(start)):
            rows = _shortest(graph, first + b, first + len(start) + b)
            paths.append(_evenly(nodes[rows], shares.to(nodes)))
        return torch.stack(paths, 1).to(start)

    def _joined(self, ends: Float[Tensor, "E D"]) -> tuple[Float[Tensor, "m D"], csr_matrix]:
        """(nodes, squared lengths of the edges), connected; the ends are nodes too, the last ones."""
        nodes, count = torch.cat([self.codes.to(ends), ends]), NEIGHBOURS
        while True:
            graph = _neighbour_graph(nodes, min(count, len(nodes) - 1))
            if count >= len(nodes) - 1 or connected_components(graph, directed=False)[0] == 1:
                return nodes, graph
            count *= 2


def _neighbour_graph(nodes: Float[Tensor, "m D"], count: int) -> csr_matrix:
    rows, columns, lengths = [], [], []
    for some in torch.arange(len(nodes)).split(1024):
        squares, near = torch.cdist(nodes[some], nodes).square().topk(count + 1, largest=False)
        rows.append(some[:, None].expand_as(near).flatten())
        columns.append(near.flatten())
        lengths.append(squares.flatten())
    # an edge of length 0, between equal codes, would be none to scipy
    weights = torch.cat(lengths).double().clamp(min=1e-12).numpy()
    return coo_matrix((weights, (torch.cat(rows).numpy(), torch.cat(columns).numpy())), shape=(len(nodes),) * 2).tocsr()


def _shortest(graph: csr_matrix, start: int, end: int) -> list[int]:
    before = dijkstra(graph, directed=False, indices=start, return_predecessors=True)[1]
    path = [end]
    while path[-1] != start:
        path.append(int(before[path[-1]]))
    return path[::-1]


def _evenly(nodes: Float[Tensor, "m D"], shares: Float[Tensor, " S"]) -> Float[Tensor, "S D"]:
    """Points at shares of the length of the way along the nodes."""
    along = np.concatenate([[0.0], nodes.diff(dim=0).norm(dim=1).double().cumsum(0).numpy()])
    place = np.interp(shares.numpy() * along[-1], along, np.arange(len(nodes)))
    left = torch.from_numpy(np.clip(np.floor(place), 0, max(0, len(nodes) - 2)).astype(np.int64))
    right = (left + 1).clamp(max=len(nodes) - 1)
    return torch.lerp(nodes[left], nodes[right], (torch.from_numpy(place) - left).to(nodes)[:, None])


def path_of(run: Run, kind: str = PATH) -> Path:
    """The path of that name over the bank of a run."""
    path: Path = resolve("paths", kind)(bank_codes(run))
    return path


def interpolate(run: Run, start: int, end: int, path: str | Path = PATH, steps: int = 9) -> Float[Tensor, "steps D"]:
    """Codes from one signal of the bank to another, both included, evenly in the share of the way."""
    if steps < 2:
        raise UsageError(f"a path has at least 2 steps, its ends, got {steps}")
    for row in (start, end):
        if not 0 <= row < len(run.ids):
            raise UsageError(f"there is no signal {row}; say a number from 0 to {len(run.ids) - 1}")
    way = path_of(run, path) if isinstance(path, str) else path
    ends = run.model.source.rows(torch.tensor([start, end])).cpu()
    return allowed(run, way.between(ends[:1], ends[1:], torch.linspace(0, 1, steps))[:, 0])
