"""Build, open and change the indexes of a store."""

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from spahgc.errors import DamagedStoreError, MismatchError, MissingError
from spahgc.index.local_files import LocalLists, digest_centroids
from spahgc.index.recall import K, RecallTest, make_recall_test
from spahgc.index.records import (
    IndexRecord,
    Kind,
    check_fresh,
    check_name,
    commit_record,
    read_record,
    reader_of,
)
from spahgc.index.trained import (
    TrainedKind,
    TrainedSearch,
    fill_lists,
    lists_for,
    sample_size,
    train_lists,
)
from spahgc.index.vectors import Metric, ReadVectors, prepare
from spahgc.store.cohort import Cohort

FLAT_UP_TO: Final = 200_000
"""Spots up to which ``auto`` is exact; docs/scale.md says why."""

MIN_RECALL: Final = 0.95
"""Of the true 10 neighbours of a spot."""

FEWEST_SPOTS: Final = 5_000
"""Below, lists have nothing to sort, and a whole search takes milliseconds."""

_BETTER: Final[Mapping[str, str]] = {
    "ivf": "use `--kind flat`, which is exact",
    "ivfpq": "use `--kind ivf`, whose vectors are finer, or `--kind flat`, which is exact",
}


class OpenIndex(NamedTuple):
    """What an index is put together from."""

    record: IndexRecord
    """As it is committed."""

    trained: TrainedSearch | None
    """Of a trained kind; None for ``flat``."""


def build_index(
    cohort: Cohort,
    *,
    embedding: str,
    name: str,
    metric: Metric,
    kind: Kind | Literal["auto"],
    slides: Collection[str] | None,
    min_recall: float,
    retrain: bool,
) -> OpenIndex:
    """Build what `spahgc.index.reference.ReferenceIndex.build` asks for; commit its record.

    Where there is a trained index of that name over the same embedding, its centroids stay, and
    only slides that are new to it or have changed are sorted into lists.

    Raises
    ------
    MissingError
        If no slide, or one of ``slides``, has the embedding.
    MismatchError
        If slides were embedded in different ways, a vector is zero or not a number, or an
        approximate kind finds too few of the true neighbours or has too few spots to train on.
    """
    check_name(cohort.commit, name)
    names = _slides_to_index(cohort, embedding, slides)
    n_spots = sum(cohort[slide].n_spots for slide in names)
    record = IndexRecord(
        embedding=embedding,
        fingerprint=cohort.fingerprint(embedding, names),
        slides={name: cohort[name].entry.content for name in names},
        metric=metric,
        kind=_choose_kind(kind, metric, n_spots),
        commit=cohort.commit.number,
    )
    if record.kind == "flat":
        read = _vectors_of(cohort, record)
        for slide in names:  # zero vectors are refused now, not in the middle of a run
            read(slide)
        return OpenIndex(commit_record(cohort, name, record), None)
    if n_spots < FEWEST_SPOTS:
        raise MismatchError(
            f"{n_spots} spots are too few for `--kind {record.kind}`, which needs "
            f"{FEWEST_SPOTS}; use `--kind flat`, which is exact and as fast"
        )
    kept = None if retrain else _trained_before(cohort, name, record)
    record = replace(
        record,
        trained_id=uuid.uuid4().hex if kept is None else kept.trained_id,
        settings={"n_lists": lists_for(n_spots)} if kept is None else kept.settings,
    )
    trained, recall = _open_trained(cohort, record, min_recall=min_recall)
    settings = {"n_lists": trained.n_lists, "n_probes": trained.n_probes}
    record = replace(record, settings=settings, recall=recall)
    return OpenIndex(commit_record(cohort, name, record), trained)


