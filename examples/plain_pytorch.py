"""Your own data and your own loop: only a decoder, a bank of codes and the objective, which are ordinary modules.

Run with: python examples/plain_pytorch.py
"""

import torch
from torch.utils.data import DataLoader, Dataset

import neuralfield as nf

POINTS, CODE_DIM = 40, 8


class Oscillations(Dataset):
    """Signal i is x(t) = exp(-a t) sin(b t + c) with its own a, b, c, seen at 40 times of its own."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        a, b, c = torch.rand(3, count, 1, 1, generator=generator) * torch.tensor([1.0, 4.0, 3.0])[:, None, None, None]
        self.t = torch.rand(count, POINTS, 1, generator=generator) * 2 - 1
        self.x = torch.exp(-a * (self.t + 1)) * torch.sin((b + 2) * (self.t + 1) + c)

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, i: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        return i, self.t[i], self.x[i]


torch.manual_seed(0)
train = Oscillations(500, seed=1)

# The model. `sparse` gradients reach the rows of a batch only, so the bank needs an optimiser that leaves the others alone.
bank = nf.Bank(len(train), CODE_DIM)
torch.nn.init.normal_(bank.codes, std=0.1)
decoder = nf.Modulated(coord_dim=1, value_dim=1, code_dim=CODE_DIM, width=64, depth=3, frequencies=16, bandwidth=1.0)
objective = nf.MAP(nf.Points(), nf.GaussianLikelihood(std=0.05), nf.IsotropicPrior(CODE_DIM, std=1.0))
optimisers = [nf.RowAdam(bank.parameters(), lr=1e-2), torch.optim.Adam(decoder.parameters(), lr=3e-3)]
# [torch.optim.SparseAdam(bank.parameters(), lr=1e-2), ...] works as well

# The loop.
for epoch in range(40):
    for index, t, x in DataLoader(train, batch_size=50, shuffle=True):
        observations = nf.Observations(index, coords=t, values=x, weight=torch.ones(t.shape[:2]))
        loss = objective(bank, decoder, observations)  # per signal: loss.data, loss.prior, loss.total
        (loss.total.mean() + loss.batch).backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
    if epoch % 10 == 9:
        print(f"epoch {epoch + 1}: {loss.total.mean():.3f} nats per value")

# New signals, seen at their first 10 points only: search their codes with the decoder frozen, then score the other 30.
index, t, x = next(iter(DataLoader(Oscillations(100, seed=2), batch_size=100)))
whole = nf.Observations(index, t, x, torch.ones(t.shape[:2]))
observed, hidden = whole.split(torch.arange(POINTS).expand(t.shape[:2]) < 10)
start = nf.Latent(bank.codes.detach().mean(0).expand(len(observed), -1))
estimate = nf.Adam(steps=200).solve(objective, decoder, observed, start)

with torch.no_grad():
    errors = (objective.field(estimate.latent, decoder)(t) - x).square()[..., 0]
for name, side in (("observed", observed), ("hidden", hidden)):
    print(f"{name} points: root mean square error {(errors * side.weight).sum().div(side.weight.sum()).sqrt():.3f}")
print(f"hidden points, by their mean instead: {x[hidden.weight > 0].std():.3f}")
