"""Collect what is wrong with the parts of one slide, and tell it in one line."""

from collections.abc import Callable
from typing import TypeVar

from spahgc.errors import SlideFormatError, SpahgcError

_T = TypeVar("_T")


def attempt(read: Callable[[], _T], problems: list[SpahgcError]) -> _T | None:
    """Return what ``read`` returns, or None and one problem more."""
    try:
        return read()
    except SpahgcError as error:
        problems.append(error)
        return None


def raise_together(problems: list[SpahgcError]) -> None:
    """Raise what was collected, as one error.

    Raises
    ------
    SpahgcError
        The problem itself if it is the only one.
    SlideFormatError
        All of them in one line.
    """
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise SlideFormatError("; ".join(map(str, problems)))
