"""Encoder, decoder, encoder: three contrasts of codes in place of a likelihood, and code length that says when to stop."""

import torch

from experiments.figures import digits, plots
from experiments.fits import fitted, probes_of, scalars
from experiments.laboratory import Laboratory, decoded, labels_of, pixels, psnr
from experiments.pages import Claim, Page
from neuralfield.contrastive import length
from neuralfield.explore.neighbours import knn_accuracy

FITS = ("encdec", "autoencoder-cnn")
FALLEN = 0.9
"""Of the largest code length, what counts as a fall: it moves by some per cent from batch to batch."""
TERMS = ("pull", "push", "fake", "code_length")


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "encdec")
    runs, rows, scores = {name: fitted(laboratory, name) for name in FITS}, [], {}
    for name, run in runs.items():
        codes = run.infer(laboratory.new).latent.mean
        score = psnr(decoded(run, codes), pixels(laboratory.new)).mean().item()
        assert run.labels is not None
        accuracy = knn_accuracy(run.codes, run.labels, codes, labels_of(laboratory.new))
        scores[name] = score, accuracy
        rows.append((f"`{name}`", f"{len(run.ids):,}", str(codes.shape[1]), f"{score:.2f}", f"{accuracy:.3f}"))
    page.table("scores", ("recipe", "training images", "numbers in a code", "new images, dB", "kNN of new codes"), rows)
    terms = {name: values for name, values in scalars(laboratory, "encdec").items() if name.split("/")[-1] in TERMS}
    facts = runs["encdec"].facts
    first, longest, last = _lengths(terms)
    stopped, gradient = facts.get("stopped"), _gradient_at_zero()
    page.claims(
        [
            Claim(
                "code length falls, then plateaus",
                f"{first:.2f} after the first epoch, at most {longest:.2f}, {last:.2f} at the end",
                last < FALLEN * longest,
            ),
            Claim("and says when to stop", f"{stopped or 'it did not'}; {facts['epochs']} epochs", stopped is not None),
            Claim("gradients are finite at equal codes", f"{gradient:.3g}", gradient == gradient),
            Claim("(not in the seed) codes say which digit it is", f"{scores['encdec'][1]:.1%} by neighbours", None),
            Claim("(not in the seed) pixels are reconstructed though no pixel is compared", f"{scores['encdec'][0]:.2f} dB", None),
        ]
    )
    page.result(
        f"Code length: {first:.2f} after the first epoch, at most {longest:.2f}, {last:.2f} after {facts['epochs']}; "
        f"reconstructions {scores['encdec'][0]:.1f} dB, and neighbours name {scores['encdec'][1]:.0%} of digits."
    )
    page.figure("terms", _figure(terms))
    page.figure("digits", digits(probes_of(laboratory, "encdec", (1, 2, 4, 7, 12, 20, 33))))
    page.close(laboratory.about)


def _lengths(terms: dict[str, tuple[list[int], list[float]]]) -> tuple[float, float, float]:
    """Code length after the first epoch, the largest of any, and the last."""
    values = next(values for name, (_, values) in terms.items() if name.endswith("code_length"))
    return values[0], max(values), values[-1]


def _gradient_at_zero() -> float:
    """Of the length of a code of zeros, as the difference of equal codes is."""
    z = torch.zeros(1, 4, requires_grad=True)
    length(z).sum().backward()
    assert z.grad is not None
    return z.grad.abs().max().item()


def _figure(terms: dict[str, tuple[list[int], list[float]]]):  # type: ignore[no-untyped-def]
    figure, (left, right) = plots(2)
    for name, (epochs, values) in terms.items():
        axes = right if name.endswith("code_length") else left
        axes.plot(epochs, values, ".-", label=name.split("/")[-1])
    left.set(xlabel="epoch", ylabel="mean over the last batch of the epoch", yscale="log")
    left.legend(frameon=False)
    right.set(xlabel="epoch", title="code length")
    return figure
