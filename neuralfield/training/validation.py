"""Held-out signals: how well the decoder serves signals that it was not fitted to, and when to stop."""

import torch

from neuralfield.errors import NeuralfieldError
from neuralfield.seeds import generator
from neuralfield.signals.signals import Signals
from neuralfield.training.session import Session
from neuralfield.types import Latent

VALIDATED = 256
"""Held-out signals searched after every epoch at most, so that validation does not cost more than training."""
VALIDATION_STEPS = 30
"""Solver steps for their codes: enough to rank decoders."""
HOLDING_OUT = 1003  # the seed's second number; an epoch of that number draws other things from it


def hold_out(signals: Signals, share: float, seed: int) -> tuple[Signals, Signals | None]:
    """(signals to fit, held-out signals) for a validation share."""
    count = round(len(signals) * share)
    if not share:
        return signals, None
    if not 0 < count < len(signals):
        raise NeuralfieldError(f"a validation share of {share} leaves {count} of {len(signals)} signals held out; choose another")
    order = torch.randperm(len(signals), generator=generator(seed, HOLDING_OUT))
    return signals.select(order[count:].sort().values), signals.select(order[:count].sort().values)


def out_of_patience(state: Session) -> bool:
    """Search the held-out signals with the decoder as it is, keep the best; True after `patience` epochs without a better one."""
    if state.held_out is None:
        return False
    codes = state.model.source.codes.detach()
    solver, middle = state.solver(VALIDATION_STEPS), state.ranks.sum(codes.sum(0)) / len(state.signals)
    total, searched = 0.0, min(VALIDATED, len(state.held_out))
    for rows in torch.tensor(state.ranks.share(searched), dtype=torch.long).split(state.recipe.inference.batch):
        if len(rows):  # of few held-out signals, some ranks have none
            batch = state.held_out.batch(rows).to(codes.device)
            with torch.no_grad():
                start = Latent(state.model.source(batch).mean if state.model.source.reads else middle.expand(len(rows), -1))
            total += float(solver.solve(state.model.objective, state.model.decoder, batch, start).loss.total.sum())
    value = state.ranks.total(total)[0] / searched
    if value < state.facts.get("best_validation", float("inf")):
        state.facts.update(best_validation=value, best_epoch=state.position.epoch)
        parts = (("decoder", state.model.decoder), ("source", state.model.source))
        state.kept = {f"{name}.{k}": v.clone() for name, part in parts for k, v in part.state_dict().items()}
    return state.position.epoch - state.facts.get("best_epoch", 0) >= state.recipe.training.patience


def restore_best(state: Session) -> None:
    """Put the decoder and the codes of the best epoch back, where there was validation."""
    for name, part in (("decoder", state.model.decoder), ("source", state.model.source)) if state.kept else ():
        part.load_state_dict({k.removeprefix(f"{name}."): v for k, v in state.kept.items() if k.startswith(f"{name}.")})
