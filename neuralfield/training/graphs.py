"""CUDA graphs: a training step is captured once and replayed, so that its hundreds of launches cost the CPU one.

A step of a small network takes a GPU less time than a CPU needs to launch it; captured, it is launched as a whole. What changes
from step to step lies in tensors that the capture reads: observations, noise on codes, learning rates, the prior's ramp.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from neuralfield.errors import NeuralfieldWarning
from neuralfield.latents.source import LatentSource
from neuralfield.recipe import Model, Training
from neuralfield.training.optimisers.capturable import is_capturable, make_capturable
from neuralfield.training.schedules.schedule import Optimisers
from neuralfield.types import Latent, Loss, Observations

WARM = 3
"""Steps made as usual before a capture: libraries load kernels and optimisers make their state in the first ones."""
OWN = ("neuralfield.", "torch.")
"""Where parts come from whose steps are known to be repeatable."""
MOST = 4
"""Forms of batches (sizes, and who moves) that are captured: each keeps its activations."""

Work = Callable[..., Loss]
Moves = tuple[str, ...]


@runtime_checkable
class Recorder(Protocol):
    """Where steps are prepared and captured."""

    def warm(self, work: Callable[[], Loss]) -> Loss:
        """Do the work, in the surroundings of a capture."""

    def record(self, work: Callable[[], Loss]) -> Callable[[], Loss]:
        """What does the same work again. A GPU's recorder does not do it yet; what it returns does."""


