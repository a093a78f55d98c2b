"""Finding codes: evaluations, seconds and objectives of every solver, and completions with their bands, in one run, on one thread.

    python benchmarks/inference.py                         everything, about an hour
    python benchmarks/inference.py --only speed            also: bank, convolutional, curves, masks
    python benchmarks/inference.py --train 2000 --test 100 --masked 100

Writes benchmarks/results/inference.md; with --only, inference-PART.md.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import torch
from completions import table_of_completions
from machine import RESULTS, data_folder, machine

import neuralfield as nf
from neuralfield.inference.solver import Solver
from neuralfield.latents.source import FixedCodes
from neuralfield.registry import resolve

STARTS = ("mean", "nearest", "spectral", "amortised")
RATES = (0.03, 0.1, 0.3)
NEAR = 0.01
"""Of an objective above its floor: what counts as reached."""
REPEATS = 3
TUNED = 16
"""Signals that rates are tuned on."""


@dataclass(frozen=True)
class Sizes:
    """How many signals, and where the digits are."""

    root: str
    train: int
    test: int
    masked: int

    def digits(self, split: str, first: int, count: int) -> nf.Signals:
        """`count` digits of a split from the number `first` on."""
        whole = nf.load(f"mnist:{self.root}", split=split, limit=first + count, pad=2)
        return whole.select(torch.arange(first, first + count))


@dataclass(frozen=True)
class Solved:
    """What a solver made of a batch: mean excess over the floor of the objective, evaluations and CPU seconds for all."""

    excess: torch.Tensor
    codes: torch.Tensor
    evaluations: torch.Tensor
    seconds: float
    converged: float


class Problem:
    """Some signals of a run, to be solved by anyone from anywhere."""

    def __init__(self, run: nf.Run, training: nf.Signals, observed: nf.Observations) -> None:
        self.run, self.observed, self.objective = run, observed, run.completion_objective()
        self.starts: dict[str, nf.Latent] = {}
        for name in STARTS:
            start = resolve("starts", name)(run.codes)
            start.fit(lambda: training.batches(256), torch.Generator().manual_seed(0))
            self.starts[name] = start(observed, run.decoder, self.objective)
        # nothing can cost less than exact values at the mode of a Gaussian prior
        likelihood, prior = self.objective.likelihood, self.objective.prior
        exact = likelihood.nll(observed.values, observed.values) * observed.weight
        self.floor = (exact.sum(1) + prior.cost(nf.Latent(prior.components().means))) / observed.observed

    def solve(self, solver: Solver, start: str, repeats: int = 1) -> Solved:
        """CPU seconds are the median over repeats."""
        solver.prepare(self.objective, self.run.decoder, self.run.codes, self.run.domain.grid())
        seconds = []
        for _ in range(repeats):
            began = time.process_time()
            estimate = solver.solve(self.objective, self.run.decoder, self.observed, self.starts[start])
            seconds.append(time.process_time() - began)
        converged = estimate.converged.float().mean().item()
        excess = estimate.loss.total - self.floor
        return Solved(excess, estimate.latent.mean, estimate.evaluations, sorted(seconds)[repeats // 2], converged)

    def excess(self, start: str) -> float:
        """Of a start itself."""
        with torch.no_grad():
            loss = self.objective(FixedCodes(self.starts[start].mean), self.run.decoder, self.observed)
        return (loss.total - self.floor).mean().item()

    def score(self, codes: torch.Tensor) -> float:
        """The domain's headline."""
        return self.run.domain.score(self.run.field(codes), self.observed)[self.run.domain.headline].mean().item()


