"""Codes and decoder in every step, as DeepSDF trains."""

import torch

from neuralfield.recipe import Model
from neuralfield.training.schedules.schedule import Optimisers, Schedule, descend
from neuralfield.types import Loss, Observations


class Joint(Schedule):
    """Both move in every step."""

    def step(
        self, model: Model, optimisers: Optimisers, observations: Observations, epoch: int, generator: torch.Generator
    ) -> Loss:
        return descend(model, optimisers, observations, generator)
