"""Find the spots of other slides that look most like a given one (FAISS, exact)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import faiss
import numpy as np
from numpy.typing import NDArray

from spahgc.errors import MismatchError, MissingError
from spahgc.store import layout
from spahgc.store.cohort import Cohort
from spahgc.store.commits import Commit

Metric: TypeAlias = Literal["cosine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRecord:
    """What an index was built from; the vectors themselves stay with the slides."""

    embedding: str
    """Name of the embedding indexed."""

    fingerprint: str
    """Digest of the encoder fingerprint that all its slides share."""

    slides: Mapping[str, str]
    """Group of each slide in it, by slide name."""

    metric: Metric = "cosine"
    """``cosine``: inner product of vectors of unit length."""

    kind: Literal["flat"] = "flat"
    """``flat``: every pair is compared; the answer is exact."""

    commit: int = 0
    """Number of the commit it was built on."""

    faiss_version: str = faiss.__version__
    """For the record; a flat index holds nothing that depends on it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neighbors:
    """The nearest reference spots of each query, most similar first.

    Letters: S queries, K neighbours. Where fewer than K candidates exist the rest is -1 and NaN.
    """

    slides: tuple[str, ...]
    """Names that ``slide_SK`` counts in."""

    slide_SK: NDArray[np.int64]
    """Position in ``slides``, or -1."""

    spot_SK: NDArray[np.int64]
    """Row on that slide, or -1."""

    similarity_SK: NDArray[np.float32]
    """Cosine similarity, -1 to 1, or NaN."""


class ReferenceIndex:
    """An exact index over the embeddings of many slides, one piece a slide.

    Pieces are made when they are first searched, so a fold pays for its own slides only, and
    leaving slides out costs nothing and hides nothing.
    """

    def __init__(self, cohort: Cohort, record: IndexRecord) -> None:
        """Use `build_index` or `open_index`."""
        self.record = record
        self._cohort = cohort
        self._pieces: dict[str, faiss.IndexFlatIP] = {}

    def search(
        self,
        embedding_SD: NDArray[np.float32],
        *,
        k: int,
        among: Collection[str],
        asked_by: str | None,
    ) -> Neighbors:
        """Find the ``k`` most similar spots on the slides in ``among`` but the asker's own.

        Parameters
        ----------
        embedding_SD
            (S, D) float32 queries, of any length.
        k
            How many per query.
        among
            Slides that may answer. There is no default: who asks must say what may be seen.
        asked_by
            The slide that the queries lie on, which never answers; None for an image that is
            not in the store.

        Returns
        -------
        Neighbors
            Ties go to the slide, then the spot, that comes first.

        Raises
        ------
        MismatchError
            If a slide in ``among`` is not in the index.
        """
        names = tuple(sorted(set(among) - {asked_by}))
        self._check_covers(names)
        query_SD = _unit_length(embedding_SD, "the query")
        n_queries = len(query_SD)
        similarity, slide, spot = [], [], []
        for position, name in enumerate(names):
            piece = self._piece(name)
            n_found = min(k, piece.ntotal)
            similarity_SK, spot_SK = piece.search(query_SD, n_found)
            similarity.append(similarity_SK)
            spot.append(spot_SK)
            slide.append(np.full((n_queries, n_found), position))
        return _best(names, similarity, slide, spot, n_queries=n_queries, k=k)

    def _piece(self, name: str) -> faiss.IndexFlatIP:
        if name not in self._pieces:
            embedding_SD = self._cohort[name].read_embedding(self.record.embedding)
            piece = faiss.IndexFlatIP(embedding_SD.shape[1])
            piece.add(_unit_length(embedding_SD, f"slide {name}"))
            self._pieces[name] = piece
        return self._pieces[name]

    def _check_covers(self, names: Sequence[str]) -> None:
        missing = [name for name in names if name not in self.record.slides]
        if missing:
            raise MismatchError(
                f"the index {self.record.embedding!r} lacks {', '.join(missing)}; "
                f"run `spahgc index build --store {self._cohort.path}`"
            )


