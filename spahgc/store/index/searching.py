"""Search the vectors of many slides, on behalf of one asker or of several.

Dimension letters in this file:

S spots or queries, D embedding size
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from spahgc.store.index.distances import Metric, prepare
from spahgc.store.index.exact import search_exactly
from spahgc.store.index.joined import search_each_other
from spahgc.store.index.library import n_gpus
from spahgc.store.index.neighbors import Candidates, Neighbors, concatenate
from spahgc.store.index.pieces import Piece
from spahgc.store.index.shares import QUERIES_AT_ONCE, Asked, Read
from spahgc.store.index.trained import TrainedIndex


class SlideVectors:
    """The vectors of many slides, one piece a slide, each read when it is first searched.

    So a fold pays for its own slides only, and leaving slides out costs nothing and hides nothing.
    """

    def __init__(self, read: Read, *, metric: Metric, trained: TrainedIndex | None) -> None:
        """Take how slides are read, as they are stored, and what an approximate kind learned."""
        self._read = read
        self._metric = metric
        self._trained = trained
        self._pieces: dict[str, Piece] = {}

    def read_prepared(self, slide: str) -> NDArray[np.float32]:
        """Read one slide's (S, D) vectors as they are compared."""
        return prepare(self._read(slide), metric=self._metric, owner=f"slide {slide}")

    def search(self, asked: Iterable[Asked], *, k: int) -> list[Neighbors]:
        """Find the ``k`` nearest spots of each query of several askers.

        Queries come as they are stored, however many, and are taken as their turn comes.

        Raises
        ------
        ValueError
            If ``k`` is less than one.
        """
        _check_wanted(k)
        names_of: list[tuple[str, ...]] = []
        asker_of: list[int] = []

        def parts() -> Iterator[Asked]:
            for asker, (embedding_SD, names) in enumerate(asked):
                names_of.append(names)
                for start in range(0, max(len(embedding_SD), 1), QUERIES_AT_ONCE):
                    asker_of.append(asker)
                    yield Asked(self._prepare_query(embedding_SD, start), names)

        found: list[list[Candidates]] = []
        for number, part in enumerate(self._nearest(parts(), k)):
            found.extend([] for _ in range(len(found), asker_of[number] + 1))
            found[asker_of[number]].append(part)
        return [
            concatenate(of_asker).as_neighbors(names)
            for of_asker, names in zip(found, names_of, strict=True)
        ]

    def search_slides(
        self, may_answer: Mapping[str, tuple[str, ...]], *, k: int
    ) -> dict[str, Neighbors]:
        """Find the ``k`` nearest spots of all spots of several slides, which may ask each other."""
        if self._trained is not None or self._metric != "cosine" or n_gpus():
            asked = (Asked(self._read(asking), names) for asking, names in may_answer.items())
            return dict(zip(may_answer, self.search(asked, k=k), strict=True))
        _check_wanted(k)
        pieces = {name: self._piece(name) for name in {*may_answer, *chain(*may_answer.values())}}
        found = search_each_other(pieces, may_answer, k=k)
        return {asking: found[asking].as_neighbors(names) for asking, names in may_answer.items()}

    def _nearest(self, parts: Iterable[Asked], k: int) -> Iterator[Candidates]:
        if self._trained is not None:
            yield from self._trained.search_together(parts, k=k)
            return
        for query_SD, names in parts:
            yield search_exactly(query_SD, [self._piece(name) for name in names], k=k)

    def _prepare_query(self, embedding_SD: NDArray[np.float32], start: int) -> NDArray[np.float32]:
        part_SD = embedding_SD[start : start + QUERIES_AT_ONCE]
        return prepare(part_SD, metric=self._metric, owner="the query", first=start)

    def _piece(self, slide: str) -> Piece:
        if slide not in self._pieces:
            self._pieces[slide] = Piece(slide, self.read_prepared(slide), metric=self._metric)
        return self._pieces[slide]


def _check_wanted(k: int) -> None:
    if k < 1:
        raise ValueError(f"a search for {k} neighbours, expected 1 or more")
