"""The approximate kinds of an index: few spots are looked at, and those found are measured exactly.

Dimension letters in this file:

S queries or spots, D embedding size, N spots proposed
"""

from collections.abc import Mapping
from functools import lru_cache
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
        distance_SN = measure(
            query_SD,
            proposed,
            lambda place: self._read(names[place]),
            n_pieces=len(names),
            metric=self._metric,
        )
        found = Candidates(distance_SA=distance_SN, slide_SA=slide_SN, spot_SA=spot_SN)
        return found.best(k)


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
