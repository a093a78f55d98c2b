"""A bank in files: the numbers of one in memory, bit for bit, whatever is let go of, interrupted or killed."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from contracts.latent_source import LatentSourceContract
from safetensors.torch import load_file, save
from synthetic import TINY, images
from torch import Tensor

import neuralfield as nf
from neuralfield import files
from neuralfield.errors import NeuralfieldError, NeuralfieldWarning, UsageError
from neuralfield.latents import bank as banks
from neuralfield.latents import row_files, undo
from neuralfield.latents.bank import Bank
from neuralfield.latents.row_files import RowFiles
from neuralfield.latents.source import LatentSource
from neuralfield.signals.roster import Numbered, read_ids, stored_ids
from neuralfield.training import checkpoint
from neuralfield.training.interrupt import InterruptedFitError
from neuralfield.training.optimisers.row_adam import RowAdam
from neuralfield.training.progress import Progress, Report

pytestmark = pytest.mark.usefixtures("ctrl_c")

MAPPED = [*TINY, "training.points=30", "latents.mapped=true"]


def mapped(count: int = 24, code_dim: int = 4, init: str = "normal") -> Bank:
    bank = Bank(count, code_dim, init=init, mapped=True)
    bank.initialise(lambda: images(count).batches(10), torch.Generator().manual_seed(0))
    return bank


class TestMappedBank(LatentSourceContract):
    @pytest.fixture
    def source(self) -> LatentSource:
        return mapped()


class Stopping(Progress):
    """Presses Ctrl-C after some reports, or when a stage begins; calls `look` at every report."""

    def __init__(self, stop: int | None = None, at_stage: str | None = None, look: Callable[[], None] = lambda: None) -> None:
        self.stop, self.at_stage, self.look, self.reports = stop, at_stage, look, 0

    def stage(self, name: str) -> None:
        if name == self.at_stage:
            os.kill(os.getpid(), signal.SIGINT)

    def report(self, report: Report) -> None:
        self.reports += 1
        self.look()
        if self.reports == self.stop:
            os.kill(os.getpid(), signal.SIGINT)


def state(run: nf.Run) -> dict[str, Tensor]:
    parts = torch.nn.ModuleDict({"decoder": run.decoder, "start": run.start, "prior": run.prior})
    return {**parts.state_dict(), "codes": run.codes}


def identical(a: nf.Run, b: nf.Run) -> bool:
    ours, theirs = state(a), state(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def in_memory() -> nf.Run:
    return nf.fit(images(), recipe="image", settings=[*TINY, "training.points=30"], epochs=3)


@pytest.fixture
def frugal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are let go of before every look, and whole banks are gone over in many pieces."""
    monkeypatch.setattr(row_files, "BUDGET", 0)
    monkeypatch.setattr(row_files, "PIECE", 16)
    monkeypatch.setattr(undo, "AT_ONCE", 3)
    monkeypatch.setattr(banks, "AT_ONCE", 5)


# the same numbers


@pytest.mark.usefixtures("frugal")
@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["latents.init=normal", "latents.noise=0.2"],
        ["latents.bound=0.5", "training.optimiser=adam"],
        ["inference.start=mean", "inference.kind=levenberg", "inference.steps=4"],
        ["schedule.kind=alternating", "schedule.latent_epochs=1", "schedule.decoder_epochs=1", "schedule.rounds=2"],
    ],
    ids=lambda settings: settings[0] if settings else "as it is",
)
def test_a_mapped_fit_is_one_in_memory_bit_for_bit(images: nf.Images, settings: list[str], tmp_path: Path) -> None:
    known = [*TINY, "training.points=30", *settings]
    whole = nf.fit(images, recipe="image", settings=known, epochs=2)
    ours = nf.fit(images, recipe="image", settings=[*known, "latents.mapped=true"], epochs=2, out=tmp_path / "run")
    assert identical(ours, whole)
    assert identical(nf.Run.load(tmp_path / "run"), whole)
    assert identical(nf.fit(images, recipe="image", settings=[*known, "latents.mapped=true"], epochs=2), whole)


@pytest.mark.usefixtures("frugal")
@pytest.mark.parametrize("count", [1, 15, 16, 17, 31, 32, 50])
def test_normal_codes_drawn_in_pieces_are_those_drawn_at_once(count: int) -> None:
    whole = Bank(count, 3, init="normal")
    whole.initialise(lambda: iter(()), torch.Generator().manual_seed(0))
    assert torch.equal(mapped(count, 3).codes, whole.codes)


