"""Reference spots found for each query, nearest first.

Dimension letters in this file:

S queries, K neighbours, A candidates of a query
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spahgc.index.vectors import Metric


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

    distance_SK: NDArray[np.float32]
    """As `spahgc.index.vectors.to_distance` says, or NaN."""

    metric: Metric = "cosine"
    """Of ``distance_SK``."""

    @property
    def exists_SK(self) -> NDArray[np.bool_]:  # noqa: N802  letters of its dimensions
        """Whether there is a neighbour at all."""
        return self.slide_SK >= 0

    @property
    def similarity_SK(self) -> NDArray[np.float32]:  # noqa: N802
        """Cosine of the embeddings, -1 to 1; of another metric the distance with a minus."""
        return (1 if self.metric == "cosine" else 0) - self.distance_SK


def merge_neighbors(parts: Sequence[Neighbors], *, k: int) -> Neighbors:
    """Merge what was found for the same queries on different slides.

    Parameters
    ----------
    parts
        At least one; no slide is in two of them.
    k
        How many to keep of each query; every part must have been searched for as many.

    Returns
    -------
    Neighbors
        Equal distances go to the slide, then the spot, that comes first.
    """
    slides = tuple(sorted(name for part in parts for name in part.slides))
    place = {name: position for position, name in enumerate(slides)}
    moved = [np.array([place[name] for name in part.slides] + [-1]) for part in parts]
    return keep_nearest(
        np.hstack([part.distance_SK for part in parts]),
        np.hstack([to[part.slide_SK] for to, part in zip(moved, parts, strict=True)]),
        np.hstack([part.spot_SK for part in parts]),
        slides=slides,
        metric=parts[0].metric,
        k=k,
    )


def concatenate(parts: Sequence[Neighbors]) -> Neighbors:
    """Put together what was found for some queries after the other, on the same slides."""
    return Neighbors(
        slides=parts[0].slides,
        metric=parts[0].metric,
        slide_SK=np.concatenate([part.slide_SK for part in parts]),
        spot_SK=np.concatenate([part.spot_SK for part in parts]),
        distance_SK=np.concatenate([part.distance_SK for part in parts]),
    )


def keep_nearest(
    distance_SA: NDArray[np.float32],
    slide_SA: NDArray[np.int64],
    spot_SA: NDArray[np.int64],
    *,
    slides: tuple[str, ...],
    metric: Metric,
    k: int,
) -> Neighbors:
    """Keep the ``k`` nearest candidates in order; -1 stands for none, ties as in `Neighbors`."""
    n_missing = max(0, k - distance_SA.shape[1])
    far_SA = np.where(slide_SA < 0, np.inf, distance_SA)
    distance_SA, slide_SA, spot_SA = (
        np.pad(table_SA, ((0, 0), (0, n_missing)), constant_values=empty)
        for table_SA, empty in ((far_SA, np.inf), (slide_SA, -1), (spot_SA, -1))
    )
    order_SK = np.lexsort((spot_SA, slide_SA, distance_SA), axis=1)[:, :k]
    slide_SK = np.take_along_axis(slide_SA, order_SK, axis=1)
    distance_SK = np.take_along_axis(distance_SA, order_SK, axis=1)
    return Neighbors(
        slides=slides,
        metric=metric,
        slide_SK=slide_SK,
        spot_SK=np.take_along_axis(spot_SA, order_SK, axis=1),
        distance_SK=np.where(slide_SK >= 0, distance_SK, np.nan).astype(np.float32),
    )
