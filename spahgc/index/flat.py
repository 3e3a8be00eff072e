"""Exact search: faiss over the store's own vectors, slide by slide, and what it finds merged.

Dimension letters in this file:

S queries, D embedding size, K neighbours
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spahgc.index.faiss_library import faiss, n_gpus
from spahgc.index.neighbors import Neighbors, keep_nearest
from spahgc.index.vectors import FAISS_METRIC, Metric, ReadVectors, check_size, to_distance

Found: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]
"""(S, K) scores as faiss gives them, and positions, -1 where there are fewer."""


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
        best, bounds = no_result(len(query_SD), k, metric=self._metric), [0]
        for name in names:
            vectors_SD = self._vectors_of(name)
            check_size(query_SD, vectors_SD.shape[1], owner=f"slide {name}")
            if len(query_SD) and len(vectors_SD):
                score_SK, id_SK = _knn(query_SD, vectors_SD, min(k, len(vectors_SD)), self._metric)
                best = merge_found(best, (score_SK, id_SK + bounds[-1]), metric=self._metric)
            bounds.append(bounds[-1] + len(vectors_SD))
        slide_SK, spot_SK = locate(best[1], np.array(bounds))
        distance_SK = to_distance(best[0], metric=self._metric)
        return keep_nearest(
            distance_SK, slide_SK, spot_SK, slides=tuple(names), metric=self._metric, k=k
        )

    def _vectors_of(self, name: str) -> NDArray[np.float32]:
        if name not in self._vectors:
            self._vectors[name] = self._read(name)
        return self._vectors[name]


def no_result(n_queries: int, k: int, *, metric: Metric) -> Found:
    """Give what faiss finds where there is nothing."""
    return np.full((n_queries, k), _worst(metric), np.float32), np.full((n_queries, k), -1)


def merge_found(one: Found, other: Found, *, metric: Metric) -> Found:
    """Keep the best of two sorted results for the same queries, as many as the first has."""
    missing = ((0, 0), (0, one[0].shape[1] - other[0].shape[1]))
    score_SK = np.pad(other[0], missing, constant_values=_worst(metric))
    id_SK = np.pad(other[1], missing, constant_values=-1)
    merged: Found = faiss.merge_knn_results(
        np.stack([one[0], score_SK]), np.stack([one[1], id_SK]), keep_max=metric == "cosine"
    )
    return merged


def locate(
    id_SK: NDArray[np.int64], bounds: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Turn positions in many slides, one after the other, into slides and rows on them.

    Parameters
    ----------
    id_SK
        (S, K) positions, -1 for none.
    bounds
        First position of each slide, then the number of all.

    Returns
    -------
    tuple
        (S, K) each; -1 for none.
    """
    slide_SK = np.where(id_SK < 0, -1, np.searchsorted(bounds, id_SK, side="right") - 1)
    return slide_SK, np.where(id_SK < 0, -1, id_SK - bounds[slide_SK])


def _worst(metric: Metric) -> float:
    return -np.inf if metric == "cosine" else np.inf


def _knn(
    query_SD: NDArray[np.float32], vectors_SD: NDArray[np.float32], k: int, metric: Metric
) -> Found:
    found: Found
    if n_gpus():
        resources = _gpu_resources()
        found = faiss.knn_gpu(resources, query_SD, vectors_SD, k, metric=FAISS_METRIC[metric])
    else:
        found = faiss.knn(query_SD, vectors_SD, k, metric=FAISS_METRIC[metric])
    return found


@cache
def _gpu_resources() -> Any:  # noqa: ANN401  faiss has no types
    return faiss.StandardGpuResources()
