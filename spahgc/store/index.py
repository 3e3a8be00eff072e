"""Find the spots of other slides that look most like a given one (FAISS, exact)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final, Literal, NamedTuple, TypeAlias

import faiss
import numpy as np
from numpy.typing import NDArray

from spahgc.errors import DamagedStoreError, MismatchError, MissingError
from spahgc.store import layout
from spahgc.store.cohort import Cohort
from spahgc.store.commits import Commit

Metric: TypeAlias = Literal["cosine"]

BLOCK: Final = 256
"""Queries whose candidates are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRecord:
    """What an index was built from; the vectors themselves stay with the slides."""

    embedding: str
    """Name of the embedding indexed."""

    fingerprint: str
    """Digest of the encoder fingerprint that all its slides share."""

    slides: Mapping[str, str]
    """Content digest of each slide in it, by slide name."""

    metric: Metric = "cosine"
    """``cosine``: inner product of vectors of unit length."""

    kind: Literal["flat"] = "flat"
    """``flat``: every pair is compared; the answer is exact."""

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
        self._pieces: dict[str, _Piece] = {}

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
            If a slide in ``among`` is not in the index, or a query is zero or of another size.
        """
        names = tuple(sorted(set(among) - {asked_by}))
        self._check_covers(names)
        query_SD = _unit_length(embedding_SD, "the query")
        found = [self._piece(name).search(query_SD, k=k) for name in names]
        return _merge(names, found, n_queries=len(query_SD), k=k)

    def _piece(self, name: str) -> "_Piece":
        if name not in self._pieces:
            self._pieces[name] = _Piece(
                name, self._cohort[name].read_embedding(self.record.embedding)
            )
        return self._pieces[name]

    def _check_covers(self, names: Sequence[str]) -> None:
        missing = [name for name in names if name not in self.record.slides]
        if missing:
            raise MismatchError(
                f"the index {self.record.embedding!r} lacks {', '.join(missing)}; "
                f"run `spahgc index build --store {self._cohort.where}`"
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
            f"no slide in {cohort.where} has an embedding {embedding!r}; run `spahgc embed "
            f"--store {cohort.where} --encoder {embedding}`"
        )
    record = IndexRecord(
        embedding=embedding,
        fingerprint=cohort.fingerprint(embedding, names),
        slides={name: cohort[name].entry.content for name in names},
    )
    for name in names:  # zero vectors are refused now, not in the middle of a run
        _unit_length(cohort[name].read_embedding(embedding), f"slide {name}")
    key_of = partial(layout.index_key, embedding)
    digest = cohort.store.put_document(key_of, asdict(record))

    def change(head: Commit) -> Commit:
        if head.indexes.get(embedding) == digest:
            return head
        return head.with_index(embedding, digest)

    cohort.store.commit(change, message=f"index {embedding}")
    return ReferenceIndex(cohort, record)


def open_index(cohort: Cohort, *, embedding: str) -> ReferenceIndex:
    """Open the index over ``embedding`` and check that it still fits the slides.

    Raises
    ------
    MissingError
        If it was never built.
    MismatchError
        If one of its slides was replaced, removed or embedded anew since.
    DamagedStoreError
        If its record is not one.
    """
    digest = cohort.commit.indexes.get(embedding)
    command = f"run `spahgc index build --store {cohort.where}`"
    if digest is None:
        raise MissingError(f"{cohort.where} has no index over {embedding!r}; {command}")
    document = cohort.store.read_document(partial(layout.index_key, embedding), digest)
    try:
        record = IndexRecord(**document)
    except TypeError as error:
        raise DamagedStoreError(
            f"{cohort.where}: the index over {embedding!r} cannot be read ({error}); {command}"
        ) from None
    for name, content in record.slides.items():
        entry = cohort.commit.slides.get(name)
        if (
            entry is None
            or entry.content != content
            or entry.encoders.get(embedding) != record.fingerprint
        ):
            raise MismatchError(
                f"the index over {embedding!r} is stale: slide {name} changed since; {command}"
            )
    return ReferenceIndex(cohort, record)


class _Found(NamedTuple):
    """Candidates on one slide; A of them for each of S queries."""

    similarity_SA: NDArray[np.float32]
    """Cosine similarity, or -inf where ``spot_SA`` is -1."""

    spot_SA: NDArray[np.int64]
    """Row on the slide, or -1."""


class _Piece:
    """The vectors of one slide, each kept once: FAISS picks among equal ones as it likes.

    Letters: S queries, A candidates, U distinct vectors, N of them found, M spots of one vector.
    """

    def __init__(self, name: str, embedding_SD: NDArray[np.float32]) -> None:
        unit_SD = _unit_length(embedding_SD, f"slide {name}") + np.float32(0)  # -0 becomes 0
        as_bytes_S = unit_SD.view(np.dtype((np.void, unit_SD.itemsize * unit_SD.shape[1]))).ravel()
        _, first_U, vector_S = np.unique(as_bytes_S, return_index=True, return_inverse=True)
        self._name = name
        self._vectors = faiss.IndexFlatIP(unit_SD.shape[1])
        self._vectors.add(unit_SD[first_U])
        self._n_spots_U = np.bincount(vector_S)
        self._spots = np.argsort(vector_S, kind="stable")  # of vector 0, of vector 1 …
        self._start_U = np.cumsum(self._n_spots_U) - self._n_spots_U

    def search(self, query_SD: NDArray[np.float32], *, k: int) -> _Found:
        """Find at least the best ``k`` spots of each query, where there are as many."""
        if query_SD.shape[1] != self._vectors.d:
            raise MismatchError(
                f"the query has vectors of {query_SD.shape[1]} numbers, slide {self._name} of "
                f"{self._vectors.d}; embed both with one encoder"
            )
        _, vector_SN = self._vectors.search(query_SD, min(k, self._vectors.ntotal))
        most = min(k, int(self._n_spots_U.max()))
        exists_SNM = np.arange(most) < self._n_spots_U[vector_SN][..., None]
        place_SNM = self._start_U[vector_SN][..., None] + np.where(exists_SNM, np.arange(most), 0)
        similarity_SN1 = self._similarity(query_SD, vector_SN)[..., None]
        similarity_SNM = np.where(exists_SNM, similarity_SN1, np.float32(-np.inf))
        spot_SNM = np.where(exists_SNM, self._spots[place_SNM], -1)
        n_queries = len(query_SD)
        return _Found(similarity_SNM.reshape(n_queries, -1), spot_SNM.reshape(n_queries, -1))

    def _similarity(
        self, query_SD: NDArray[np.float32], vector_SN: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Multiply again, pair by pair: a matrix product rounds by where a vector stands in it."""
        similarity_SN = np.empty(vector_SN.shape, np.float32)
        for start in range(0, len(query_SD), BLOCK):
            rows = slice(start, start + BLOCK)
            found_SND = self._vectors.reconstruct_batch(vector_SN[rows].ravel()).reshape(
                *vector_SN[rows].shape, -1
            )
            similarity_SN[rows] = np.vecdot(found_SND, query_SD[rows, None])
        return similarity_SN.clip(-1, 1)


