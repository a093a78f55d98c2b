"""One fit on several ranks: how its parts are shared out when it begins, and come together at its end."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import neuralfield.files as files
from neuralfield.errors import UsageError
from neuralfield.latents.bank import Bank
from neuralfield.recipe import Model
from neuralfield.training import shards
from neuralfield.training.ranks import Ranks
from neuralfield.training.session import Session
from neuralfield.types import Loss


def share(model: Model, count: int, ranks: Ranks) -> None:
    """Keep the codes of the rank's own signals, of `count`; models that ranks cannot share are refused."""
    if count < ranks.world:
        raise UsageError(
            f"{count} signals are too few for {ranks.world} ranks: say --nproc-per-node {count}, or leave out torchrun"
        )
    if not isinstance(model.source, Bank) or getattr(model.source, "mapped", False):
        kind = "a mapped bank" if isinstance(model.source, Bank) else type(model.source).__name__
        raise UsageError(f"several ranks share a bank of codes in memory, not {kind}: leave out torchrun")
    if not model.objective.separable:
        raise UsageError(f"several ranks cannot share {type(model.objective).__name__}: a batch costs more than its parts do")
    theirs = ranks.told(count)
    if theirs != count:
        raise UsageError(f"rank {ranks.rank} has {count} signals, the first one {theirs}: give all the same data")
    shards.needed()
    own = ranks.share(count)
    model.source.hold(model.source.codes.data[own.start : own.stop].clone(), own.start)


def hand_out(state: Session, codes: Tensor | None, noise: float | None) -> float | None:
    """What the first rank begins with, to all: their own of the `codes` [n, D], the weights, and the noise of the linear model."""
    model, ranks = state.model, state.ranks
    bank: Any = model.source
    bank.codes.data.copy_(ranks.scatter(codes, len(state.signals), bank.code_dim))
    for module in (model.decoder, model.objective):
        files.restore(module, ranks.state(module.state_dict()), Path("what the first rank has sent"))
    state.settled, noise = ranks.told([state.settled, noise])
    return noise


def gather(state: Session) -> None:
    """All codes at the first rank, whose bank is whole again; others keep their own."""
    if state.ranks.world == 1:
        return
    codes = state.ranks.gather(state.model.source.codes, len(state.signals))
    if state.ranks.first and isinstance(state.model.source, Bank):
        state.model.source.hold(codes.to(state.device))


def summed(loss: Loss, ranks: Ranks) -> Loss:
    """What a batch cost, of several ranks in sums, as if of one signal."""
    if ranks.world == 1:
        return loss
    data, prior, observed = ranks.total(*(float(each.detach().sum()) for each in (loss.data, loss.prior, loss.observed)))
    return Loss(torch.tensor([data]), torch.tensor([prior]), torch.tensor([observed]), torch.zeros(()))