class Cuda:
    """Captures on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)

    def warm(self, work: Callable[[], Loss]) -> Loss:
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            loss = work()
        current.wait_stream(self.stream)
        return loss

    def record(self, work: Callable[[], Loss]) -> Callable[[], Loss]:
        graph = torch.cuda.CUDAGraph()
        # the outer context: after a capture that fails, torch's own leaves its stream behind
        with torch.cuda.stream(torch.cuda.current_stream(self.stream.device)), torch.cuda.graph(graph, stream=self.stream):
            loss = work()

        def replay() -> Loss:
            graph.replay()
            return loss

        return replay


@dataclass(frozen=True)
class Drawn(Latent):
    """Codes whose noise is drawn already: `noise` [B, *D], standard normal."""

    noise: Tensor | None = None

    def sample(self, *_: Any, **__: Any) -> Tensor:
        """What `Latent.sample` makes of this noise."""
        assert self.log_std is not None  # there is no noise without
        assert self.noise is not None
        return self.mean + self.log_std.exp() * self.noise


class Noised(LatentSource):
    """A source whose codes come with noise from a tensor, which a capture reads."""

    def __init__(self, source: LatentSource, noise: Tensor) -> None:
        super().__init__()
        self.source, self.noise, self.code_dim = source, noise, source.code_dim

    def forward(self, observations: Observations) -> Latent:
        latent: Latent = self.source(observations)
        return Drawn(latent.mean, latent.log_std, self.noise)


class Captured:
    """A step on batches of one form, reading its own tensors. `again` is the work itself, `replay` what a recorder made of it."""

    def __init__(self, work: Work, model: Model, optimisers: Optimisers, observations: Observations, moves: Moves) -> None:
        with torch.no_grad():
            latent = model.source(observations)
        self.noise = None if latent.log_std is None else torch.zeros_like(latent.mean)
        source = model.source if self.noise is None else Noised(model.source, self.noise)
        self.model, self.optimisers, self.work, self.moves = replace(model, source=source), optimisers, work, moves
        own: dict[str, Any] = {name: x.clone() for name, x in _tensors(observations).items()}
        self.observations = replace(observations, **own)
        self.ramp = torch.ones((), device=latent.mean.device)
        self.replay: Callable[[], Loss] | None = None

    @torch.no_grad()
    def fill(self, observations: Observations, generator: torch.Generator) -> None:
        """Put what this step differs in where the capture reads it."""
        given = _tensors(observations)
        for name, own in _tensors(self.observations).items():
            own.copy_(given[name], non_blocking=True)
        if self.noise is not None:
            nothing = torch.zeros_like(self.noise)
            self.noise.copy_(Latent(nothing, nothing).sample(observations.index, generator))
        self.ramp.fill_(self.model.objective.ramp)

    def again(self) -> Loss:
        """The work on these tensors; its loss lies where the next replay will write its own."""
        objective = self.model.objective
        ramp, objective.ramp = objective.ramp, self.ramp
        try:
            loss = self.work(self.model, self.optimisers, self.observations, torch.Generator(), self.moves)
        finally:
            objective.ramp = ramp
        detached: dict[str, Any] = {name: x.detach() for name, x in _tensors(loss).items()}
        return replace(loss, **detached)


class Graphs:
    """Replays of the steps on batches of `size`; others are made as usual, and so are all after a capture that failed."""

    def __init__(self, recorder: Recorder, size: int) -> None:
        self.recorder, self.size, self.failed = recorder, size, False
        self.seen: Counter[Any] = Counter()
        self.captured: dict[Any, Captured] = {}

    def step(
        self,
        work: Work,
        model: Model,
        optimisers: Optimisers,
        observations: Observations,
        generator: torch.Generator,
        moves: Moves,
    ) -> Loss:
        """The step, replayed where it can be. Its loss is overwritten by the next one."""
        usual = (model, optimisers, observations, generator, moves)
        form = (moves, *((name, tuple(x.shape)) for name, x in _tensors(observations).items()))
        known = form in self.captured or len(self.captured) < MOST
        if self.failed or len(observations) != self.size or not known:
            return work(*usual)
        if not self.seen:
            make_capturable(optimisers.latents)
            make_capturable(optimisers.decoder)
        self.seen[form] += 1
        if self.seen[form] <= WARM:
            return self.recorder.warm(lambda: work(*usual))
        if form not in self.captured:
            self.captured[form] = Captured(work, model, optimisers, observations, moves)
        captured = self.captured[form]
        captured.fill(observations, generator)
        if captured.replay is None:
            try:
                captured.replay = self.recorder.record(captured.again)
            except RuntimeError as error:
                self._give_up(optimisers, error)
                return captured.again()  # the noise is drawn already
        return captured.replay()

    def _give_up(self, optimisers: Optimisers, error: RuntimeError) -> None:
        """Nothing was done: a capture only notes what to do."""
        self.failed = True
        self.captured.clear()
        optimisers.latents.zero_grad(set_to_none=True)
        optimisers.decoder.zero_grad(set_to_none=True)
        first = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        warnings.warn(
            f"a training step could not be captured as a CUDA graph ({first}); the fit goes on without: "
            "--set training.graphs=false says so from the start",
            NeuralfieldWarning,
            stacklevel=2,
        )


def graphs_of(model: Model, optimisers: Optimisers, settings: Training, device: torch.device) -> Graphs | None:
    """Replays for a fit on an NVIDIA GPU; None where steps cannot be captured, or are not to be."""
    if device.type != "cuda" or not settings.graphs or refusal(model, optimisers):
        return None
    return Graphs(Cuda(device), settings.batch)


def refusal(model: Model, optimisers: Optimisers) -> str | None:
    """Why steps of this model cannot be captured, as far as that is known before one is tried."""
    if not vars(type(model.objective)).get("capturable"):  # what a class inherits says nothing of what it changes
        return "the objective does not say that its steps can be captured"
    foreign = [type(part).__name__ for part in model.objective.modules() if not type(part).__module__.startswith(OWN)]
    if foreign:
        return f"{foreign[0]} is not ours: it may draw numbers, or wait for the GPU"
    if optimisers.ranks.world > 1:
        return "several ranks speak in every step"
    if model.source.files is not None:
        return "rows of a mapped bank come from a file in every step"
    if model.source.reads or model.source.variational:
        return "only steps of plain banks are captured"
    if model.decoder.draws:
        return "the decoder draws random numbers in every step"
    if {p.device for p in model.source.parameters()} != {p.device for p in model.decoder.parameters()}:
        return "codes and decoder lie on different devices"
    if getattr(model.source, "bound", None) is not None:
        return "codes with a bound are shortened where they are looked up, which waits for the GPU"
    for optimiser in (optimisers.latents, optimisers.decoder):
        if not is_capturable(optimiser):
            return f"{type(optimiser).__name__} has no form that can be captured"
    return None


def _tensors(noun: Observations | Loss) -> dict[str, Tensor]:
    return {f.name: x for f in fields(noun) if isinstance(x := getattr(noun, f.name), Tensor)}
