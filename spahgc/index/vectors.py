"""Embeddings as faiss compares them, and what near means.

Dimension letters in this file:

S spots or queries, D embedding size
"""

from collections.abc import Callable
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import MismatchError
from spahgc.index.faiss_library import faiss

Metric: TypeAlias = Literal["cosine", "l2", "l1"]
METRICS: Final[tuple[str, ...]] = get_args(Metric)

FAISS_METRIC: Final[dict[str, int]] = {
    "cosine": faiss.METRIC_INNER_PRODUCT,
    "l2": faiss.METRIC_L2,
    "l1": faiss.METRIC_L1,
}

ReadVectors: TypeAlias = Callable[[str], NDArray[np.float32]]
"""Gives the (S, D) vectors of a slide by its name."""


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


def to_distance(score: NDArray[np.float32], *, metric: Metric) -> NDArray[np.float32]:
    """Turn faiss's scores into distances, least nearest.

    ``cosine`` is 1 minus the cosine, 0 to 2; ``l2`` is Euclidean, of which faiss gives the square;
    ``l1`` sums absolute differences.
    """
    if metric == "cosine":
        return np.clip(1 - score, 0, 2)
    return np.sqrt(np.maximum(score, 0)) if metric == "l2" else score
