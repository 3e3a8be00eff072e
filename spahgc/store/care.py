"""Verify what a store holds, and remove what nothing names any more."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from spahgc.errors import DamagedStoreError
from spahgc.store import layout
from spahgc.store.cohort import open_cohort
from spahgc.store.commits import Store, open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing in a store that is not as it was committed."""

    owner: str
    """``slide C2`` or ``index lite0``."""

    text: str
    """What is wrong, and with which key."""


def verify_store(path: Path, *, deep: bool = False) -> list[Problem]:
    """Compare every committed file with what was committed.

    Parameters
    ----------
    path
        Where the store lies.
    deep
        Read every byte and compare digests; else presence and sizes.
    """
    cohort = open_cohort(path)
    problems = []
    for name, slide in cohort.slides.items():
        try:
            found = list(slide.manifest.problems(slide.folder, deep=deep))
        except DamagedStoreError as error:
            found = [str(error)]
        problems += [Problem(owner=f"slide {name}", text=text) for text in found]
    for name, digest in cohort.commit.indexes.items():
        try:
            cohort.store.read_document(partial(layout.index_key, name), digest)
        except DamagedStoreError as error:
            problems.append(Problem(owner=f"index {name}", text=str(error)))
    return problems


def collect_garbage(path: Path, *, older_than: timedelta = timedelta(days=1)) -> list[str]:
    """Remove what killed writers left and what was replaced, and mend derived metadata.

    Parameters
    ----------
    path
        Where the store lies.
    older_than
        Younger leftovers stay: a writer may be at work on them, a reader may still read them.

    Returns
    -------
    list[str]
        Keys removed or mended.
    """
    store = open_store(path)
    before = datetime.now(UTC) - older_than
    done = []
    for folder in _leftovers(store, before):
        if folder.is_dir():
            shutil.rmtree(folder)
        else:
            folder.unlink()
        done.append(folder.relative_to(path).as_posix())
    for slide in open_cohort(path).slides.values():
        if not slide.manifest.is_derived(slide.folder):
            slide.manifest.write_group_document(slide.folder)
            done.append(f"{slide.entry.group}/{layout.ROOT_DOCUMENT}")
    return done


def _leftovers(store: Store, before: datetime) -> Iterator[Path]:
    for item in sorted((store.path / layout.STAGING).glob("*")):
        if item.suffix != ".lock" and _last_change(item) < before:
            yield item
    unnamed_since = _unnamed_since(store)
    named = {entry.group for entry in store.head.slides.values()}
    for folder in sorted((store.path / layout.TABLES).glob("*/")):
        group = folder.relative_to(store.path).as_posix()
        if group not in named and (unnamed_since.get(group) or _last_change(folder)) < before:
            yield folder
    for entry in store.head.slides.values():
        for array in sorted((store.path / entry.group / layout.EMBEDDINGS).glob("*/")):
            known = array.name == "spatial" or array.name in entry.encoders
            if not known and _last_change(array) < before:
                yield array


def _unnamed_since(store: Store) -> dict[str, datetime]:
    """Say when each group that some commit named was first left out for good."""
    since: dict[str, datetime] = {}
    seen: set[str] = set()
    later: datetime | None = None
    for commit in store.history():
        for entry in commit.slides.values():
            if entry.group not in seen and later is not None:
                since[entry.group] = later
            seen.add(entry.group)
        later = datetime.fromisoformat(commit.made_at)
    return since


def _last_change(path: Path) -> datetime:
    items = [path, *path.rglob("*")] if path.is_dir() else [path]
    return datetime.fromtimestamp(max(item.lstat().st_mtime for item in items), UTC)
