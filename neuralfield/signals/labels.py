"""Labels that are words."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

UNKNOWN = -1
"""The label of a signal that has none, beside others that have."""


def numbered(labels: Iterable[str], words: Iterable[str]) -> Int[np.ndarray, " n"]:
    """Labels as whole numbers: their own where all `words` are such, else the place of each among the sorted words.

    `words` are all that the labels of a data set can be, so that its splits agree; empty ones are UNKNOWN.
    """
    known = sorted({word.strip() for word in words} - {""})
    try:
        number = {word: int(word) for word in known}
    except ValueError:
        number = {word: place for place, word in enumerate(known)}
    return np.array([number[word.strip()] if word.strip() else UNKNOWN for word in labels], np.int64)
