"""A small network that recognises digits: how sure it is of generated ones, and which digit a completion is."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.laboratory import Laboratory, labels_of, pixels
from neuralfield.files import read_tensors, restore, write_tensors

EPOCHS, BATCH, RATE = 4, 128, 3e-3
MOST = 60_000
"""Training digits: all that there are. It is a measuring instrument, and no part of what is compared."""


@dataclass(frozen=True)
class Classifier:
    """Images [n, 1024] -> how likely each digit is [n, 10]; `accuracy` is that on the test digits."""

    network: nn.Module
    accuracy: float

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        return torch.cat([self.network(part).softmax(1) for part in images.split(500)])

    def confidence(self, images: Tensor) -> float:
        """Mean probability of the likeliest digit."""
        return self.probabilities(images).amax(1).mean().item()

    def recognised(self, images: Tensor, labels: Tensor) -> float:
        """Share of images that it takes for their digit."""
        return (self.probabilities(images).argmax(1) == labels).float().mean().item()


def classifier(laboratory: Laboratory) -> Classifier:
    """Trained once, then kept."""
    network, file = _network(), laboratory.runs / "classifier.safetensors"
    if file.exists():
        tensors, about = read_tensors(file)
        restore(network, tensors, file)
        return Classifier(network.eval(), float(about["accuracy"]))
    training, test = laboratory.digits("train", 0, MOST), laboratory.digits("test", 0, MOST)
    _train(network, pixels(training), labels_of(training), 1 if laboratory.epochs else EPOCHS)
    accuracy = Classifier(network.eval(), 0.0).recognised(pixels(test), labels_of(test))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(file, network.state_dict(), {"accuracy": str(accuracy)})
    return Classifier(network, accuracy)


def _network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Unflatten(1, (1, 32, 32)),
            *(nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(1024, 10)),
        )


def _train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    optimiser, steps = torch.optim.Adam(network.parameters(), RATE), epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(BATCH):
                loss = nn.functional.cross_entropy(network(images[rows]), labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
