"""Search on a Dask cluster: one task asks a few slides on behalf of one."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from distributed import Client, as_completed

from spahgc.errors import DamagedStoreError
from spahgc.store.cohort import Cohort
from spahgc.store.index.building import open_learned
from spahgc.store.index.neighbors import Neighbors, merge_neighbors
from spahgc.store.index.records import read_record, reader_of
from spahgc.store.index.reference import ReferenceIndex
from spahgc.store.opening import open_store


class BlockTask(NamedTuple):
    """Which slide asks which others; everything a worker needs, and no array."""

    where: str
    """The store, as every worker can reach it."""

    commit: int
    """Number of the commit to look at."""

    name: str
    """Of the index."""

    asking: str
    """Slide whose spots are the queries."""

    answering: tuple[str, ...]
    """Slides to search."""

    k: int
    """Neighbours of each query."""


def search_on_dask(
    client: Client,
    cohort: Cohort,
    index: ReferenceIndex,
    slides: Sequence[str],
    *,
    name: str,
    k: int,
    exclude_slides: Collection[str] | None = None,
    exclude_patients: Collection[str | None] | None = None,
    only_slides: Collection[str] | None = None,
    slides_per_task: int = 8,
) -> dict[str, Neighbors]:
    """Search for every spot of some slides, block by block on a cluster.

    Parameters
    ----------
    client
        Of the cluster; its workers must reach the store where ``cohort`` has it.
    cohort, index, name
        The store, an index of it and that index's name.
    slides
        Whose spots ask.
    k, exclude_slides, exclude_patients, only_slides
        As for `ReferenceIndex.search`; no slide ever answers itself.
    slides_per_task
        Slides that answer in one task; a worker holds the vectors of a few such blocks.

    Returns
    -------
    dict
        Of each slide what `ReferenceIndex.search_slide` would find: the same, bit for bit, of a
        flat index, and no worse of an approximate one.
    """
    tasks = []
    for asking in slides:
        names = index.may_answer(
            exclude_slides=exclude_slides,
            exclude_patients=exclude_patients,
            only_slides=only_slides,
            asked_by=asking,
        )
        # blocks are cut from all slides, so that tasks of many slides share what a worker holds
        for block in _blocks(sorted(index.record.slides), slides_per_task):
            answering = tuple(other for other in block if other in names)
            place = (str(cohort.where), cohort.commit.number, name)
            tasks.append(BlockTask(*place, asking, answering, k))
    parts: dict[str, list[Neighbors]] = {asking: [] for asking in slides}
    asked = {future: task for task, future in _submit(client, tasks).items()}
    for future in as_completed(list(asked)):
        parts[asked[future].asking].append(future.result())
        future.release()
    return {asking: merge_neighbors(found, k=k) for asking, found in parts.items()}


def _submit(client: Client, tasks: Sequence[BlockTask]) -> Mapping[BlockTask, object]:
    return {task: client.submit(search_block, task, pure=False) for task in tasks}


def search_block(task: BlockTask) -> Neighbors:
    """Do one task, in a worker: only the slides that answer, and the one that asks, are read."""
    index = _open_block(task.where, task.commit, task.name, task.answering)
    return index.search_slide(task.asking, k=task.k, only_slides=task.answering)


def _blocks(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


@lru_cache(maxsize=4)
def _open_block(where: str, number: int, name: str, slides: tuple[str, ...]) -> ReferenceIndex:
    store = open_store(where)
    commit = store.read_commit(number)
    if commit is None:
        raise DamagedStoreError(f"{where} has no commit {number}, which the search began at")
    cohort = Cohort(store, commit)
    record = read_record(cohort, name)
    part = replace(
        record,
        slides={slide: record.slides[slide] for slide in slides},
        pieces={slide: piece for slide, piece in record.pieces.items() if slide in slides},
    )
    learned = open_learned(cohort, name, part)
    return ReferenceIndex(cohort, part, read=reader_of(cohort, part), trained=learned)
