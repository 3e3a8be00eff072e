"""Every file that a commit names: what a copy must bring, and what care must spare."""

from collections.abc import Iterator

from spahgc.errors import DamagedStoreError
from spahgc.store import layout
from spahgc.store.commits import Commit, Store
from spahgc.store.slide import StoredSlide


def open_slides(store: Store, commit: Commit) -> Iterator[StoredSlide]:
    """Open every slide of a commit, sorted by name."""
    for name, entry in commit.slides.items():
        yield StoredSlide(store, name, entry)


def slide_keys(slide: StoredSlide) -> Iterator[str]:
    """Give every key of one slide version, its manifest and derived ``zarr.json`` included."""
    yield layout.manifest_key(slide.entry.manifest)
    yield f"{slide.entry.group}/{layout.ROOT_DOCUMENT}"
    yield from (f"{slide.entry.group}/{key}" for key in slide.manifest.files)


def index_keys(commit: Commit) -> dict[str, str]:
    """Give the sha256 of the record of every index of a commit, by key."""
    return {layout.index_key(name, digest): digest for name, digest in commit.indexes.items()}


def commit_keys(store: Store, commit: Commit) -> set[str]:
    """Give every key that a commit names."""
    keys = {layout.page_key(record.sha256) for record in commit.catalogue.pages.values()}
    keys |= set(index_keys(commit))
    for slide in open_slides(store, commit):
        keys.update(slide_keys(slide))
    return keys


def keys_to_spare(store: Store, commit: Commit) -> set[str]:
    """Give every key that a commit of the past names, and where that cannot be read, may name.

    Pages that an earlier collection removed are passed over, as it removed what they name.

    Raises
    ------
    DamagedStoreError
        If a page is damaged, since nobody knows which slides are on it.
    """
    keys = {layout.page_key(record.sha256) for record in commit.catalogue.pages.values()}
    keys |= set(index_keys(commit))
    for page, record in commit.catalogue.pages.items():
        if store.location.size(layout.page_key(record.sha256)) is None:
            continue
        for name, entry in commit.catalogue.on_page(page).items():
            try:
                keys.update(slide_keys(StoredSlide(store, name, entry)))
            except DamagedStoreError:
                keys |= _keys_below(store, entry.group)
    return keys


def _keys_below(store: Store, prefix: str) -> set[str]:
    return {found.key for found in store.location.list_files(prefix)}


def read_file(slide: StoredSlide, key: str) -> bytes:
    """Read one file of a slide; see `StoredSlide.read_file`."""
    return slide.read_file(key)
