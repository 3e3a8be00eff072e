"""The distance of two vectors, and the best of a row or a column, in compiled loops.

What a pair of vectors gives depends on these two vectors alone.

Dimension letters in this file:

S queries, D embedding size, U distinct vectors, P pairs, I rows and J columns of a tile of ranks,
N kept of each query, R places of the room that they are kept in, C columns made rows
"""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spahgc.compiled import compiled

_TURNED: Final = 32  # columns of a tile that are made rows at once


@compiled
def cosine_distances(
    query_SD: NDArray[np.float32],
    vectors_UD: NDArray[np.float32],
    query_P: NDArray[np.int64],
    vector_P: NDArray[np.int64],
    distance_P: NDArray[np.float64],
) -> None:
    """Fill in 1 minus the cosine of each pair, 0 to 2, in float64."""
    last, own, own_D = -1, 0.0, np.empty(query_SD.shape[1])
    for pair in range(len(distance_P)):
        if query_P[pair] != last:
            last, own = query_P[pair], 0.0
            for d in range(len(own_D)):
                own_D[d] = query_SD[last, d]
                own += own_D[d] * own_D[d]
        other_D = vectors_UD[vector_P[pair]]
        product, other = 0.0, 0.0
        for d in range(len(own_D)):
            number = np.float64(other_D[d])
            product += own_D[d] * number
            other += number * number
        distance_P[pair] = min(max(1 - product / np.sqrt(own * other), 0.0), 2.0)


@compiled
def l2_distances(
    query_SD: NDArray[np.float32],
    vectors_UD: NDArray[np.float32],
    query_P: NDArray[np.int64],
    vector_P: NDArray[np.int64],
    distance_P: NDArray[np.float64],
) -> None:
    """Fill in the Euclidean distance of each pair, in float64."""
    for pair in range(len(distance_P)):
        own_D, other_D = query_SD[query_P[pair]], vectors_UD[vector_P[pair]]
        total = 0.0
        for d in range(len(own_D)):
            apart = np.float64(own_D[d]) - np.float64(other_D[d])
            total += apart * apart
        distance_P[pair] = np.sqrt(total)


@compiled
def l1_distances(
    query_SD: NDArray[np.float32],
    vectors_UD: NDArray[np.float32],
    query_P: NDArray[np.int64],
    vector_P: NDArray[np.int64],
    distance_P: NDArray[np.float64],
) -> None:
    """Fill in the sum of absolute differences of each pair, in float64."""
    for pair in range(len(distance_P)):
        own_D, other_D = query_SD[query_P[pair]], vectors_UD[vector_P[pair]]
        total = 0.0
        for d in range(len(own_D)):
            total += abs(np.float64(own_D[d]) - np.float64(other_D[d]))
        distance_P[pair] = total


Room: TypeAlias = tuple[
    NDArray[np.float32], NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]
]
"""What is kept of each query so far: (S, R) ranks and (S, R) vectors, in any order; (S,) how many
they are; (S,) the rank above which one more is kept."""


@compiled
def keep_for_rows(
    rank_IJ: NDArray[np.float32], first: int, room: Room, n: int, start: int, stop: int
) -> None:
    """Keep, for the query of each row of a tile, the columns that rank highest.

    Parameters
    ----------
    rank_IJ
        The tile.
    first
        Number of its first column.
    room
        Of the rows; filled in.
    n
        How many are wanted, N, less than R.
    start, stop
        Rows to do.
    """
    for i in range(start, stop):
        _keep(rank_IJ[i], first, room, n, i)


@compiled
def keep_for_columns(
    rank_IJ: NDArray[np.float32], first: int, room: Room, n: int, start: int, stop: int
) -> None:
    """Keep, for the query of each column of a tile, the rows that rank highest.

    As `keep_for_rows`; ``first`` is the number of the first row.
    """
    turned_CI = np.empty((_TURNED, len(rank_IJ)), np.float32)  # stays in the cache
    for column in range(start, stop, _TURNED):
        n_columns = min(_TURNED, stop - column)
        for i in range(len(rank_IJ)):
            for c in range(n_columns):
                turned_CI[c, i] = rank_IJ[i, column + c]
        for c in range(n_columns):
            _keep(turned_CI[c], first, room, n, column + c)


@compiled
def keep_no_more(room: Room, n: int, start: int, stop: int) -> None:
    """Leave each of some queries the ``n`` that rank highest, in any order."""
    rank_SR, vector_SR, n_S, above_S = room
    for s in range(start, stop):
        if n_S[s] > n:
            above_S[s], n_S[s] = _keep_highest(rank_SR[s], vector_SR[s], n_S[s], n), n


@compiled
def _keep(rank_J: NDArray[np.float32], first: int, room: Room, n: int, s: int) -> None:
    rank_R, vector_R, count, above = room[0][s], room[1][s], room[2][s], room[3][s]
    for j in range(len(rank_J)):
        if rank_J[j] > above:
            rank_R[count], vector_R[count] = rank_J[j], first + j
            count += 1
            if count == len(rank_R):
                above, count = _keep_highest(rank_R, vector_R, count, n), n
    room[2][s], room[3][s] = count, above


@compiled
def _keep_highest(
    rank_R: NDArray[np.float32], vector_R: NDArray[np.int32], count: int, n: int
) -> float:
    """Move the ``n`` highest of ``count`` ranks to the front; return the least of them."""
    least: float = np.partition(rank_R[:count], count - n)[count - n]
    n_equal = n - (rank_R[:count] > least).sum()
    place = 0
    for c in range(count):
        is_equal = rank_R[c] == least
        if rank_R[c] > least or (is_equal and n_equal > 0):
            n_equal -= is_equal
            rank_R[place], vector_R[place] = rank_R[c], vector_R[c]
            place += 1
    return least
