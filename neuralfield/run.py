"""A fitted model, in memory and on disk."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import tomli_w
import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import neuralfield.files as files
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.inference.calibration import Calibration
from neuralfield.inference.laplace import gaussian
from neuralfield.inference.oriented import oriented
from neuralfield.inference.posterior import Approximation, Posterior
from neuralfield.inference.quadratic import quadratic
from neuralfield.inference.restarts import coarse_search, search, solved
from neuralfield.inference.solver import Solver
from neuralfield.inference.starts import Start
from neuralfield.inference.thinning import thinned
from neuralfield.latents.priors import Known, Prior
from neuralfield.measurements import Local
from neuralfield.objective import MAP, Objective
from neuralfield.recipe import TRAINING_PRIOR, Model, Part, Recipe, build, construct, read_toml
from neuralfield.registry import resolve
from neuralfield.signals import signals as sources
from neuralfield.signals.roster import Roster, read_ids, stored_ids
from neuralfield.signals.signals import Signals, UnlikeError
from neuralfield.types import Conditioning, Estimate, Field, Latent, Loss, Observations, spread

SPREAD_OVER = 64
"""Signals of the bank whose posterior is looked at, evenly spread: an average over more would not be another."""
FORMAT = 2
"""Version of the run folder. Others are refused by name."""


class Run:
    """A decoder, the bank of codes it was fitted with, and what inference needs.

    The `roster` says who the rows of the bank are. `facts` are what the fit found out (epochs, seconds, scores).
    """

    def __init__(self, recipe: Recipe, model: Model, roster: Roster, facts: dict[str, Any]) -> None:
        self.recipe, self.model, self.roster, self.facts = recipe, model, roster, facts
        self.domain, self.decoder = model.domain, model.decoder
        self.start, self.prior = construct_start(self), construct_prior(self)
        self.calibration = Calibration()
        self.known: Known | None = None
        self.path: Path | None = None

    def __repr__(self) -> str:
        return f"Run({self.path or 'not saved'}: {len(self.ids)} signals, {self.recipe.decoder.kind} {self.recipe.domain.kind})"

    @property
    def ids(self) -> Sequence[str]:
        """Names of the bank's rows."""
        return self.roster.ids

    @property
    def labels(self) -> Int[Tensor, " n"] | None:
        """Labels of the bank's rows, where they have any."""
        return self.roster.labels

    @property
    def codes(self) -> Float[Tensor, "n D"]:
        """The codes of the bank, one row per signal."""
        return self.model.source.codes.detach()

    @property
    def std(self) -> Float[Tensor, "n D"] | None:
        """Standard deviations of the codes, where their source is variational."""
        return self.model.source.log_std.detach().exp() if self.model.source.variational else None

    @property
    def device(self) -> torch.device:
        return next(self.decoder.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move every part to a device."""
        for module in (self.model.source, self.decoder, self.model.objective, self.start, self.prior, self.calibration):
            module.to(device)
        return self

    def field(self, z: Float[Tensor, "B D"] | Latent) -> Field:
        """The continuous functions of some codes: field(coords [N, C]) -> values [B, N, V], in the data's units."""
        latent = z if isinstance(z, Latent) else Latent(z)
        if latent.mean.ndim != self.codes.ndim or latent.mean.shape[1:] != self.codes.shape[1:]:
            raise NeuralfieldError(f"codes must be [B, {self.codes.shape[1]}] for this run, got {list(latent.mean.shape)}")
        field = self.model.objective.field(latent.to(self.device), self.decoder)
        return replace(field, coord_dim=self.domain.coord_dim)

    def mean_field(self, codes: Float[Tensor, "S B D"]) -> Field:
        """The mean of the fields of S codes of each signal: of draws from a posterior, that of least expected squared error."""
        count, field = len(codes), self.field(codes.transpose(0, 1).flatten(0, 1))

        def evaluate(conditioning: Conditioning, coords: Tensor) -> Tensor:
            each = replace(field, conditioning=tree_map(lambda leaf: leaf.flatten(0, 1), conditioning))
            at = coords if len(coords) == 1 else coords.repeat_interleave(count, 0)
            return reduce(each(at), "(b s) n v -> b n v", "mean", s=count)

        conditioning = tree_map(lambda leaf: leaf.unflatten(0, (-1, count)), field.conditioning)
        return Field(evaluate, conditioning, coord_dim=self.domain.coord_dim)

    def prepare(self, signals: Signals | None, generator: torch.Generator, settled: bool = False) -> None:
        """The fit is over: freeze the decoder, and learn from the bank what inference needs, the start and the prior.

        Without signals, as of a decoder that comes from elsewhere, the start must be one that has nothing to learn from them.
        `settled` says that the fit's own prior describes the codes: they are still those of the linear model that it has adopted.
        """
        self._freeze()
        self.start, self.prior = construct_start(self), construct_prior(self)
        if signals is not None:
            self.start.fit(lambda: signals.batches(self.recipe.inference.batch), generator)
            self.known = self._known(signals, settled)
        if self.recipe.inference.prior != TRAINING_PRIOR:
            self.prior.fit(self.model.source.overview().cpu(), self.known)
        self.to(self.device)

    def _known(self, signals: Signals, settled: bool) -> Known | None:
        """What is known of the codes beyond their values, where their source is variational or the solver gives posteriors."""
        if self.std is not None:
            spread_of = torch.diag(self.std.square().mean(0)).cpu()
            return Known(torch.cov(self.codes.cpu().T, correction=0).reshape(spread_of.shape) + spread_of, spread_of)
        if self.model.source.reads:  # its codes are no optima
            return None
        solver = self.solver()
        if not solver.gives_posterior:
            return None
        index = spread(len(signals), SPREAD_OVER)
        total = torch.zeros(self.codes.shape[1], self.codes.shape[1])
        for rows in index.split(self.recipe.inference.batch):
            batch = thinned(signals.batch(rows), self.recipe.inference.points).to(self.device)
            codes = self.model.source.rows(rows).to(self.device)
            if solver.exact:
                posterior = solver.solve(self.model.objective, self.decoder, batch, Latent(codes)).posterior
            else:  # the polish has found the optima; and what gives posteriors solves MAP objectives alone
                assert isinstance(self.model.objective, MAP)
                posterior = gaussian(codes, quadratic(self.model.objective, self.decoder, batch, codes).curvature)
            total += posterior.covariance().cpu().sum(0)
        average = total / len(index)
        if settled:
            return Known(self.model.objective.prior.components().covariance[0].cpu(), average)
        return Known(torch.cov(self.model.source.overview().cpu().T, correction=0).reshape(average.shape) + average, average)

    def infer(
        self,
        observations: Observations | Signals,
        solver: Solver | None = None,
        samples: int = 0,
        seed: int = 0,
        calibrated: bool = True,
    ) -> Estimate:
        """Codes of new signals, whole or partly seen, with the decoder frozen. Results lie on the CPU.

        With `samples`, the estimate's posterior is one that so many codes of each signal can be drawn from, by any solver. `seed`
        is for posteriors that draw them already. `calibrated` says whether the calibration counts, which belongs to a kind of mask.
        """
        solver, settings = solver or self.solver(), self.recipe.inference
        if isinstance(observations, Signals):
            batches = fitting(observations, self).batches(settings.batch)
            return concatenate([self.infer(batch, solver, samples, seed, calibrated) for batch in batches])
        objective = self.completion_objective(calibrated)
        # whether a point that nobody sees may be left out; decoders that read tables do so faster as a whole
        separate = isinstance(objective, MAP) and isinstance(objective.measurement, Local)
        separate = separate and self.decoder.pointwise and not self.decoder.linear_in_code and objective.likelihood.pointwise
        estimates = []
        for rows in torch.arange(len(observations)).split(settings.batch):
            batch = thinned(oriented(observations.rows(rows)), settings.points).to(self.device)
            if solver.exact:
                start, work = self.start(batch, self.decoder, objective), self.start.evaluations(batch, self.decoder)
                estimate = solved(solver, objective, self.decoder, batch, start, with_posterior=samples > 0)
            else:
                starts, work = self.start.several(batch, self.decoder, objective, settings.starts)
                if settings.coarse is not None and batch.weight.shape[1] > settings.coarse:
                    starts, more = coarse_search(solver, objective, self.decoder, batch, starts, settings.coarse)
                    work = work + more
                if separate:  # after points were drawn by their places, which must not depend on what others have seen
                    batch = batch.without_unseen()
                estimate = search(solver, objective, self.decoder, batch, starts, with_posterior=samples > 0)
            if calibrated and estimate.posterior is not None and not solver.exact:
                estimate = replace(estimate, posterior=estimate.posterior.flattened(float(self.calibration.evidence)))
            if samples and isinstance(objective, MAP) and estimate.posterior is not None:
                approximation: Approximation = resolve("posteriors", settings.posterior)()
                posterior, more = approximation(objective, self.decoder, batch, estimate.posterior, solver, samples, seed)
                estimate, work = replace(estimate, posterior=posterior), work + more
            estimates.append(replace(estimate, evaluations=estimate.evaluations + work))
        return concatenate(estimates)

    def solver(self, **changes: Any) -> Solver:
        """The recipe's solver, with some of its arguments changed."""
        inference = self.recipe.inference
        solver: Solver = construct("inference", inference.kind, {**inference.arguments, **changes})
        codes = self.model.source.overview().to(self.device)
        solver.prepare(self.model.objective, self.decoder, codes, self.domain.grid().to(self.device))
        return solver

    def completion_objective(self, calibrated: bool = True) -> Objective:
        """The objective of the fit, with the prior that was learned from the bank, at the calibrated temperature or at its own."""
        objective = self.recipe.objective
        parts = {name: getattr(self.model.objective, name, None) for name in ("measurement", "likelihood", "penalty")}
        takes = inspect.signature(resolve("objectives", objective.kind)).parameters
        given = {key: value for key, value in {**parts, "prior": self.prior}.items() if key in takes}
        made: Objective = construct("objective", objective.kind, {**objective.arguments, **given})
        made.eval()
        if calibrated:
            made.temperature *= float(self.calibration.temperature)
        return made

    def add(self, signals: Signals) -> Estimate:
        """Let new signals join the bank: their codes are searched with the decoder frozen. An id that is taken gets a number.

        Calibration has no part in it: the codes of the bank were found without.
        """
        estimate = self.infer(signals, calibrated=False)
        self.join(signals, estimate)
        return estimate

    def join(self, signals: Signals, estimate: Estimate) -> None:
        """Append signals whose codes were searched."""
        self.model.source.extend(estimate.latent.mean, estimate.latent.log_std)
        self.roster = self.roster.joined(signals.roster)
        self.facts["signals"] = len(self.ids)
        self.start.codes = self.model.source.overview().to(self.device)

    def save(self, path: str | Path | None = None) -> None:
        """Write the run folder; recipe.toml comes last, so that a run which says it is finished is whole."""
        folder = Path(path or self.path or "")
        if not (path or self.path):
            raise NeuralfieldError("this run has no folder yet; say run.save(path)")
        files.write_tensors(folder / "decoder.safetensors", self.decoder.state_dict())
        codes = {**self.model.source.tables(), **self.roster.tensors()}
        files.write_tensors(folder / "latents.safetensors", codes, {"ids": stored_ids(self.ids)})
        if weights := self.model.source.weights():
            files.write_tensors(folder / "encoder.safetensors", weights)
        kinds = {"start": self.recipe.inference.start, "prior": self.recipe.inference.prior}
        learned = nn.ModuleDict({"start": self.start, "objective": self.model.objective, "calibration": self.calibration})
        if self.prior is not self.model.objective.prior:
            learned["prior"] = self.prior
        known = {} if self.known is None else {"known.covariance": self.known.covariance, "known.spread": self.known.spread}
        files.write_tensors(folder / "inference.safetensors", learned.state_dict() | known, kinds)
        files.write_json(folder / "metrics.json", self.facts)
        write_recipe(folder, self.recipe, finished=True, facts=self.facts)
        self.path = folder

    @classmethod
    def load(cls, path: str | Path, settings: list[str] | tuple[str, ...] = ()) -> Self:
        """Read a run folder. `settings` (as in inference.steps=300) change how it infers."""
        folder = Path(path)
        recipe, about = read_recipe(folder, settings)
        if not about.get("finished"):
            raise NeuralfieldError(f"{folder} holds a fit that was not finished; go on with nf fit --resume --out {folder}")
        recipe, mapped = _able(recipe), bool(recipe.latents.arguments.get("mapped"))
        latents, ids = files.read_tensors(folder / "latents.safetensors", leave=["codes"] if mapped else [])
        if mapped:
            latents["codes"] = files.map_tensor(folder / "latents.safetensors", "codes")
        names = read_ids(ids.get("ids", []))
        if "codes" not in latents or len(latents["codes"]) != len(names):
            raise NeuralfieldError(f"{folder / 'latents.safetensors'} does not hold codes and an id for each of them; fit again")
        model = build(recipe, len(latents["codes"]))
        files.restore(model.decoder, files.read_tensors(folder / "decoder.safetensors")[0], folder / "decoder.safetensors")
        if mapped:
            model.source.hold(latents["codes"])
        else:
            weights = files.read_tensors(folder / "encoder.safetensors")[0] if model.source.weights() else {}
            tables = {name: latents[name] for name in model.source.tables() if name in latents}
            files.restore(model.source, {**weights, **tables}, folder / "latents.safetensors")
        facts = files.read_json(folder / "metrics.json") if (folder / "metrics.json").exists() else {}
        run = cls(recipe, model, Roster(names, latents.get("labels"), latents.get("frames")), facts)
        run.path = folder
        run._freeze()
        run._restore_learned(folder / "inference.safetensors")
        return run

    def _freeze(self) -> None:
        self.decoder.requires_grad_(False).eval()
        self.model.source.eval()
        self.model.objective.eval()

    def _restore_learned(self, file: Path) -> None:
        tensors, kinds = files.read_tensors(file)
        files.restore(self.model.objective, _part_of(tensors, "objective"), file)
        if calibration := _part_of(tensors, "calibration"):
            files.restore(self.calibration, calibration, file)
        known = _part_of(tensors, "known")
        self.known = Known(**known) if known else None
        for name, part in (("start", self.start), ("prior", self.prior)):
            if part is self.model.objective.prior:
                continue
            if kinds.get(name) == getattr(self.recipe.inference, name):
                files.restore(part, _part_of(tensors, name), file)
            elif isinstance(part, Prior):
                part.fit(self.model.source.overview(), self.known)
            elif part.state_dict():
                raise UsageError(
                    f'start "{self.recipe.inference.start}" is learned in a fit; {file} holds "{kinds.get(name, "none")}" instead'
                )


def _able(recipe: Recipe) -> Recipe:
    """The recipe, with the kernel `auto` where its own does not work here: runs go from machines with a GPU to others."""
    part = recipe.decoder
    if "kernel" not in part.arguments or resolve("kernels", part.arguments["kernel"]).missing() is None:
        return recipe
    return recipe.model_copy(update={"decoder": Part(kind=part.kind, **{**part.arguments, "kernel": "auto"})})


def concatenate(estimates: list[Estimate]) -> Estimate:
    """Estimates of several batches as one, on the CPU."""

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(e, name).cpu() for e in estimates])

    data, prior, observed = (
        torch.cat([getattr(e.loss, name).detach().cpu() for e in estimates]) for name in ("data", "prior", "observed")
    )
    log_std = [e.latent.log_std.cpu() for e in estimates if e.latent.log_std is not None]
    return Estimate(
        Latent(torch.cat([e.latent.mean.cpu() for e in estimates]), torch.cat(log_std) if log_std else None),
        Loss(data, prior, observed, batch=torch.zeros(())),
        joined("converged"),
        joined("steps"),
        joined("evaluations"),
        tuple(reason for e in estimates for reason in e.reasons),
        None if estimates[0].posterior is None else Posterior.joined([e.posterior.cpu() for e in estimates]),
    )


