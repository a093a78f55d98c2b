"""Laws of every source of codes."""

import pytest
import torch

from neuralfield.latents.source import LatentSource
from neuralfield.signals.signals import Signals
from neuralfield.types import Observations


class LatentSourceContract:
    """Give `source`, for `observations` of five signals."""

    @pytest.fixture
    def observations(self, images: Signals) -> Observations:
        return images.batch(torch.tensor([4, 0, 2, 1, 3]))

    @pytest.fixture
    def source(self) -> LatentSource:
        raise NotImplementedError

    def test_one_code_per_signal(self, source: LatentSource, observations: Observations) -> None:
        latent = source(observations)
        assert len(latent) == len(observations)
        assert latent.mean.shape[-1] == source.code_dim
        assert latent.mean.isfinite().all()

    def test_asking_changes_nothing(self, source: LatentSource, observations: Observations) -> None:
        before = {name: value.clone() for name, value in source.state_dict().items()}
        assert torch.equal(source(observations).mean, source(observations).mean)
        assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())

    def test_gradients_reach_every_parameter(self, source: LatentSource, observations: Observations) -> None:
        latent = source(observations)
        spread = 0.0 if latent.log_std is None else (latent.log_std + 1).square().sum()
        (latent.mean.square().sum() + spread).backward()
        for name, parameter in source.named_parameters():
            assert parameter.grad is not None, name
            gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
            assert gradient.abs().max() > 0, name

    def test_parameters_carry_the_codes(self, source: LatentSource, observations: Observations) -> None:
        before = source(observations).mean.clone()
        state = {name: value.clone() for name, value in source.state_dict().items()}
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.add_(1)
        assert not torch.equal(source(observations).mean, before)
        source.load_state_dict(state)
        assert torch.equal(source(observations).mean, before)
