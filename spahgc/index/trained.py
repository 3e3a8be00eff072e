"""Approximate search: inverted lists of faiss, trained once and filled slide by slide.

Dimension letters in this file:

S queries or spots, D embedding size, N spots proposed for a query, P pairs of a query and a spot
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spahgc.index.faiss_library import faiss, n_gpus
from spahgc.index.flat import Found, locate, merge_found, no_result
from spahgc.index.neighbors import Neighbors, keep_nearest
from spahgc.index.records import MOST_LISTS
from spahgc.index.vectors import FAISS_METRIC, Metric, ReadVectors, check_size, to_distance

TrainedKind: TypeAlias = Literal["ivf", "ivfpq"]

PER_CENTROID: Final = 48
"""Training vectors of each centroid; faiss asks for 39 or more."""

PROPOSED: Final = 16
"""Spots that ``ivfpq`` proposes for each one wanted: their codes are coarse, so they are compared
again with the store's own vectors."""

PROPOSED_AT_ONCE: Final = 2**22
"""Spots proposed to queries that are answered in one pass over the store, about 100 MB."""


class Queries(NamedTuple):
    """Prepared queries, and the slides that may answer them."""

    query_SD: NDArray[np.float32]
    """(S, D) as they are compared."""

    names: tuple[str, ...]
    """Sorted."""


def train_lists(
    kind: TrainedKind, sample_SD: NDArray[np.float32], *, n_lists: int, metric: Metric
) -> Any:  # noqa: ANN401  faiss has no types
    """Train empty lists on a sample of the spots they will hold.

    Parameters
    ----------
    kind
        ``ivf`` keeps vectors in half precision, ``ivfpq`` a byte for every eight numbers.
    sample_SD
        Prepared vectors, about as many as `sample_size` says.
    n_lists
        As `lists_for` says.
    metric
        ``cosine`` or ``l2``.
    """
    size = sample_SD.shape[1]
    stored_as = "SQfp16" if kind == "ivf" else f"PQ{bytes_for(size)}x8np"  # no polysemous codes
    lists = faiss.index_factory(size, f"IVF{n_lists},{stored_as}", FAISS_METRIC[metric])
    for clustering in (lists.cp, *([lists.pq.cp] if kind == "ivfpq" else [])):
        clustering.niter = 10
        clustering.min_points_per_centroid = 1  # else it warns of few
        clustering.max_points_per_centroid = PER_CENTROID
    if n_gpus():
        lists.clustering_index = faiss.index_cpu_to_all_gpus(lists.quantizer)
    lists.train(sample_SD)
    if n_gpus():
        lists.clustering_index = None
    return lists


