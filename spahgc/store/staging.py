"""Slides in the making: written aside, read back, committed; none can be seen half-written."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import BaseFileLock, FileLock

from spahgc import __version__
from spahgc.errors import (
    SlideExistsError,
    StoreError,
)
from spahgc.schema import Slide
from spahgc.store import layout
from spahgc.store.commits import Commit, SlideEntry, Store
from spahgc.store.durable import sync_folder, sync_tree
from spahgc.store.manifest import Manifest
from spahgc.store.table import digest_counts, digest_image, digest_slide, write_table


def add_slide(
    store: Store, slide: Slide, *, replace_existing: bool = False
) -> Literal["added", "kept", "replaced"]:
    """Write one slide and commit it; nothing of it can be seen before that.

    Returns
    -------
    Literal["added", "kept", "replaced"]
        ``kept`` where the store already holds this very slide.

    Raises
    ------
    SlideExistsError
        If another slide of that name, ignoring case, is there and ``replace_existing`` is
        not set.
    StoreError
        If the store cannot be written.
    """
    outcome = foresee(store.head, slide, replace_existing=replace_existing)
    if outcome == "kept":
        return outcome
    before = store.head.slides.get(slide.name)
    try:
        with _staged_table(store, slide) as (folder, manifest), _lock(store, slide.name):
            group = _move_to_free_group(store, slide.name, folder)
            digest = store.put_document(layout.manifest_key, manifest)
            entry = _describe(slide, group, digest)
            if not _commit_slide(store, slide.name, entry, replace_existing=replace_existing):
                return "kept"
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{store.path} cannot be written: {error.strerror or error}") from error
    if before is not None:
        # readers that know nothing of commits must not take the old version for the new one
        (store.path / before.group / layout.ROOT_DOCUMENT).unlink(missing_ok=True)
    return outcome


def foresee(
    head: Commit, slide: Slide, *, replace_existing: bool
) -> Literal["added", "kept", "replaced"]:
    """Say what `add_slide` would do, and write nothing.

    Raises
    ------
    SlideExistsError
        As `add_slide`.
    SlideFormatError
        If the slide's name is one that some file system or URL would not carry.
    """
    layout.check_slide_name(slide.name)
    content = digest_slide(slide)
    found = _find_existing(head, slide.name, content, replace_existing=replace_existing)
    if found is None:
        return "added"
    return "kept" if found.content == content else "replaced"


def find_twins(head: Commit, slide: Slide) -> list[tuple[str, str]]:
    """List stored slides of other names with the same image or the same counts.

    Returns
    -------
    list[tuple[str, str]]
        Name of the stored slide, and ``image`` or ``counts``.
    """
    counts = digest_counts(slide)
    image = None if slide.image is None else digest_image(slide.image.path)
    others = {name: entry for name, entry in head.slides.items() if name != slide.name}
    return [
        (name, what)
        for name, entry in others.items()
        for what, mine, its in (
            ("image", image, entry.image_digest),
            ("counts", counts, entry.counts_digest),
        )
        if mine is not None and mine == its
    ]


def _commit_slide(store: Store, name: str, entry: SlideEntry, *, replace_existing: bool) -> bool:
    """Commit a slide, or find that somebody just committed the very same one."""

    def change(head: Commit) -> Commit:
        found = _find_existing(head, name, entry.content, replace_existing=replace_existing)
        if found is not None and found.content == entry.content:
            return head
        return replace(head, slides={**head.slides, name: entry})

    is_committed = False
    try:
        is_committed = store.commit(change, message=f"ingest {name}").slides[name] == entry
    finally:
        if not is_committed:
            shutil.rmtree(store.path / entry.group, ignore_errors=True)
    return is_committed


def _find_existing(
    head: Commit, name: str, content: str, *, replace_existing: bool
) -> SlideEntry | None:
    twin = next((known for known in head.slides if known.lower() == name.lower()), None)
    if twin is None:
        return None
    entry = head.slides[twin]
    if twin == name and (replace_existing or entry.content == content):
        return entry
    raise SlideExistsError(
        f"the store already has a slide {twin!r} with other content; "
        "use `--replace` to put the new one in its place, or `--name` to keep both"
    )


@contextmanager
def _staged_table(store: Store, slide: Slide) -> Iterator[tuple[Path, dict[str, Any]]]:
    folder = store.path / layout.STAGING / f"{slide.name}~{uuid.uuid4().hex}"
    folder.parent.mkdir(exist_ok=True)
    try:
        attributes = write_table(slide, folder, made_by=f"spahgc {__version__}")
        manifest = Manifest.of_group(folder, attributes=attributes)
        _read_back(slide, manifest, folder)
        manifest.write_group_document(folder)
        sync_tree(folder)
        yield folder, manifest.serialise()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lock(store: Store, name: str) -> BaseFileLock:
    """Tell a folder that a killed writer left from one that is about to be committed."""
    return FileLock(store.path / layout.STAGING / f"{name}.lock")


def _read_back(slide: Slide, manifest: Manifest, folder: Path) -> None:
    counts = manifest.open_group(folder)[layout.COUNTS]
    for name in ("data", "indices", "indptr"):
        part = np.asarray(counts[name][:])  # type: ignore[index]
        if not np.array_equal(part, getattr(slide.counts, name)):
            raise StoreError(
                f"slide {slide.name}: X/{name} read back differs from what was written"
            )


def _move_to_free_group(store: Store, name: str, folder: Path) -> str:
    group, version = f"{layout.TABLES}/{name}", 1
    while (store.path / group).exists():
        if _was_never_committed(store, group):
            shutil.rmtree(store.path / group)
        else:
            version += 1
            group = f"{layout.TABLES}/{name}.v{version}"
    folder.rename(store.path / group)
    sync_folder(store.path / layout.TABLES)
    return group


def _was_never_committed(store: Store, group: str) -> bool:
    return all(
        entry.group != group for commit in store.history() for entry in commit.slides.values()
    )


def _describe(slide: Slide, group: str, manifest: str) -> SlideEntry:
    return SlideEntry(
        group=group,
        manifest=manifest,
        content=digest_slide(slide),
        platform=slide.platform,
        patient=slide.patient,
        n_spots=len(slide.spots),
        n_genes=len(slide.genes),
        microns_per_pixel=slide.microns_per_pixel,
        image=None if slide.image is None else str(slide.image.path.absolute()),
        counts_digest=digest_counts(slide),
        image_digest=None if slide.image is None else digest_image(slide.image.path),
    )
