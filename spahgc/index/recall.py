"""How many of the true neighbours an approximate index finds, measured against exact search.

Dimension letters in this file:

S queries, D embedding size, K neighbours
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spahgc.index.flat import FlatSearch
from spahgc.index.neighbors import Neighbors, merge_neighbors
from spahgc.index.trained import Queries
from spahgc.index.vectors import Metric, ReadVectors

K: Final = 10
N_QUERIES: Final = 400
MOST_ASKING: Final = 40
"""Slides that queries are taken from."""

Search: TypeAlias = Callable[[Sequence[Queries]], Iterable[Neighbors]]
"""Finds `K` neighbours of prepared queries for each of several askers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecallTest:
    """Spots of some slides, and how near their true neighbours on other slides are."""

    query_SD: Mapping[str, NDArray[np.float32]]
    """Queries of each slide that asks."""

    may_answer: Mapping[str, tuple[str, ...]]
    """Slides that may answer each of them: all but itself, or itself where it is alone."""

    true: Mapping[str, Neighbors]
    """The `K` true neighbours of each query."""

    def recall(self, search: Search) -> float:
        """Give the share of true neighbours found; another spot as near as the last counts too."""
        found, n_true = 0, 0
        asking = sorted(self.query_SD)
        asked = [Queries(self.query_SD[name], self.may_answer[name]) for name in asking]
        for name, near in zip(asking, search(asked), strict=True):
            true = self.true[name]
            last_S1 = np.nan_to_num(true.distance_SK).max(axis=1, keepdims=True)
            is_tie_SK = near.distance_SK <= last_S1 * (1 + 1e-6) + 1e-6  # rounding of float32
            found += int((_is_among(near, true) | is_tie_SK).sum())
            n_true += int(true.exists_SK.sum())
        return min(1.0, found / n_true)

    @property
    def n_queries(self) -> int:
        """Over all slides."""
        return sum(map(len, self.query_SD.values()))


class MeasuredRecall(NamedTuple):
    """How well an index finds, and what it takes."""

    recall: float
    """Share of the true neighbours found, 0 to 1."""

    k: int
    """Neighbours of a query."""

    n_queries: int
    """Spots asked about."""

    seconds: float
    """For all of them together, the index being open."""


def measure_recall(
    slides: Sequence[str], read: ReadVectors, search: Search, *, metric: Metric, n_queries: int
) -> MeasuredRecall:
    """Compare a search with the exact one, each query's own slide left out; see `RecallTest`."""
    test = make_recall_test(slides, read, metric=metric, n_queries=n_queries)
    test.recall(search)  # pieces are read and lists filled before the clock counts
    seconds = 0.0

    def timed(asked: Sequence[Queries]) -> Iterable[Neighbors]:
        nonlocal seconds
        start = perf_counter()
        near = list(search(asked))
        seconds += perf_counter() - start
        return near

    return MeasuredRecall(test.recall(timed), K, test.n_queries, seconds)


def make_recall_test(
    slides: Sequence[str], read: ReadVectors, *, metric: Metric, n_queries: int = N_QUERIES
) -> RecallTest:
    """Draw queries, always the same ones, and search for them exactly, slide after slide.

    No more than one slide's vectors are in memory at once beside the queries.
    """
    generator = np.random.default_rng(0)
    asking = sorted(generator.permutation(np.array(slides))[:MOST_ASKING].tolist())
    share = -(-n_queries // len(asking))
    queries = {}
    for name in asking:
        vectors_SD = read(name)
        rows = generator.permutation(len(vectors_SD))[:share]
        queries[name] = vectors_SD[np.sort(rows)]
    may_answer = {name: tuple(sorted(set(slides) - {name})) or tuple(slides) for name in asking}
    found: dict[str, Neighbors] = {}
    for answering in slides:
        exact = FlatSearch(read, metric=metric)  # holds this slide alone
        for name in asking:
            if answering in may_answer[name]:
                part = exact.search(queries[name], (answering,), k=K)
                found[name] = merge_neighbors([found[name], part], k=K) if name in found else part
    return RecallTest(query_SD=queries, may_answer=may_answer, true=found)


def _is_among(near: Neighbors, true: Neighbors) -> NDArray[np.bool_]:
    """Tell of each neighbour whether it is a true one; both count the same slides."""
    one_SK = (near.slide_SK << 32) + near.spot_SK
    other_SK = (true.slide_SK << 32) + true.spot_SK
    return near.exists_SK & (one_SK[:, :, None] == other_SK[:, None]).any(axis=2)
