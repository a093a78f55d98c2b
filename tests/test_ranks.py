"""Several ranks: the same fit as one process, checkpoints for any number of them, and one clear line when one dies."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import ranked
import torch
from contracts.schedule import model_and_optimisers
from ranked import JOBS, arguments, numbers, on_ranks

import neuralfield as nf
from neuralfield.errors import NeuralfieldError, UsageError
from neuralfield.latents.source import FixedCodes
from neuralfield.objective import MAP
from neuralfield.training import checkpoint, shards
from neuralfield.training.ranks import ALONE, Ranks
from neuralfield.training.schedules.schedule import descend
from neuralfield.training.shared import share
from neuralfield.training.torchrun import first, here


@pytest.fixture(scope="module", autouse=True)
def _ranks_find_these_tests() -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """What one process makes of a job."""

    @cache
    def made(job: str) -> dict[str, torch.Tensor]:
        folder = tmp_path_factory.mktemp("alone") / job
        nf.fit(**arguments(job), out=folder)
        return numbers(folder)

    return made


def agree(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # float32 sums of a batch in another order, after some steps: what was asked for
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


# the same fit


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("job", sorted(set(JOBS) - {"few"}))
def test_several_ranks_make_the_same_run_as_one_process(alone, tmp_path: Path, job: str, world: int) -> None:  # type: ignore[no-untyped-def]
    ended = on_ranks(world, ranked.fit, tmp_path / "run", job)
    assert ended.codes == [0] * world, ended.said
    agree(numbers(tmp_path / "run"), alone(job))


def test_two_ranks_make_the_same_run_as_one_process(alone, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert on_ranks(2, ranked.fit, tmp_path / "run", "images").codes == [0, 0]
    agree(numbers(tmp_path / "run"), alone("images"))
    run = nf.Run.load(tmp_path / "run")
    assert run.infer(ranked.images(3)).latent.mean.isfinite().all()
    assert run.facts["points_per_second"] > 0
    assert sorted(path.name for path in (tmp_path / "run" / "resume").iterdir()) == ["shards-9", "shards.json"]
    # what only one of them writes
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1
    assert (tmp_path / "run" / "figures" / "reconstructions.png").exists()
    nf.fit(**arguments("images") | {"epochs": 1}, out=tmp_path / "run", overwrite=True)
    assert [path.name for path in (tmp_path / "run" / "resume").iterdir()] == ["state.safetensors"]  # nothing of the old run


@pytest.mark.slow
def test_ranks_agree_on_a_budget_and_on_when_to_stop(alone, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert on_ranks(2, ranked.fit_within, tmp_path / "run", "images", 2.0).codes == [0, 0]  # or they wait for each other for ever
    facts = nf.Run.load(tmp_path / "run").facts
    assert facts["steps"] > 0
    # the scores come after the budget, and this machine may be busy: a fit that ranks do not end together never ends
    assert facts["seconds"] < 20
    alone("stopping")
    assert nf.fit(**arguments("stopping")).facts["epochs"] == 2  # of three: it does stop early


def test_a_batch_without_signals_of_a_rank_moves_nothing_of_its_own_and_counts_for_nothing() -> None:
    model, optimisers = model_and_optimisers()
    before = model.source.codes.detach().clone()
    seen = ranked.images(10).batch(torch.arange(1)).rows(slice(0))
    assert descend(model, optimisers, seen, torch.Generator()).total.shape == (0,)
    assert torch.equal(model.source.codes, before)


def test_a_bank_that_is_a_part_knows_signals_by_their_numbers() -> None:
    bank = nf.Bank(10, 3)
    torch.nn.init.normal_(bank.codes)
    whole, seen = bank.codes.detach().clone(), ranked.images(10).batch(torch.tensor([7, 4]))
    bank.hold(whole[4:8], 4)
    assert torch.equal(bank(seen).mean, whole[[7, 4]])
    assert len(bank.codes) == 4


class Together(MAP):
    """An objective whose batches are more than their parts."""

    separable = False


def test_what_ranks_cannot_share_is_one_line() -> None:
    two = Ranks(1, 2)
    model, _ = model_and_optimisers()
    with pytest.raises(UsageError, match="1 signals are too few for 2 ranks"):
        share(model, 1, two)
    parts = (model.objective.measurement, model.objective.likelihood, model.objective.prior)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="cannot share Together"):
        share(replace(model, objective=Together(*parts)), 10, two)
    with pytest.raises(UsageError, match="not FixedCodes"):
        share(replace(model, source=FixedCodes(torch.zeros(10, 3))), 10, two)
    model.source.mapped = True  # type: ignore[assignment]
    with pytest.raises(UsageError, match="not a mapped bank"):
        share(model, 10, two)


def test_torchruns_words_must_be_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="MASTER_ADDR is not set"):
        nf.fit(**arguments("images"), out=tmp_path / "run")


def test_one_process_is_alone() -> None:
    assert here() is ALONE
    assert ALONE.total(1.0, 2.0) == [1.0, 2.0]
    x = torch.randn(3)
    assert ALONE.sum(x) is x


# checkpoints


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 2), (2, 2)])
def test_a_fit_goes_on_with_any_number_of_ranks(alone, tmp_path: Path, before: int, after: int) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "run"
    ended = on_ranks(before, ranked.fit, folder, "ragged", (before - 1, 4, signal.SIGINT))
    assert ended.codes == [130] * before
    assert len(ended.said) == 1
    assert f"--resume --out {folder}" in ended.said[0]
    position = checkpoint.newest(folder)
    assert position is not None
    assert 4 <= position.steps <= 5  # all stop together, when they have heard of it
    assert on_ranks(after, ranked.fit, folder, "ragged", None, True).codes == [0] * after
    agree(numbers(folder), alone("ragged"))


@pytest.mark.slow
def test_a_fit_with_validation_goes_on_with_another_number_of_ranks(alone, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "run"
    assert on_ranks(2, ranked.fit, folder, "stopping", (0, 5, signal.SIGTERM)).codes == [130, 130]
    assert on_ranks(3, ranked.fit, folder, "stopping", None, True).codes == [0, 0, 0]
    agree(numbers(folder), alone("stopping"))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_kill_in_the_middle_of_a_checkpoint_leaves_the_one_before(alone, tmp_path: Path, rank: int) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "run"
    ended = on_ranks(2, ranked.killed_while_saving, folder, "images", rank, 2)
    assert ended.codes[rank] == -signal.SIGKILL
    assert ended.codes[1 - rank] == 1
    position = checkpoint.newest(folder)
    assert position is not None
    assert (position.epoch, position.step) == (1, 0)
    assert "the checkpoint after 1 epochs is whole" in ended.said[0]
    nf.fit(arguments("images")["data"], out=folder, resume=True)
    agree(numbers(folder), alone("images"))


def test_a_shard_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert on_ranks(2, ranked.fit, folder, "ragged", (0, 4, signal.SIGINT)).codes == [130, 130]
    shard = sorted((folder / "resume").glob("shards-*/*"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(NeuralfieldError, match=f"{shard.name} is missing or truncated"):
        nf.fit(arguments("ragged")["data"], out=folder, resume=True)
    shard.unlink()
    with pytest.raises(NeuralfieldError, match=f"{shard.name} is missing or truncated"):
        nf.fit(arguments("ragged")["data"], out=folder, resume=True)


# ranks that die


@pytest.mark.slow
@pytest.mark.parametrize(("world", "dying"), [(2, 1), (2, 0), (3, 1)])
def test_a_rank_that_is_killed_ends_the_job_with_one_line(tmp_path: Path, world: int, dying: int) -> None:
    ended = on_ranks(world, ranked.fit, tmp_path / "run", "images", (dying, 5, signal.SIGKILL), within=30.0)
    assert [code for rank, code in enumerate(ended.codes) if rank != dying] == [1] * (world - 1)
    assert len(ended.said) == 1
    assert f"rank {dying} of {world} no longer answers" in ended.said[0]
    assert f"the checkpoint after 1 epochs is whole, go on with nf fit --resume --out {tmp_path / 'run'}" in ended.said[0]


def test_an_error_on_one_rank_is_said_once(tmp_path: Path, source: str) -> None:
    (tmp_path / "taken").mkdir()
    for given, words in (
        (["--domain", "imag"], 'did you mean "image"'),
        (["--domain", "image", "--data", source], "taken exists"),
        (["--domain", "image", "--data", source, "--limit", "1"], "1 signals are too few for 2 ranks"),
    ):
        out = tmp_path / ("taken" if "taken" in words else "free")
        ended = on_ranks(2, ranked.words, out, "fit", *given, "--out", str(out))
        assert set(ended.codes) <= {1, 2}
        assert 0 not in ended.codes
        assert len(ended.said) == 1
        assert words in ended.said[0]


# as a user types it


@pytest.mark.slow
def test_torchrun_runs_the_command_and_only_the_first_rank_prints(tmp_path: Path, source: str) -> None:
    out = tmp_path / "run"
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "neuralfield", "fit"]
    settings = [word for setting in ranked.TINY for word in ("--set", setting)]
    given = ["--domain", "image", "--data", source, "--out", str(out), "--epochs", "2", *settings]
    done = subprocess.run([*words, *given], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fitted 24 signals") == 1
    assert nf.Run.load(out).facts["epochs"] == 2


def test_a_second_checkpoint_of_the_same_step_leaves_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the end of the last epoch is saved, and then the end of training: a kill in the second must not take the first along
    whole = tmp_path / "resume" / "shards-7"
    whole.mkdir(parents=True)
    shards.path_of(tmp_path).write_text('{"folder": "shards-7"}')
    monkeypatch.setattr(shards, "needed", lambda: pytest.fail("it was written again"))
    shards.save(tmp_path, "shards-7", {}, set(), {}, 4, ALONE)
    assert whole.is_dir()


@pytest.mark.parametrize(("variables", "expected"), [({}, True), ({"RANK": "1"}, True), ({"RANK": "1", "WORLD_SIZE": "2"}, False)])
def test_only_the_first_of_several_prints(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: bool) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert first() == expected
