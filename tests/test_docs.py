"""What the documentation shows runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import neuralfield as nf
from neuralfield import registry

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def snippets(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_every_snippet_of_extending_runs_in_order_and_in_under_thirty_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})  # what the page registers ends with it
    blocks = snippets("docs/extending.md")
    assert len(blocks) >= 4
    namespace: dict[str, object] = {"__name__": "extending"}
    for block in blocks:
        assert len([line for line in block.splitlines() if line.strip()]) < 30
        exec(compile(block, "docs/extending.md", "exec"), namespace)


def test_every_name_that_readme_uses_is_public() -> None:
    for name in re.findall(r"\bnf\.(\w+)", "\n".join(snippets("README.md"))):
        assert hasattr(nf, name), name


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_runs(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
