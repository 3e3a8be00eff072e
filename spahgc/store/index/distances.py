"""What near means: the distance of two embeddings, and how far a matrix product may be off.

Dimension letters in this file:

S spots or queries, D embedding size, U vectors, P pairs of a query and a vector
"""

from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from spahgc.compiled import on_threads
from spahgc.errors import MismatchError
from spahgc.store.index.library import faiss
from spahgc.store.index.loops import cosine_distances, l1_distances, l2_distances

Metric: TypeAlias = Literal["cosine", "l2", "l1"]
METRICS: Final[tuple[str, ...]] = get_args(Metric)

FAISS_METRIC: Final[dict[str, int]] = {
    "cosine": faiss.METRIC_INNER_PRODUCT,
    "l2": faiss.METRIC_L2,
    "l1": faiss.METRIC_L1,
}
_MEASURE: Final = {"cosine": cosine_distances, "l2": l2_distances, "l1": l1_distances}

PAIRS_AT_ONCE: Final = 2**14
"""Pairs that a thread measures at a time."""

UNIT_ROUNDOFF: Final = 2.0**-24
"""Of float32."""


def prepare(
    embedding_SD: NDArray[np.floating], *, metric: Metric, owner: str, first: int = 0
) -> NDArray[np.float32]:
    """Give embeddings as they are compared: contiguous float32, of unit length for ``cosine``.

    Raises
    ------
    MismatchError
        If a vector is zero or not a number; ``owner`` and the spot's number are in the text,
        which counts from ``first``. Also if they are no (S, D) array.
    """
    if embedding_SD.ndim != 2:
        raise MismatchError(
            f"{owner}: embeddings of shape {embedding_SD.shape}, expected one row for each spot"
        )
    # a sum of squares in float32 may overflow where the length in float64 does not
    length_S = np.sqrt(np.einsum("sd,sd->s", embedding_SD, embedding_SD, dtype=np.float64))
    bad_S = np.flatnonzero(~np.isfinite(length_S) | (length_S == 0))
    if bad_S.size:
        raise MismatchError(
            f"{owner}: the embedding of spot number {first + bad_S[0]} is zero or not a number, "
            "so nothing is similar to it; embed the slide again"
        )
    if metric == "cosine":
        scale_S1 = (1 / length_S[:, None]).astype(np.float32)
        return np.ascontiguousarray(embedding_SD * scale_S1, dtype=np.float32)
    return np.ascontiguousarray(embedding_SD, dtype=np.float32)


def check_size(query_SD: NDArray[np.float32], size: int, *, owner: str) -> None:
    """Refuse queries that have not D numbers, as many as what they are compared with.

    Raises
    ------
    MismatchError
        If they have not; whose they are compared with is in the text.
    """
    if query_SD.shape[1] != size:
        raise MismatchError(
            f"the query has vectors of {query_SD.shape[1]} numbers, {owner} of {size}; "
            "embed both with one encoder"
        )


def measure_pairs(
    query_SD: NDArray[np.float32],
    vectors_UD: NDArray[np.float32],
    query_P: NDArray[np.int64],
    vector_P: NDArray[np.int64],
    *,
    metric: Metric,
) -> NDArray[np.float64]:
    """Give (P,) float64 distances, each from its own two vectors and nothing else.

    A matrix product rounds by where a vector stands in it; here equal pairs have equal distances.
    ``cosine`` is 1 minus the cosine, 0 to 2; ``l2`` is Euclidean; ``l1`` sums absolute differences.

    Parameters
    ----------
    query_SD, vectors_UD
        Float32.
    query_P, vector_P
        Rows of each pair; it is fastest where a query's pairs follow one another.
    metric
        Of the distances.
    """
    distance_P = np.empty(len(query_P))

    def fill(start: int, stop: int) -> None:
        some = slice(start, stop)
        _MEASURE[metric](query_SD, vectors_UD, query_P[some], vector_P[some], distance_P[some])

    n_threads = faiss.omp_get_max_threads()
    on_threads(fill, len(query_P), at_once=PAIRS_AT_ONCE, n_threads=n_threads)
    return distance_P


def score_of(distance_S: NDArray[np.float64], *, metric: Metric) -> NDArray[np.float64]:
    """Give what a matrix product ranks by, of exact distances."""
    if metric == "cosine":
        return distance_S - 1
    return distance_S**2 if metric == "l2" else distance_S


def rounding_of(
    query_SD: NDArray[np.float32],
    score_S: NDArray[np.float64],
    *,
    longest: float,
    metric: Metric,
) -> NDArray[np.float64]:
    """Bound how far a score may be from the true one, because it was taken in float32.

    Parameters
    ----------
    query_SD
        Prepared queries.
    score_S
        Score of each, for ``l1``, whose rounding is a share of it.
    longest
        Length of the longest vector compared with, for ``l2``.
    metric
        Of the scores.

    References
    ----------
    Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis,
    doi:10.1137/18M1226312: a sum of D products is off by λ √D u at most, here with λ = 8, which
    less than one pair in 10¹³ exceeds.
    """
    share = (8 * np.sqrt(query_SD.shape[1]) + 8) * UNIT_ROUNDOFF
    if metric == "cosine":
        return np.full(len(score_S), share)
    if metric == "l1":
        return share * score_S
    length_S = np.sqrt(np.einsum("sd,sd->s", query_SD, query_SD, dtype=np.float64))
    return share * (length_S + longest) ** 2
