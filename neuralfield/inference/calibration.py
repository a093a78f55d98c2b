"""What makes bands as wide as they should be: three numbers, fitted to signals that the fit has not seen."""

import torch
from torch import Tensor, nn

from neuralfield.likelihoods import Likelihood


class Calibration(nn.Module):
    """`temperature` divides the nats of what is seen while codes are searched and drawn: points of one signal err together.

    `evidence` is the power to which the weights of optima are raised: 1 trusts what Laplace's approximation says of them, 0 treats
    all alike. `noise` replaces the likelihood's standard deviation where values are drawn; 0 leaves it as it is.
    """

    temperature: Tensor
    evidence: Tensor
    noise: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("evidence", torch.tensor(1.0))
        self.register_buffer("noise", torch.tensor(0.0))

    def predictive(self, likelihood: Likelihood) -> Likelihood:
        """The likelihood that values are drawn from."""
        return likelihood.with_noise(float(self.noise)) if self.noise > 0 else likelihood
