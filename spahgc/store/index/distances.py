"""What near means: the distance of two embeddings, and how far a matrix product may be off.

Dimension letters in this file:

S spots or queries, D embedding size
"""

from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import MismatchError
from spahgc.store.index.library import faiss

Metric: TypeAlias = Literal["cosine", "l2", "l1"]
METRICS: Final[tuple[str, ...]] = get_args(Metric)

FAISS_METRIC: Final[dict[str, int]] = {
    "cosine": faiss.METRIC_INNER_PRODUCT,
    "l2": faiss.METRIC_L2,
    "l1": faiss.METRIC_L1,
}
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
        which counts from ``first``.
    """
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


def distances_of_pairs(
    first: NDArray[np.float32], second: NDArray[np.float32], *, metric: Metric
) -> NDArray[np.float64]:
    """Give float64 distances along the last axis, each from its own two vectors and nothing else.

    A matrix product rounds by where a vector stands in it; here equal pairs have equal distances.
    ``cosine`` is 1 minus the cosine, 0 to 2; ``l2`` is Euclidean; ``l1`` sums absolute differences.

    Parameters
    ----------
    first
        (…, D) vectors, which may stand for many: axes of length 1 are broadcast.
    second
        (…, D) vectors, one of each pair.
    metric
        Of the distances.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    if metric == "cosine":
        lengths = np.sqrt(np.vecdot(first, first) * np.vecdot(second, second))
        return (1 - np.vecdot(first, second) / lengths).clip(0, 2)
    np.subtract(first, second, out=second)
    if metric == "l2":
        return np.sqrt(np.vecdot(second, second))
    return np.abs(second, out=second).sum(axis=-1)


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
