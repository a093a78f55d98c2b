"""The linear autodecoder: it spans the principal subspace, and priors threshold its singular values softly."""

from dataclasses import dataclass

import torch
from torch import Tensor

import neuralfield as nf
from experiments.figures import digits, plots
from experiments.laboratory import Laboratory
from experiments.pages import Claim, Page
from neuralfield.decoders.linear import Linear
from neuralfield.latents.source import FixedCodes
from neuralfield.objective import MAP

FITS: tuple[str, ...] = ()
SIDE, COUNT = 14, 500
"""Digits are made small, so that an optimum to ten digits takes seconds."""
SPANNED, KEPT = range(8, 16), range(16, 28)
"""How many dimensions codes have, and how many singular values the threshold leaves: where the gap behind is widest, for an
optimiser finds directions that differ little in what they are worth only in the end."""
PRIOR_DIM = 40
"""Code dimensions with priors: more than the thresholded model has rank."""
ROUNDS, SCALE = 20, 1e6
"""Of the optimiser; its line search takes changes below 1e-9 for none, and nats per value are small."""
STD, PRIOR_STD = 0.1, 1.0


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "linear")
    signals = nf.load(laboratory.source, split="train", limit=COUNT, resize=SIDE)
    data = next(signals.batches(COUNT))
    problem = Problem(data)
    spanned, kept = problem.widest(SPANNED), problem.widest(KEPT)
    plain, _ = problem.trained(spanned, prior_std=1e6, weight_l2=0.0)
    principal = problem.directions[:spanned].T
    span = torch.linalg.qr(plain.values.weight.detach())[0]
    angle = torch.linalg.matrix_norm(span - principal @ (principal.T @ span), 2).item()
    threshold = float(problem.singular[kept - 1] + problem.singular[kept]) / 2
    shrunk, small = problem.trained(PRIOR_DIM, PRIOR_STD, problem.weight_l2(threshold))
    values = torch.linalg.svdvals(small @ shrunk.values.weight.detach().T)
    expected = (problem.singular[: len(values)] - threshold).clamp(min=0)
    off = float((values - expected[: len(values)]).abs().max() / problem.singular[0])
    page.claims(
        [
            Claim(
                "linear autodecoder: largest principal angle to PCA's span at most 1e-4 (measured: 1e-7)",
                f"{angle:.1g}",
                angle <= 1e-4,
            ),
            Claim(
                "with L2 on codes and weights, singular values are max(s - sqrt(ab), 0) (measured: to 1e-7)",
                f"within {off:.1g} of the largest",
                off <= 1e-5,
            ),
        ]
    )
    page.result(f"Principal angle to PCA {angle:.1g}; thresholded singular values within {off:.1g} of the largest.")
    page.figure("singular", _figure(problem.singular, values, threshold))
    both = {"PCA": principal.T, "autodecoder": (principal.T @ span).T @ span.T}
    page.figure("directions", digits({name: 0.5 + 2 * rows.float() for name, rows in both.items()}))
    page.close(f"{COUNT} training digits of {SIDE}x{SIDE}, float64")


@dataclass(frozen=True)
class Problem:
    """Some signals, and their singular values about the mean."""

    data: nf.Observations

    def __post_init__(self) -> None:
        values = self.data.values.double().flatten(1)
        _, singular, directions = torch.linalg.svd(values - values.mean(0), full_matrices=False)
        object.__setattr__(self, "singular", singular)
        object.__setattr__(self, "directions", directions)

    singular: Tensor = None  # type: ignore[assignment]
    directions: Tensor = None  # type: ignore[assignment]

    def widest(self, counts: range) -> int:
        """Of some numbers of singular values that with the largest ratio to the next."""
        return max(counts, key=lambda k: float(self.singular[k - 1] / self.singular[k]))

    def weight_l2(self, threshold: float) -> float:
        """The weight for which sqrt(a b) = STD^2 / PRIOR_STD * sqrt(2 n M weight_l2) is this threshold (tests/test_linear.py)."""
        return (threshold * PRIOR_STD / STD**2) ** 2 / (2 * self.data.values.numel())

    def trained(self, code_dim: int, prior_std: float, weight_l2: float) -> tuple[Linear, Tensor]:
        """Decoder and codes at the optimum of the toolkit's own objective, all signals in one batch."""
        objective = MAP(nf.Points(), nf.GaussianLikelihood(STD), nf.IsotropicPrior(code_dim, prior_std), weight_l2).double()
        torch.manual_seed(0)
        decoder = Linear((SIDE, SIDE), self.data.coords, 1, code_dim).double()
        source = FixedCodes(torch.randn(len(self.data), code_dim, dtype=torch.float64))
        data = nf.Observations(self.data.index, self.data.coords.double(), self.data.values.double(), self.data.weight.double())
        parameters = [*decoder.parameters(), *source.parameters()]

        def closure() -> Tensor:
            for p in parameters:
                p.grad = None
            loss = objective(source, decoder, data)
            cost = SCALE * (loss.total.mean() + loss.batch)
            cost.backward()
            return cost

        # in several rounds: what LBFGS remembers of a valley holds it up at the end
        for _ in range(ROUNDS):
            torch.optim.LBFGS(
                parameters, max_iter=200, tolerance_grad=1e-12, tolerance_change=0, history_size=50, line_search_fn="strong_wolfe"
            ).step(closure)
        return decoder, source.z.detach()


def _figure(singular: Tensor, values: Tensor, threshold: float):  # type: ignore[no-untyped-def]
    figure, (axes,) = plots(1, width=6)
    numbers = range(1, 2 * KEPT.stop + 1)
    axes.plot(numbers, singular[: 2 * KEPT.stop], "o", color="0.6", markersize=5, label="of the images")
    axes.plot(numbers, (singular[: 2 * KEPT.stop] - threshold).clamp(min=0), "-", linewidth=1, label="max(s - sqrt(ab), 0)")
    axes.plot(
        numbers, values[: 2 * KEPT.stop], "x", color="black", markersize=5, label="of the fitted product of codes and weights"
    )
    axes.set(xlabel="number", ylabel="singular value", title=f"threshold {threshold:.3g}")
    axes.legend(frameon=False)
    return figure
