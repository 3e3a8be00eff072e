"""Put a finished slide where it will lie, so that nothing there is ever overwritten."""

import shutil
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Final

from filelock import BaseFileLock, FileLock

from spahgc.errors import CommitConflictError, DamagedStoreError
from spahgc.store import layout
from spahgc.store.commits import Store
from spahgc.store.durable import sync_folder, sync_tree
from spahgc.store.locations.location import Location
from spahgc.store.manifest import Manifest

PARALLEL: Final = 8
"""Files under way at once."""

_UNSEEN: Final = "unseen"
"""Last word of a claim whose writer does not know yet whether anything lies there."""

ReadFile = Callable[[str], bytes]
"""From a key relative to a group to what is in that file."""


def lock_slide(store: Store, name: str) -> BaseFileLock | nullcontext[None]:
    """Tell a folder that a killed writer left from one that is about to be committed.

    All slides that may want the same place share one lock: ``C2`` and, in an older store,
    ``C2.v2``.
    """
    if store.location.folder is None:
        return nullcontext()  # claims do it there
    return FileLock(store.path_of(f"{layout.STAGING}/{layout.without_version(name)}.lock"))


def place_folder(store: Store, name: str, folder: Path, manifest: Manifest, digest: str) -> str:
    """Move or upload the staged group in ``folder`` to a free place, and give its key.

    Parameters
    ----------
    store
        Where to.
    name
        Of the slide.
    folder
        On the store's own drive, where the store is a folder.
    manifest
        Of that group.
    digest
        Of the manifest.
    """
    if store.location.folder is None:
        read = lambda key: (folder / key).read_bytes()  # noqa: E731  one line, used once
        return upload_group(store, name, read, manifest, digest)
    sync_tree(folder)
    group = _free_folder(store, name)
    folder.rename(store.path_of(group))
    sync_folder(store.path_of(layout.TABLES))
    return group


def upload_group(store: Store, name: str, read: ReadFile, manifest: Manifest, digest: str) -> str:
    """Put every file of a group at a free place, and give its key.

    Where the same version was half put before, only what is missing is put.
    """
    group = _claim(store, name, digest)
    # below a claim for this digest, a file of the right size is the right file
    there = store.location.sizes(group, manifest.files)
    missing = [key for key, record in manifest.files.items() if there[key] != record.size]
    put_files(store.location, group, read, missing)
    store.location.put(f"{group}/{layout.ROOT_DOCUMENT}", manifest.spell_group())
    return group


def put_files(
    location: Location,
    prefix: str,
    read: ReadFile,
    files: Iterable[str],
    *,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Put files below ``prefix`` that are not there, several at once.

    Raises
    ------
    CommitConflictError
        If other bytes already lie where one of them belongs.
    """

    def put(key: str) -> None:
        content = read(key)
        place = f"{prefix}/{key}"
        if not location.put_if_absent(place, content) and location.read(place) != content:
            raise CommitConflictError(
                f"{location.where}/{place} was put there by another writer; run it again"
            )
        if advance is not None:
            advance(len(content))

    with ThreadPoolExecutor(PARALLEL) as pool:
        for _ in pool.map(put, files):
            pass


def release_claim(store: Store, group: str) -> None:
    """Forget who was to fill ``group``, once it is committed."""
    if store.location.folder is None:
        store.location.delete([layout.claim_key(group)])


def _claim(store: Store, name: str, digest: str) -> str:
    """Find a place that nobody else fills: who first puts its claim may, for that version.

    A claim counts once it does not say any more that nobody has looked at what lies there: its
    writer may be killed before it does.
    """
    location = store.location
    for group in _candidates(name):
        claim = layout.claim_key(group)
        seen = f"{digest} {uuid.uuid4().hex}"
        is_first = location.put_if_absent(claim, f"{seen} {_UNSEEN}".encode())
        if not is_first:
            theirs = _read_claim(location, claim)
            if digest not in theirs:
                continue
            if _UNSEEN not in theirs:
                return group
        if next(iter(location.list_files(group)), None) is None:
            location.put(claim, seen.encode())
            return group
        if is_first:
            location.delete([claim])
    raise AssertionError  # pragma: no cover  the candidates never end


def _read_claim(location: Location, claim: str) -> list[str]:
    try:
        return location.read(claim).decode().split(" ")
    except FileNotFoundError:  # released meanwhile
        return []


def may_be_named(store: Store, group: str) -> bool:
    """Whether any commit names a group, of whatever slide; yes where one cannot be read any more.

    Groups that differ in case only count as one, as they are on macOS and Windows.
    """
    looked_at: set[str] = set()
    try:
        for commit in store.history():
            catalogue = commit.catalogue
            for page, record in catalogue.pages.items():
                if record.sha256 in looked_at:
                    continue
                looked_at.add(record.sha256)
                entries = catalogue.on_page(page).values()
                if any(entry.group.lower() == group.lower() for entry in entries):
                    return True
    except DamagedStoreError:  # as after gc, which removes the pages of old commits
        return True
    return False


def _free_folder(store: Store, name: str) -> str:
    for group in _candidates(name):
        if not store.path_of(group).exists():
            return group
        if not may_be_named(store, group):
            shutil.rmtree(store.path_of(group))
            return group
    raise AssertionError  # pragma: no cover  the candidates never end


def _candidates(name: str) -> Iterable[str]:
    return (layout.version_key(name, version) for version in count(1))
