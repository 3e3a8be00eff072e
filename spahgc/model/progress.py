"""Tell of epochs that are done, to whoever wants to know."""

from collections.abc import Callable
from typing import TypeAlias

Advance: TypeAlias = Callable[[int], None]
"""Told how many more epochs are done."""


def ignore(_: int) -> None:
    """Tell nobody of progress."""


class Progress:
    """Tell of epochs out of a number known before anything is."""

    def __init__(self, advance: Advance | None, n_epochs: int) -> None:
        self._advance = advance or ignore
        self._left = n_epochs

    def __call__(self, n_epochs: int) -> None:
        """Tell of epochs that were trained."""
        self._left -= n_epochs
        self._advance(n_epochs)

    def finish(self) -> None:
        """Tell of those that were not needed."""
        self(self._left)
