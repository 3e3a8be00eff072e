"""Verify what a store holds, and remove what nothing names any more."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path

from spahgc.errors import DamagedStoreError
from spahgc.store import layout
from spahgc.store.commits import Commit, Store
from spahgc.store.contents import commit_keys, keys_to_spare, open_slides
from spahgc.store.locations.location import Found
from spahgc.store.opening import group_attributes, open_store, spell_group

_FOREVER = frozenset({layout.ROOT_DOCUMENT, f"{layout.TABLES}/{layout.ROOT_DOCUMENT}"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing in a store that is not as it was committed."""

    owner: str
    """``slide C2``, ``index lite0`` or ``store``."""

    text: str
    """What is wrong, and with which key."""


def verify_store(where: str | Path, *, deep: bool = False) -> list[Problem]:
    """Compare every committed file with what was committed.

    Parameters
    ----------
    where
        A folder, ``s3://…``, ``https://…`` or a .zip.
    deep
        Read every byte and compare digests; else presence and sizes.
    """
    store = open_store(where)
    problems = [Problem(owner="store", text=text) for text in _store_problems(store, deep=deep)]
    try:
        head = store.head
        slides = list(open_slides(store, head))
    except DamagedStoreError as error:
        return [*problems, Problem(owner="store", text=str(error))]
    for slide in slides:
        try:
            found = list(slide.manifest.problems(store.location, slide.entry.group, deep=deep))
        except DamagedStoreError as error:
            found = [str(error)]
        problems += [Problem(owner=f"slide {slide.name}", text=text) for text in found]
    return [*problems, *_index_problems(store, head)]


def collect_garbage(where: str | Path, *, older_than: timedelta = timedelta(days=1)) -> list[str]:
    """Remove what killed writers left and what was replaced, and mend derived metadata.

    Parameters
    ----------
    where
        A folder or ``s3://…``.
    older_than
        Younger leftovers stay: a writer may be at work on them, a reader may still read them.

    Returns
    -------
    list[str]
        Places removed or mended.

    Raises
    ------
    DamagedStoreError
        If what the newest commit names, or which slides one of late had, cannot be read; nothing
        is removed then.
    """
    store = open_store(where)
    store.check_writable()
    doomed = _leftovers(store, datetime.now(UTC) - older_than)
    for keys in doomed.values():
        store.location.delete(keys)
    return [*sorted(doomed), *_mend(store)]


def _store_problems(store: Store, *, deep: bool) -> Iterator[str]:
    for key, attributes in group_attributes(is_single_writer=store.is_single_writer).items():
        if not _holds(store, key, spell_group(attributes)):
            yield f"{key} is missing or out of date; `spahgc store gc` writes it anew"
    try:
        newest = store.head.number
        if store.read_newest() != newest:
            yield f"{layout.NEWEST} is out of date; `spahgc store gc` writes it anew"
    except DamagedStoreError as error:
        yield str(error)
        return
    for number in range(1, newest):
        yield from _commit_problems(store, number)
    if deep and store.location.can_list:
        yield from _misnamed(store)


def _commit_problems(store: Store, number: int) -> Iterator[str]:
    key = layout.commit_key(number)
    try:
        if store.read_commit(number) is None:
            yield f"{key} is missing"
    except DamagedStoreError as error:
        yield str(error)


def _misnamed(store: Store) -> Iterator[str]:
    """Find documents whose bytes are not those that their names promise."""
    for folder in (layout.PAGES, layout.MANIFESTS):
        for found in store.location.list_files(folder):
            name = found.key.rpartition("/")[2].removesuffix(".json")
            is_document = not name.startswith(".")
            if is_document and sha256(store.location.read(found.key)).hexdigest() != name:
                yield f"{found.key} is damaged: its digest is another one"


def _index_problems(store: Store, head: Commit) -> Iterator[Problem]:
    for name, digest in head.indexes.items():
        try:
            store.read_blob(partial(layout.index_key, name), digest)
        except DamagedStoreError as error:
            yield Problem(owner=f"index {name}", text=str(error))


def _mend(store: Store) -> Iterator[str]:
    head = store.head
    for key, attributes in group_attributes(is_single_writer=store.is_single_writer).items():
        if not _holds(store, key, spell_group(attributes)):
            store.location.put(key, spell_group(attributes))
            yield key
    if head.number and store.read_newest() != head.number:
        store.point_at(head.number)
        yield layout.NEWEST
    for slide in open_slides(store, head):
        if not slide.manifest.is_derived(store.location, slide.entry.group):
            key = f"{slide.entry.group}/{layout.ROOT_DOCUMENT}"
            store.location.put(key, slide.manifest.spell_group())
            yield key


def _holds(store: Store, key: str, content: bytes) -> bool:
    try:
        found = json.loads(store.location.read(key))
    except (FileNotFoundError, ValueError, RecursionError):
        return False
    return bool(found == json.loads(content))


def _leftovers(store: Store, before: datetime) -> dict[str, list[str]]:
    """Find what no commit of late names, and nobody wrote to of late: keys by unit."""
    spared = _spared(store, before)
    units: dict[str, list[Found]] = defaultdict(list)
    for folder in (layout.STAGING, layout.TABLES, layout.MANIFESTS, layout.PAGES, layout.INDEXES):
        for found in store.location.list_files(folder):
            if found.key not in spared and not found.key.endswith(".lock"):
                units[_unit(found.key, spared)].append(found)
    for found in store.location.list_files(layout.COMMITS):
        if found.key.rpartition("/")[2].startswith("."):  # of a killed writer
            units[found.key].append(found)
    return {
        unit: [found.key for found in files]
        for unit, files in units.items()
        if max(found.changed for found in files) < before
    }


def _unit(key: str, spared: set[str]) -> str:
    """Name what one writer writes in one go: the youngest file of it tells its age."""
    parts = key.split("/")
    if parts[0] not in {layout.TABLES, layout.STAGING}:
        return key
    group = "/".join(parts[:2])
    is_named = f"{group}/{layout.ROOT_DOCUMENT}" in spared
    return "/".join(parts[:4]) if is_named and parts[2] == layout.EMBEDDINGS else group


def _spared(store: Store, before: datetime) -> set[str]:
    """Give all that was named by a commit at any time since ``before``."""
    spared = set(_FOREVER) | commit_keys(store, store.head)
    for commit in store.history():
        spared |= keys_to_spare(store, commit)
        if datetime.fromisoformat(commit.made_at) < before:
            break
    return spared
