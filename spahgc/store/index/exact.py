"""Exact search: float32 matrix products propose, float64 decides, and a bound proves it.

Dimension letters in this file:

S queries, D embedding size, N proposed vectors of a query, M spots of one vector, P pairs,
Q queries with pairs on a piece, C most pairs of one of them
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spahgc.store.index.distances import Metric, distances_of_pairs, rounding_of, score_of
from spahgc.store.index.library import faiss
from spahgc.store.index.neighbors import Candidates, concatenate
from spahgc.store.index.pieces import Nearest, Piece, merge_nearest

MARGIN: Final = 4
"""Least number of vectors proposed beyond those wanted."""

WIDER: Final = 4
"""How many times more are proposed where the bound could not tell."""

BLOCK_CANDIDATES: Final = 2**22
"""Candidates held at once, about 100 MB."""

BLOCK_NUMBERS: Final = 2**19
"""Numbers measured at once by one thread: two such blocks in float64 stay in its cache."""


class Proposed(NamedTuple):
    """Vectors of all pieces that may be the nearest, nearest first by score."""

    score_SN: NDArray[np.float32]
    """As in `spahgc.store.index.pieces.Nearest`; inf where there is none."""

    piece_SN: NDArray[np.int64]
    """Position of the piece, or -1."""

    vector_SN: NDArray[np.int64]
    """Which of the piece's distinct vectors, or -1."""

    def rows(self, some: slice) -> "Proposed":
        """Give what was proposed for some of the queries."""
        return Proposed(self.score_SN[some], self.piece_SN[some], self.vector_SN[some])


