"""Laws of every schedule."""

import pytest
import torch
from synthetic import TINY, images

from neuralfield.recipe import Model, Recipe, build
from neuralfield.signals.signals import Signals
from neuralfield.signals.sines import sines
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.training.schedules.schedule import Optimisers, Schedule


def signals(domain: str = "image") -> Signals:
    """Ten images, or ten curves of which each was seen at times of its own."""
    return images(10) if domain == "image" else sines(count=10, points=12)


def model_and_optimisers(seed: int = 0, domain: str = "image") -> tuple[Model, Optimisers]:
    """The tiny model for ten signals, with rates that are set."""
    data = signals(domain)
    recipe = Recipe.load("image", [*TINY, "latents.init=normal", "latents.noise=0"])
    tables = recipe.model_dump() | {"domain": {"kind": domain, **data.domain_arguments}}
    model = build(Recipe.from_tables(tables), 10, seed)
    model.source.initialise(lambda: data.batches(10), torch.Generator().manual_seed(seed))
    optimisers = Optimisers(RowAdam(model.source.parameters()), torch.optim.Adam(model.decoder.parameters()))
    optimisers.rates(0.03, 0.01)
    return model, optimisers


def run_steps(
    schedule: Schedule, model: Model, optimisers: Optimisers, index: torch.Tensor, epochs: range, domain: str = "image"
) -> list[float]:
    """One step per epoch on the same batch; the mean objective before each."""
    batch = signals(domain).batch(index)
    return [
        float(schedule.step(model, optimisers, batch, epoch, torch.Generator().manual_seed(epoch)).total.detach().mean())
        for epoch in epochs
    ]


class ScheduleContract:
    """Give `schedule`; `domain` says what its signals are."""

    domain = "image"

    @pytest.fixture
    def schedule(self) -> Schedule:
        raise NotImplementedError

    def test_a_step_returns_what_the_batch_cost_before_it(self, schedule: Schedule) -> None:
        model, optimisers = model_and_optimisers(domain=self.domain)
        batch = signals(self.domain).batch(torch.tensor([1, 4, 7]))
        with torch.no_grad():
            before = model.objective(model.source, model.decoder, batch, torch.Generator()).total
        loss = schedule.step(model, optimisers, batch, 0, torch.Generator())
        assert loss.total.shape == (3,)
        torch.testing.assert_close(loss.total.detach(), before)

    def test_steps_reduce_the_objective(self, schedule: Schedule) -> None:
        losses = run_steps(schedule, *model_and_optimisers(domain=self.domain), torch.arange(10), range(40), domain=self.domain)
        assert losses[-1] < losses[0] - 0.5  # nats per value; the tiny model gains several in 40 steps

    def test_codes_and_decoder_both_learn_in_the_end(self, schedule: Schedule) -> None:
        model, optimisers = model_and_optimisers(domain=self.domain)
        codes, weights = model.source.codes.detach().clone(), {k: v.clone() for k, v in model.decoder.state_dict().items()}
        run_steps(schedule, model, optimisers, torch.arange(10), range(schedule.epochs or 2), domain=self.domain)
        assert not torch.equal(model.source.codes, codes)
        assert not torch.equal(model.decoder.state_dict()["out.weight"], weights["out.weight"])

    def test_rows_absent_from_the_batch_stay_bit_identical(self, schedule: Schedule) -> None:
        model, optimisers = model_and_optimisers(domain=self.domain)
        run_steps(schedule, model, optimisers, torch.arange(10), range(3), domain=self.domain)  # so that every row has momentum
        before = model.source.codes.detach().clone()
        run_steps(schedule, model, optimisers, torch.tensor([2, 5]), range(3), domain=self.domain)
        absent = [0, 1, 3, 4, 6, 7, 8, 9]
        assert torch.equal(model.source.codes[absent], before[absent])

    def test_nothing_is_left_behind_by_a_step(self, schedule: Schedule) -> None:
        model, optimisers = model_and_optimisers(domain=self.domain)
        run_steps(schedule, model, optimisers, torch.arange(4), range(1), domain=self.domain)
        for parameter in [*model.decoder.parameters(), *model.source.parameters()]:
            assert parameter.grad is None
            assert parameter.requires_grad

    def test_the_same_seed_gives_the_same_steps(self, schedule: Schedule) -> None:
        twice = [
            run_steps(schedule, *model_and_optimisers(domain=self.domain), torch.arange(10), range(5), domain=self.domain)
            for _ in range(2)
        ]
        assert twice[0] == twice[1]