def test_a_bank_of_codes_without_dimensions_can_be_mapped() -> None:
    assert mapped(5, 0).codes.shape == (5, 0)


def step(bank: Bank, optimiser: torch.optim.Optimizer, index: list[int]) -> None:
    (bank(images().batch(torch.tensor(index))).mean - 1).square().sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def test_rows_that_are_not_in_the_batch_and_their_state_stay_as_they_are() -> None:
    bank = mapped()
    optimiser = RowAdam(bank.parameters(), lr=0.1, beside=bank.files)
    step(bank, optimiser, list(range(24)))
    before = {name: tensor.clone() for name, tensor in {"codes": bank.codes.detach(), **optimiser.state[bank.codes]}.items()}
    step(bank, optimiser, [5, 11])
    absent = [i for i in range(24) if i not in (5, 11)]
    for name, tensor in {"codes": bank.codes.detach(), **optimiser.state[bank.codes]}.items():
        assert torch.equal(tensor[absent], before[name][absent]), name
        assert not torch.equal(tensor[[5, 11]], before[name][[5, 11]]), name


def test_an_overview_of_a_large_bank_is_evenly_spread_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banks, "OVERVIEW", 4)
    bank = mapped(10)
    assert torch.equal(bank.overview(), bank.codes.detach()[[0, 3, 6, 9]])


# what is resident


def resident(path: Path) -> int:
    """Bytes of a file that are resident in this process."""
    found, mine = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and not line.split()[0].endswith(":"):
            mine = line.endswith(str(path))
        elif mine and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells what is resident")
def test_what_is_let_go_of_is_no_longer_resident_and_not_lost(tmp_path: Path) -> None:
    rows = RowFiles(50_000)
    (codes,) = rows.table("codes", [torch.zeros(0, 16)])
    rows.begin(tmp_path / "bank")
    written = torch.randn(50_000, 16)
    codes.copy_(written)
    assert resident(tmp_path / "bank" / "codes.bin") >= codes.nbytes
    rows.drop()
    assert resident(tmp_path / "bank" / "codes.bin") == 0
    assert torch.equal(codes, written)
    on_disk = torch.from_file(str(tmp_path / "bank" / "codes.bin"), size=codes.numel())
    assert torch.equal(on_disk.view(-1, 16), written)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells what is resident")
def test_looking_at_rows_keeps_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "BUDGET", 2**21)
    bank = Bank(200_000, 16, init="normal", mapped=True)
    assert bank.files is not None
    bank.files.begin(tmp_path / "bank")
    bank.initialise(lambda: iter(()), torch.Generator().manual_seed(0))
    assert resident(tmp_path / "bank" / "codes.bin") == 0
    most = 0
    for rows in torch.randperm(200_000)[:640].split(32):
        bank.rows(rows)
        most = max(most, resident(tmp_path / "bank" / "codes.bin"))
    # without a budget these 640 rows would have most of the 12.8 MB resident; the last look may come on top of it
    assert 0 < most <= 2**21 + 32 * row_files.AROUND


# going on


@pytest.mark.usefixtures("frugal")
@pytest.mark.parametrize("stop", [1, 3, 4, 8])
def test_a_fit_that_is_interrupted_and_resumed_ends_bit_identical(tmp_path: Path, in_memory: nf.Run, stop: int) -> None:
    folder = tmp_path / "run"
    with pytest.raises(InterruptedFitError):
        nf.fit(images(), recipe="image", settings=MAPPED, epochs=3, out=folder, progress=Stopping(stop))
    watching = Stopping()
    assert identical(nf.fit(images(), out=folder, resume=True, progress=watching), in_memory)
    assert watching.reports == 9 - stop
    assert identical(nf.Run.load(folder), in_memory)
    assert not (folder / "resume" / "bank").exists()


def test_an_interruption_of_the_polish_loses_no_training(tmp_path: Path, in_memory: nf.Run) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        nf.fit(images(), recipe="image", settings=MAPPED, epochs=3, out=folder, progress=Stopping(at_stage="polishing codes"))
    watching = Stopping()
    assert identical(nf.fit(images(), out=folder, resume=True, progress=watching), in_memory)
    assert not watching.reports


