"""Epochs on the codes, then epochs on the decoder, and again."""

import torch

from neuralfield.recipe import Model
from neuralfield.training.schedules.schedule import Optimisers, Schedule, descend
from neuralfield.types import Loss, Observations


class Alternating(Schedule):
    """`rounds` times `latent_epochs` on the codes and `decoder_epochs` on the decoder ("What is autodecoder?", 2024: 20/20/20)."""

    def __init__(self, latent_epochs: int = 20, decoder_epochs: int = 20, rounds: int = 20) -> None:
        if min(latent_epochs, decoder_epochs, rounds) < 1:
            raise ValueError("latent_epochs, decoder_epochs and rounds must each be at least 1")
        self.latent_epochs, self.decoder_epochs = latent_epochs, decoder_epochs
        self.epochs = rounds * (latent_epochs + decoder_epochs)

    def step(
        self, model: Model, optimisers: Optimisers, observations: Observations, epoch: int, generator: torch.Generator
    ) -> Loss:
        on_codes = epoch % (self.latent_epochs + self.decoder_epochs) < self.latent_epochs
        return descend(model, optimisers, observations, generator, ("latents",) if on_codes else ("decoder",))
