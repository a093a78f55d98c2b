"""nf as tests call it: in this process, words in, an answer out."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The last line of stdout; anything but finite JSON is an error."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is no JSON")

        facts: dict[str, Any] = json.loads(self.out.splitlines()[-1], parse_constant=refuse)
        return facts


Nf = Callable[..., Answer]


def warned(answer: Answer, *words: object) -> None:
    """The command went well, and one line of its own on stderr says all of `words`."""
    lines = [line for line in answer.err.splitlines() if line.startswith("nf: ")]
    assert answer.code == 0, answer.err
    assert len(lines) == 1, answer.err
    for word in words:
        assert str(word) in lines[0], lines[0]


def failed(answer: Answer, code: int, *words: object) -> None:
    """The command ended with `code` and one line of its own on stderr that says all of `words`."""
    lines = [line for line in answer.err.splitlines() if line.startswith("nf: ")]
    assert answer.code == code, answer
    assert len(lines) == 1, answer.err
    assert answer.err.rstrip().splitlines()[-1] == lines[0]
    assert "Traceback" not in answer.err
    assert "unexpected" not in lines[0], lines[0]
    for word in words:
        assert str(word) in lines[0], lines[0]
