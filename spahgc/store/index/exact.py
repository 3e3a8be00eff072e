"""Exact search: float32 matrix products propose, float64 decides, and a bound proves it.

Dimension letters in this file:

S queries, D embedding size, N proposed vectors of a query, M spots of one vector, P pairs
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spahgc.store.index.distances import Metric, measure_pairs, rounding_of, score_of
from spahgc.store.index.neighbors import Candidates, concatenate
from spahgc.store.index.pieces import Nearest, Piece, merge_nearest

MARGIN: Final = 4
"""Least number of vectors proposed beyond those wanted."""

WIDER: Final = 4
"""How many times more are proposed where the bound could not tell."""

BLOCK_CANDIDATES: Final = 2**22
"""Candidates held at once, about 100 MB."""


class Proposed(NamedTuple):
    """The vectors of all pieces whose scores are least, in any order."""

    score_SN: NDArray[np.float32]
    """As in `spahgc.store.index.pieces.Nearest`; inf where there is none."""

    piece_SN: NDArray[np.int64]
    """Position of the piece, or -1."""

    vector_SN: NDArray[np.int64]
    """Which of the piece's distinct vectors, or -1."""

    def rows(self, some: slice) -> "Proposed":
        """Give what was proposed for some of the queries."""
        return Proposed(self.score_SN[some], self.piece_SN[some], self.vector_SN[some])


def search_exactly(query_SD: NDArray[np.float32], pieces: Sequence[Piece], *, k: int) -> Candidates:
    """Find the ``k`` nearest spots of each query on the pieces, ties and all.

    A little more than ``k`` vectors are proposed by float32 products. Their distances are then
    taken pair by pair in float64. If the ``k``-th of them is nearer than anything left out can be,
    rounding included, the answer is that of brute force in float64; else more are proposed.
    """
    n_vectors = sum(piece.n_vectors for piece in pieces)
    found = Candidates.nobody(len(query_SD), k)
    unsure, n = np.arange(len(query_SD) if n_vectors else 0), n_to_propose(k)
    while unsure.size:
        n = min(n, n_vectors)
        still = []
        for rows in _blocks(unsure, BLOCK_CANDIDATES // n):
            part_SD = query_SD if len(rows) == len(query_SD) else query_SD[rows]
            decided, proven_S = decide(part_SD, _propose(part_SD, pieces, n), pieces, k=k)
            found.put(rows, decided)
            still.append(rows[~proven_S])
        unsure, n = np.concatenate(still), n * WIDER
    return found


def n_to_propose(k: int) -> int:
    """Say how many vectors are proposed at first, so that the nearest ``k`` are mostly proven."""
    return k + max(MARGIN, k // 32)


def decide(
    query_SD: NDArray[np.float32], proposed: Proposed, pieces: Sequence[Piece], *, k: int
) -> tuple[Candidates, NDArray[np.bool_]]:
    """Measure what was proposed and keep the nearest ``k`` spots.

    Returns
    -------
    tuple
        What was kept, and for which queries nothing that was left out can be among the nearest.
    """
    metric = pieces[0].metric
    distance_SN = measure(
        query_SD, proposed, lambda p: pieces[p].vectors_UD, n_pieces=len(pieces), metric=metric
    )
    n_vectors = sum(piece.n_vectors for piece in pieces)
    if distance_SN.shape[1] >= n_vectors:
        proven_S = np.ones(len(query_SD), np.bool_)
    else:
        proven_S = _is_proven(query_SD, proposed, distance_SN, pieces, min(k, n_vectors))
    return _settle(proposed, distance_SN, pieces, k=k), proven_S


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
    vector_P = proposed.vector_SN.ravel()
    distance_P = np.full(piece_P.shape, np.inf)
    n_proposed = proposed.piece_SN.shape[1]
    pairs = np.argsort(piece_P, kind="stable")
    bounds = np.searchsorted(piece_P[pairs], np.arange(n_pieces + 1))
    for position in np.flatnonzero(np.diff(bounds)).tolist():
        own_P = pairs[bounds[position] : bounds[position + 1]]
        distance_P[own_P] = measure_pairs(
            query_SD, vectors_of(position), own_P // n_proposed, vector_P[own_P], metric=metric
        )
    return distance_P.reshape(proposed.piece_SN.shape)


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
    left_out_S = proposed.score_SN.max(axis=1).astype(np.float64)  # at least, by the product
    longest = max(piece.longest for piece in pieces)
    slack_S = rounding_of(query_SD, left_out_S, longest=longest, metric=metric)
    return score_of(farthest_S, metric=metric) < left_out_S - slack_S
