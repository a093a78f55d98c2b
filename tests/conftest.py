"""What every test stands on: annotated shapes are checked, one thread, tiny data, a tiny fitted run."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("neuralfield", "shapes.checked")  # before anything imports a module of the package
pytest.register_assert_rewrite("contracts")

from commands import Answer, Nf  # noqa: E402
from synthetic import TINY, images, waves, write_npz  # noqa: E402

import neuralfield as nf  # noqa: E402
from neuralfield.cli.main import main  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_random_numbers_whatever_ran_before() -> None:
    torch.manual_seed(0)


@pytest.fixture(name="images")
def _images() -> nf.Images:
    """24 labelled images, 8x8, grey."""
    return images()


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same as a source that a command can name, with a test split of 12 others."""
    return f"npz:{write_npz(tmp_path_factory.mktemp('source') / 'blobs.npz')}"


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory, source: str) -> Path:
    """A run folder fitted to `source`. Shared by all tests: never write into it, ask for `run_folder` instead."""
    folder = tmp_path_factory.mktemp("runs") / "fitted"
    nf.fit(source, recipe="image", settings=TINY, epochs=3, out=folder, device="cpu")
    return folder


@pytest.fixture(scope="session")
def fitted_curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for 40 curves at times of their own, by the default recipe of functions. Never write into it either."""
    folder = tmp_path_factory.mktemp("runs") / "curves"
    nf.fit(waves(40), recipe="function", settings=["latents.code_dim=12"], out=folder, device="cpu")
    return folder


@pytest.fixture
def run(fitted: Path) -> nf.Run:
    """That run, loaded afresh."""
    return nf.Run.load(fitted)


@pytest.fixture
def run_folder(fitted: Path, tmp_path: Path) -> Path:
    """A copy of that run's folder, to write into or to damage."""
    return Path(shutil.copytree(fitted, tmp_path / "run"))


@pytest.fixture(name="nf_")
def _nf(capsys: pytest.CaptureFixture[str]) -> Nf:
    """nf in this process: words in, an answer out."""

    def call(*words: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Answer(int(caught.value.code or 0), out, err)

    return call


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The shared data sets."""
    root = Path(os.environ.get("NF_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no shared data in {root}; NF_DATA names another folder")
    return root


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C works as in a terminal; a process in the background of a script begins with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device that this machine has."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device(request.param)
