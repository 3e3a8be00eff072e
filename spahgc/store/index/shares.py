"""Words that the trained kinds of an index share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by name."""

Read: TypeAlias = Callable[[str], NDArray[np.float32]]
"""Gives the (S, D) vectors of a slide, as they are compared, by its name."""


class SlideRange(NamedTuple):
    """Spots of slides that follow each other in the index."""

    start: int
    """The first."""

    stop: int
    """One after the last."""


def ranges_of(
    names: Sequence[str], slides: Sequence[str], bounds: NDArray[np.int64]
) -> list[SlideRange]:
    """Join slides that follow each other.

    Parameters
    ----------
    names
        Slides that may answer.
    slides
        Every slide of the index, in its order.
    bounds
        First spot of each of ``slides``, then the number of spots.
    """
    wanted = set(names)
    is_in = np.array([False, *(name in wanted for name in slides), False])
    starts = bounds[np.flatnonzero(~is_in[:-1] & is_in[1:])]
    stops = bounds[np.flatnonzero(is_in[:-1] & ~is_in[1:])]
    return [SlideRange(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]