def _part_of(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one part, by their names within it."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def construct_prior(run: Run) -> Prior:
    """The prior of completions that the recipe names, not fitted yet; "training" is that of the fit itself."""
    if run.recipe.inference.prior == TRAINING_PRIOR:
        return run.model.objective.prior
    prior: Prior = resolve("priors", run.recipe.inference.prior)(code_dim=run.codes.shape[1])
    return prior


def construct_start(run: Run, kind: str | None = None) -> Start:
    """The start of that kind, or that the recipe names, not fitted yet."""
    start: Start = resolve("starts", kind or run.recipe.inference.start)(run.model.source.overview().cpu())
    start.shared = run.domain.shape is not None
    start.bind(run.model.source)
    return start


def fitting(signals: Signals, run: Run) -> Signals:
    """Signals as the run's domain sees them; those that it cannot hold are refused."""
    if signals.domain != run.recipe.domain.kind:
        raise NeuralfieldError(f'the run is of domain "{run.recipe.domain.kind}", but the data are of domain "{signals.domain}"')
    try:
        return signals.like(run.recipe.domain.arguments)
    except UnlikeError as error:
        raise NeuralfieldError(f"{error}{_remedy(run, error.name)}") from None


def load_signals(run: Run, source: str | None = None, **settings: Any) -> Signals:
    """Signals for a run: its own source by default, prepared (padded, resized) as those that it was fitted to."""
    own = run.recipe.signals
    if source is None and own is None:
        raise UsageError("this run was fitted to signals given in Python, so say which data: --data SOURCE")
    if source is not None:
        kind, path = sources.parse(source)
    else:
        assert own is not None
        kind, path = own.kind, own.arguments.get("path")
    prepared = sources.inherited(own.kind, {k: v for k, v in own.arguments.items() if k != "skip_bad"}, kind) if own else {}
    wanted = {k: v for k, v in run.recipe.domain.arguments.items() if k in sources.accepted(kind)}
    return fitting(sources.build(kind, {**wanted, **prepared, "path": path, **settings}), run)


def _remedy(run: Run, name: str) -> str:
    arguments = run.recipe.domain.arguments
    if name in ("height", "width"):
        padding = 2 * (run.recipe.signals.arguments.get("pad") or 0) if run.recipe.signals else 0
        return f"; resize them with --set signals.resize=[{arguments['height'] - padding},{arguments['width'] - padding}]"
    return f"; say --set signals.{name}={arguments.get(name)}" if name == "channels" else ""


def write_recipe(folder: Path, recipe: Recipe, finished: bool, facts: dict[str, Any]) -> None:
    """recipe.toml: the complete recipe and, in [run], the format's version and how far the fit came."""
    about: dict[str, Any] = {"format": FORMAT, "finished": finished}
    about |= {key: facts[key] for key in ("epochs", "seed", "epochs_wanted", "budget") if key in facts}
    files.write_bytes(folder / "recipe.toml", (recipe.to_toml() + "\n" + tomli_w.dumps({"run": about})).encode())


def read_recipe(folder: Path, settings: list[str] | tuple[str, ...] = ()) -> tuple[Recipe, dict[str, Any]]:
    """(recipe, [run] table) of a run folder."""
    file = folder / "recipe.toml"
    if not file.exists():
        raise NeuralfieldError(
            f"{folder} is not a run folder: it has no recipe.toml" if folder.exists() else f"there is no run {folder}"
        )
    about = read_toml(file).get("run")
    if about is None:
        raise NeuralfieldError(f"{folder} is not a run folder: its recipe.toml has no [run] table")
    if about.get("format", 0) > FORMAT:
        raise NeuralfieldError(
            f"{folder} was written by a newer neuralfield (format {about['format']}; this one reads up to {FORMAT}); upgrade it"
        )
    if about.get("format", 0) < FORMAT:
        raise NeuralfieldError(f"{folder} was written by an older neuralfield (format {about.get('format', 0)}); fit again")
    return Recipe.load(str(file), settings), about


def choose_device(name: str) -> torch.device:
    """The device by its name; "auto" is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f'device "{name}" does not work here ({first}); --device auto takes what does') from None
