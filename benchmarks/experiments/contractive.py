"""The contractive autoencoder: codes that change less with what is observed."""

import torch
from torch import Tensor

import neuralfield as nf
from experiments.figures import digits, plots
from experiments.fits import fitted
from experiments.laboratory import Laboratory, decoded, labels_of, pixels, psnr
from experiments.pages import Claim, Page
from neuralfield.errors import NeuralfieldError
from neuralfield.explore.neighbours import knn_accuracy
from neuralfield.latents.encoder import Encoder
from neuralfield.latents.penalties import Contractive
from neuralfield.seeds import generator
from neuralfield.signals.corruptions import Noise

FITS = ("contractive-none", "contractive")
TITLES = ("no penalty", "contractive")
JUDGED = 200
"""New images whose Jacobians are taken."""
NOISE = 0.1
DRAWS = 400
"""Of Hutchinson's estimate."""


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "contractive")
    runs = {title: fitted(laboratory, name) for title, name in zip(TITLES, FITS, strict=True)}
    facts = {title: _facts(run, laboratory) for title, run in runs.items()}
    head = (
        "penalty",
        "|J|, relative to the codes' spread",
        "moved by noise of 0.1, relative",
        "new images, dB",
        "kNN of new codes",
    )
    page.table("facts", head, [(t, *(f"{v:.3f}" for v in each)) for t, each in facts.items()])
    exact, estimate = _formulas()
    refusal = _refusal()
    page.claims(
        [
            Claim("the penalty equals autograd's Jacobian to 1e-10", f"{exact:.1g} relative, float64", exact <= 1e-10),
            Claim("Hutchinson's estimate is within 3 standard errors", f"{estimate:.2f} of them ({DRAWS} draws)", estimate <= 3),
            Claim("refused for a bank", refusal, bool(refusal)),
            Claim("codes move less with noise on the image", _ratio(facts), facts["contractive"][1] < facts["no penalty"][1]),
        ]
    )
    less = facts["no penalty"][1] / facts["contractive"][1]
    page.result(f"Noise on an image moves its code {less:.1f} times less than without the penalty.")
    page.figure("singular", _singular(runs, laboratory))
    page.figure("digits", digits(_rows(runs, laboratory)))
    page.close(laboratory.about)


def _facts(run: nf.Run, laboratory: Laboratory) -> tuple[float, float, float, float]:
    """Size of the Jacobian, movement under noise, PSNR and neighbours of new images; lengths relative to the codes' spread."""
    new = laboratory.new.batch(torch.arange(len(laboratory.new)))
    codes = run.infer(new).latent.mean
    spread = codes.var(0).sum().sqrt()
    moved = run.infer(Noise(NOISE)(new, generator(0))).latent.mean - codes
    size = _jacobians(run, laboratory).square().sum((1, 2)).mean().sqrt()
    score = psnr(decoded(run, codes), pixels(laboratory.new)).mean().item()
    accuracy = knn_accuracy(run.codes, labels_of(laboratory.training), codes, labels_of(laboratory.new))
    return (size / spread).item(), (moved.square().sum(1).mean().sqrt() / spread).item(), score, accuracy


def _jacobians(run: nf.Run, laboratory: Laboratory) -> Tensor:
    """[n, D, points] of codes by pixels, of new images."""
    new = laboratory.new.batch(torch.arange(min(JUDGED, len(laboratory.new))))
    values = new.values.clone().requires_grad_()
    codes = run.model.source(nf.Observations(new.index, new.coords, values, new.weight)).mean
    rows = [torch.autograd.grad(codes[:, d].sum(), values, retain_graph=True)[0][..., 0] for d in range(codes.shape[1])]
    return torch.stack(rows, 1)


def _formulas() -> tuple[float, float]:
    """(relative error of the exact penalty, error of Hutchinson's mean in standard errors), on a small network."""
    torch.manual_seed(0)
    source = Encoder(1, 1, 1, (12,), code_dim=5, network="mlp", width=16, depth=2, activation="tanh").double()
    values = torch.randn(1, 12, 1, dtype=torch.float64)
    coords = torch.linspace(-1, 1, 12, dtype=torch.float64)[None, :, None]

    def codes(x: Tensor) -> Tensor:
        return source(nf.Observations(torch.tensor([0]), coords, x, torch.ones(1, 12, dtype=torch.float64))).mean

    truth = torch.autograd.functional.jacobian(codes, values).square().sum()
    seen = nf.Observations(torch.tensor([0]), coords, values, torch.ones(1, 12, dtype=torch.float64))
    exact = Contractive(1.0).cost(source(seen), source, seen)[0]
    draws = torch.stack(
        [Contractive(1.0, probes=1).cost(source(seen), source, seen, generator(k))[0] for k in range(DRAWS)]
    ).detach()
    apart = (draws.mean() - truth).abs()
    return ((exact - truth).abs() / truth).item(), (apart / (draws.std() / DRAWS**0.5)).item()


def _refusal() -> str:
    """What is said where a bank is asked for this penalty."""
    try:
        nf.fit("mnist-mini", recipe="image", limit=64, settings=["penalty.kind=contractive"], epochs=1)
    except NeuralfieldError as error:
        return str(error)
    return ""


def _ratio(facts: dict[str, tuple[float, ...]]) -> str:
    return f"{facts['contractive'][1]:.3f} against {facts['no penalty'][1]:.3f} of the codes' spread"


def _singular(runs: dict[str, nf.Run], laboratory: Laboratory):  # type: ignore[no-untyped-def]
    """Singular values of the encoder's Jacobian: few directions of the image are left that move the code."""
    figure, (axes,) = plots(1, width=6)
    for title, run in runs.items():
        values = torch.linalg.svdvals(_jacobians(run, laboratory)).mean(0)
        axes.semilogy(range(1, len(values) + 1), values / values[0], ".-", label=title)
    axes.set(xlabel="number", ylabel="singular value / the first", title="Jacobian of the code by the pixels, mean over new images")
    axes.legend(frameon=False)
    return figure


def _rows(runs: dict[str, nf.Run], laboratory: Laboratory) -> dict[str, Tensor]:
    new = laboratory.new.batch(torch.arange(12))
    rows = {"new images": new.values[..., 0]}
    return rows | {title: decoded(run, run.infer(new).latent.mean) for title, run in runs.items()}
