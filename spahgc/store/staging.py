"""Slides in the making: written aside, read back, committed; none can be seen half-written."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from spahgc import __version__
from spahgc.errors import SlideExistsError, SlideFormatError, StoreError
from spahgc.schema import Slide
from spahgc.store import layout
from spahgc.store.commits import Commit, Store
from spahgc.store.committed import open_group
from spahgc.store.entries import SlideEntry
from spahgc.store.locations.folder import FolderLocation
from spahgc.store.manifest import Manifest
from spahgc.store.placing import lock_slide, may_be_named, place_folder, release_claim
from spahgc.store.table import SlideDigests, digest_slide, write_table
from spahgc.store.words import is_plain


def add_slide(
    store: Store,
    slide: Slide,
    *,
    replace_existing: bool = False,
    digests: SlideDigests | None = None,
) -> Literal["added", "kept", "replaced"]:
    """Write one slide and commit it; nothing of it can be seen before that.

    Parameters
    ----------
    store
        Where to.
    slide
        What to write.
    replace_existing
        Put it in the place of one of its name with other content.
    digests
        Of the slide, where they are known already: they take a while for many counts.

    Returns
    -------
    Literal["added", "kept", "replaced"]
        ``kept`` where the store already holds this very slide.

    Raises
    ------
    SlideExistsError
        If another slide of that name, ignoring case, is there and ``replace_existing`` is
        not set.
    SlideFormatError
        If its name or its facts cannot be stored; see `check_facts`.
    StoreError
        If the store cannot be written.
    """
    check_facts(slide)
    digests = digests or digest_slide(slide)
    outcome = foresee(store.head, slide.name, digests, replace_existing=replace_existing)
    if outcome == "kept":
        return outcome
    before = store.head.slides.get(slide.name)
    try:
        store.check_writable()
        with _staged_table(store, slide) as (folder, manifest), lock_slide(store, slide.name):
            digest = store.put_document(layout.manifest_key, manifest.serialise())
            group = place_folder(store, slide.name, folder, manifest, digest)
            entry = _describe(slide, digests, group, digest, n_bytes=manifest.n_bytes)
            message = f"ingest {slide.name}"
            if not commit_slide(
                store, slide.name, entry, message=message, replace_existing=replace_existing
            ):
                return "kept"
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{store.where} cannot be written: {error.strerror or error}") from error
    if before is not None:
        # readers that know nothing of commits must not take the old version for the new one
        store.location.delete([f"{before.group}/{layout.ROOT_DOCUMENT}"])
    return outcome


def check_facts(slide: Slide) -> None:
    """Refuse words that a terminal would obey instead of showing them.

    Raises
    ------
    SlideFormatError
        If the patient, section or tissue has control or format characters.
    """
    for what in ("patient", "section", "tissue"):
        word = getattr(slide, what)
        if word is not None and not is_plain(word):
            raise SlideFormatError(
                f"slide {slide.name}: {what} {word!r} has characters that cannot be shown; write "
                "it in plain letters"
            )


def foresee(
    head: Commit, name: str, digests: SlideDigests, *, replace_existing: bool
) -> Literal["added", "kept", "replaced"]:
    """Say what `add_slide` would do with a slide of that name, and write nothing.

    Raises
    ------
    SlideExistsError
        As `add_slide`.
    SlideFormatError
        If the slide's name is one that some file system or URL would not carry, or a new one
        that looks like a later version of another slide.
    """
    layout.check_slide_name(name)
    found = _find_existing(head, name, digests.whole, replace_existing=replace_existing)
    if found is None:
        layout.check_new_slide_name(name)
        return "added"
    return "kept" if found.content == digests.whole else "replaced"


def find_twins(head: Commit, name: str, digests: SlideDigests) -> list[tuple[str, str]]:
    """List stored slides of other names with the same image or the same counts.

    Returns
    -------
    list[tuple[str, str]]
        Name of the stored slide, and ``image`` or ``counts``.
    """
    return [
        (other, what)
        for other, entry in head.slides.items()
        if other != name
        for what, mine, its in (
            ("image", digests.image, entry.image_digest),
            ("counts", digests.counts, entry.counts_digest),
        )
        if mine is not None and mine == its
    ]


def commit_slide(
    store: Store,
    name: str,
    entry: SlideEntry,
    *,
    message: str,
    replace_existing: bool = False,
) -> bool:
    """Commit a slide, or find that somebody just committed the very same one.

    Raises
    ------
    SlideExistsError
        If somebody just committed another one of that name.
    """

    def change(head: Commit) -> Commit:
        found = _find_existing(head, name, entry.content, replace_existing=replace_existing)
        if found is not None and found.content == entry.content:
            return head
        return head.with_slide(name, entry)

    is_committed = False
    try:
        is_committed = store.commit(change, message=message).slides[name] == entry
    finally:
        if is_committed:
            release_claim(store, entry.group)
        elif store.location.folder is not None and not may_be_named(store, entry.group):
            shutil.rmtree(store.path_of(entry.group), ignore_errors=True)
    return is_committed


def _find_existing(
    head: Commit, name: str, content: str, *, replace_existing: bool
) -> SlideEntry | None:
    twin = head.catalogue.spelled_like(name)
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
def _staged_table(store: Store, slide: Slide) -> Iterator[tuple[Path, Manifest]]:
    with _staging_folder(store) as staging:
        name = f"{slide.name}~{uuid.uuid4().hex}"
        folder = staging / name
        try:
            attributes = write_table(slide, folder, made_by=f"spahgc {__version__}")
            place = FolderLocation(staging)
            manifest = Manifest.of_group(place, name, attributes=attributes)
            _read_back(slide, place, name, manifest)
            (folder / layout.ROOT_DOCUMENT).write_bytes(manifest.spell_group())
            yield folder, manifest
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _staging_folder(store: Store) -> Iterator[Path]:
    """Give a folder to write in: the store's own where a finished slide can be moved from it."""
    if store.location.folder is None:
        with tempfile.TemporaryDirectory(prefix="spahgc-") as folder:
            yield Path(folder)
    else:
        folder_of_store = store.path_of(layout.STAGING)
        folder_of_store.mkdir(exist_ok=True)
        yield folder_of_store


def _read_back(slide: Slide, place: FolderLocation, name: str, manifest: Manifest) -> None:
    counts = open_group(place, name, manifest)[layout.COUNTS]
    for part_name in ("data", "indices", "indptr"):
        part = np.asarray(counts[part_name][:])  # type: ignore[index]
        if not np.array_equal(part, getattr(slide.counts, part_name)):
            raise StoreError(
                f"slide {slide.name}: X/{part_name} read back differs from what was written"
            )


def _describe(
    slide: Slide, digests: SlideDigests, group: str, manifest: str, *, n_bytes: int
) -> SlideEntry:
    return SlideEntry(
        group=group,
        manifest=manifest,
        content=digests.whole,
        platform=slide.platform,
        patient=slide.patient,
        n_spots=len(slide.spots),
        n_genes=len(slide.genes),
        microns_per_pixel=slide.microns_per_pixel,
        image=None if slide.image is None else str(slide.image.path.absolute()),
        counts_digest=digests.counts,
        image_digest=digests.image,
        n_bytes=n_bytes,
    )
