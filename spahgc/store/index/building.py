"""Build, open and change the indexes of a store."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import MismatchError, MissingError
from spahgc.store import layout
from spahgc.store.cohort import Cohort
from spahgc.store.index.distances import Metric, prepare
from spahgc.store.index.records import IndexRecord, check_fresh, commit_record, read_record
from spahgc.store.index.reference import ReferenceIndex


def build_index(
    cohort: Cohort,
    *,
    embedding: str,
    name: str | None = None,
    metric: Metric = "cosine",
    slides: Collection[str] | None = None,
) -> ReferenceIndex:
    """Index slides that have the embedding, and commit the record.

    Parameters
    ----------
    cohort
        The store.
    embedding
        Name of the embedding.
    name
        Of the index; by default the embedding's.
    metric
        What near means.
    slides
        Which; by default every one that has the embedding.

    Raises
    ------
    MissingError
        If no slide, or one of ``slides``, has the embedding.
    MismatchError
        If slides were embedded in different ways, or a vector is zero or not a number.
    """
    layout.check_embedding_name(name or embedding)
    names = _slides_to_index(cohort, embedding, slides)
    record = IndexRecord(
        embedding=embedding,
        fingerprint=cohort.fingerprint(embedding, names),
        slides={name: cohort[name].entry.content for name in names},
        metric=metric,
        commit=cohort.commit.number,
    )
    for slide in names:  # zero vectors are refused now, not in the middle of a run
        prepare(cohort[slide].read_embedding(embedding), metric=metric, owner=f"slide {slide}")
    return _index_over(cohort, commit_record(cohort, name or embedding, record))


def _slides_to_index(cohort: Cohort, embedding: str, slides: Collection[str] | None) -> list[str]:
    if slides is not None:
        for name in slides:
            cohort[name].open_embedding(embedding)
        return sorted(set(slides))
    names = [name for name, slide in cohort.slides.items() if embedding in slide.entry.encoders]
    if not names:
        raise MissingError(
            f"no slide in {cohort.where} has an embedding {embedding!r}; run `spahgc embed "
            f"--store {cohort.where} --encoder {embedding}`"
        )
    return names


def open_index(
    cohort: Cohort, *, embedding: str | None = None, name: str | None = None
) -> ReferenceIndex:
    """Open the index over ``embedding`` and check that it still fits the slides.

    Parameters
    ----------
    cohort
        The store.
    embedding
        Name of the embedding; by default the one that the index called ``name`` is over.
    name
        Of the index; by default the embedding's.

    Raises
    ------
    MissingError
        If it was never built.
    MismatchError
        If one of its slides was replaced, removed or embedded anew since, or it is over another
        embedding.
    DamagedStoreError
        If its record is not one.
    """
    name = name or embedding or ""
    record = read_record(cohort, name)
    if embedding is not None and embedding != record.embedding:
        raise MismatchError(
            f"the index {name!r} is over {record.embedding!r}, not {embedding!r}; name another "
            f"with `--name`, or use `--encoder {record.embedding}`"
        )
    check_fresh(cohort, name, record)
    return _index_over(cohort, record)


def _index_over(cohort: Cohort, record: IndexRecord) -> ReferenceIndex:
    def read(name: str) -> NDArray[np.float32]:
        made = cohort[name].entry.encoders.get(record.embedding)
        if made not in {None, record.fingerprint}:
            raise MismatchError(
                f"slide {name} has embeddings {record.embedding!r} made in another way than those "
                "of the index (weights, patch or precision); embed it again"
            )
        return cohort[name].read_embedding(record.embedding)

    return ReferenceIndex(
        record,
        read,
        patients=cohort.patients(cohort.slides),
        rebuild=f"run `spahgc index build --store {cohort.where} --encoder {record.embedding}`",
    )


def remove_slides(cohort: Cohort, name: str, slides: Collection[str]) -> IndexRecord:
    """Take slides out of an index; nothing of the others is touched.

    Raises
    ------
    MissingError
        If the index, or one of ``slides`` in it, does not exist.
    MismatchError
        If no slide would be left.
    """
    record = read_record(cohort, name)
    missing = sorted(set(slides) - set(record.slides))
    if missing:
        raise MissingError(
            f"the index {name!r} has no slide {', '.join(missing)}; "
            f"it has {', '.join(record.slides)}"
        )
    kept = {slide: content for slide, content in record.slides.items() if slide not in slides}
    if not kept:
        raise MismatchError(
            f"the index {name!r} would be left without a slide; "
            f"`spahgc index remove --store {cohort.where} --name {name}` removes it whole"
        )
    pieces = {slide: piece for slide, piece in record.pieces.items() if slide in kept}
    changed = replace(record, slides=kept, pieces=pieces, commit=cohort.commit.number)
    return commit_record(cohort, name, changed)