@click.command()
@click.option("--data", default=None, help="A folder with MNIST/raw; by default NF_DATA/mnist, or mnist in the shared data.")
@click.option("--train", default=10_000)
@click.option("--test", default=64, help="Signals that solvers are compared on.")
@click.option("--masked", default=1000, help="Test digits with hidden centres.")
@click.option("--only", type=click.Choice(["speed", "curves", "convolutional", "bank", "masks"]), multiple=True)
def main(data: str | None, train: int, test: int, masked: int, only: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    sizes = Sizes(data or str(data_folder() / "mnist"), train, test, masked)
    run = cache(lambda recipe: fitted(sizes, recipe))
    parts: dict[str, Callable[[], list[str]]] = {
        "speed": lambda: speed(run("image-modulated"), sizes),
        "curves": lambda: curves(sizes),
        "bank": lambda: bank(run("image-modulated"), sizes),
        "convolutional": lambda: convolutional(run("image"), sizes),
        "masks": lambda: table_of_completions(run("image-completion"), sizes),
    }
    lines = ["# Finding codes", "", f"{machine()}, one thread, `python benchmarks/inference.py`.", ""]
    for name, part in parts.items():
        if not only or name in only:
            began = time.process_time()
            lines += [*part(), ""]
            click.echo(f"{name}: {time.process_time() - began:.0f} CPU s", err=True)
    report = "\n".join(lines)
    click.echo(report)
    Path(RESULTS / f"{'-'.join(['inference', *only])}.md").write_text(report)


def fitted(sizes: Sizes, recipe: str) -> nf.Run:
    """A recipe of the package on the first digits of the training split."""
    began = time.process_time()
    run = nf.fit(sizes.digits("train", 0, sizes.train), recipe=recipe)
    click.echo(f"{recipe}: fitted in {time.process_time() - began:.0f} CPU s, {run.facts['scores']}", err=True)
    return run


def comparison(problem: Problem, tolerances: tuple[float, ...]) -> list[str]:
    """Levenberg from every start against Adam of 300 and 800 tuned steps from every start, and 2,000 from the best."""
    adam = {steps: {start: tuned(problem, start, steps) for start in STARTS} for steps in (300, 800)}
    best = {steps: min(by, key=lambda start: by[start].excess.mean()) for steps, by in adam.items()}
    target = adam[300][best[300]]
    lines = [
        "| solver | start | excess there | excess | reached | evaluations (median) | CPU s | Adam-300 / this | Adam-800 / this |",
        "|---|---|---|---|---|---|---|---|---|",
    ]

    def row(name: str, start: str, solved: Solved) -> str:
        reached = (solved.excess <= target.excess * (1 + NEAR)).float().mean()
        ratios = [
            f"{other.evaluations.mean() / solved.evaluations.mean():.0f} x, {other.seconds / solved.seconds:.1f} x"
            for other in (by[best[steps]] for steps, by in adam.items())
        ]
        work = f"{solved.evaluations.mean():.1f} ({solved.evaluations.median():.0f})"
        return (
            f"| {name} | {start} | {problem.excess(start):.4f} | {solved.excess.mean():.4f} | {reached:.0%} | {work} | "
            f"{solved.seconds:.2f} | {ratios[0]} | {ratios[1]} |"
        )

    lines += [row(f"Adam, {steps} steps", start, by[start]) for steps, by in adam.items() for start in STARTS]
    for tolerance in tolerances:
        for start in STARTS:
            solver = nf.Levenberg(steps=40, tolerance=tolerance)
            lines.append(row(f"Levenberg, tolerance {tolerance:g}", start, problem.solve(solver, start, REPEATS)))
    long = nf.Adam(steps=2000, rate=0.1)
    reference = problem.solve(long, best[800])
    found = problem.solve(nf.Levenberg(steps=100, tolerance=1e-7), best[300])
    share = (found.excess <= reference.excess * (1 + NEAR)).float().mean()
    better = (found.excess < reference.excess).float().mean()
    return [
        *lines,
        "",
        f"Levenberg to tolerance 1e-7 from {best[300]} ({found.evaluations.mean():.0f} evaluations) is within 1 % of 2,000",
        f"Adam steps from {best[800]}, or better, on {share:.0%} of signals; better on {better:.0%}.",
    ]


def tuned(problem: Problem, start: str, steps: int) -> Solved:
    """The rate of the lowest mean objective on the first signals, then on all."""
    few = object.__new__(Problem)
    few.__dict__ = dict(problem.__dict__)
    few.observed = problem.observed.rows(slice(0, TUNED))
    few.floor = problem.floor[:TUNED]
    few.starts = {name: nf.Latent(latent.mean[:TUNED]) for name, latent in problem.starts.items()}
    rate = min(RATES, key=lambda rate: few.solve(nf.Adam(steps=steps, rate=rate), start).excess.mean())
    return problem.solve(nf.Adam(steps=steps, rate=rate), start)


def speed(run: nf.Run, sizes: Sizes) -> list[str]:
    """Whole test digits, `image-modulated`."""
    test = sizes.digits("test", 0, sizes.test)
    problem = Problem(run, sizes.digits("train", 0, sizes.train), test.batch(torch.arange(len(test))))
    head = f"## {sizes.test} test digits, recipe `image-modulated` ({sizes.train} training digits, codes of {run.codes.shape[1]})"
    return [head, "", EXCESS, "", *comparison(problem, (1e-3, 3e-4, 1e-4))]


def curves(sizes: Sizes) -> list[str]:
    """New curves of 15 points under a decoder that is not linear in the code."""
    training, test = nf.load("sines", split="train"), nf.load("sines", split="test", limit=sizes.test)
    run = nf.fit(training, recipe="functions-joint")
    test = test.like(run.recipe.domain.arguments)
    problem = Problem(run, training.like(run.recipe.domain.arguments), test.batch(torch.arange(len(test))))
    return [f"## {len(test)} test curves, recipe `functions-joint`", "", EXCESS, "", *comparison(problem, (1e-5, 3e-6, 1e-6))]


def convolutional(run: nf.Run, sizes: Sizes) -> list[str]:
    """L-BFGS against Adam where a Jacobian costs too much: PSNR against evaluations."""
    test = sizes.digits("test", 0, sizes.test)
    problem = Problem(run, sizes.digits("train", 0, sizes.train), test.batch(torch.arange(len(test))))
    adam = tuned(problem, "spectral", 300)
    lines = [
        f"## {sizes.test} test digits, recipe `image` (convolutional)",
        "",
        "| solver | start | steps | PSNR, dB | below Adam-300 | evaluations | Adam-300 / this | CPU s |",
        "|---|---|---|---|---|---|---|---|",
        f"| Adam | spectral | 300 | {problem.score(adam.codes):.2f} | | {adam.evaluations.mean():.0f} | 1 | {adam.seconds:.1f} |",
    ]
    for start in ("spectral", "amortised"):
        for steps in (10, 15, 20, 30, 40):
            solved = problem.solve(nf.LBFGS(steps=steps, tolerance=1e-5), start, REPEATS)
            psnr, work = problem.score(solved.codes), solved.evaluations.mean()
            lines.append(
                f"| L-BFGS | {start} | {steps} | {psnr:.2f} | {problem.score(adam.codes) - psnr:.2f} | {work:.0f} | "
                f"{adam.evaluations.mean() / work:.1f} | {solved.seconds:.2f} |"
            )
    return lines


def bank(run: nf.Run, sizes: Sizes) -> list[str]:
    """All codes of the bank from the spectral start, and Adam-300 on some of them."""
    training = sizes.digits("train", 0, sizes.train)
    objective, solver, adam = run.model.objective, nf.Levenberg(tolerance=3e-4), nf.Adam(steps=300)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    began, excess = time.process_time(), []
    for batch in training.batches(256):
        excess.append(solver.solve(objective, run.decoder, batch, run.start(batch, run.decoder, objective)).loss.total)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    some = training.select(torch.linspace(0, len(training) - 1, min(256, len(training))).long())
    began, other = time.process_time(), []
    for batch in some.batches(32):
        other.append(adam.solve(objective, run.decoder, batch, run.start(batch, run.decoder, objective)).loss.total)
    slow = (time.process_time() - began) * len(training) / len(some)
    mean = torch.cat(excess)[torch.linspace(0, len(training) - 1, len(some)).long()].mean()
    return [
        f"## The whole bank: {len(training)} codes from the spectral start",
        "",
        f"Levenberg (tolerance 3e-4): {seconds:.0f} CPU s. Adam-300: {slow:.0f} CPU s, by {len(some)} of them. "
        f"Ratio {slow / seconds:.1f}.",
        f"Mean objective of those: {mean:.4f} and {torch.cat(other).mean():.4f} nats per value. "
        f"Peak memory of the whole benchmark so far {peak:.2f} GiB, {before:.2f} before this part.",
    ]


EXCESS = (
    "Excess: the objective above its floor (values met exactly, by the prior's likeliest code), nats per value. Reached: "
    "share of signals whose excess is at most that of 300 tuned Adam steps from the best start + 1 %. Ratios: evaluations, then "
    "CPU seconds."
)


if __name__ == "__main__":
    main()