def test_an_interruption_in_the_middle_of_the_polish_is_rolled_back(tmp_path: Path, in_memory: nf.Run) -> None:
    class InThePolish(Progress):
        def share(self, share: float) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    folder = tmp_path / "run"
    settings = [*MAPPED, "inference.batch=5"]
    with pytest.raises(InterruptedFitError):
        nf.fit(images(), recipe="image", settings=settings, epochs=3, out=folder, progress=InThePolish())
    assert (folder / "resume" / "bank" / "undo-0").stat().st_size  # the polish had moved codes
    resumed = nf.fit(images(), out=folder, resume=True)
    assert identical(resumed, nf.fit(images(), recipe="image", settings=settings, epochs=3))


def test_a_long_log_makes_a_checkpoint_in_the_middle_of_an_epoch(
    tmp_path: Path, in_memory: nf.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "LONGEST_LOG", 0)
    folder, seen = tmp_path / "run", set[int]()

    def look() -> None:
        if checkpoint.path_of(folder).exists():
            seen.add(files.read_tensors(checkpoint.path_of(folder))[1]["position"]["step"])

    ours = nf.fit(images(), recipe="image", settings=MAPPED, epochs=3, out=folder, progress=Stopping(look=look))
    assert identical(ours, in_memory)
    assert seen == {0, 1, 2}


KILLED = """
import os, random, signal, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from synthetic import images
import neuralfield.files as files
from neuralfield.latents import row_files, undo
from neuralfield.training import fit, running
running.CHECKPOINT_EVERY, row_files.BUDGET = 0.0, 0
left = {moment}
def counted(function):
    def call(*arguments, **named):
        global left
        for _ in range(2):  # before and after
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            if _ == 0:
                result = function(*arguments, **named)
        return result
    return call
os.replace = counted(os.replace)
os.unlink = counted(os.unlink)
undo.UndoLog.keep = counted(undo.UndoLog.keep)
undo.UndoLog.begin = staticmethod(counted(undo.UndoLog.begin))
undo.UndoLog._append = counted(undo.UndoLog._append)
undo.UndoLog._put_back = counted(undo.UndoLog._put_back)
row_files.RowFiles.flushed = counted(row_files.RowFiles.flushed)
row_files.RowFiles.committed = counted(row_files.RowFiles.committed)
fit.fit(images(), {how}, out={folder!r})
"""


