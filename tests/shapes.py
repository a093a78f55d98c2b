"""The checker that tests switch on for every annotated shape: beartype, under jaxtyping's import hook (see conftest.py)."""

from collections.abc import Callable
from typing import Any, Self

from beartype import beartype

CHECK_THEMSELVES = {
    "neuralfield.signals.images.Images.__init__",
    "neuralfield.signals.images.resized",
}
"""What a user writes reaches these as it is, and they refuse it in one line of their own: that line is what tests must see."""


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its annotations checked, all but `Self`: beartype knows that one only where it decorates whole classes."""
    if f"{function.__module__}.{function.__qualname__}" in CHECK_THEMSELVES:
        return function
    annotations = getattr(function, "__annotations__", {})
    function.__annotations__ = {name: hint for name, hint in annotations.items() if hint is not Self}
    made: Callable[..., Any] = beartype(function)
    return made
