"""Exact search by cosine among slides that ask each other.

A matrix product does not care who asks: that of two slides is taken once, and looked through along
its rows for the one and along its columns for the other.

Dimension letters in this file:

I rows and J columns of a product, S queries, N proposed to each, R places of a room
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spahgc.compiled import on_threads
from spahgc.store.index.exact import (
    BLOCK_CANDIDATES,
    Proposed,
    decide,
    n_to_propose,
    search_exactly,
)
from spahgc.store.index.library import faiss
from spahgc.store.index.loops import Room, keep_for_columns, keep_for_rows, keep_no_more
from spahgc.store.index.neighbors import Candidates
from spahgc.store.index.pieces import Piece

TILE_NUMBERS: Final = 2**24
"""Products held at once, 64 MiB."""

QUERIES_AT_ONCE: Final = 256
"""Queries whose products a thread looks through at a time."""

_SPARE: Final = 48
"""Places of a room beside thrice as many as are wanted; when it is full, the wanted are kept."""


class Seat(NamedTuple):
    """A slide among those that ask each other."""

    piece: Piece
    """Its vectors."""

    start: int
    """Number of its first vector among those of all slides."""

    room: Room | None
    """What is kept of each of its vectors, if it asks."""


def search_each_other(
    pieces: Mapping[str, Piece], may_answer: Mapping[str, Sequence[str]], *, k: int
) -> dict[str, Candidates]:
    """Find the ``k`` nearest spots of each spot of some slides, ties and all.

    Parameters
    ----------
    pieces
        Every slide that asks or may answer.
    may_answer
        By the name of each slide that asks, those that may answer it, sorted; never itself.
    k
        How many.

    Returns
    -------
    dict
        Of each slide that asks what `spahgc.store.index.exact.search_exactly` finds, bit for bit.
    """
    n = n_to_propose(k)
    seats, start = {}, 0
    for name, piece in sorted(pieces.items()):
        seats[name] = Seat(piece, start, _room(piece.n_vectors, n) if name in may_answer else None)
        start += piece.n_vectors
    for one, other in itertools.combinations(seats, 2):
        rows = seats[one].room if other in may_answer.get(one, ()) else None
        columns = seats[other].room if one in may_answer.get(other, ()) else None
        if rows is not None or columns is not None:
            _compare(seats[one]._replace(room=rows), seats[other]._replace(room=columns), n)
    return {name: _decided(seats, name, others, k=k) for name, others in may_answer.items()}


def _room(n_queries: int, n: int) -> Room:
    shape = (n_queries, 3 * n + _SPARE)
    above_S = np.full(n_queries, -np.inf, np.float32)
    return (
        np.empty(shape, np.float32),
        np.full(shape, -1, np.int32),
        np.zeros(n_queries, np.int64),
        above_S,
    )


def _compare(one: Seat, other: Seat, n: int) -> None:
    """Take the products of two slides, and keep the best for the one that asks, or both."""
    vectors_JD = other.piece.vectors_UD
    n_rows = max(1, TILE_NUMBERS // len(vectors_JD))
    for start in range(0, one.piece.n_vectors, n_rows):
        product_IJ = one.piece.vectors_UD[start : start + n_rows] @ vectors_JD.T
        if one.room is not None:
            of_rows = _part(one.room, slice(start, start + n_rows))
            _look_through(keep_for_rows, product_IJ, other.start, of_rows, n)
        if other.room is not None:
            _look_through(keep_for_columns, product_IJ, one.start + start, other.room, n)


def _look_through(
    keep: Callable[[NDArray[np.float32], int, Room, int, int, int], None],
    product_IJ: NDArray[np.float32],
    first: int,
    room: Room,
    n: int,
) -> None:
    def some(start: int, stop: int) -> None:
        keep(product_IJ, first, room, n, start, stop)

    _on_threads(some, room)


def _on_threads(work: Callable[[int, int], None], room: Room) -> None:
    n_threads = faiss.omp_get_max_threads()
    on_threads(work, len(room[0]), at_once=QUERIES_AT_ONCE, n_threads=n_threads)


def _part(room: Room, rows: slice) -> Room:
    return room[0][rows], room[1][rows], room[2][rows], room[3][rows]


def _decided(seats: Mapping[str, Seat], name: str, others: Sequence[str], *, k: int) -> Candidates:
    """Measure what was kept of a slide's queries; search again where it proves too little."""
    seat, pieces = seats[name], [seats[other].piece for other in others]
    query_SD = seat.piece.vectors_UD
    if seat.room is None or not pieces:
        return search_exactly(query_SD, pieces, k=k).rows(seat.piece.vector_S)
    n, answering = n_to_propose(k), [seats[other] for other in others]
    found = Candidates.nobody(len(query_SD), k)
    step = max(1, BLOCK_CANDIDATES // n)
    for start in range(0, len(query_SD), step):
        rows = slice(start, start + step)
        proposed = _proposed(_part(seat.room, rows), n, answering)
        decided, proven_S = decide(query_SD[rows], proposed, pieces, k=k)
        found.put(rows, decided)
        unsure = start + np.flatnonzero(~proven_S)
        if unsure.size:
            found.put(unsure, search_exactly(query_SD[unsure], pieces, k=k))
    return found.rows(seat.piece.vector_S)


def _proposed(room: Room, n: int, answering: Sequence[Seat]) -> Proposed:
    """Say of what was kept on which of the answering slides it lies."""

    def tidy(start: int, stop: int) -> None:
        keep_no_more(room, n, start, stop)

    _on_threads(tidy, room)
    exists_SN = np.arange(n) < room[2][:, None]
    vector_SN = room[1][:, :n]
    start_of = np.array([seat.start for seat in answering])
    piece_SN = np.searchsorted(start_of, vector_SN, side="right") - 1
    return Proposed(
        score_SN=np.where(exists_SN, -room[0][:, :n], np.float32(np.inf)),
        piece_SN=np.where(exists_SN, piece_SN, -1),
        vector_SN=np.where(exists_SN, vector_SN - start_of[piece_SN], -1),
    )