def lists_for(n_spots: int) -> int:
    """Choose how many: about twice the root, so that finding and scanning them cost the same."""
    return max(1, min(MOST_LISTS, round(2 * n_spots**0.5), n_spots // PER_CENTROID))


def bytes_for(size: int) -> int:
    """Choose the bytes of a code: one for every eight numbers, where they divide evenly."""
    return max(m for m in range(1, max(1, size // 8) + 1) if size % m == 0)


def sample_size(n_spots: int) -> int:
    """Say how many vectors `train_lists` wants of ``n_spots``."""
    return min(n_spots, PER_CENTROID * max(lists_for(n_spots), 256))


def fill_lists(trained: Any, vectors_SD: NDArray[np.float32]) -> Any:  # noqa: ANN401
    """Sort one slide's prepared vectors into lists with the same centroids."""
    filled = faiss.clone_index(trained)
    filled.add(vectors_SD)
    return filled


class TrainedSearch:
    """Searches the lists of many slides; ``n_probes`` lists are looked into for each query."""

    def __init__(
        self,
        trained: Any,  # noqa: ANN401
        parts: Iterable[tuple[str, Any]],
        *,
        read: ReadVectors,
        metric: Metric,
        n_probes: int,
    ) -> None:
        """Join the lists of slides, sorted by name.

        Within a list spots lie in the order of the slides, so that those of slides that may not
        answer are passed over as a range.

        Parameters
        ----------
        trained
            Empty lists, from `train_lists`.
        parts
            Name and lists of each slide, from `fill_lists`; they are emptied.
        read
            Reads a slide's vectors as they are compared.
        metric
            Of the lists.
        n_probes
            Lists looked into; may be changed.
        """
        self.n_probes = n_probes
        self._read = read
        self._metric = metric
        self._lists = faiss.clone_index(trained)
        self._is_coarse = isinstance(self._lists, faiss.IndexIVFPQ)
        names, bounds = [], [0]
        for name, part in parts:
            self._lists.merge_from(part, self._lists.ntotal)
            names.append(name)
            bounds.append(self._lists.ntotal)
        self._names = tuple(names)
        self._bounds = np.array(bounds)

    @property
    def n_lists(self) -> int:
        """Lists there are."""
        return int(self._lists.nlist)

    def search(self, asked: Iterable[Queries], *, k: int) -> Iterator[Neighbors]:
        """Find about the nearest ``k`` spots of several sets of queries, each in turn.

        Where vectors are compared again, each slide is read once for many sets.
        """
        group: list[Queries] = []
        most = PROPOSED_AT_ONCE // (k * PROPOSED)
        for one in asked:
            if group and sum(len(other.query_SD) for other in (*group, one)) > most:
                yield from self._search_group(group, k)
                group = []
            group.append(one)
        yield from self._search_group(group, k)

    def _search_group(self, group: Sequence[Queries], k: int) -> list[Neighbors]:
        n = k * PROPOSED if self._is_coarse else k
        proposed = [self._propose(one, n) for one in group]
        if self._is_coarse:
            self._measure(group, proposed)
        return [
            self._named(one.names, *found, k=k) for one, found in zip(group, proposed, strict=True)
        ]

    def _propose(self, one: Queries, n: int) -> Found:
        check_size(one.query_SD, self._lists.d, owner="the index")
        best = no_result(len(one.query_SD), n, metric=self._metric)
        if not len(one.query_SD):
            return best
        for start, stop in self._ranges(one.names):
            chosen = faiss.IDSelectorRange(start, stop, True)  # ids are sorted in a list
            how = faiss.SearchParametersIVF(nprobe=self.n_probes, sel=chosen)
            best = merge_found(
                best, self._lists.search(one.query_SD, n, params=how), metric=self._metric
            )
        return best

    def _ranges(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Give first position and end of slides that follow each other in the lists."""
        wanted = set(names)
        is_in = np.array([False, *(name in wanted for name in self._names), False])
        starts = self._bounds[np.flatnonzero(~is_in[:-1] & is_in[1:])]
        stops = self._bounds[np.flatnonzero(is_in[:-1] & ~is_in[1:])]
        return [(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]

    def _measure(self, group: Sequence[Queries], proposed: Sequence[Found]) -> None:
        """Replace the scores of proposed spots by those of the vectors in the store."""
        located = [locate(id_SN, self._bounds) for _, id_SN in proposed]
        for place, name in enumerate(self._names):
            own = [np.nonzero(slide_SN == place) for slide_SN, _ in located]
            if not any(len(rows) for rows, _ in own):
                continue
            vectors_SD = self._read(name)
            for one, (score_SN, _), (_, spot_SN), pairs in zip(
                group, proposed, located, own, strict=True
            ):
                score_SN[pairs] = _score_pairs(
                    one.query_SD, vectors_SD, pairs[0], spot_SN[pairs], metric=self._metric
                )

    def _named(
        self,
        names: tuple[str, ...],
        score_SN: NDArray[np.float32],
        id_SN: NDArray[np.int64],
        *,
        k: int,
    ) -> Neighbors:
        slide_SN, spot_SN = locate(id_SN, self._bounds)
        place_of = {name: place for place, name in enumerate(names)}
        moved = np.array([*(place_of.get(name, -1) for name in self._names), -1])
        distance_SN = to_distance(score_SN, metric=self._metric)
        return keep_nearest(
            distance_SN, moved[slide_SN], spot_SN, slides=names, metric=self._metric, k=k
        )


def _score_pairs(
    query_SD: NDArray[np.float32],
    vectors_SD: NDArray[np.float32],
    query_P: NDArray[np.int64],
    vector_P: NDArray[np.int64],
    *,
    metric: Metric,
) -> NDArray[np.float32]:
    """Give the (P,) scores of pairs as faiss gives them."""
    score_P = np.empty(len(query_P), np.float32)
    score = (
        faiss.pairwise_indexed_inner_product if metric == "cosine" else faiss.pairwise_indexed_L2sqr
    )
    arrays = (query_SD, np.ascontiguousarray(query_P), vectors_SD, np.ascontiguousarray(vector_P))
    score(query_SD.shape[1], len(query_P), *map(faiss.swig_ptr, arrays), faiss.swig_ptr(score_P))
    return score_P
