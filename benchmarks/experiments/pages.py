"""Pages whose prose is written by hand and whose numbers are written by the command.

A number stands between two comments, `<!-- measured NAME -->` and `<!-- end NAME -->`; what stands there is replaced.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import click
from machine import machine
from matplotlib.figure import Figure
from PIL import Image

from neuralfield.files import write_bytes

LARGEST = 250_000
"""Bytes of a figure: the repository keeps them all."""
COLOURS = 96
"""Of a figure: no eye misses the others, and the file is a third."""


@dataclass(frozen=True)
class Claim:
    """What the seed says, what was measured, and whether it held; None where it says nothing that can fail."""

    says: str
    measured: str
    held: bool | None = None


class Page:
    """docs/experiments/NAME.md and its figures. Nothing is written before `close`, so that a page is of one run."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.blocks = folder, name, dict[str, list[str]]()
        self.began = time.process_time()

    def table(self, block: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of texts."""
        self.blocks[block] = [_row(head), "|" + "---|" * len(head), *(_row(row) for row in rows)]
        click.echo("\n".join(self.blocks[block]), err=True)

    def claims(self, claims: Sequence[Claim]) -> None:
        """The seed's claims, and whether they held."""
        words = {True: "yes", False: "**no**", None: ""}
        self.table("claims", ("the seed says", "measured", "reproduced"), [(c.says, c.measured, words[c.held]) for c in claims])

    def result(self, text: str) -> None:
        """One line, which the index shows too."""
        self.blocks["result"] = [text]

    def figure(self, name: str, figure: Figure | Image.Image) -> None:
        """figures/NAME-OF-THE-PAGE-NAME.png"""
        path = self.folder / "figures" / f"{self.name}-{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = _drawn(figure) if isinstance(figure, Figure) else figure
        picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=COLOURS).save(path, optimize=True)
        if path.stat().st_size > LARGEST:
            raise RuntimeError(f"{path} has {path.stat().st_size:,} bytes; make it smaller than {LARGEST:,}")

    def close(self, about: str) -> None:
        """Write the blocks; `about` says what was measured on what."""
        seconds = time.process_time() - self.began
        self.blocks["about"] = [
            f"{machine()}, one thread; {about}. The page took {seconds:.0f} CPU seconds beside its fits.",
        ]
        path = self.folder / f"{self.name}.md"
        text = path.read_text(encoding="utf-8") if path.exists() else _blank(self.name, self.blocks)
        for block, lines in self.blocks.items():
            text = replaced(text, block, "\n".join(lines), path)
        write_bytes(path, text.encode())


def replaced(text: str, block: str, content: str, path: Path) -> str:
    """The page with one block replaced."""
    pattern = re.compile(rf"(<!-- measured {re.escape(block)} -->\n).*?(<!-- end {re.escape(block)} -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise RuntimeError(f"{path} must have one block between <!-- measured {block} --> and <!-- end {block} -->")
    return pattern.sub(lambda found: f"{found[1]}\n{content}\n\n{found[2]}", text)


def block_of(text: str, block: str) -> str:
    """What stands in a block."""
    found = re.search(rf"<!-- measured {re.escape(block)} -->\n(.*?)<!-- end {re.escape(block)} -->", text, re.DOTALL)
    return found[1].strip() if found else ""


def index(folder: Path, names: Sequence[str]) -> None:
    """The table of all pages in index.md: each one's title and its one line of result."""
    rows = []
    for name in names:
        path = folder / f"{name}.md"
        if path.exists():
            text = path.read_text(encoding="utf-8")
            rows.append(_row((f"[{text.splitlines()[0].removeprefix('# ')}]({name}.md)", block_of(text, "result"))))
    path = folder / "index.md"
    text = path.read_text(encoding="utf-8") if path.exists() else _blank("Experiments", ["pages"])
    lines = [_row(("experiment", "what came out")), "|---|---|", *rows]
    write_bytes(path, replaced(text, "pages", "\n".join(lines), path).encode())


def _drawn(figure: Figure) -> Image.Image:
    file = BytesIO()
    figure.savefig(file, dpi=100, bbox_inches="tight")
    return Image.open(file).convert("RGB")


def _row(cells: Sequence[str]) -> str:
    """A bar in a cell would begin another."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _blank(title: str, blocks: Sequence[str] | dict[str, list[str]]) -> str:
    """A page of blocks alone, where there is none yet."""
    return f"# {title}\n" + "".join(f"\n<!-- measured {block} -->\n<!-- end {block} -->\n" for block in blocks)
