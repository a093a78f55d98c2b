"""A fit in progress: the parts, and all that a checkpoint must hold."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuralfield.inference.lbfgs import LOOKED_AT
from neuralfield.inference.solver import Solver
from neuralfield.recipe import Model, Part, Recipe, construct
from neuralfield.signals.signals import Signals
from neuralfield.training import checkpoint
from neuralfield.training.batches import Batches
from neuralfield.training.interrupt import InterruptedFitError
from neuralfield.training.loop import Position
from neuralfield.training.ranks import Ranks
from neuralfield.training.schedules.schedule import Optimisers, Schedule


@dataclass
class Session:
    """`began` is when the fit would have begun had it never been interrupted; `facts` are JSON, `kept` further tensors."""

    recipe: Recipe
    model: Model
    optimisers: Optimisers
    schedule: Schedule
    signals: Signals
    batches: Batches
    held_out: Signals | None
    seed: int
    folder: Path | None
    began: float
    settled: bool = False
    """Whether prior and decoder began as the linear model that the first codes come from."""
    position: Position = field(default_factory=Position)
    facts: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)

    @property
    def spent(self) -> float:
        """Seconds so far, those before an interruption included."""
        return time.perf_counter() - self.began

    @property
    def ranks(self) -> Ranks:
        """This process among those that fit together."""
        return self.optimisers.ranks

    @property
    def device(self) -> torch.device:
        """Where the decoder is."""
        return next(self.model.decoder.parameters()).device

    def solver(self, steps: int) -> Solver:
        """The recipe's solver with so many steps, where it counts any."""
        inference = self.recipe.inference
        counted = {"steps": steps} if "steps" in inference.arguments else {}
        solver: Solver = construct("inference", inference.kind, {**inference.arguments, **counted})
        codes = self.model.source.overview().to(self.device)
        if self.ranks.world > 1:  # those at which L-BFGS looks; all of them may not fit here
            codes = self.ranks.some(codes, len(self.signals), LOOKED_AT)
        solver.prepare(self.model.objective, self.model.decoder, codes, self.model.domain.grid().to(self.device))
        return solver

    def resolve(self, table: str, arguments: dict[str, Any]) -> None:
        """Write into the recipe what a part has learned of its own arguments."""
        part = getattr(self.recipe, table)
        changed = Part(kind=part.kind, **{**part.arguments, **arguments})
        self.recipe = self.recipe.model_copy(update={table: changed})

    def lay_out(self) -> None:
        """Give the files of a mapped bank their place: those that the checkpoint speaks of, where there is one, else new ones."""
        files = self.model.source.files
        if files is None:
            return
        if self.folder is None:
            files.reserve()
        elif checkpoint.path_of(self.folder).exists():
            files.reopen(checkpoint.bank_of(self.folder))
        else:
            files.begin(checkpoint.bank_of(self.folder))

    @property
    def due(self) -> bool:
        """Whether a checkpoint should not wait for the end of the epoch."""
        files = self.model.source.files
        return files is not None and files.due

    def save(self) -> None:
        """A checkpoint, where there is a folder."""
        if self.folder is not None:
            self.facts["spent"] = self.spent
            checkpoint.save(self.folder, self.model, self.optimisers, self.position, self.facts, self.kept, len(self.signals))

    def restore(self) -> bool:
        """Go back to the checkpoint; False where there is none yet."""
        if self.folder is None or not self.ranks.told(checkpoint.newest(self.folder) is not None):
            return False
        self.position, self.facts, self.kept = checkpoint.load(self.folder, self.model, self.optimisers, len(self.signals))
        self.began = time.perf_counter() - self.facts["spent"]
        return True

    def interrupt(self) -> InterruptedFitError:
        """What to raise after Ctrl-C."""
        where = (
            f"; its state was saved, go on with nf fit --resume --out {self.folder}"
            if self.folder
            else " and had no folder to save to"
        )
        return InterruptedFitError(f"the fit was interrupted in epoch {self.position.epoch + 1}{where}")
