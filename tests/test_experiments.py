"""The pages of docs/experiments: each can be made again, says by what, and shows what is there."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "experiments"
BENCHMARKS = ROOT / "benchmarks"
NAMES = sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "index")
LONG = {"autodecoder", "comparison", "holes", "linear", "masks"}
"""Those that take more than 20 seconds however few the digits."""


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A few embedded digits, one epoch of every fit, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        patch.setenv("NF_EXPERIMENTS_MINI", "1")
        from experiments.laboratory import Laboratory

        folder = tmp_path_factory.mktemp("experiments")
        yield Laboratory(train=120, test=40, masked=4, epochs=1, runs=folder / "runs", pages=folder / "pages")


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in NAMES])
@pytest.mark.filterwarnings("default::neuralfield.errors.NeuralfieldWarning")  # of so few digits, bands are too narrow
def test_an_experiment_runs_from_beginning_to_end(name: str, laboratory) -> None:  # type: ignore[no-untyped-def]
    from experiments.pages import block_of

    import_module(f"experiments.{name}").main(laboratory)
    text = (laboratory.pages / f"{name}.md").read_text()
    for block in ("claims", "result", "about"):
        assert block_of(text, block)
    # a page of the repository has a place for each block that the command writes, and shows each figure that it draws
    kept = (PAGES / f"{name}.md").read_text()
    assert set(_blocks(text)) == set(_blocks(kept))
    drawn = {path.name for path in (laboratory.pages / "figures").glob(f"{name}-*.png")}
    assert drawn == {Path(link).name for link in _links(kept) if link.endswith(".png")}


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_measured_and_its_links_lead_somewhere(name: str) -> None:
    from experiments.pages import LARGEST, block_of

    text = (PAGES / f"{name}.md").read_text()
    for block in _blocks(text):
        assert block_of(text, block), f"{block} is empty: make the page"
    for link in _links(text):
        path = PAGES / link
        assert path.is_file(), link
        assert path.suffix != ".png" or path.stat().st_size <= LARGEST
    assert f"`python benchmarks/experiments {name}` makes this page" in text
    assert (BENCHMARKS / "experiments" / f"{name}.py").is_file()


def test_the_index_and_the_command_know_every_page() -> None:
    text = (PAGES / "index.md").read_text()
    source = (BENCHMARKS / "experiments" / "__main__.py").read_text()
    assert "experiments:" in (ROOT / "Makefile").read_text()
    for name in NAMES:
        assert f"({name}.md)" in text
        assert f'"{name}"' in source


def test_a_block_is_replaced_and_the_prose_around_it_stays(tmp_path: Path) -> None:
    from experiments.pages import block_of, replaced

    page = "# Title\n\nBefore.\n\n<!-- measured x -->\nold\n<!-- end x -->\n\nAfter.\n"
    once = replaced(page, "x", "new \\1", tmp_path)
    assert block_of(once, "x") == "new \\1"
    assert once.startswith("# Title\n\nBefore.\n\n")
    assert once.endswith("\n\nAfter.\n")
    assert replaced(once, "x", "new \\1", tmp_path) == once
    with pytest.raises(RuntimeError, match="measured y"):
        replaced(page, "y", "", tmp_path)


def test_a_fit_is_kept_until_something_else_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments import fits
    from experiments.laboratory import Laboratory

    monkeypatch.setenv("NF_EXPERIMENTS_MINI", "1")
    small = Laboratory(train=64, test=10, epochs=1, runs=tmp_path)
    fits.fitted(small, "image")
    written = (tmp_path / "image" / "decoder.safetensors").stat().st_mtime_ns
    assert len(fits.fitted(small, "image").ids) == 64
    assert (tmp_path / "image" / "decoder.safetensors").stat().st_mtime_ns == written
    assert len(fits.fitted(Laboratory(train=80, test=10, epochs=1, runs=tmp_path), "image").ids) == 80


def _blocks(text: str) -> list[str]:
    return re.findall(r"<!-- measured (\S+) -->", text)


def _links(text: str) -> list[str]:
    """Files that a page links to, without the places in them."""
    return [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