def killed(folder: Path, moment: int, how: str) -> bool:
    """Run a fit that is killed at some moment around its writes; False where it ended before."""
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder), moment=moment, how=how)
    done = subprocess.run([sys.executable, "-c", script], check=False, stderr=subprocess.PIPE, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return bool(done.returncode)


MOMENTS = [6, 11, 13, 17, 25, 30, 32, 34, 36, 39, 47, 71, 80]
"""Before and after the recipe; around two checkpoints; around records of steps and of the polish; at the end."""
FRESH = f"recipe='image', settings={MAPPED!r}, epochs=3"


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_fit_that_is_killed_anywhere_around_its_writes_ends_bit_identical(tmp_path: Path, in_memory: nf.Run, moment: int) -> None:
    folder = tmp_path / "run"
    assert killed(folder, moment, FRESH)
    assert identical(nf.fit(images(), out=folder, resume=True), in_memory)


@pytest.mark.slow
def test_a_fit_that_is_killed_again_and_again_also_while_it_rolls_back_ends_bit_identical(
    tmp_path: Path, in_memory: nf.Run
) -> None:
    folder = tmp_path / "run"
    assert killed(folder, 30, FRESH)
    for moment in (2, 3, 5, 9, 26):
        killed(folder, moment, "resume=True")
    assert identical(nf.fit(images(), out=folder, resume=True), in_memory)


NOW = {"number": 0, "boot": row_files._boot()}
"""What a first checkpoint of this machine says."""


def moved(folder: Path) -> None:
    """20 rows of 3 numbers at a checkpoint, and 5 of them moved since."""
    rows = RowFiles(20)
    (codes,) = rows.table("codes", [torch.zeros(0, 3)])
    rows.begin(folder)
    codes.copy_(torch.arange(60.0).view(20, 3))
    rows.committed(rows.flushed())
    index = torch.tensor([3, 3, 7, 0, 19, 12])
    rows.moves(index)
    codes[index] = -1.0


def reopened(folder: Path) -> tuple[RowFiles, Tensor]:
    rows = RowFiles(20)
    (codes,) = rows.table("codes", [torch.zeros(0, 3)])
    rows.reopen(folder)
    return rows, codes


@pytest.mark.parametrize("cut", [0, 5, 19])
def test_a_record_that_was_cut_off_is_of_a_row_that_had_not_moved(tmp_path: Path, cut: int) -> None:
    moved(tmp_path)
    with open(tmp_path / "undo-0", "ab") as log:
        log.write(b"\1" * cut)
    rows, codes = reopened(tmp_path)
    assert not torch.equal(codes, torch.arange(60.0).view(20, 3))
    rows.roll_back(NOW)
    assert torch.equal(codes, torch.arange(60.0).view(20, 3))
    assert (tmp_path / "undo-0").stat().st_size == 5 * 20  # a record has 8 + 12 bytes


def test_rows_of_a_log_that_was_rolled_back_are_not_logged_again(tmp_path: Path) -> None:
    moved(tmp_path)
    rows, codes = reopened(tmp_path)
    rows.roll_back(NOW)
    rows.moves(torch.tensor([3, 4]))
    codes[[3, 4]] = 9.0
    assert (tmp_path / "undo-0").stat().st_size == 6 * 20
    rows.roll_back(NOW)
    assert torch.equal(codes, torch.arange(60.0).view(20, 3))


def test_a_restart_of_the_machine_is_told(tmp_path: Path) -> None:
    moved(tmp_path)
    with pytest.warns(NeuralfieldWarning, match="the machine was restarted"):
        reopened(tmp_path)[0].roll_back({"number": 0, "boot": "another"})


# what cannot be done


@pytest.mark.parametrize("name", ["codes.bin", "adam.bin", "undo-0"])
def test_a_file_that_is_missing_or_cut_is_one_line(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    with pytest.raises(InterruptedFitError):
        nf.fit(images(), recipe="image", settings=MAPPED, epochs=3, out=folder, progress=Stopping(4))
    path = folder / "resume" / "bank" / name
    if name == "codes.bin":
        os.truncate(path, 100)
        with pytest.raises(NeuralfieldError, match=r"codes.bin holds 100 bytes, not 384, .* fit again with --overwrite"):
            nf.fit(images(), out=folder, resume=True)
    path.unlink()
    with pytest.raises(NeuralfieldError, match=f"{name} is missing, so the fit cannot be resumed"):
        nf.fit(images(), out=folder, resume=True)


def test_a_disk_without_room_for_the_bank_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NeuralfieldError, match=r"no room for a mapped bank of 24 signals .* choose another --out"):
        nf.fit(images(), recipe="image", settings=MAPPED, epochs=1, out=tmp_path / "run")
    with pytest.raises(NeuralfieldError, match=r"no room for a mapped bank of 24 signals"):
        mapped()


def test_a_disk_that_is_full_when_the_log_grows_loses_nothing(
    tmp_path: Path, in_memory: nf.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(InterruptedFitError):
        nf.fit(images(), recipe="image", settings=MAPPED, epochs=3, out=folder, progress=Stopping(2))

    class Full:
        def write(self, content: memoryview) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(undo, "open", lambda *_, **__: Full(), raising=False)
        patched.setattr(undo.UndoLog, "roll_back", lambda *_, **__: iter(()))
        with pytest.raises(NeuralfieldError, match=r"undo-0 cannot be written: No space left on device; make room"):
            nf.fit(images(), out=folder, resume=True)
    assert identical(nf.fit(images(), out=folder, resume=True), in_memory)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["training.validation=0.2"], "training.validation=0"),
        (["training.latent_optimiser=dense"], "training.latent_optimiser=rows"),
    ],
)
def test_what_needs_all_codes_in_memory_is_refused(images: nf.Images, settings: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=f"needs all codes in memory, .* say --set {words}"):
        nf.fit(images, recipe="image", settings=[*MAPPED, *settings], epochs=1)


