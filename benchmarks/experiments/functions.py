"""The function autodecoder: alternating against joint updates, on the family `sines`."""

from function_quality import dense_error

import neuralfield as nf
from experiments.figures import plots
from experiments.fits import curve_of, fitted
from experiments.laboratory import Laboratory
from experiments.pages import Claim, Page

FITS = ("functions-alternating", "functions-joint")
WANTED = 5e-3


def main(laboratory: Laboratory) -> None:
    page = Page(laboratory.pages, "functions")
    runs = {name: fitted(laboratory, name) for name in FITS}
    errors = {name: dense_error(run) for name, run in runs.items()}
    seconds = {name: curve_of(laboratory, name)["cpu_seconds"] for name in FITS}
    page.table(
        "errors",
        ("recipe", "dense MSE", "CPU s of the fit"),
        [(f"`{name}`", f"{errors[name]:.2g}", f"{seconds[name]:.0f}") for name in FITS],
    )
    alternating, joint = (errors[name] for name in FITS)
    page.claims(
        [
            Claim(
                "alternating: dense MSE at most 0.005 after 8 rounds (measured: 0.0049)",
                f"{alternating:.2g}",
                alternating <= WANTED,
            ),
            Claim("joint: dense MSE at most 0.005 (measured: 0.0016)", f"{joint:.2g}", joint <= WANTED),
            Claim("joint updates err less at equal epochs", f"{alternating / joint:.1f} times less", joint < alternating),
        ]
    )
    page.result(f"Dense MSE {alternating:.2g} with alternating and {joint:.2g} with joint updates, after 320 epochs of each.")
    page.figure("curves", _curves(laboratory))
    page.figure("fits", _fits(runs))
    page.close("500 sines of 30 random points each")


def _curves(laboratory: Laboratory):  # type: ignore[no-untyped-def]
    """Error of a few curves at their own points by epoch, by CPU second, and the first rounds near by."""
    figure, (by_epoch, early, by_second) = plots(3)
    for name in FITS:
        rows = [row for row in curve_of(laboratory, name)["rows"] if row[2] is not None]
        epochs, errors, seconds = ([row[i] for row in rows] for i in (0, 2, 3))
        by_epoch.semilogy(epochs, errors, label=name, linewidth=1)
        early.semilogy(epochs[:80], errors[:80], linewidth=1)
        by_second.semilogy(seconds, errors, linewidth=1)
    for start in range(0, 80, 40):
        early.axvspan(start, start + 20, color="0.93", zorder=0)
    by_epoch.set(xlabel="epoch", ylabel="nrmse of 12 curves", title="320 epochs")
    early.set(xlabel="epoch", title="two rounds (grey: codes move, else weights)")
    by_second.set(xlabel="CPU seconds", title="the same by time")
    by_epoch.legend(frameon=False)
    return figure


def _fits(runs: dict[str, nf.Run]):  # type: ignore[no-untyped-def]
    """Four curves of the bank between their 30 points."""
    import torch

    figure, axes = plots(4, width=3.0, height=2.4)
    seen, truth = nf.load("sines"), nf.load("sines", points=200, even=True)
    times = torch.tensor(truth.domain_arguments["times"])
    for signal, each in enumerate(axes):
        for name, run in runs.items():
            curve = run.domain.values_at(run.field(run.codes[signal : signal + 1]), times)[0, :, 0]
            each.plot(times, curve, label=name, linewidth=1)
        some = seen.batch(torch.tensor([signal]))
        domain = nf.Function(**seen.domain_arguments)
        each.plot(domain.times_of(some.coords)[0], domain.values_of(some.values)[0, :, 0], "k.", markersize=3)
        each.set(xlabel="t")
    axes[0].legend(frameon=False, fontsize=7)
    return figure
