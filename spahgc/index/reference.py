"""Find the spots of other slides that look most like a given one."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from spahgc.index.building import MIN_RECALL, build_index, open_index
from spahgc.index.exclusion import Patients, may_answer
from spahgc.index.flat import FlatSearch
from spahgc.index.neighbors import Neighbors, concatenate
from spahgc.index.recall import N_QUERIES, K, MeasuredRecall, measure_recall
from spahgc.index.records import IndexRecord, Kind, reader_of
from spahgc.index.trained import Queries, TrainedSearch
from spahgc.index.vectors import Metric, ReadVectors, prepare
from spahgc.store.cohort import Cohort

QUERIES_AT_ONCE: Final = 16_384
"""Queries held in the form they are compared in: a larger slide is searched for in parts."""


class ReferenceIndex:
    """The embeddings of many slides, to be searched under a rule of exclusion."""

    def __init__(
        self,
        cohort: Cohort | None,
        record: IndexRecord,
        *,
        read: ReadVectors,
        patients: Patients | None = None,
        trained: TrainedSearch | None = None,
    ) -> None:
        """Use `build`, `open` or `of_vectors` where they will do.

        Parameters
        ----------
        cohort
            The store; None where there is none.
        record
            Which slides, and how they are compared.
        read
            Reads a slide's vectors as they are stored.
        patients
            Of every slide that may be named in an exclusion, None where unknown; by default as
            the store has it.
        trained
            What an approximate kind has learned; None for ``flat``.
        """
        self.record = record
        self._cohort = cohort
        self._read = read
        self._known_patients = patients
        self._flat = FlatSearch(self._read_prepared, metric=record.metric)
        self._trained = trained

    @classmethod
    def build(
        cls,
        cohort: Cohort,
        *,
        embedding: str,
        name: str | None = None,
        metric: Metric = "cosine",
        kind: Kind | Literal["auto"] = "auto",
        slides: Collection[str] | None = None,
        min_recall: float = MIN_RECALL,
        retrain: bool = False,
    ) -> Self:
        """Index slides that have the embedding, and commit the record.

        Where there is an index of that name over the same embedding, only slides that are new to
        it or have changed are sorted into it.

        Parameters
        ----------
        cohort
            The store.
        embedding, name
            Of the embedding, and of the index; by default the same.
        metric
            What near means.
        kind
            ``flat`` is exact; ``ivf`` and ``ivfpq`` find most neighbours in less time; ``auto`` is
            ``flat`` up to `FLAT_UP_TO` spots, then ``ivf``.
        slides
            Which; by default every one that has the embedding.
        min_recall
            Share of true neighbours that an approximate kind must find.
        retrain
            Learn an approximate kind anew rather than add to it.

        Raises
        ------
        MissingError
            If no slide, or one of ``slides``, has the embedding.
        MismatchError
            If slides were embedded in different ways, a vector is zero or not a number, or an
            approximate kind finds too few of the true neighbours.
        """
        record, trained = build_index(
            cohort,
            embedding=embedding,
            name=name or embedding,
            metric=metric,
            kind=kind,
            slides=slides,
            min_recall=min_recall,
            retrain=retrain,
        )
        return cls(cohort, record, read=reader_of(cohort, record), trained=trained)

    @classmethod
    def open(cls, cohort: Cohort, *, embedding: str | None = None, name: str | None = None) -> Self:
        """Open an index of the store and check that it still fits the slides.

        Parameters
        ----------
        cohort
            The store.
        embedding, name
            What it must be over, and its own name; by default the embedding's. With neither, the
            only index there is.

        Raises
        ------
        MissingError
            If it was never built, or which is meant cannot be told.
        MismatchError
            If one of its slides was replaced, removed or embedded anew since, or it is over
            another embedding.
        DamagedStoreError
            If its record is not one.
        """
        record, trained = open_index(cohort, embedding=embedding, name=name)
        return cls(cohort, record, read=reader_of(cohort, record), trained=trained)

    @classmethod
    def of_vectors(
        cls,
        vectors: Mapping[str, NDArray[np.float32]],
        *,
        metric: Metric = "cosine",
        patients: Patients | None = None,
    ) -> Self:
        """Search vectors at hand, such as features that no store keeps, under the same contract.

        Parameters
        ----------
        vectors
            (S, D) float32 of each slide, by its name.
        metric
            How they are compared.
        patients
            Of the slides; one that is not named is unknown.
        """
        record = IndexRecord(
            embedding="vectors at hand",
            fingerprint="",
            slides=dict.fromkeys(vectors, ""),
            metric=metric,
        )
        known = {**dict.fromkeys(vectors), **(patients or {})}
        return cls(None, record, read=vectors.__getitem__, patients=known)

    def search(
        self,
        embedding_SD: NDArray[np.float32],
        *,
        k: int,
        exclude_slides: Collection[str] | None = None,
        exclude_patients: Collection[str | None] | None = None,
        only_slides: Collection[str] | None = None,
        asked_by: str | None = None,
    ) -> Neighbors:
        """Find the ``k`` nearest spots on the slides that may answer.

        At least one of the three rules must be given, if only as an empty one: who asks must say
        what may be seen. Rules given together all hold.

        Parameters
        ----------
        embedding_SD
            (S, D) float32 queries, made as the indexed embeddings were.
        k
            How many per query.
        exclude_slides
            Slides that may not answer.
        exclude_patients
            Patients whose slides may not answer. None, or `spahgc.store.splits.UNKNOWN`, stands
            for every slide of an unknown patient: none of them is assumed to differ from another.
        only_slides
            The only slides that may answer.
        asked_by
            The slide that the queries lie on, which never answers; None for an image that is
            not in the store.

        Returns
        -------
        Neighbors
            Exact to float32 where the kind is ``flat``; equal distances go to the slide, then the
            spot, that comes first.

        Raises
        ------
        ProtocolError
            If no rule is given, or one names a slide or patient that nobody knows.
        MismatchError
            If a slide of ``only_slides`` is not in the index, or a query is zero, not a number
            or of another size.
        """
        names = self.may_answer(
            exclude_slides=exclude_slides,
            exclude_patients=exclude_patients,
            only_slides=only_slides,
            asked_by=asked_by,
        )
        return next(self._search([(embedding_SD, names)], k=k))

    def search_slide(
        self,
        slide: str,
        *,
        k: int,
        rows: NDArray[np.int64] | None = None,
        exclude_slides: Collection[str] | None = None,
        exclude_patients: Collection[str | None] | None = None,
        only_slides: Collection[str] | None = None,
    ) -> Neighbors:
        """Search for the spots of a slide at hand, all or those in ``rows``; see `search`."""
        embedding_SD = self._read(slide)
        return self.search(
            embedding_SD if rows is None else embedding_SD[rows],
            k=k,
            exclude_slides=exclude_slides,
            exclude_patients=exclude_patients,
            only_slides=only_slides,
            asked_by=slide,
        )

    def search_slides(
        self, may_answer: Mapping[str, Collection[str]], *, k: int
    ) -> dict[str, Neighbors]:
        """Search for all spots of several slides; see `search`.

        A trained kind reads what it has not in memory once for many of them.

        Parameters
        ----------
        may_answer
            Of each slide that asks, the only slides that may answer it; it never answers itself.
        k
            How many per spot.

        Returns
        -------
        dict
            Of each slide that asks what `search_slide` finds.
        """
        names = {
            asking: self.may_answer(only_slides=others, asked_by=asking)
            for asking, others in may_answer.items()
        }
        asked = ((self._read(asking), others) for asking, others in names.items())
        return dict(zip(names, self._search(asked, k=k), strict=True))

    def may_answer(
        self,
        *,
        exclude_slides: Collection[str] | None = None,
        exclude_patients: Collection[str | None] | None = None,
        only_slides: Collection[str] | None = None,
        asked_by: str | None = None,
    ) -> tuple[str, ...]:
        """List the slides that the rules of `search` leave, sorted."""
        return may_answer(
            self.record,
            self._patients,
            where=None if self._cohort is None else self._cohort.where,
            exclude_slides=exclude_slides,
            exclude_patients=exclude_patients,
            only_slides=only_slides,
            asked_by=asked_by,
        )

    def measure_recall(self, *, n_queries: int = N_QUERIES) -> MeasuredRecall:
        """Compare with exact search, each query's own slide left out."""
        return measure_recall(
            sorted(self.record.slides),
            self._read_prepared,
            partial(self._search_prepared, k=K),
            metric=self.record.metric,
            n_queries=n_queries,
        )

    def _search(
        self, asked: Iterable[tuple[NDArray[np.float32], tuple[str, ...]]], *, k: int
    ) -> Iterator[Neighbors]:
        """Search for embeddings as they are stored, of each who asks in turn."""
        if k < 1:
            raise ValueError(f"a search for {k} neighbours, expected 1 or more")
        n_parts: list[int] = []

        def parts() -> Iterator[Queries]:
            for embedding_SD, names in asked:
                starts = range(0, max(len(embedding_SD), 1), QUERIES_AT_ONCE)
                n_parts.append(len(starts))
                for start in starts:
                    part_SD = embedding_SD[start : start + QUERIES_AT_ONCE]
                    yield Queries(self._prepare(part_SD, "the query", first=start), names)

        found: list[Neighbors] = []
        for one in self._search_prepared(parts(), k=k):
            found.append(one)
            if len(found) == n_parts[0]:
                yield concatenate(found)
                found.clear()
                n_parts.pop(0)

    def _search_prepared(self, asked: Iterable[Queries], *, k: int) -> Iterator[Neighbors]:
        if self._trained is not None:
            return self._trained.search(asked, k=k)
        return (self._flat.search(one.query_SD, one.names, k=k) for one in asked)

    def _read_prepared(self, slide: str) -> NDArray[np.float32]:
        return self._prepare(self._read(slide), f"slide {slide}")

    def _prepare(
        self, embedding_SD: NDArray[np.float32], owner: str, *, first: int = 0
    ) -> NDArray[np.float32]:
        return prepare(embedding_SD, metric=self.record.metric, owner=owner, first=first)

    @cached_property
    def _patients(self) -> Patients:
        if self._known_patients is not None or self._cohort is None:
            return self._known_patients or {}
        return self._cohort.patients(self._cohort.slides)
