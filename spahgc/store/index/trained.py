"""The approximate kinds of an index: few spots are looked at, and those found are measured.

Dimension letters in this file:

S queries or spots, D embedding size, N spots proposed, P pairs of a query and a spot, U distinct
spots
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spahgc.store.index.distances import Metric
from spahgc.store.index.exact import Proposed, measure
from spahgc.store.index.graphs import N_LINKS, SlideGraphs, encode_graph
from spahgc.store.index.lists import (
    PER_CENTROID,
    InvertedLists,
    bytes_for,
    encode_lists,
    lists_for,
    train_lists,
)
from spahgc.store.index.neighbors import Candidates
from spahgc.store.index.pieces import Nearest
from spahgc.store.index.shares import (
    QUERIES_AT_ONCE,
    Arrays,
    Asked,
    Read,
    SlideRange,
    keep_first,
    ranges_of,
)

TrainedKind: TypeAlias = Literal["ivf", "ivfpq", "hnsw"]

KEPT_NUMBERS: Final = 2**27
"""Numbers of slides that stay in memory to be measured against, 512 MiB."""

PROPOSED_AT_ONCE: Final = 2**22
"""Spots proposed to askers who are answered in one pass, about 250 MB; a large one is alone."""

MEASURED_AT_ONCE: Final = 1_000
"""Queries whose neighbours' vectors are held at once."""

PROPOSED: Final[Mapping[str, int]] = {"ivf": 2, "ivfpq": 16, "hnsw": 2}
"""Spots proposed for each one wanted: the coarser the code, the more."""


class Proposer(Protocol):
    """What finds spots that may be near."""

    def propose(
        self, query_SD: NDArray[np.float32], ranges: list[SlideRange], n: int, *, effort: int
    ) -> Nearest:
        """Propose up to ``n`` spots of the ranges for each query."""


