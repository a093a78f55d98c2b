"""DeepSDF (Park et al. 2019) as its own scripts train and reconstruct, in plain torch: the yardstick of shape_speed.py.

Written from what github.com/facebookresearch/DeepSDF does, independent of neuralfield. Left out, because they cost it time and
change nothing: snapshots, logs of parameter norms. Files are read in the training process.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

CLAMP = 0.1
CODE_PENALTY, RAMP = 1e-4, 100
"""Weight of the norm of a code, reached after so many epochs."""
NETWORK_RATE, CODE_RATE, HALVED = 5e-4, 1e-3, 500
"""Rates of Adam, both halved every so many epochs."""


@dataclass(frozen=True)
class Form:
    """The network, and a batch of `shapes` times `samples`."""

    width: int = 128
    depth: int = 4
    latent: int = 64
    skip: int = 2
    dropout: float = 0.2
    shapes: int = 8
    samples: int = 2048


class Network(nn.Module):
    """[z, x, y, z] of every point in, distance out; the input enters again at the hidden layer `skip`, counted from 0."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        entering = form.latent + 3
        ins = [entering] + [form.width] * (form.depth - 1)
        outs = [form.width - entering if layer + 1 == form.skip else form.width for layer in range(form.depth)]
        self.hidden = nn.ModuleList(weight_norm(nn.Linear(i, o)) for i, o in zip(ins, outs, strict=True))
        self.out = nn.Linear(form.width, 1)
        self.skip, self.dropout = form.skip, nn.Dropout(form.dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        h = inputs
        for layer, linear in enumerate(self.hidden):
            if layer == self.skip:
                h = torch.cat([h, inputs], 1)
            h = torch.relu(linear(h))
            if self.dropout.p:
                h = self.dropout(h)
        return torch.tanh(self.out(h))


class Training:
    """Network, codes and Adam; `seconds` of CPU are those spent in `until`."""

    def __init__(self, count: int, form: Form, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.form, self.seconds, self.epochs, self.steps = form, 0.0, 0, 0
        self.network = Network(form)
        self.codes = nn.Embedding(count, form.latent, max_norm=1.0)
        nn.init.normal_(self.codes.weight, 0.0, form.latent**-0.5)
        groups = [{"params": part.parameters(), "lr": 0.0} for part in (self.network, self.codes)]
        self.adam = torch.optim.Adam(groups)

    def step(self, samples: Tensor, shapes: Tensor) -> float:
        """On `samples` [B, S, 4] of the shapes [B]."""
        for group, rate in zip(self.adam.param_groups, (NETWORK_RATE, CODE_RATE), strict=True):
            group["lr"] = rate * 0.5 ** (self.epochs // HALVED)
        points = samples.reshape(-1, 4)
        wanted = points[:, 3:].clamp(-CLAMP, CLAMP)
        self.adam.zero_grad()
        codes = self.codes(shapes[:, None].expand(-1, samples.shape[1]).reshape(-1))
        found = self.network(torch.cat([codes, points[:, :3]], 1)).clamp(-CLAMP, CLAMP)
        penalty = CODE_PENALTY * min(1.0, (self.epochs + 1) / RAMP) * codes.norm(dim=1).sum()
        loss = ((found - wanted).abs().sum() + penalty) / len(points)
        loss.backward()
        self.adam.step()
        self.steps += 1
        return loss.item()

    def until(self, marks: Sequence[float], files: list[Path]) -> Iterator[float]:
        """Train, and yield each of the CPU seconds `marks` when it is reached. What the caller does then is not counted."""
        waiting, form = list(marks), self.form
        while waiting:
            began = time.process_time()
            self.network.train()
            # the rest of an epoch that does not fill a batch is dropped, as its loader does; fewer shapes than a batch are one
            for batch in torch.randperm(len(files)).split(min(form.shapes, len(files))):
                if len(batch) < min(form.shapes, len(files)):
                    continue
                samples = torch.stack([read_samples(files[i], form.samples) for i in batch.tolist()])
                self.step(samples, batch)
                now = time.process_time()
                self.seconds, began = self.seconds + now - began, now
                while waiting and self.seconds >= waiting[0]:
                    yield waiting.pop(0)
                    self.network.train()
                    began = time.process_time()
                if not waiting:
                    return
            self.epochs += 1

    @torch.no_grad()
    def distances(self, shape: int, coords: Tensor) -> Tensor:
        """[N] at `coords` [N, 3], by the network as it is used after training."""
        self.network.eval()
        code = self.codes.weight[shape].expand(len(coords), -1)
        return self.network(torch.cat([code, coords], 1))[:, 0]


def write_samples(file: Path, samples: np.ndarray) -> None:
    """`samples` [N, 4] as DeepSDF's preprocessing leaves them: outside `pos`, inside `neg`."""
    inside = samples[:, 3] < 0
    np.savez(file, pos=samples[~inside].astype(np.float32), neg=samples[inside].astype(np.float32))


def read_samples(file: Path, count: int) -> Tensor:
    """[count, 4]: half outside, half inside, drawn from the whole file, which is read for it."""
    with np.load(file) as held:
        sides = [torch.from_numpy(held[side]) for side in ("pos", "neg")]
    return torch.cat([side[(torch.rand(count // 2) * len(side)).long()] for side in sides])


Decode = Callable[[Tensor, Tensor], Tensor]
"""(code [1, D], coords [N, 3]) -> distances [N]."""


def reconstruct(
    decode: Decode,
    samples: Tensor,
    latent: int,
    steps: int = 800,
    count: int = 8000,
    rate: float = 5e-3,
    empty: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """The code [1, latent] of one shape of which `samples` [N, 4] are known: half of a step's samples outside, half inside.

    Points `empty` [M, 3] are known to be outside: distances below 0 cost their size (the paper's section 6.3, of depth maps).
    It begins at `start` [1, latent], by default where DeepSDF does, at N(0, .01^2). Weights that need no gradient get none here,
    which DeepSDF's own script computes and throws away.
    """
    shuffled = samples[torch.randperm(len(samples))]
    sides = [side for side in (shuffled[shuffled[:, 3] >= 0], shuffled[shuffled[:, 3] < 0]) if len(side)]
    code = (0.01 * torch.randn(1, latent) if start is None else start.detach().clone()).requires_grad_()
    adam = torch.optim.Adam([code], lr=rate)
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate * 0.1 ** (step // (steps // 2))
        drawn = torch.cat([_slice(side, count // len(sides)) for side in sides])
        adam.zero_grad()
        found = decode(code, drawn[:, :3]).clamp(-CLAMP, CLAMP)
        loss = (found - drawn[:, 3].clamp(-CLAMP, CLAMP)).abs().mean() + 1e-4 * code.square().mean()
        if empty is not None and len(empty):
            some = empty[(torch.rand(count // 2) * len(empty)).long()]
            loss = loss + decode(code, some).clamp(-CLAMP, 0).abs().mean()
        loss.backward()
        adam.step()
    return code.detach()


def _slice(side: Tensor, count: int) -> Tensor:
    """A piece of the shuffled samples; with replacement where there are too few."""
    if len(side) <= count:
        return side[(torch.rand(count) * len(side)).long()]
    first = int(torch.randint(0, len(side) - count + 1, ()))
    return side[first : first + count]
