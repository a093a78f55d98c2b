"""The same paths as the published codes do them, in plain torch, independent of neuralfield's parts.

DeepSDF: deepsdf_reference.py. functa (Dupont et al. 2022): a SIREN whose layers are shifted by one linear map of the code, batches
as one tensor. The function autodecoder ("What is autodecoder?", 2024): minibatches of single samples, the code joined to t.
"""

import torch
from deepsdf_reference import Form, Network, Training
from torch import Tensor, nn
from turns import KEPT, Step

from neuralfield.kernels.memory import freed_memory_kept

FORMS = {"DeepSDF 8x512": Form(512, 8, 256, 4), "DeepSDF 4x128": Form(128, 4, 64, 2)}
W0 = 30.0
SEARCHED, AT_ONCE = 8000, 32**3
"""Samples of a step of DeepSDF's reconstruction, and points of a piece of its grid."""


def deepsdf_train(case: str) -> Step:
    form = FORMS[case]
    random = torch.Generator().manual_seed(0)
    points = torch.rand(form.shapes, form.samples, 4, generator=random) * 2 - 1
    training, shapes = Training(1000, form), torch.arange(form.shapes)
    return lambda: training.step(points, shapes)


def deepsdf_kept(case: str) -> Step:
    """The train step of a process that keeps freed memory, as ours do: most of what its dropout takes goes there and back."""
    KEPT.enter_context(freed_memory_kept())
    return deepsdf_train(case)


def deepsdf_latents(case: str) -> Step:
    """An iteration of its reconstruct.py: one shape; gradients of the weights are computed too, and thrown away."""
    form = FORMS[case]
    network = Network(form).eval()
    code = (0.01 * torch.randn(1, form.latent)).requires_grad_()
    adam = torch.optim.Adam([code], lr=5e-3)
    points = torch.rand(SEARCHED, 4) * 2 - 1

    def step() -> None:
        adam.zero_grad()
        found = network(torch.cat([code.expand(len(points), -1), points[:, :3]], 1)).clamp(-0.1, 0.1)
        loss = (found - points[:, 3:].clamp(-0.1, 0.1)).abs().mean() + 1e-4 * code.square().mean()
        loss.backward()
        adam.step()

    return step


def deepsdf_decode(case: str, points: int) -> Step:
    network = Network(FORMS[case]).eval()
    code, coords = torch.zeros(1, FORMS[case].latent), torch.rand(points, 3) * 2 - 1

    @torch.no_grad()
    def step() -> list[Tensor]:
        return [network(torch.cat([code.expand(len(part), -1), part], 1)) for part in coords.split(AT_ONCE)]

    return step


class Siren(nn.Module):
    """Sines of frequency w0 throughout; shifts by one linear map."""

    def __init__(self, coord_dim: int, value_dim: int, latent: int, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(coord_dim if layer == 0 else width, width) for layer in range(depth))
        self.out, self.shifts = nn.Linear(width, value_dim), nn.Linear(latent, width * depth)

    def forward(self, codes: Tensor, coords: Tensor) -> Tensor:
        h = coords
        for layer, shift in zip(self.layers, self.shifts(codes).chunk(len(self.layers), 1), strict=True):
            h = torch.sin(W0 * (layer(h) + shift[:, None]))
        return self.out(h)


def functa_train(case: str) -> Step:
    return _functa(moving=True)


def functa_latents(case: str) -> Step:
    return _functa(moving=False)


def _functa(moving: bool, signals: int = 16, points: int = 1024) -> Step:
    """Squared errors of a batch of images; codes in a table that Adam moves as a whole."""
    network, codes = Siren(2, 3, 128, 256, 5).requires_grad_(moving), nn.Embedding(1000, 128)
    adam = torch.optim.Adam([*codes.parameters(), *(network.parameters() if moving else ())], lr=1e-4)
    coords, values, index = torch.rand(points, 2) * 2 - 1, torch.rand(signals, points, 3), torch.arange(signals)

    def step() -> None:
        adam.zero_grad()
        (network(codes(index), coords.expand(signals, -1, -1)) - values).square().mean().backward()
        adam.step()

    return step


def functa_decode(case: str, points: int) -> Step:
    network, coords = Siren(2, 3, 128, 256, 5), torch.rand(1, points, 2) * 2 - 1
    return torch.no_grad()(lambda: network(torch.zeros(1, 128), coords))


def function_train(case: str) -> Step:
    return _function(moving=True)


def function_latents(case: str) -> Step:
    return _function(moving=False)


def _function(moving: bool, samples: int = 256 * 30) -> Step:
    """Squared errors of single samples, each with its signal's code, + |z|^2 / sigma^2."""
    network = _joined().requires_grad_(moving)
    codes = nn.Embedding(1000, 8)
    adam = torch.optim.Adam([*codes.parameters(), *(network.parameters() if moving else ())], lr=1e-3)
    index, t, x = torch.randint(0, 1000, (samples,)), torch.rand(samples, 1), torch.rand(samples, 1)

    def step() -> None:
        adam.zero_grad()
        z = codes(index)
        ((network(torch.cat([z, t], 1)) - x).square().mean() + z.square().sum(1).mean() / 25).backward()
        adam.step()

    return step


def function_decode(case: str, points: int) -> Step:
    network, t = _joined(), torch.rand(points, 1)
    return torch.no_grad()(lambda: network(torch.cat([torch.zeros(points, 8), t], 1)))


def _joined() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))


KINDS = {"DeepSDF 8x512": "deepsdf", "DeepSDF 4x128": "deepsdf", "SIREN 5x256": "functa", "functions 3x64": "function"}
"""Whose code each network's reference is."""