class TrainedIndex:
    """An approximate index over all slides, open; ``effort`` buys recall with time."""

    def __init__(
        self,
        kind: TrainedKind,
        shared: Arrays,
        pieces: Mapping[str, Arrays],
        *,
        read: Read,
        metric: Metric,
        effort: int,
    ) -> None:
        """Put arrays together that `train_shared` and `encode_piece` made, slides sorted."""
        self.kind = kind
        self.effort = effort
        self._metric = metric
        self._slides = tuple(pieces)
        sizes = [len(piece["levels" if kind == "hnsw" else "lists"]) for piece in pieces.values()]
        self._bounds = np.cumsum([0, *sizes])
        self._read = keep_first(read, most_numbers=KEPT_NUMBERS)
        self._proposer: Proposer = (
            SlideGraphs(pieces, read=read, metric=metric)
            if kind == "hnsw"
            else InvertedLists(shared, pieces, read=read, metric=metric)
        )

    def search_together(self, asked: Iterable[Asked], *, k: int) -> Iterator[Candidates]:
        """Find about the nearest ``k`` spots of each query, of several askers at once.

        Vectors that are not in memory are read slide by slide, once for a whole group of askers.

        Parameters
        ----------
        asked
            Taken no sooner than their group's turn comes.
        k
            How many.

        Yields
        ------
        Candidates
            Of each asker in turn what it would be told alone.
        """
        most = min(QUERIES_AT_ONCE, PROPOSED_AT_ONCE // self._n_proposed(k))
        group: list[Asked] = []
        for one in asked:
            if group and sum(len(other.query_SD) for other in [*group, one]) > most:
                yield from self._answer(group, k)
                group = []
            group.append(one)
        if group:
            yield from self._answer(group, k)

    def _answer(self, group: Sequence[Asked], k: int) -> Iterator[Candidates]:
        proposed = self._propose(group, k)
        distance_SN = self._measure(np.concatenate([one.query_SD for one in group]), proposed)
        start = 0
        for one in group:
            rows = slice(start, start + len(one.query_SD))
            position = {name: number for number, name in enumerate(one.names)}
            moved = np.array([position.get(name, -1) for name in self._slides] + [-1])
            yield Candidates(
                distance_SA=distance_SN[rows],
                slide_SA=moved[proposed.piece_SN[rows]],
                spot_SA=proposed.vector_SN[rows],
            ).best(k)
            start = rows.stop

    def _propose(self, group: Sequence[Asked], k: int) -> Proposed:
        """Have spots of all slides proposed to each asker: the slide's place, and its spot."""
        near = [
            self._proposer.propose(
                one.query_SD,
                ranges_of(one.names, self._slides, self._bounds),
                self._n_proposed(k),
                effort=self.effort,
            )
            for one in group
        ]
        spot_SN = np.concatenate([found.vector_SN for found in near])  # counted over all slides
        place_SN = np.searchsorted(self._bounds, spot_SN, side="right") - 1
        return Proposed(
            score_SN=np.concatenate([found.score_SN for found in near]),
            piece_SN=place_SN,
            vector_SN=np.where(spot_SN < 0, -1, spot_SN - self._bounds[place_SN]),
        )

    def _n_proposed(self, k: int) -> int:
        return k * PROPOSED[self.kind] + PROPOSED[self.kind]

    def _measure(self, query_SD: NDArray[np.float32], proposed: Proposed) -> NDArray[np.float64]:
        """Take distances to what was proposed, to vectors in memory where they are."""
        if isinstance(self._proposer, InvertedLists) and self.kind == "ivf":
            starts = range(0, max(len(query_SD), 1), MEASURED_AT_ONCE)
            parts = [slice(start, start + MEASURED_AT_ONCE) for start in starts]
            lists = self._proposer
            return np.concatenate(
                [self._measure_halves(lists, query_SD[s], proposed.rows(s)) for s in parts]
            )
        return measure(
            query_SD,
            proposed,
            lambda place: self._read(self._slides[place]),
            n_pieces=len(self._slides),
            metric=self._metric,
        )

    def _measure_halves(
        self, lists: InvertedLists, query_SD: NDArray[np.float32], proposed: Proposed
    ) -> NDArray[np.float64]:
        exists_SN = proposed.piece_SN >= 0
        spot_SN = np.where(exists_SN, proposed.vector_SN + self._bounds[proposed.piece_SN], 0)
        spot_U, number_P = np.unique(spot_SN, return_inverse=True)
        return measure(
            query_SD,
            Proposed(
                score_SN=proposed.score_SN,
                piece_SN=np.where(exists_SN, 0, -1),
                vector_SN=number_P.reshape(spot_SN.shape),
            ),
            lambda _: lists.vectors(spot_U),
            n_pieces=1,
            metric=self._metric,
        )


def train_shared(
    kind: TrainedKind, sample_SD: NDArray[np.float32], *, n_spots: int, metric: Metric
) -> dict[str, NDArray[Any]]:
    """Learn from a sample what all slides of an index share; nothing for ``hnsw``."""
    if kind == "hnsw":
        return {}
    n_bytes = bytes_for(sample_SD.shape[1]) if kind == "ivfpq" else None
    return train_lists(sample_SD, metric=metric, n_lists=lists_for(n_spots), n_bytes=n_bytes)


def sample_size(kind: TrainedKind, n_spots: int) -> int:
    """Say how many vectors `train_shared` wants of ``n_spots``."""
    return 0 if kind == "hnsw" else min(n_spots, PER_CENTROID * max(lists_for(n_spots), 256))


def encode_piece(
    kind: TrainedKind, vectors_SD: NDArray[np.float32], shared: Arrays, *, metric: Metric
) -> dict[str, NDArray[Any]]:
    """Make the arrays of one slide."""
    if kind == "hnsw":
        return encode_graph(vectors_SD, metric=metric)
    return encode_lists(vectors_SD, shared, metric=metric)


def efforts(kind: TrainedKind, shared: Arrays) -> list[int]:
    """List what to try, least first: lists looked into, or spots held in mind."""
    most = 2048 if kind == "hnsw" else len(shared["centroids"])
    return [2**power for power in range(4 if kind == "hnsw" else 0, 12) if 2**power <= most]


def settings_of(kind: TrainedKind, shared: Arrays, effort: int) -> dict[str, int]:
    """Spell the sizes of a trained index, for people and for opening it again."""
    if kind == "hnsw":
        return {"n_links": N_LINKS, "effort": effort}
    sizes = {"n_lists": len(shared["centroids"]), "effort": effort}
    return sizes | ({"n_bytes": len(shared["codebooks"])} if kind == "ivfpq" else {})
