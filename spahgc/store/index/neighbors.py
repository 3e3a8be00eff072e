"""Reference spots found for each query, and which of them are the nearest.

Dimension letters in this file:

S queries, K neighbours, A candidates of a query
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neighbors:
    """The nearest reference spots of each query, nearest first.

    Letters: S queries, K neighbours. Where fewer than K candidates exist the rest is padded:
    False in ``exists_SK``, -1 and NaN elsewhere.
    """

    slides: tuple[str, ...]
    """Names that ``slide_SK`` counts in: every slide that might have answered, sorted."""

    slide_SK: NDArray[np.int64]
    """Position in ``slides``, or -1."""

    spot_SK: NDArray[np.int64]
    """Row on that slide, or -1."""

    distance_SK: NDArray[np.float64]
    """In the index's metric (see `spahgc.store.index.distances`), or NaN."""

    @property
    def exists_SK(self) -> NDArray[np.bool_]:  # noqa: N802  letters of its dimensions
        """Whether there is a neighbour at all."""
        return self.slide_SK >= 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Spots that may be neighbours, in any order; inf, -1 and -1 where there is none."""

    distance_SA: NDArray[np.float64]
    """In the index's metric."""

    slide_SA: NDArray[np.int64]
    """Position among the slides that may answer."""

    spot_SA: NDArray[np.int64]
    """Row on that slide."""

    @classmethod
    def nobody(cls, n_queries: int, k: int) -> "Candidates":
        """Give what is found where there is nothing."""
        return cls(
            distance_SA=np.full((n_queries, k), np.inf),
            slide_SA=np.full((n_queries, k), -1),
            spot_SA=np.full((n_queries, k), -1),
        )

    def best(self, k: int) -> "Candidates":
        """Keep the ``k`` nearest in order; ties go to the slide, then the spot, that is first."""
        missing = (len(self.distance_SA), max(0, k - self.distance_SA.shape[1]))
        distance_SA = np.hstack([self.distance_SA, np.full(missing, np.inf)])
        slide_SA = np.hstack([self.slide_SA, np.full(missing, -1)])
        spot_SA = np.hstack([self.spot_SA, np.full(missing, -1)])
        order_SK = np.lexsort((spot_SA, slide_SA, distance_SA), axis=1)[:, :k]
        return Candidates(
            distance_SA=np.take_along_axis(distance_SA, order_SK, axis=1),
            slide_SA=np.take_along_axis(slide_SA, order_SK, axis=1),
            spot_SA=np.take_along_axis(spot_SA, order_SK, axis=1),
        )

    def rows(self, some: NDArray[np.int64]) -> "Candidates":
        """Give what was found for some of the queries, or for one of them several times."""
        return Candidates(
            distance_SA=self.distance_SA[some],
            slide_SA=self.slide_SA[some],
            spot_SA=self.spot_SA[some],
        )

    def put(self, some: NDArray[np.int64] | slice, found: "Candidates") -> None:
        """Replace what was found for some of the queries by as many candidates."""
        self.distance_SA[some] = found.distance_SA
        self.slide_SA[some] = found.slide_SA
        self.spot_SA[some] = found.spot_SA

    def as_neighbors(self, slides: tuple[str, ...]) -> Neighbors:
        """Name the slides that these ordered candidates lie on."""
        exists_SA = np.isfinite(self.distance_SA)
        return Neighbors(
            slides=slides,
            slide_SK=np.where(exists_SA, self.slide_SA, -1),
            spot_SK=np.where(exists_SA, self.spot_SA, -1),
            distance_SK=np.where(exists_SA, self.distance_SA, np.nan),
        )


def concatenate(parts: Sequence[Candidates]) -> Candidates:
    """Put together what was found for some queries after the other."""
    return Candidates(
        distance_SA=np.concatenate([part.distance_SA for part in parts]),
        slide_SA=np.concatenate([part.slide_SA for part in parts]),
        spot_SA=np.concatenate([part.spot_SA for part in parts]),
    )


def merge_neighbors(parts: Sequence[Neighbors], *, k: int) -> Neighbors:
    """Merge what was found for the same queries on different slides.

    Parameters
    ----------
    parts
        At least one; no slide is in two of them.
    k
        How many to keep of each query; every part must have been asked for as many.
    """
    slides = tuple(sorted(name for part in parts for name in part.slides))
    place = {name: position for position, name in enumerate(slides)}
    moved = [np.array([place[name] for name in part.slides] + [-1]) for part in parts]
    together = Candidates(
        distance_SA=np.hstack([np.nan_to_num(part.distance_SK, nan=np.inf) for part in parts]),
        slide_SA=np.hstack([to[part.slide_SK] for to, part in zip(moved, parts, strict=True)]),
        spot_SA=np.hstack([part.spot_SK for part in parts]),
    )
    return together.best(k).as_neighbors(slides)