def search_exactly(
    query_SD: NDArray[np.float32], pieces: Sequence[Piece], *, k: int, metric: Metric
) -> Candidates:
    """Find the ``k`` nearest spots of each query on the pieces, ties and all.

    A little more than ``k`` vectors are proposed by float32 products. Their distances are then
    taken pair by pair in float64. If the ``k``-th of them is nearer than anything left out can be,
    rounding included, the answer is that of brute force in float64; else more are proposed.
    """
    n_vectors = sum(piece.n_vectors for piece in pieces)
    n_wanted = min(k, n_vectors)
    found = Candidates(
        distance_SA=np.full((len(query_SD), k), np.inf),
        slide_SA=np.full((len(query_SD), k), -1),
        spot_SA=np.full((len(query_SD), k), -1),
    )
    unsure, n = np.arange(len(query_SD) if n_wanted else 0), n_wanted + max(MARGIN, n_wanted // 8)
    while unsure.size:
        n = min(n, n_vectors)
        still = []
        for rows in _blocks(unsure, BLOCK_CANDIDATES // n):
            part_SD = query_SD if len(rows) == len(query_SD) else query_SD[rows]
            proposed = _propose(part_SD, pieces, n)
            distance_SN = measure(
                part_SD,
                proposed,
                lambda p: pieces[p].vectors_UD,
                n_pieces=len(pieces),
                metric=metric,
            )
            settled = _settle(proposed, distance_SN, pieces, k=k)
            found.distance_SA[rows] = settled.distance_SA
            found.slide_SA[rows] = settled.slide_SA
            found.spot_SA[rows] = settled.spot_SA
            if n < n_vectors:
                still.append(rows[~_is_proven(part_SD, proposed, distance_SN, pieces, n_wanted)])
        unsure, n = np.concatenate([*still, unsure[:0]]), n * WIDER
    return found


def measure(
    query_SD: NDArray[np.float32],
    proposed: Proposed,
    vectors_of: Callable[[int], NDArray[np.float32]],
    *,
    n_pieces: int,
    metric: Metric,
) -> NDArray[np.float64]:
    """Give (S, N) float64 distances to the proposed vectors, inf where there is none.

    ``vectors_of`` gives the vectors of one of ``n_pieces`` pieces; it is asked for each once.
    """
    piece_P = proposed.piece_SN.ravel()
    n_proposed = proposed.piece_SN.shape[1]
    distance_P = np.full(piece_P.shape, np.inf)
    vector_P = proposed.vector_SN.ravel()
    pairs = np.argsort(piece_P, kind="stable")
    bounds = np.searchsorted(piece_P[pairs], np.arange(n_pieces + 1))
    step = max(1, BLOCK_NUMBERS // query_SD.shape[1])

    def fill(vectors_UD: NDArray[np.float32], pair_QC: NDArray[np.int64]) -> None:
        distance_P[pair_QC] = distances_of_pairs(
            query_SD[pair_QC[:, :1] // n_proposed], vectors_UD[vector_P[pair_QC]], metric=metric
        )

    with ThreadPoolExecutor(faiss.omp_get_max_threads()) as pool:
        for position in np.flatnonzero(np.diff(bounds)).tolist():
            own = _tables(pairs[bounds[position] : bounds[position + 1]], n_proposed, step)
            for _ in pool.map(partial(fill, vectors_of(position)), own):
                pass
    return distance_P.reshape(proposed.piece_SN.shape)


def _tables(pair_P: NDArray[np.int64], n_proposed: int, size: int) -> Iterator[NDArray[np.int64]]:
    """Cut pairs, sorted, into tables of at most ``size``, each row the pairs of one query.

    A query is converted to float64 once a row, and stays in the cache. Queries of like numbers of
    pairs share a table; shorter rows repeat their last pair.
    """
    first_Q = np.flatnonzero(np.diff(pair_P // n_proposed, prepend=-1))
    n_Q = np.diff(first_Q, append=len(pair_P))
    order = np.argsort(-n_Q, kind="stable")
    first_Q, n_Q = first_Q[order], n_Q[order]
    start = 0
    while start < len(n_Q):
        longest = int(n_Q[start])
        rows = slice(start, start + max(1, size // longest))
        for column in range(0, longest, size):
            column_C = np.arange(column, min(column + size, longest))
            yield pair_P[first_Q[rows, None] + np.minimum(column_C, n_Q[rows, None] - 1)]
        start = rows.stop


def _blocks(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [rows[start : start + max(size, 1)] for start in range(0, len(rows), max(size, 1))]


def _propose(query_SD: NDArray[np.float32], pieces: Sequence[Piece], n: int) -> Proposed:
    """Keep the best ``n`` of all pieces by score, piece after piece."""
    start_of = np.cumsum([0, *(piece.n_vectors for piece in pieces)])
    best = Nearest.nobody(len(query_SD), n)
    for piece, start in zip(pieces, start_of, strict=False):
        score_SN, vector_SN = piece.nearest(query_SD, n)
        best = merge_nearest(
            best, Nearest(score_SN, np.where(vector_SN < 0, -1, vector_SN + start))
        )
    piece_SN = np.searchsorted(start_of, best.vector_SN, side="right") - 1
    vector_SN = np.where(best.vector_SN < 0, -1, best.vector_SN - start_of[piece_SN])
    return Proposed(best.score_SN, piece_SN, vector_SN)


def _settle(
    proposed: Proposed, distance_SN: NDArray[np.float64], pieces: Sequence[Piece], *, k: int
) -> Candidates:
    """Put every spot in the place of its vector, and keep the nearest ``k`` in order."""
    most = min(k, max(piece.most_spots for piece in pieces))
    rows_of = max(1, BLOCK_CANDIDATES // (distance_SN.shape[1] * most))
    parts = [
        _spots_of(proposed.rows(rows), distance_SN[rows], pieces, most)
        for start in range(0, len(distance_SN), rows_of)
        for rows in [slice(start, start + rows_of)]
    ]
    return concatenate([part.best(k) for part in parts])


def _spots_of(
    proposed: Proposed, distance_SN: NDArray[np.float64], pieces: Sequence[Piece], most: int
) -> Candidates:
    spot_SNM = np.full((*distance_SN.shape, most), -1)
    for position, piece in enumerate(pieces):
        here_SN = proposed.piece_SN == position
        for rank in range(min(most, piece.most_spots)):
            spot_SNM[here_SN, rank] = piece.spots_of(proposed.vector_SN[here_SN], rank)
    shape = (len(distance_SN), -1)
    spot_SA = spot_SNM.reshape(shape)
    distance_SA = np.repeat(distance_SN, most, axis=1)
    return Candidates(
        distance_SA=np.where(spot_SA < 0, np.inf, distance_SA),
        slide_SA=np.where(spot_SA < 0, -1, np.repeat(proposed.piece_SN, most, axis=1)),
        spot_SA=spot_SA,
    )


def _is_proven(
    query_SD: NDArray[np.float32],
    proposed: Proposed,
    distance_SN: NDArray[np.float64],
    pieces: Sequence[Piece],
    n_wanted: int,
) -> NDArray[np.bool_]:
    """Tell for which queries nothing that was left out can be among the nearest."""
    metric = pieces[0].metric
    farthest_S = np.partition(distance_SN, n_wanted - 1, axis=1)[:, n_wanted - 1]
    left_out_S = proposed.score_SN[:, -1].astype(np.float64)  # at least, as the product has it
    longest = max(piece.longest for piece in pieces)
    slack_S = rounding_of(query_SD, left_out_S, longest=longest, metric=metric)
    return score_of(farthest_S, metric=metric) < left_out_S - slack_S
