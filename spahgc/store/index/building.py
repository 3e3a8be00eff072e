"""Build, open and change the indexes of a store."""

from collections.abc import Collection
from dataclasses import replace
from typing import Final, Literal

from spahgc.errors import MismatchError, MissingError
from spahgc.store.cohort import Cohort
from spahgc.store.index.distances import Metric, prepare
from spahgc.store.index.records import (
    IndexRecord,
    Kind,
    check_fresh,
    check_name,
    commit_record,
    read_record,
    reader_of,
)
from spahgc.store.index.shares import Read
from spahgc.store.index.trained import TrainedIndex
from spahgc.store.index.training import IndexParts, build_trained, open_trained

FLAT_UP_TO: Final = 200_000
"""Spots up to which ``auto`` is exact; docs/scale.md says why."""

MIN_RECALL: Final = 0.95
"""Of the true 10 neighbours of a spot."""


def build_parts(
    cohort: Cohort,
    *,
    embedding: str,
    name: str,
    metric: Metric,
    kind: Kind | Literal["auto"],
    slides: Collection[str] | None,
    min_recall: float,
    retrain: bool,
) -> IndexParts:
    """Build what `spahgc.store.index.reference.ReferenceIndex.build` asks for; commit its record.

    Where there is an index of that name over the same embedding, only slides that are new to it
    or have changed are sorted into it.

    Raises
    ------
    MissingError
        If no slide, or one of ``slides``, has the embedding.
    MismatchError
        If slides were embedded in different ways, a vector is zero or not a number, or an
        approximate kind finds too few of the true neighbours.
    """
    check_name(cohort.commit, name)
    names = _slides_to_index(cohort, embedding, slides)
    record = IndexRecord(
        embedding=embedding,
        fingerprint=cohort.fingerprint(embedding, names),
        slides={name: cohort[name].entry.content for name in names},
        metric=metric,
        kind=_choose_kind(kind, metric, sum(cohort[slide].n_spots for slide in names)),
        commit=cohort.commit.number,
    )
    read = _vectors_of(cohort, record)
    if record.kind == "flat":
        for slide in names:  # zero vectors are refused now, not in the middle of a run
            read(slide)
        return IndexParts(commit_record(cohort, name, record), None)
    kept = None if retrain else _kept(cohort, name, record)
    built = build_trained(cohort, name, record, read, kept=kept, min_recall=min_recall)
    return built._replace(record=commit_record(cohort, name, built.record))


def _choose_kind(kind: Kind | Literal["auto"], metric: Metric, n_spots: int) -> Kind:
    if kind == "auto":
        return "flat" if metric == "l1" or n_spots <= FLAT_UP_TO else "ivf"
    if metric == "l1" and kind != "flat":
        raise MismatchError(
            f"an index of kind {kind!r} cannot be had for l1; use `--kind flat`, or another metric"
        )
    return kind


def _kept(cohort: Cohort, name: str, record: IndexRecord) -> IndexRecord | None:
    """Give the index of that name, less the slides that changed, where it can be added to."""
    if name not in cohort.commit.indexes:
        return None
    found = read_record(cohort, name)
    same = ("embedding", "fingerprint", "metric", "kind")
    if any(getattr(found, key) != getattr(record, key) for key in same):
        return None
    fresh = {s: p for s, p in found.pieces.items() if found.slides[s] == record.slides.get(s)}
    return replace(found, pieces=fresh)


def _vectors_of(cohort: Cohort, record: IndexRecord) -> Read:
    """Give what reads a slide's vectors as they are compared."""
    read = reader_of(cohort, record)
    return lambda slide: prepare(read(slide), metric=record.metric, owner=f"slide {slide}")


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


def open_parts(cohort: Cohort, *, embedding: str | None, name: str | None) -> IndexParts:
    """Open what `spahgc.store.index.reference.ReferenceIndex.open` asks for.

    Raises
    ------
    MissingError
        If it was never built, or which is meant cannot be told.
    MismatchError
        If one of its slides was replaced, removed or embedded anew since, or it is over another
        embedding.
    DamagedStoreError
        If its record is not one.
    """
    name = name or embedding or _only_index(cohort)
    record = read_record(cohort, name)
    if embedding is not None and embedding != record.embedding:
        raise MismatchError(
            f"the index {name!r} is over {record.embedding!r}, not {embedding!r}; name another "
            f"with `--name`, or use `--encoder {record.embedding}`"
        )
    check_fresh(cohort, name, record)
    return IndexParts(record, open_learned(cohort, name, record))


def open_learned(cohort: Cohort, name: str, record: IndexRecord) -> TrainedIndex | None:
    """Open what an index, or a part of one, has learned, if it fits the store; of ``flat`` None."""
    if record.kind == "flat" or not record.slides:
        return None
    return open_trained(cohort, name, record, _vectors_of(cohort, record))


def _only_index(cohort: Cohort) -> str:
    names = sorted(cohort.commit.indexes)
    if not names:
        raise MissingError(
            f"{cohort.where} has no index; run `spahgc index build --store {cohort.where}`"
        )
    if len(names) > 1:
        raise MissingError(f"{cohort.where} has indexes {', '.join(names)}; say which is meant")
    return names[0]


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
