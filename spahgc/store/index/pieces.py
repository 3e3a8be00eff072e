"""The vectors of one slide as an index holds them, each kept once, and the nearest among them.

Dimension letters in this file:

S spots or queries, D embedding size, U distinct vectors, N nearest wanted
"""

from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spahgc.store.index.distances import FAISS_METRIC, Metric, check_size
from spahgc.store.index.library import faiss, n_gpus

MOST_ON_GPU: Final = 2048
"""Neighbours that faiss selects on a GPU; more are searched for on the CPU."""


class Nearest(NamedTuple):
    """Some vectors of a piece for each query, nearest first, as a matrix product ranks them.

    Where there are fewer than N, ``score_SN`` is inf and ``vector_SN`` -1.
    """

    score_SN: NDArray[np.float32]
    """``cosine``: minus the inner product; ``l2``: the squared distance; ``l1``: the distance."""

    vector_SN: NDArray[np.int64]
    """Which of the piece's distinct vectors, or -1."""

    @classmethod
    def nobody(cls, n_queries: int, n: int) -> "Nearest":
        """Give what is found where there is nothing."""
        shape = (n_queries, n)
        return cls(np.full(shape, np.inf, np.float32), np.full(shape, -1, np.int64))


class Piece:
    """The vectors of one slide; equal ones are one vector with several spots."""

    def __init__(self, name: str, vectors_SD: NDArray[np.float32], *, metric: Metric) -> None:
        """Take vectors as `spahgc.store.index.distances.prepare` gives them."""
        self.name = name
        self.metric = metric
        self.n_spots = len(vectors_SD)
        self.vector_S, first_U = group_equal(vectors_SD)
        self.vectors_UD = vectors_SD if len(first_U) == len(vectors_SD) else vectors_SD[first_U]
        self.n_spots_U = np.bincount(self.vector_S, minlength=len(first_U))
        self.most_spots = int(self.n_spots_U.max(initial=0))
        self.longest = float(np.sqrt(np.einsum("ud,ud->u", *2 * [self.vectors_UD]).max(initial=0)))
        self._spots = np.argsort(self.vector_S, kind="stable")  # of vector 0, of vector 1 …
        self._start_U = np.cumsum(self.n_spots_U) - self.n_spots_U

    @property
    def n_vectors(self) -> int:
        """U."""
        return len(self.vectors_UD)

    def nearest(self, query_SD: NDArray[np.float32], n: int) -> Nearest:
        """Find the ``n`` nearest vectors of each query, as exactly as float32 tells."""
        check_size(query_SD, self.vectors_UD.shape[1], owner=f"slide {self.name}")
        n_found = min(n, self.n_vectors)
        score_SN, vector_SN = Nearest.nobody(len(query_SD), n)
        score, vector_SN[:, :n_found] = _search(query_SD, self.vectors_UD, n_found, self.metric)
        score_SN[:, :n_found] = -score if self.metric == "cosine" else score
        return Nearest(score_SN, vector_SN)

    def spots_of(self, vector_P: NDArray[np.int64], rank: int) -> NDArray[np.int64]:
        """Give the spot that is number ``rank`` of those with each vector, -1 where none is."""
        place_P = self._start_U[vector_P] + np.minimum(rank, self.n_spots_U[vector_P] - 1)
        return np.where(rank < self.n_spots_U[vector_P], self._spots[place_P], -1)


def merge_nearest(one: Nearest, other: Nearest) -> Nearest:
    """Keep the nearest of two, whose vectors are numbered in one way, for each query."""
    scores = np.stack([one.score_SN, other.score_SN]).astype(np.float32, copy=False)
    return Nearest(*faiss.merge_knn_results(scores, np.stack([one.vector_SN, other.vector_SN])))


def group_equal(vectors_SD: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group rows of equal bytes, -0 being 0.

    Returns
    -------
    tuple
        (S,) group of each row, numbered in the order of their first rows, and (U,) the first row
        of each group.
    """
    # sums of 32-bit words times odd numbers: equal rows have equal sums; few others have
    words = np.ascontiguousarray(vectors_SD + np.float32(0)).view(np.uint32)
    factors = np.random.default_rng(0).integers(0, 2**31, words.shape[1], dtype=np.uint32) * 2 + 1
    _, sum_S, n_U = np.unique(
        np.einsum("sd,d->s", words, factors), return_inverse=True, return_counts=True
    )
    suspect = np.flatnonzero(n_U[sum_S] > 1)
    first_S = np.arange(len(vectors_SD))
    if suspect.size:
        as_bytes = words[suspect].view(np.dtype((np.void, words.itemsize * words.shape[1]))).ravel()
        _, first, group = np.unique(as_bytes, return_index=True, return_inverse=True)
        first_S[suspect] = suspect[first[group]]
    first_U, group_S = np.unique(first_S, return_inverse=True)
    return group_S, first_U


@cache
def _gpu_resources() -> Any:  # noqa: ANN401  faiss has no types
    return faiss.StandardGpuResources()


def _search(
    query_SD: NDArray[np.float32], vectors_UD: NDArray[np.float32], n: int, metric: Metric
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if n_gpus() and n <= MOST_ON_GPU:
        found = faiss.knn_gpu(
            _gpu_resources(), query_SD, vectors_UD, n, metric=FAISS_METRIC[metric]
        )
    else:
        found = faiss.knn(query_SD, vectors_UD, n, metric=FAISS_METRIC[metric])
    score_SN, vector_SN = found
    return score_SN, vector_SN
