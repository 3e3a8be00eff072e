"""Build the approximate kinds of an index: learn, sort every slide, measure, and refuse if poor."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import DamagedStoreError, MismatchError
from spahgc.store.cohort import Cohort
from spahgc.store.index.arrays import read_array, write_array
from spahgc.store.index.distances import Metric
from spahgc.store.index.neighbors import Neighbors
from spahgc.store.index.recall import K, RecallTest, make_recall_test
from spahgc.store.index.records import IndexRecord
from spahgc.store.index.shares import Arrays, Asked, Read
from spahgc.store.index.trained import (
    TrainedIndex,
    TrainedKind,
    efforts,
    encode_piece,
    sample_size,
    settings_of,
    train_shared,
)

FEWEST_SPOTS: Final = 5_000
"""Below, lists have nothing to sort, and a whole search takes milliseconds."""

_BETTER: Final[Mapping[str, str]] = {
    "ivf": "use `--kind flat`, which is exact",
    "ivfpq": "use `--kind ivf`, whose vectors are finer, or `--kind flat`, which is exact",
    "hnsw": "use `--kind ivf` or `--kind flat`, which is exact",
}


class IndexParts(NamedTuple):
    """What an index is put together from."""

    record: IndexRecord
    """With settings, digests of arrays and pieces, and recall where the kind is trained."""

    trained: TrainedIndex | None
    """What a trained kind has learned, open; None for ``flat``."""


def build_trained(
    cohort: Cohort,
    name: str,
    record: IndexRecord,
    read: Read,
    *,
    kept: IndexRecord | None,
    min_recall: float,
) -> IndexParts:
    """Train an index, or add slides to one that is kept, and measure it.

    Parameters
    ----------
    cohort, name
        Where the arrays go.
    record
        Kind, metric and slides wanted.
    read
        Reads a slide's vectors as they are compared.
    kept
        An earlier index whose centroids stay, with the arrays of every slide that is still the
        same one; None trains anew.
    min_recall
        Share of true neighbours to be found, of 10 a query.

    Raises
    ------
    MismatchError
        If the recall is not reached however many lists are looked into, or there are too few
        spots to train on.
    """
    kind, metric = _kind_of(record), record.metric
    n_spots = {slide: cohort[slide].n_spots for slide in record.slides}
    if sum(n_spots.values()) < FEWEST_SPOTS:
        raise MismatchError(
            f"{sum(n_spots.values())} spots are too few for `--kind {kind}`, which needs "
            f"{FEWEST_SPOTS}; use `--kind flat`, which is exact and as fast"
        )
    shared = learn(kind, n_spots, read, metric) if kept is None else _shared(cohort, name, kept)
    arrays = {key: write_array(cohort.store, name, array) for key, array in shared.items()}
    pieces = dict(kept.pieces) if kept is not None else {}
    for slide in record.slides:
        if slide not in pieces:
            piece = encode_piece(kind, read(slide), shared, metric=metric)
            pieces[slide] = {key: write_array(cohort.store, name, a) for key, a in piece.items()}
    pieces = {slide: pieces[slide] for slide in record.slides}
    record = replace(record, arrays=arrays, pieces=pieces, settings=settings_of(kind, shared, 1))
    trained = open_trained(cohort, name, record, read)
    test = make_recall_test(list(record.slides), read, metric=metric)
    recall = tune(trained, test, efforts(kind, shared), min_recall=min_recall)
    measured = {"recall": round(recall, 4), "k": K, "n_queries": test.n_queries}
    settings = settings_of(kind, shared, trained.effort)
    return IndexParts(replace(record, settings=settings, recall=measured), trained)


def learn(
    kind: TrainedKind, n_spots: Mapping[str, int], read: Read, metric: Metric
) -> dict[str, NDArray[Any]]:
    """Draw a sample from every slide by its size, always the same one, and learn from it."""
    total = sum(n_spots.values())
    wanted = sample_size(kind, total)
    if not wanted:
        return {}
    generator = np.random.default_rng(0)
    sample = []
    for slide, n_own in n_spots.items():
        rows = generator.permutation(n_own)[: -(-wanted * n_own // total)]
        sample.append(read(slide)[np.sort(rows)])
    return train_shared(kind, np.concatenate(sample), n_spots=total, metric=metric)


def tune(trained: TrainedIndex, test: RecallTest, tried: list[int], *, min_recall: float) -> float:
    """Try one effort after the other until the recall is reached, and give that recall.

    Raises
    ------
    MismatchError
        If none reaches it.
    """

    def search(asked: Sequence[Asked]) -> list[Neighbors]:
        found = trained.search_together(asked, k=K)
        return [near.as_neighbors(one.names) for one, near in zip(asked, found, strict=True)]

    recall = 0.0
    for effort in tried:
        trained.effort = effort
        recall = test.recall(search)
        if recall >= min_recall:
            return recall
    raise MismatchError(
        f"the {trained.kind} index finds {recall:.3f} of the true {K} neighbours at most, "
        f"`--min-recall` asks for {min_recall:g}; {_BETTER[trained.kind]}, or ask for less"
    )


def open_trained(cohort: Cohort, name: str, record: IndexRecord, read: Read) -> TrainedIndex:
    """Open a trained index from its arrays in the store.

    Raises
    ------
    DamagedStoreError
        If they are not what the record says, or do not fit together.
    """
    kind = _kind_of(record)
    try:
        shared = _shared(cohort, name, record)
        pieces = {
            slide: _piece(cohort, name, kind, record.pieces[slide], shared, cohort[slide].n_spots)
            for slide in sorted(record.slides)
        }
        effort = max(1, int(record.settings["effort"]))
        if kind != "hnsw":
            _check_size(shared, cohort[next(iter(pieces))].open_embedding(record.embedding).shape)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedStoreError(
            f"{cohort.where}: the record of index {name!r} does not fit its kind, {kind} "
            f"({error}); `spahgc index build --retrain` makes it anew"
        ) from None
    return TrainedIndex(kind, shared, pieces, read=read, metric=record.metric, effort=effort)


def _check_size(shared: Arrays, shape: tuple[int, ...]) -> None:
    sizes = [shared["centroids"].shape[1]]
    if "codebooks" in shared:
        n_bytes, _, part = shared["codebooks"].shape
        sizes.append(n_bytes * part)
    if any(size != shape[1] for size in sizes):
        raise ValueError(f"centroids of {sizes} numbers for embeddings of {shape[1]}")


def _kind_of(record: IndexRecord) -> TrainedKind:
    if record.kind == "flat":
        raise ValueError("a flat index has nothing to train")
    return record.kind


def _shared(cohort: Cohort, name: str, record: IndexRecord) -> Arrays:
    shapes: dict[str, tuple[int | None, ...]] = {
        "centroids": (None, None),
        "codebooks": (None, 256, None),
    }
    return {
        key: read_array(cohort.store, name, digest, shape=shapes[key], dtype="<f4")
        for key, digest in record.arrays.items()
        if key in shapes
    }


def _piece(
    cohort: Cohort,
    name: str,
    kind: TrainedKind,
    digests: Mapping[str, str],
    shared: Arrays,
    n_spots: int,
) -> Arrays:
    def read(key: str, dtype: str, *shape: int | None) -> NDArray[Any]:
        return read_array(cohort.store, name, digests[key], shape=shape, dtype=dtype)

    if kind == "hnsw":
        return {"levels": read("levels", "<i4", n_spots), "links": read("links", "<i4", None)}
    lists = {"lists": read("lists", "<i4", n_spots)}
    list_S, n_lists = lists["lists"], len(shared["centroids"])
    if n_spots and not 0 <= list_S.min() <= list_S.max() < n_lists:
        raise DamagedStoreError(
            f"{cohort.where}: the index {name!r} names lists beyond its {n_lists}; "
            "`spahgc index build --retrain` makes it anew"
        )
    if kind == "ivf":
        return lists
    return {**lists, "codes": read("codes", "|u1", n_spots, len(shared["codebooks"]))}
