"""GLO: codes in the unit ball, a Laplacian-pyramid loss, plain SGD; first codes by PCA or at random."""

import torch

from experiments.classifier import classifier
from experiments.figures import digits, plots
from experiments.fits import curve_of, fitted, probes_of, scores_of
from experiments.laboratory import Laboratory, decoded, nearest, pixels, psnr
from experiments.pages import Claim, Page
from neuralfield.explore.sampling import sample
from neuralfield.pyramid import Pyramid

FITS = ("glo", "glo-random")
TITLES = {"glo": "PCA", "glo-random": "random"}
FEW, SAMPLES = 256, 500


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "glo")
    runs = {name: fitted(laboratory, name) for name in FITS}
    few = laboratory.new.select(torch.arange(min(FEW, len(laboratory.new))))
    train = {name: psnr(decoded(run, run.codes), pixels(laboratory.training)).mean().item() for name, run in runs.items()}
    found = {name: run.infer(few).latent.mean for name, run in runs.items()}
    new = {name: psnr(decoded(run, found[name]), pixels(few)).mean().item() for name, run in runs.items()}
    longest = max(float(z.norm(dim=1).max()) for z in (*(run.codes for run in runs.values()), *found.values()))
    seconds = {name: curve_of(laboratory, name)["cpu_seconds"] for name in FITS}
    page.table(
        "scores",
        ("first codes", "train PSNR, dB", "new images, dB", "epochs", "CPU s of the fit"),
        [(TITLES[n], f"{train[n]:.2f}", f"{new[n]:.2f}", str(runs[n].facts["epochs"]), f"{seconds[n]:.0f}") for n in FITS],
    )
    images = {kind: decoded(runs["glo"], sample(runs["glo"], SAMPLES, kind)).clamp(0, 1) for kind in ("gaussian", "mixture")}
    recogniser, training = classifier(laboratory), pixels(laboratory.training)
    rows = [(k, f"{recogniser.confidence(x):.2f}", f"{nearest(x, training).mean():.4f}") for k, x in images.items()]
    page.table("samples", ("samples of", "confidence", "MSE to the nearest training image"), rows)
    error = _round_trip()
    page.claims(
        [
            Claim("all codes have norm at most 1 + 1e-6, those of new images too", f"largest {longest:.7f}", longest <= 1 + 1e-6),
            Claim("the pyramid inverts to 1e-10", f"{error:.1g}", error <= 1e-10),
            Claim(
                "a PCA start beats a random start at equal epochs",
                f"{train['glo']:.2f} against {train['glo-random']:.2f} dB",
                train["glo"] > train["glo-random"],
            ),
        ]
    )
    page.result(
        f"Train {train['glo']:.2f} dB from PCA and {train['glo-random']:.2f} from random codes; new images {new['glo']:.2f} dB."
    )
    figure, (axes,) = plots(1, width=5)
    for name in FITS:
        axes.plot(*scores_of(laboratory, name), ".-", label=f"first codes: {TITLES[name]}")
    axes.set(xlabel="epoch", ylabel="PSNR of training images, dB")
    axes.legend(frameon=False)
    page.figure("curves", figure)
    shown = {
        f"{TITLES[name]}, {title}": rows for name in FITS for title, rows in _ends(laboratory, name).items() if title != "data"
    }
    page.figure("digits", digits({"data": probes_of(laboratory, "glo", ())["data"], **shown, "samples": images["mixture"][:12]}))
    page.close(f"{laboratory.about}; {len(few)} test images are searched for, {SAMPLES} samples")


def _ends(laboratory: Laboratory, name: str):  # type: ignore[no-untyped-def]
    """Probes after an early epoch, and at the end."""
    return probes_of(laboratory, name, (2,))


def _round_trip() -> float:
    """Largest difference of an image of odd size from the inverse of its pyramid, float64."""
    draw = torch.Generator().manual_seed(0)
    images, pyramid = torch.rand(4, 1, 29, 33, generator=draw, dtype=torch.float64), Pyramid((29, 33), 3)
    return (pyramid.inverse(pyramid(images)) - images).abs().max().item()
