"""Words that the kinds of an index share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by name."""

Read: TypeAlias = Callable[[str], NDArray[np.float32]]
"""Gives the (S, D) vectors of a slide, as they are compared, by its name."""


QUERIES_AT_ONCE: Final = 16_384
"""Queries held in the form they are compared in: a larger slide is searched for in parts."""


class Asked(NamedTuple):
    """Queries, and who may answer them."""

    query_SD: NDArray[np.float32]
    """(S, D) as they are compared."""

    names: tuple[str, ...]
    """Slides that may answer, sorted."""


class SlideRange(NamedTuple):
    """Spots of slides that follow each other in the index."""

    start: int
    """The first."""

    stop: int
    """One after the last."""


def keep_first(read: Read, *, most_numbers: int) -> Read:
    """Keep in memory what is read first, until that many numbers are kept.

    Slides are read in turn, again and again: whatever were kept last would be gone before it is
    wanted.
    """
    kept: dict[str, NDArray[np.float32]] = {}

    def read_or_recall(name: str) -> NDArray[np.float32]:
        if name in kept:
            return kept[name]
        vectors_SD = read(name)
        if vectors_SD.size + sum(vectors.size for vectors in kept.values()) <= most_numbers:
            kept[name] = vectors_SD
        return vectors_SD

    return read_or_recall


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
