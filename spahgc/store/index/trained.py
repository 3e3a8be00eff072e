"""The approximate kinds of an index: few spots are looked at, and those found are measured.

Dimension letters in this file:

S queries or spots, D embedding size, N spots proposed
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
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
from spahgc.store.index.shares import Arrays, Read, SlideRange, ranges_of

TrainedKind: TypeAlias = Literal["ivf", "ivfpq", "hnsw"]

KEPT_SLIDES: Final = 32
"""Slides whose vectors stay in memory to be measured against."""

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
        self._read = lru_cache(KEPT_SLIDES)(read)
        self._proposer: Proposer = (
            SlideGraphs(pieces, read=read, metric=metric)
            if kind == "hnsw"
            else InvertedLists(shared, pieces, read=read, metric=metric)
        )

    def search(
        self, query_SD: NDArray[np.float32], names: tuple[str, ...], *, k: int
    ) -> Candidates:
        """Find about the nearest ``k`` spots of each query on the slides in ``names``."""
        ranges = ranges_of(names, self._slides, self._bounds)
        n_proposed = k * PROPOSED[self.kind] + PROPOSED[self.kind]
        near = self._proposer.propose(query_SD, ranges, n_proposed, effort=self.effort)
        place_SN = np.searchsorted(self._bounds, near.vector_SN, side="right") - 1
        exists_SN = near.vector_SN >= 0
        position = {name: number for number, name in enumerate(names)}
        moved = np.array([position.get(name, -1) for name in self._slides] + [-1])
        slide_SN = np.where(exists_SN, moved[place_SN], -1)
        spot_SN = np.where(exists_SN, near.vector_SN - self._bounds[place_SN], -1)
        proposed = Proposed(near.score_SN, slide_SN, spot_SN)
        distance_SN = self._measure(query_SD, near, proposed, names)
        found = Candidates(distance_SA=distance_SN, slide_SA=slide_SN, spot_SA=spot_SN)
        return found.best(k)

    def _measure(
        self, query_SD: NDArray[np.float32], near: Nearest, proposed: Proposed, names: Sequence[str]
    ) -> NDArray[np.float64]:
        """Take distances to what was proposed, to vectors in memory where they are."""
        if not isinstance(self._proposer, InvertedLists) or self.kind == "ivfpq":
            return measure(
                query_SD,
                proposed,
                lambda place: self._read(names[place]),
                n_pieces=len(names),
                metric=self._metric,
            )
        distance_SN = np.full(near.vector_SN.shape, np.inf)
        for start in range(0, len(query_SD), MEASURED_AT_ONCE):
            rows = slice(start, start + MEASURED_AT_ONCE)
            spot_U, number_P = np.unique(near.vector_SN[rows], return_inverse=True)
            number_SN = number_P.reshape(near.vector_SN[rows].shape)
            exists_SN = near.vector_SN[rows] >= 0
            vectors_UD = self._proposer.vectors(np.maximum(spot_U, 0))
            some = Proposed(
                near.score_SN[rows], np.where(exists_SN, 0, -1), np.where(exists_SN, number_SN, -1)
            )
            distance_SN[rows] = measure(
                query_SD[rows],
                some,
                partial(_only, vectors_UD),
                n_pieces=1,
                metric=self._metric,
            )
        return distance_SN


def _only(vectors_UD: NDArray[np.float32], _: int) -> NDArray[np.float32]:
    return vectors_UD


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