def build_index(cohort: Cohort, *, embedding: str) -> ReferenceIndex:
    """Index every slide that has the embedding, and commit the record under its name.

    Raises
    ------
    MissingError
        If no slide has the embedding.
    MismatchError
        If slides were embedded in different ways, or a vector is zero.
    """
    names = [name for name, slide in cohort.slides.items() if embedding in slide.entry.encoders]
    if not names:
        raise MissingError(
            f"no slide in {cohort.path} has an embedding {embedding!r}; run `spahgc embed "
            f"--store {cohort.path} --encoder {embedding}`"
        )
    record = IndexRecord(
        embedding=embedding,
        fingerprint=cohort.fingerprint(embedding, names),
        slides={name: cohort[name].entry.group for name in names},
        commit=cohort.commit.number,
    )
    index = ReferenceIndex(cohort, record)
    for name in names:
        index._piece(name)  # noqa: SLF001  zero vectors are refused now, not in the middle of a run
    key_of = partial(layout.index_key, embedding)
    digest = cohort.store.put_document(key_of, asdict(record))

    def change(head: Commit) -> Commit:
        if head.indexes.get(embedding) == digest:
            return head
        return replace(head, indexes={**head.indexes, embedding: digest})

    cohort.store.commit(change, message=f"index {embedding}")
    return index


def open_index(cohort: Cohort, *, embedding: str) -> ReferenceIndex:
    """Open the index over ``embedding`` and check that it still fits the slides.

    Raises
    ------
    MissingError
        If it was never built.
    MismatchError
        If one of its slides was replaced, removed or embedded anew since.
    """
    digest = cohort.commit.indexes.get(embedding)
    command = f"run `spahgc index build --store {cohort.path}`"
    if digest is None:
        raise MissingError(f"{cohort.path} has no index over {embedding!r}; {command}")
    document: dict[str, Any] = cohort.store.read_document(
        partial(layout.index_key, embedding), digest
    )
    record = IndexRecord(**document)
    for name, group in record.slides.items():
        entry = cohort.commit.slides.get(name)
        if (
            entry is None
            or entry.group != group
            or entry.encoders.get(embedding) != record.fingerprint
        ):
            raise MismatchError(
                f"the index over {embedding!r} is stale: slide {name} changed since; {command}"
            )
    return ReferenceIndex(cohort, record)


def _unit_length(embedding_SD: NDArray[np.float32], owner: str) -> NDArray[np.float32]:
    length_S = np.linalg.norm(embedding_SD, axis=1)
    bad_S = np.flatnonzero(~np.isfinite(length_S) | (length_S == 0))
    if bad_S.size:
        raise MismatchError(
            f"{owner}: the embedding of spot number {bad_S[0]} is zero or not a number, "
            "so nothing is similar to it; embed the slide again"
        )
    return np.ascontiguousarray(embedding_SD / length_S[:, None], dtype=np.float32)


def _best(
    names: tuple[str, ...],
    similarity: list[NDArray[np.float32]],
    slide: list[NDArray[np.int64]],
    spot: list[NDArray[np.int64]],
    *,
    n_queries: int,
    k: int,
) -> Neighbors:
    padding = (n_queries, k)  # so that there are always k columns to take
    all_SA = np.hstack([*similarity, np.full(padding, -np.inf, np.float32)])
    slide_SA = np.hstack([*slide, np.full(padding, -1)])
    spot_SA = np.hstack([*spot, np.full(padding, -1)])
    order_SA = np.lexsort((spot_SA, slide_SA, -all_SA), axis=1)[:, :k]
    similarity_SK = np.take_along_axis(all_SA, order_SA, axis=1)
    return Neighbors(
        slides=names,
        slide_SK=np.take_along_axis(slide_SA, order_SA, axis=1),
        spot_SK=np.take_along_axis(spot_SA, order_SA, axis=1),
        similarity_SK=np.where(np.isinf(similarity_SK), np.float32(np.nan), similarity_SK),
    )
