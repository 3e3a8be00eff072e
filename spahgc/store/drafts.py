"""Embeddings in the making: written shard by shard, out of sight until they are whole."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from spahgc.errors import (
    CommitConflictError,
    DamagedStoreError,
    MismatchError,
)
from spahgc.store import layout
from spahgc.store.commits import Commit, Store
from spahgc.store.durable import sync_folder, sync_tree
from spahgc.store.manifest import Manifest
from spahgc.store.slide import StoredSlide, digest_names

CHUNK_ROWS = 256
SHARD_ROWS = 4096
"""Rows of an embedding written, and resumed, as one piece."""


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows ``start`` to ``stop`` (not included) of an embedding: one shard."""

    start: int
    stop: int


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


def _is_written(array: zarr.Array[Any], rows: RowRange) -> bool:
    try:
        return bool(np.isfinite(array[rows.start : rows.stop]).all())
    except (ValueError, RuntimeError):  # a shard cut short, or its checksum wrong
        return False
