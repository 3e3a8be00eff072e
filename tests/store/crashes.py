"""What writers do to a store, each in a process of its own that can be killed at any moment."""

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from spahgc.schema import Slide
from spahgc.store.care import collect_garbage
from spahgc.store.cohort import open_cohort
from spahgc.store.copying import copy_store, open_source
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.editing import remove_slide
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide

N_SPOTS = 5000  # two shards of an embedding
NOTHING_IS_SPARED = timedelta(seconds=-5)
LONGEST_SECONDS = 120
"""Of one operation, however slow the machine; more is a hang."""
OLD, NEW = 0, 7
"""Seeds of the two versions of a slide."""


def slide(name: str, *, seed: int = OLD) -> Slide:
    return build_slide(name, n_spots=N_SPOTS, n_genes=20, seed=seed)


def vectors(name: str) -> np.ndarray:
    generator = np.random.default_rng(ord(name[0]))
    return generator.random((N_SPOTS, 8), dtype=np.float32) + 1  # a zero is damage


def embed(place: str, name: str) -> None:
    draft = EmbeddingDraft(
        open_cohort(place)[name], "lite0", fingerprint={"weights": "random"}, size=8
    )
    for rows in draft.missing():
        draft.write(rows, vectors(name)[rows.start : rows.stop])
    draft.commit()


def fill(place: str, other: str) -> None:
    """Make the store that every crash begins with, and the one that is copied from.

    The first has something for gc: a version that was replaced, a slide that was removed, and
    what a killed writer left.
    """
    store = create_store(place)
    add_slide(store, slide("A1", seed=3))
    add_slide(store, slide("A1"), replace_existing=True)
    embed(place, "A1")
    add_slide(store, slide("B1"))
    add_slide(store, slide("D1"))
    remove_slide(store, "D1")
    root = Path(place)
    (root / "staging" / "E1~0").mkdir()
    (root / "staging" / "E1~0" / "zarr.json").write_text("{")
    add_slide(create_store(other), slide("C1"))
    embed(other, "C1")
    add_slide(open_store(other), slide("B1"))
    embed(other, "B1")


def _ingest(place: str, _other: str) -> None:
    add_slide(open_store(place), slide("C1"))


def _embed(place: str, _other: str) -> None:
    embed(place, "B1")


def _copy(place: str, other: str) -> None:
    copy_store(open_source(other), place)


def _replace(place: str, _other: str) -> None:
    add_slide(open_store(place), slide("A1", seed=NEW), replace_existing=True)


def _collect(place: str, _other: str) -> None:
    collect_garbage(place, older_than=NOTHING_IS_SPARED)


OPERATIONS: Mapping[str, Callable[[str, str], None]] = {
    "ingest": _ingest,
    "embed": _embed,
    "copy": _copy,
    "replace": _replace,
    "gc": _collect,
}


def run(operation: str, place: str, other: str, *, kill_after: float | None = None) -> float:
    """Do one thing in a process of its own, kill it after so many seconds, and give its time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    theirs, ours = context.Pipe()
    environment = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
    process = context.Process(target=_work, args=(operation, place, other, environment, theirs))
    process.start()
    theirs.close()  # else nobody would hear of a process that dies at once
    assert ours.poll(LONGEST_SECONDS), f"{operation} did not begin"
    assert ours.recv() == "begun"
    began = time.perf_counter()
    process.join(LONGEST_SECONDS if kill_after is None else kill_after)
    if process.exitcode is None:
        process.kill()
        process.join()
        assert kill_after is not None, f"{operation} hung"
    elif process.exitcode:
        raise AssertionError(f"{operation} failed")
    return time.perf_counter() - began


def _work(
    operation: str, place: str, other: str, environment: Mapping[str, str], told: Connection
) -> None:
    os.environ.update(environment)
    told.send("begun")
    OPERATIONS[operation](place, other)
