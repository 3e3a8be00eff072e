"""Exact search: faiss over the store's own vectors, slide by slide, and what it finds merged.

Dimension letters in this file:

S queries, D embedding size, K neighbours
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spahgc.index.faiss_library import faiss, n_gpus
from spahgc.index.neighbors import Neighbors, keep_nearest
from spahgc.index.vectors import FAISS_METRIC, Metric, ReadVectors, check_size, to_distance


class FlatSearch:
    """Searches the vectors of many slides, each read and prepared when it is first needed.

    A fold reads its own slides only, and leaving slides out costs nothing and hides nothing.
    """

    def __init__(self, read: ReadVectors, *, metric: Metric) -> None:
        """Take what reads a slide's vectors as they are compared."""
        self._read = read
        self._metric = metric
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def search(self, query_SD: NDArray[np.float32], names: Sequence[str], *, k: int) -> Neighbors:
        """Find the ``k`` nearest spots of prepared queries on the slides in ``names``."""
        score_SK, id_SK = search_parts(
            [self._vectors_of(name) for name in names],
            query_SD,
            k=k,
            metric=self._metric,
            owners=[f"slide {name}" for name in names],
        )
        bounds = np.cumsum([0, *(len(self._vectors[name]) for name in names)])
        return name_spots(score_SK, id_SK, bounds, slides=tuple(names), metric=self._metric)

    def _vectors_of(self, name: str) -> NDArray[np.float32]:
        if name not in self._vectors:
            self._vectors[name] = self._read(name)
        return self._vectors[name]


def search_parts(
    parts: Sequence[NDArray[np.float32]],
    query_SD: NDArray[np.float32],
    *,
    k: int,
    metric: Metric,
    owners: Sequence[str],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Search arrays one after the other as if they were one.

    Returns
    -------
    tuple
        (S, k) scores as faiss gives them, and positions counted through all parts; -1 where
        there are fewer than ``k``.
    """
    worst = -np.inf if metric == "cosine" else np.inf
    score_SK = np.full((len(query_SD), k), worst, np.float32)
    id_SK = np.full((len(query_SD), k), -1)
    start = 0
    for vectors_SD, owner in zip(parts, owners, strict=True):
        check_size(query_SD, vectors_SD.shape[1], owner=owner)
        if len(query_SD) and len(vectors_SD):
            found = _knn(query_SD, vectors_SD, min(k, len(vectors_SD)), metric)
            score_SK, id_SK = merge_found(
                (score_SK, id_SK), (found[0], found[1] + start), metric=metric
            )
        start += len(vectors_SD)
    return score_SK, id_SK


def merge_found(
    one: tuple[NDArray[np.float32], NDArray[np.int64]],
    other: tuple[NDArray[np.float32], NDArray[np.int64]],
    *,
    metric: Metric,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Keep the best of two sorted results for the same queries, as many as the first has."""
    k = one[0].shape[1]
    is_product = metric == "cosine"
    missing = ((0, 0), (0, k - other[0].shape[1]))
    worst = -np.inf if is_product else np.inf
    padded = (
        np.pad(other[0], missing, constant_values=worst),
        np.pad(other[1], missing, constant_values=-1),
    )
    merged: tuple[NDArray[np.float32], NDArray[np.int64]] = faiss.merge_knn_results(
        np.stack([one[0], padded[0]]), np.stack([one[1], padded[1]]), keep_max=is_product
    )
    return merged


def name_spots(
    score_SK: NDArray[np.float32],
    id_SK: NDArray[np.int64],
    bounds: NDArray[np.int64],
    *,
    slides: tuple[str, ...],
    metric: Metric,
) -> Neighbors:
    """Turn positions in many slides, one after the other, into slides and spots.

    Parameters
    ----------
    score_SK, id_SK
        As `search_parts` gives them.
    bounds
        First position of each slide, then the number of all.
    slides
        Names of the slides, sorted.
    metric
        Of the scores.
    """
    slide_SK = np.where(id_SK < 0, -1, np.searchsorted(bounds, id_SK, side="right") - 1)
    spot_SK = np.where(id_SK < 0, -1, id_SK - bounds[slide_SK])
    distance_SK = to_distance(score_SK, metric=metric)
    return keep_nearest(
        distance_SK, slide_SK, spot_SK, slides=slides, metric=metric, k=score_SK.shape[1]
    )


def _knn(
    query_SD: NDArray[np.float32], vectors_SD: NDArray[np.float32], k: int, metric: Metric
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    found: tuple[NDArray[np.float32], NDArray[np.int64]]
    if n_gpus():
        resources = _gpu_resources()
        found = faiss.knn_gpu(resources, query_SD, vectors_SD, k, metric=FAISS_METRIC[metric])
    else:
        found = faiss.knn(query_SD, vectors_SD, k, metric=FAISS_METRIC[metric])
    return found


@cache
def _gpu_resources() -> Any:  # noqa: ANN401  faiss has no types
    return faiss.StandardGpuResources()