def test_a_start_that_learns_from_all_codes_is_refused_of_a_large_bank(images: nf.Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuralfield.training.asked.OVERVIEW", 23)
    with pytest.raises(UsageError, match=r'start "spectral", of more than 23 signals, needs all codes .* inference.start=mean'):
        nf.fit(images, recipe="image", settings=MAPPED, epochs=1)


@pytest.mark.parametrize("begun", [True, False])
def test_a_fit_is_resumed_with_the_bank_that_it_was_begun_with(tmp_path: Path, begun: bool) -> None:
    folder, settings = tmp_path / "run", [*TINY, f"latents.mapped={str(begun).lower()}"]
    with pytest.raises(InterruptedFitError):
        nf.fit(images(), recipe="image", settings=settings, epochs=3, out=folder, progress=Stopping(2))
    recipe = (folder / "recipe.toml").read_text()
    (folder / "recipe.toml").write_text(recipe.replace(f"mapped = {str(begun).lower()}", f"mapped = {str(not begun).lower()}"))
    words = f"begun with latents.mapped={str(begun).lower()}"
    with pytest.raises(NeuralfieldError, match=words):
        nf.fit(images(), out=folder, resume=True)


def test_overwriting_removes_the_files_of_a_mapped_bank(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(InterruptedFitError):
        nf.fit(images(), recipe="image", settings=MAPPED, epochs=3, out=folder, progress=Stopping(2))
    assert (folder / "resume" / "bank" / "codes.bin").exists()
    nf.fit(images(), recipe="image", settings=TINY, epochs=1, out=folder, overwrite=True)
    assert not (folder / "resume" / "bank").exists()


# files


def test_tensors_written_in_pieces_are_the_file_that_safetensors_writes(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(5, 3),
        "a": torch.arange(4),
        "flags": torch.tensor([True, False]),
        "half": torch.randn(3).bfloat16(),
        "steps": torch.arange(3, dtype=torch.int32)[:, None],
        "one": torch.tensor(2.0, dtype=torch.float64),
        "none": torch.zeros(0, 4),
        "across": torch.randn(3, 4).T,
    }
    held = {name: tensor.contiguous() for name, tensor in tensors.items()}
    pieces = files.Streamed((5, 3), torch.float32, iter(tensors["b"].split(2)))
    files.write_tensors(tmp_path / "ours", {**tensors, "b": pieces}, {"ids": ["ä", '"']})
    assert (tmp_path / "ours").read_bytes() == save(held, {"about": json.dumps({"ids": ["ä", '"']})})
    for name, tensor in load_file(tmp_path / "ours").items():
        assert torch.equal(tensor, tensors[name]), name


def test_what_is_too_long_for_a_header_travels_as_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_ABOUT", 20)
    about = {"ids": [f"signal-ä-{i}" for i in range(10)]}
    files.write_tensors(tmp_path / "file", {"codes": torch.ones(10, 2)}, about)
    tensors, read = files.read_tensors(tmp_path / "file")
    assert set(tensors) == {"codes"}
    assert read == about


def test_a_mapped_tensor_is_the_one_in_the_file_and_never_changes_it(tmp_path: Path) -> None:
    path, codes = tmp_path / "file", torch.randn(7, 3)
    files.write_tensors(path, {"labels": torch.arange(7), "codes": codes, "none": torch.zeros(0, 3)})
    before = path.read_bytes()
    found = files.map_tensor(path, "codes")
    assert torch.equal(found, codes)
    found += 1
    assert path.read_bytes() == before
    assert files.map_tensor(path, "none").shape == (0, 3)
    assert set(files.read_tensors(path, leave=["codes"])[0]) == {"labels", "none"}


def test_a_mapped_run_can_be_added_to(images: nf.Images, tmp_path: Path) -> None:
    nf.fit(images, recipe="image", settings=MAPPED, epochs=1, out=tmp_path / "run")
    run = nf.Run.load(tmp_path / "run")
    before = run.codes.clone()
    run.add(images.select(torch.arange(3)))
    run.save()
    assert torch.equal(nf.Run.load(tmp_path / "run").codes[:24], before)
    assert len(nf.Run.load(tmp_path / "run").ids) == 27


# who they are


def test_numbered_ids_are_the_list_of_them() -> None:
    lazy, names = Numbered(12), [str(i) for i in range(12)]
    assert list(lazy) == names
    assert lazy[3:7] == names[3:7]
    assert lazy[-1] == "11"
    assert [name in lazy for name in ("0", "11", "12", "01", "x", "-1")] == [True, True, False, False, False, False]
    assert [lazy.index(name) for name in names] == list(range(12))
    with pytest.raises(ValueError, match="12 is not one of"):
        lazy.index("12")
    with pytest.raises(IndexError):
        lazy[12]


def test_ids_come_back_as_they_were_stored() -> None:
    assert list(read_ids(json.loads(json.dumps(stored_ids(Numbered(5)))))) == [str(i) for i in range(5)]
    assert len(json.dumps(stored_ids(Numbered(10**7)))) < 100
    assert read_ids(stored_ids(["a", "b"])) == ["a", "b"]
