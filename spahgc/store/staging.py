"""What is being written: slides and embeddings, out of sight until they are whole."""

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from filelock import BaseFileLock, FileLock
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from spahgc import __version__
from spahgc.errors import (
    CommitConflictError,
    DamagedStoreError,
    MismatchError,
    SlideExistsError,
    StoreError,
)
from spahgc.schema import Slide
from spahgc.store import layout
from spahgc.store.commits import Commit, SlideEntry, Store
from spahgc.store.durable import sync_folder, sync_tree
from spahgc.store.manifest import Manifest
from spahgc.store.slide import StoredSlide, digest_names
from spahgc.store.table import digest_counts, digest_image, digest_slide, write_table

CHUNK_ROWS = 256
SHARD_ROWS = 4096
"""Rows of an embedding written, and resumed, as one piece."""


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows ``start`` to ``stop`` (not included) of an embedding: one shard."""

    start: int
    stop: int


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
    layout.check_slide_name(slide.name)
    content = digest_slide(slide)
    found = _find_existing(store.head, slide.name, content, replace_existing=replace_existing)
    if found is not None and found.content == content:
        return "kept"
    try:
        with _staged_table(store, slide) as (folder, manifest), _lock(store, slide.name):
            group = _move_to_free_group(store, slide.name, folder)
            entry = _describe(
                slide, group, store.put_document(layout.manifest_key, manifest), content
            )

            def change(head: Commit) -> Commit:
                _find_existing(head, slide.name, None, replace_existing=replace_existing)
                return replace(head, slides={**head.slides, slide.name: entry})

            try:
                store.commit(change, message=f"ingest {slide.name}")
            except BaseException:
                shutil.rmtree(store.path / group, ignore_errors=True)
                raise
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{store.path} cannot be written: {error.strerror or error}") from error
    if found is None:
        return "added"
    # readers that know nothing of commits must not take the old version for the new one
    (store.path / found.group / layout.ROOT_DOCUMENT).unlink(missing_ok=True)
    return "replaced"


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


class EmbeddingDraft:
    """An embedding in the making: written shard by shard, by whoever holds a draft of it.

    Any number of processes may hold the same draft; a shard written twice is the same shard.
    """

    def __init__(
        self, slide: StoredSlide, name: str, *, fingerprint: Mapping[str, Any], size: int
    ) -> None:
        """Start or resume the embedding ``name`` of ``slide`` with ``size`` columns."""
        self.slide = slide
        self.name = name
        self.digest = digest_fingerprint(fingerprint)
        self._check_free()
        self._record: dict[str, Any] = {
            "fingerprint": dict(fingerprint),
            "fingerprint_digest": self.digest,
            "obs_names": digest_names(slide.spots.index),
        }
        staging = slide.store.path / layout.STAGING
        self.folder = staging / f"{slide.folder.name}~{name}~{self.digest[:16]}"
        self.place = slide.folder / layout.EMBEDDINGS / name
        self._shape = (slide.n_spots, size)

    @property
    def is_committed(self) -> bool:
        """Whether the newest commit already has it."""
        entry = self.slide.store.head.slides.get(self.slide.name)
        return entry is not None and entry.encoders.get(self.name) == self.digest

    def missing(self) -> Iterator[RowRange]:
        """Give the shards that still have to be written."""
        if self.place.exists():
            return
        array = self._array()
        n_spots = self._shape[0]
        for start in range(0, n_spots, SHARD_ROWS):
            rows = RowRange(start, min(start + SHARD_ROWS, n_spots))
            if not _is_written(array, rows):
                yield rows

    def write(self, rows: RowRange, embedding_SD: NDArray[np.float32]) -> None:
        """Write one shard: ``embedding_SD`` is (stop - start, D) float32, all finite."""
        if not np.isfinite(embedding_SD).all():
            raise MismatchError(
                f"slide {self.slide.name}: encoder {self.name!r} returned values that are not "
                "numbers; the image or the weights are broken"
            )
        with zarr.config.set({"array.write_empty_chunks": True}):
            self._array()[rows.start : rows.stop] = embedding_SD

    def commit(self) -> None:
        """Move the finished embedding to its slide and commit it.

        Raises
        ------
        CommitConflictError
            If the slide was replaced or removed meanwhile.
        DamagedStoreError
            If a shard is missing.
        """
        store = self.slide.store
        if not self.place.exists():
            self._move()
        member = Manifest.of_array(self.place)
        self._check_whole()

        def change(head: Commit) -> Commit:
            entry = head.slides.get(self.slide.name)
            if entry is None or entry.group != self.slide.entry.group:
                raise CommitConflictError(
                    f"slide {self.slide.name} was replaced while it was embedded; embed it again"
                )
            if entry.encoders.get(self.name) == self.digest:
                return head
            manifest = Manifest.parse(store.read_document(layout.manifest_key, entry.manifest))
            grown = manifest.with_member(f"{layout.EMBEDDINGS}/{self.name}", member)
            digest = store.put_document(layout.manifest_key, grown.serialise())
            encoders = {**entry.encoders, self.name: self.digest}
            entry = replace(entry, manifest=digest, encoders=encoders)
            return replace(head, slides={**head.slides, self.slide.name: entry})

        store.commit(change, message=f"embed {self.slide.name} with {self.name}")
        refresh_group_document(store, self.slide.name)

    def _check_free(self) -> None:
        known = self.slide.entry.encoders.get(self.name)
        if known not in {None, self.digest}:
            raise MismatchError(
                f"slide {self.slide.name} has an embedding {self.name!r} made in another way "
                "(weights, patch or precision differ); give the new one a name of its own "
                "with `--name`"
            )

    def _array(self) -> zarr.Array[Any]:
        if (self.folder / layout.ROOT_DOCUMENT).exists():
            return zarr.open_array(self.folder, mode="r+")
        n_spots, size = self._shape
        rows = min(SHARD_ROWS, -(-n_spots // CHUNK_ROWS) * CHUNK_ROWS)
        return zarr.create_array(
            self.folder,
            shape=self._shape,
            dtype=np.float32,
            chunks=(CHUNK_ROWS, size),
            shards=(rows, size),
            compressors=[Crc32cCodec()],  # the noise of floats does not compress
            fill_value=np.nan,
            zarr_format=3,
            overwrite=False,
            attributes={
                "encoding-type": "array",
                "encoding-version": "0.2.0",
                layout.STORE_ATTRIBUTE: self._record,
            },
        )

    def _move(self) -> None:
        if next(self.missing(), None) is not None:
            raise DamagedStoreError(f"slide {self.slide.name}: {self.name!r} is not whole yet")
        for leftover in self.folder.rglob("*.partial"):  # of a writer that was killed
            leftover.unlink(missing_ok=True)
        sync_tree(self.folder)
        try:
            self.folder.rename(self.place)
        except OSError:
            if not self.place.exists():  # else another process was faster
                raise
        sync_folder(self.place.parent)

    def _check_whole(self) -> None:
        array = zarr.open_array(self.place, mode="r")
        if array.attrs[layout.STORE_ATTRIBUTE] != self._record or array.shape != self._shape:
            raise MismatchError(
                f"{self.place} was left by a writer with other settings; "
                "`spahgc store gc` removes it"
            )


def refresh_group_document(store: Store, name: str) -> None:
    """Make the ``zarr.json`` of a slide's group say what the newest commit says."""
    entry = store.head.slides.get(name)
    if entry is not None:
        slide = StoredSlide(store, name, entry)
        slide.manifest.write_group_document(slide.folder)


def digest_fingerprint(fingerprint: Mapping[str, Any]) -> str:
    """Digest everything that decides an embedding's numbers."""
    return sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()


def _find_existing(
    head: Commit, name: str, content: str | None, *, replace_existing: bool
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


def _describe(slide: Slide, group: str, manifest: str, content: str) -> SlideEntry:
    return SlideEntry(
        group=group,
        manifest=manifest,
        content=content,
        platform=slide.platform,
        patient=slide.patient,
        n_spots=len(slide.spots),
        n_genes=len(slide.genes),
        microns_per_pixel=slide.microns_per_pixel,
        image=None if slide.image is None else str(slide.image.path.absolute()),
        counts_digest=digest_counts(slide),
        image_digest=None if slide.image is None else digest_image(slide.image.path),
    )


def _is_written(array: zarr.Array[Any], rows: RowRange) -> bool:
    try:
        return bool(np.isfinite(array[rows.start : rows.stop]).all())
    except (ValueError, RuntimeError):  # a shard cut short, or its checksum wrong
        return False