def _unit_length(embedding_SD: NDArray[np.float32], owner: str) -> NDArray[np.float32]:
    length_S = np.linalg.norm(embedding_SD, axis=1)
    bad_S = np.flatnonzero(~np.isfinite(length_S) | (length_S == 0))
    if bad_S.size:
        raise MismatchError(
            f"{owner}: the embedding of spot number {bad_S[0]} is zero or not a number, "
            "so nothing is similar to it; embed the slide again"
        )
    return np.ascontiguousarray(embedding_SD / length_S[:, None], dtype=np.float32)


def _merge(names: tuple[str, ...], found: Sequence[_Found], *, n_queries: int, k: int) -> Neighbors:
    padding = (n_queries, k)  # so that there are always k columns to take
    similarity = [piece.similarity_SA for piece in found]
    spot = [piece.spot_SA for piece in found]
    slide = [np.full(spot_SA.shape, position) for position, spot_SA in enumerate(spot)]
    similarity_SA = np.hstack([*similarity, np.full(padding, -np.inf, np.float32)])
    slide_SA = np.hstack([*slide, np.full(padding, -1)])
    spot_SA = np.hstack([*spot, np.full(padding, -1)])
    order_SA = np.lexsort((spot_SA, slide_SA, -similarity_SA), axis=1)[:, :k]
    similarity_SK = np.take_along_axis(similarity_SA, order_SA, axis=1)
    exists_SK = np.isfinite(similarity_SK)
    return Neighbors(
        slides=names,
        slide_SK=np.where(exists_SK, np.take_along_axis(slide_SA, order_SA, axis=1), -1),
        spot_SK=np.where(exists_SK, np.take_along_axis(spot_SA, order_SA, axis=1), -1),
        similarity_SK=np.where(exists_SK, similarity_SK, np.float32(np.nan)),
    )
