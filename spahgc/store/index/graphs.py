"""One navigable graph (HNSW) a slide: worth it on slides of very many spots.

Dimension letters in this file:

S spots or queries, D embedding size, N spots proposed, E places for links

References: Malkov and Yashunin, arXiv 1603.09320.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import DamagedStoreError
from spahgc.store.index.distances import FAISS_METRIC, Metric, check_size
from spahgc.store.index.library import faiss
from spahgc.store.index.pieces import Nearest, merge_nearest
from spahgc.store.index.shares import Arrays, Read, SlideRange

N_LINKS: Final = 32
"""Links of a spot on a level; twice as many on the lowest."""

EFFORT_OF_BUILDING: Final = 80
"""Spots held in mind while a new one is linked."""


def encode_graph(vectors_SD: NDArray[np.float32], *, metric: Metric) -> dict[str, NDArray[Any]]:
    """Link one slide's spots: ``levels`` (S,) int32, and ``links`` (E,) int32 with -1 for none."""
    graph = faiss.IndexHNSWFlat(vectors_SD.shape[1], N_LINKS, FAISS_METRIC[metric])
    graph.hnsw.efConstruction = EFFORT_OF_BUILDING
    graph.add(vectors_SD)
    return {
        "levels": faiss.vector_to_array(graph.hnsw.levels),
        "links": faiss.vector_to_array(graph.hnsw.neighbors),
    }


def restore_graph(arrays: Arrays, vectors_SD: NDArray[np.float32], *, metric: Metric) -> Any:  # noqa: ANN401
    """Give faiss a graph that lay in a store, checked so that no link leads out of it.

    Raises
    ------
    DamagedStoreError
        If levels, links and vectors do not fit together.
    """
    graph = faiss.IndexHNSWFlat(vectors_SD.shape[1], N_LINKS, FAISS_METRIC[metric])
    level_S, link_E = arrays["levels"], arrays["links"]
    if not len(level_S):
        return graph
    places = faiss.vector_to_array(graph.hnsw.cum_nneighbor_per_level).astype(np.int64)
    if len(level_S) != len(vectors_SD) or not 1 <= level_S.min() <= level_S.max() < len(places):
        raise DamagedStoreError(_broken("levels"))
    offsets = np.concatenate([[0], np.cumsum(places[level_S])]).astype(np.uint64)
    if len(link_E) != offsets[-1] or link_E.min() < -1 or link_E.max() >= len(level_S):
        raise DamagedStoreError(_broken("links"))
    _check_levels(level_S, link_E, places)
    graph.storage.add(vectors_SD)
    faiss.copy_array_to_vector(level_S, graph.hnsw.levels)
    faiss.copy_array_to_vector(link_E, graph.hnsw.neighbors)
    faiss.copy_array_to_vector(offsets, graph.hnsw.offsets)
    graph.hnsw.entry_point = int(np.argmax(level_S))
    graph.hnsw.max_level = int(level_S.max()) - 1
    graph.ntotal = len(vectors_SD)
    return graph


class SlideGraphs:
    """The graphs of all slides, each restored when it is first searched."""

    def __init__(self, pieces: Mapping[str, Arrays], *, read: Read, metric: Metric) -> None:
        """Keep the arrays of every slide; vectors are read with the graph."""
        self._pieces = pieces
        self._read = read
        self._metric = metric
        self._graphs: dict[str, Any] = {}

    def propose(
        self, query_SD: NDArray[np.float32], ranges: Sequence[SlideRange], n: int, *, effort: int
    ) -> Nearest:
        """Look for the nearest ``n`` spots of some ranges, ``effort`` spots held in mind."""
        best, start = Nearest.nobody(len(query_SD), n), 0
        for name, piece in self._pieces.items():
            if any(first <= start < stop for first, stop in ranges):
                how = faiss.SearchParametersHNSW(efSearch=max(effort, n))
                graph = self._graph(name)
                check_size(query_SD, graph.d, owner=f"slide {name}")
                score_SN, spot_SN = graph.search(query_SD, n, params=how)
                missing_SN = spot_SN < 0
                score_SN = np.where(
                    missing_SN, np.inf, -score_SN if self._metric == "cosine" else score_SN
                )
                spot_SN = np.where(missing_SN, -1, spot_SN + start)
                best = merge_nearest(best, Nearest(score_SN, spot_SN))
            start += len(piece["levels"])
        return best

    def _graph(self, name: str) -> Any:  # noqa: ANN401
        if name not in self._graphs:
            self._graphs[name] = restore_graph(
                self._pieces[name], self._read(name), metric=self._metric
            )
        return self._graphs[name]


def _check_levels(
    level_S: NDArray[np.int32], link_E: NDArray[np.int32], places: NDArray[np.int64]
) -> None:
    """Refuse a link on a level that the linked spot does not reach: faiss would read beyond it."""
    spot_E = np.repeat(np.arange(len(level_S)), places[level_S])
    first_S = np.concatenate([[0], np.cumsum(places[level_S])[:-1]])
    level_E = np.searchsorted(places, np.arange(len(link_E)) - first_S[spot_E], side="right") - 1
    exists_E = link_E >= 0
    if (level_S[link_E[exists_E]] <= level_E[exists_E]).any():
        raise DamagedStoreError(_broken("links"))


def _broken(what: str) -> str:
    return (
        f"the {what} of a graph in an index do not fit its spots; "
        "`spahgc index build --retrain` makes them anew"
    )
