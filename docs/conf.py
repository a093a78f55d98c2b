"""Sphinx: Markdown pages by MyST, the furo theme. Build with `make docs`."""

from importlib.metadata import version as installed
from typing import Any

project = "neuralfield"
copyright = "the neuralfield authors, Apache-2.0"
release = version = installed("neuralfield")

extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # links to headings, as GitHub makes them
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"neuralfield {release}"


def setup(app: Any) -> None:
    """Let ../README.md be a link on GitHub and a file to download here, where it is no page."""

    def mark(app: Any, page: str, text: list[str]) -> None:
        text[0] = text[0].replace("(../README.md)", "(path:../README.md)")

    app.connect("source-read", mark)