def open_index(cohort: Cohort, *, embedding: str | None, name: str | None) -> OpenIndex:
    """Open what `spahgc.index.reference.ReferenceIndex.open` asks for.

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
    if record.kind == "flat":
        return OpenIndex(record, None)
    return OpenIndex(record, _open_trained(cohort, record, min_recall=None)[0])


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
    return commit_record(cohort, name, replace(record, slides=kept, commit=cohort.commit.number))


def _choose_kind(kind: Kind | Literal["auto"], metric: Metric, n_spots: int) -> Kind:
    if kind == "auto":
        return "flat" if metric == "l1" or n_spots <= FLAT_UP_TO else "ivf"
    if metric == "l1" and kind != "flat":
        raise MismatchError(
            f"an index of kind {kind!r} cannot be had for l1; use `--kind flat`, or another metric"
        )
    return kind


def _trained_before(cohort: Cohort, name: str, record: IndexRecord) -> IndexRecord | None:
    """Give the index of that name where its centroids serve this one too, and are here."""
    if name not in cohort.commit.indexes:
        return None
    try:
        found = read_record(cohort, name)
    except DamagedStoreError:  # of an earlier version, or none: it is built anew
        return None
    same = ("embedding", "fingerprint", "metric", "kind")
    if not found.trained_id or any(getattr(found, k) != getattr(record, k) for k in same):
        return None
    return found if _read_trained(cohort, found) is not None else None


def _open_trained(
    cohort: Cohort, record: IndexRecord, *, min_recall: float | None
) -> tuple[TrainedSearch, dict[str, float]]:
    """Open an index from this machine's files; train and sort what they lack.

    Parameters
    ----------
    cohort, record
        Of a trained kind.
    min_recall
        Recall to look for, and to refuse the index without; None for that of the record, and
        only where its centroids had to be trained anew.
    """
    if record.kind == "flat":
        raise ValueError("a flat index has nothing to train")
    local = LocalLists(str(cohort.where), record.trained_id)
    read = _vectors_of(cohort, record)
    trained = _read_trained(cohort, record)
    if trained is None:
        trained = learn(
            record.kind,
            {slide: cohort[slide].n_spots for slide in sorted(record.slides)},
            read,
            n_lists=record.settings["n_lists"],
            metric=record.metric,
        )
        local.write_trained(trained)
        min_recall = (
            record.recall.get("min_recall", MIN_RECALL) if min_recall is None else min_recall
        )
    made_of = f"{digest_centroids(trained)} {record.fingerprint}"
    content_of = {slide: f"{made_of} {content}" for slide, content in record.slides.items()}

    def parts() -> Iterator[tuple[str, Any]]:
        for slide in sorted(record.slides):
            part = local.read_part(trained, content_of[slide], cohort[slide].n_spots)
            if part is None:
                part = fill_lists(trained, read(slide))
                local.write_part(content_of[slide], part)
            yield slide, part

    search = TrainedSearch(
        trained,
        parts(),
        read=read,
        metric=record.metric,
        n_probes=record.settings.get("n_probes", 1),
    )
    local.keep_only(content_of.values())
    if min_recall is None:
        return search, dict(record.recall)
    test = make_recall_test(list(record.slides), read, metric=record.metric)
    recall = tune(search, test, kind=record.kind, min_recall=min_recall)
    measured = {"recall": round(recall, 4), "k": K, "n_queries": test.n_queries}
    return search, {**measured, "min_recall": min_recall}


def _read_trained(cohort: Cohort, record: IndexRecord) -> Any:  # noqa: ANN401
    size = cohort[next(iter(record.slides))].open_embedding(record.embedding).shape[1]
    local = LocalLists(str(cohort.where), record.trained_id)
    return local.read_trained(kind=record.kind, size=size, n_lists=record.settings["n_lists"])


def learn(
    kind: TrainedKind,
    n_spots: Mapping[str, int],
    read: ReadVectors,
    *,
    n_lists: int,
    metric: Metric,
) -> Any:  # noqa: ANN401
    """Draw a sample from every slide by its size, always the same one, and train lists on it."""
    total = sum(n_spots.values())
    wanted = sample_size(total)
    generator = np.random.default_rng(0)
    sample = []
    for slide, n_own in n_spots.items():
        rows = generator.permutation(n_own)[: -(-wanted * n_own // total)]
        sample.append(read(slide)[np.sort(rows)])
    return train_lists(kind, np.concatenate(sample), n_lists=n_lists, metric=metric)


def tune(search: TrainedSearch, test: RecallTest, *, kind: str, min_recall: float) -> float:
    """Look into ever more lists until the recall is reached, and give that recall.

    Raises
    ------
    MismatchError
        If it never is.
    """
    recall = 0.0
    for n_probes in _efforts(search.n_lists):
        search.n_probes = n_probes
        recall = test.recall(lambda asked: list(search.search(asked, k=K)))
        if recall >= min_recall:
            return recall
    raise MismatchError(
        f"the {kind} index finds {recall:.3f} of the true {K} neighbours at most, "
        f"`--min-recall` asks for {min_recall:g}; {_BETTER[kind]}, or ask for less"
    )


def _efforts(n_lists: int) -> Sequence[int]:
    return [2**power for power in range(n_lists.bit_length()) if 2**power < n_lists] + [n_lists]


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


def _vectors_of(cohort: Cohort, record: IndexRecord) -> ReadVectors:
    """Give what reads a slide's vectors as they are compared."""
    read = reader_of(cohort, record)
    return lambda slide: prepare(read(slide), metric=record.metric, owner=f"slide {slide}")


def _only_index(cohort: Cohort) -> str:
    names = sorted(cohort.commit.indexes)
    if not names:
        raise MissingError(
            f"{cohort.where} has no index; run `spahgc index build --store {cohort.where}`"
        )
    if len(names) > 1:
        raise MissingError(f"{cohort.where} has indexes {', '.join(names)}; say which is meant")
    return names[0]
