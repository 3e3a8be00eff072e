"""Find the spots of other slides that look most like a given one."""

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from itertools import chain
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import MismatchError, MissingError, ProtocolError
from spahgc.store.cohort import Cohort
from spahgc.store.index.distances import Metric, prepare
from spahgc.store.index.exact import search_exactly
from spahgc.store.index.joined import search_each_other
from spahgc.store.index.library import n_gpus
from spahgc.store.index.neighbors import Candidates, Neighbors, concatenate
from spahgc.store.index.pieces import Piece
from spahgc.store.index.records import IndexRecord
from spahgc.store.index.shares import Read
from spahgc.store.index.trained import TrainedIndex
from spahgc.store.splits import UNKNOWN

QUERIES_AT_ONCE: Final = 16_384
"""Queries held in the form they are compared in: a larger slide is searched for in parts."""


class ReferenceIndex:
    """The embeddings of many slides, one piece a slide, to be searched under a rule of exclusion.

    Pieces are read when they are first searched, so a fold pays for its own slides only, and
    leaving slides out costs nothing and hides nothing.
    """

    def __init__(
        self,
        cohort: Cohort | None,
        record: IndexRecord,
        *,
        read: Read | None = None,
        patients: Mapping[str, str | None] | None = None,
        trained: TrainedIndex | None = None,
    ) -> None:
        """Use `build_index`, `open_index` or `ReferenceIndex.of_vectors` where they will do.

        Parameters
        ----------
        cohort
            The store; None where ``read`` and ``patients`` say all.
        record
            Which slides, and how they are compared.
        read
            Reads a slide's vectors; by default the embedding on record.
        patients
            Of every slide that may be named in an exclusion, None where unknown; by default as
            the store has it.
        trained
            What an approximate kind has learned; None for ``flat``.
        """
        self.record = record
        self._cohort = cohort
        self._read = read or self._read_embedding
        self._known_patients = patients
        self._trained = trained
        self._pieces: dict[str, Piece] = {}

    @classmethod
    def of_vectors(
        cls,
        vectors: Mapping[str, NDArray[np.float32]],
        *,
        metric: Metric = "cosine",
        patients: Mapping[str, str | None] | None = None,
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
            Ties go to the slide, then the spot, that comes first.

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
        starts = range(0, max(len(embedding_SD), 1), QUERIES_AT_ONCE)
        parts = [self._nearest(embedding_SD, start, names, k) for start in starts]
        return concatenate(parts).as_neighbors(names)

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
        """Search for all spots of several slides, which may ask each other; see `search`.

        By cosine each pair of slides is compared once, whichever of them asks.

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

        Raises
        ------
        MismatchError
            If a slide that may answer is not in the index, or a vector is zero or not a number.
        """
        names = {
            asking: self.may_answer(only_slides=others, asked_by=asking)
            for asking, others in may_answer.items()
        }
        if self._trained is not None or self.record.metric != "cosine" or n_gpus():
            return {
                asking: self.search_slide(asking, k=k, only_slides=others)
                for asking, others in names.items()
            }
        pieces = {name: self.piece(name) for name in {*names, *chain(*names.values())}}
        found = search_each_other(pieces, names, k=k)
        return {asking: found[asking].as_neighbors(names[asking]) for asking in names}

    def may_answer(
        self,
        *,
        exclude_slides: Collection[str] | None = None,
        exclude_patients: Collection[str | None] | None = None,
        only_slides: Collection[str] | None = None,
        asked_by: str | None = None,
    ) -> tuple[str, ...]:
        """List the slides that the rules of `search` leave, sorted."""
        if exclude_slides is None and exclude_patients is None and only_slides is None:
            raise ProtocolError(
                "a search must say who may not answer: give exclude_slides, exclude_patients or "
                "only_slides (an empty one where everybody may)"
            )
        hidden = {asked_by, *self._known_slides(exclude_slides or ())}
        hidden |= self._slides_of(exclude_patients or ())
        names = set(self.record.slides if only_slides is None else only_slides) - hidden
        missing = sorted(names - set(self.record.slides))
        if missing:
            place = "" if self._cohort is None else f" --store {self._cohort.where}"
            raise MismatchError(
                f"the index over {self.record.embedding!r} lacks {', '.join(missing)}; "
                f"run `spahgc index build{place}`"
            )
        return tuple(sorted(names))

    def piece(self, name: str) -> Piece:
        """Give one slide's vectors, read once and then kept."""
        if name not in self._pieces:
            vectors_SD = self.read_vectors(name)
            self._pieces[name] = Piece(name, vectors_SD, metric=self.record.metric)
        return self._pieces[name]

    def read_vectors(self, name: str) -> NDArray[np.float32]:
        """Read one slide's (S, D) vectors as they are compared."""
        return prepare(self._read(name), metric=self.record.metric, owner=f"slide {name}")

    def _nearest(
        self, embedding_SD: NDArray[np.float32], start: int, names: tuple[str, ...], k: int
    ) -> Candidates:
        query_SD = prepare(
            embedding_SD[start : start + QUERIES_AT_ONCE],
            metric=self.record.metric,
            owner="the query",
            first=start,
        )
        if self._trained is not None:
            return self._trained.search(query_SD, names, k=k)
        pieces = [self.piece(name) for name in names]
        return search_exactly(query_SD, pieces, k=k)

    @cached_property
    def _patients(self) -> Mapping[str, str | None]:
        if self._known_patients is not None or self._cohort is None:
            return self._known_patients or {}
        return self._cohort.patients(self._cohort.slides)

    def _read_embedding(self, slide: str) -> NDArray[np.float32]:
        if self._cohort is None:
            raise MissingError(f"no vectors of slide {slide} are at hand")
        stored, name = self._cohort[slide], self.record.embedding
        if stored.entry.encoders.get(name) not in {None, self.record.fingerprint}:
            raise MismatchError(
                f"slide {slide} has embeddings {name!r} made in another way than those of the "
                "index (weights, patch or precision); embed it again"
            )
        return stored.read_embedding(name)

    def _known_slides(self, names: Iterable[str]) -> set[str]:
        unknown = sorted(set(names) - set(self._patients))
        if unknown:  # a misspelt name would exclude nobody, and leak
            raise ProtocolError(
                f"no slide {', '.join(unknown)} to exclude; there are {', '.join(self._patients)}"
            )
        return set(names)

    def _slides_of(self, patients: Iterable[str | None]) -> set[str]:
        owners = {name: patient or UNKNOWN for name, patient in self._patients.items()}
        wanted = {patient or UNKNOWN for patient in patients}
        unknown = sorted(wanted - set(owners.values()) - {UNKNOWN})
        if unknown:
            raise ProtocolError(
                f"no patient {', '.join(unknown)} to exclude; there are "
                f"{', '.join(sorted(set(owners.values())))}"
            )
        return {name for name, owner in owners.items() if owner in wanted}
