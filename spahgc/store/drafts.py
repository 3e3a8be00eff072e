"""Embeddings in the making: written shard by shard, out of sight until they are whole."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec
from zarr.errors import ContainsArrayError
from zarr.storage import StorePath

from spahgc.errors import DamagedStoreError, MismatchError, StoreError
from spahgc.store import layout
from spahgc.store.durable import sync_folder, sync_tree
from spahgc.store.entries import SlideEntry
from spahgc.store.manifest import Manifest
from spahgc.store.placed import PlacedEmbedding, commit_placed, refuse_like
from spahgc.store.placing import put_files
from spahgc.store.slide import StoredSlide
from spahgc.store.staged import open_staged

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
        self,
        slide: StoredSlide,
        name: str,
        *,
        fingerprint: Mapping[str, Any],
        size: int,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Start or resume an embedding.

        Parameters
        ----------
        slide
            Whose spots are embedded.
        name
            Of the embedding.
        fingerprint
            Everything that decides its numbers.
        size
            D, its columns.
        notes
            What else is worth keeping beside it: ``licence``, padding, …
        """
        self.slide = slide
        self.name = name
        self.digest = digest_fingerprint(fingerprint)
        self._check_free(slide.entry)
        self._location = slide.store.location
        self._location.refuse_reading_only()
        self._notes = dict(notes or {})
        self._record: dict[str, Any] = {
            "fingerprint": dict(fingerprint),
            "fingerprint_digest": self.digest,
            "obs_names": slide.names_digest(),
        }
        group = slide.entry.group
        self._staging = f"{layout.STAGING}/{group.rpartition('/')[2]}~{name}~{self.digest[:16]}"
        self._place = f"{group}/{layout.EMBEDDINGS}/{name}"
        self._shape = (slide.n_spots, size)
        self._opened: zarr.Array[Any] | None = None

    def missing(self) -> Iterator[RowRange]:
        """Give the shards that still have to be written."""
        if self._is_placed():
            return
        n_spots = self._shape[0]
        with self._unless_placed():
            array = self._array()
            for start in range(0, n_spots, SHARD_ROWS):
                rows = RowRange(start, min(start + SHARD_ROWS, n_spots))
                if not self._is_written(array, rows) and not self._is_placed():
                    yield rows

    def write(self, rows: RowRange, embedding_SD: NDArray[np.float32]) -> None:
        """Write one shard: ``embedding_SD`` is (stop - start, D) float32, all finite."""
        if not np.isfinite(embedding_SD).all():
            raise MismatchError(
                f"slide {self.slide.name}: encoder {self.name!r} returned values that are not "
                "numbers; the image or the weights are broken"
            )
        with self._unless_placed(), zarr.config.set({"array.write_empty_chunks": True}):
            self._array()[rows.start : rows.stop] = embedding_SD

    def place(self) -> PlacedEmbedding:
        """Move the finished embedding to its slide, where nobody sees it before it is committed.

        Raises
        ------
        DamagedStoreError
            If a shard is missing.
        """
        if not self._is_placed():
            with self._unless_placed():
                self._place_whole()
        files = Manifest.of_array(self._location, self._place)
        self._check_own(files)
        return PlacedEmbedding(
            name=self.name, digest=self.digest, files=files, licence=self._notes.get("licence")
        )

    def commit(self) -> None:
        """Commit it by itself; see `commit_drafts`."""
        commit_drafts([self])

    def forget(self) -> None:
        """Remove what is left of it beside its place."""
        self._location.delete(found.key for found in self._location.list_files(self._staging))

    def _check_free(self, entry: SlideEntry) -> None:
        known = entry.encoders.get(self.name)
        if known is None:
            layout.check_new_embedding_name(self.name)
            refuse_like(self.slide.name, self.name, entry)
        if known not in {None, self.digest}:
            raise MismatchError(
                f"slide {self.slide.name} has an embedding {self.name!r} made in another way "
                "(weights, patch or precision differ); give the new one a name of its own "
                "with `--name`, or make that one again with `--recompute`"
            )

    @contextmanager
    def _unless_placed(self) -> Iterator[None]:
        """Let pass what fails because another process has moved the embedding to its place."""
        try:
            yield
        except (StoreError, OSError):
            if not self._is_placed():
                raise

    def _is_placed(self) -> bool:
        if self._location.folder is not None:  # moved in one step
            return self.slide.store.path_of(self._place).exists()
        n_shards = -(-self._shape[0] // SHARD_ROWS)
        return sum(1 for _ in self._location.list_files(self._place)) == n_shards + 1

    def _array(self) -> zarr.Array[Any]:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> zarr.Array[Any]:
        place = open_staged(self._location, self._staging)
        if self._location.size(f"{self._staging}/{layout.ROOT_DOCUMENT}") is None:
            try:
                return self._create(place)
            except ContainsArrayError:  # another process was faster
                pass
        return zarr.open_array(place, mode="r+")

    def _is_written(self, array: zarr.Array[Any], rows: RowRange) -> bool:
        if self._location.size(f"{self._staging}/c/{rows.start // SHARD_ROWS}/0") is None:
            return False
        try:
            return bool(np.isfinite(array[rows.start : rows.stop]).all())
        except (ValueError, RuntimeError):  # a shard cut short, or its checksum wrong
            return False

    def _create(self, place: StorePath) -> zarr.Array[Any]:
        n_spots, size = self._shape
        rows = min(SHARD_ROWS, -(-n_spots // CHUNK_ROWS) * CHUNK_ROWS)
        return zarr.create_array(
            place,
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
                layout.STORE_ATTRIBUTE: {**self._record, "notes": self._notes},
            },
        )

    def _place_whole(self) -> None:
        if next(self.missing(), None) is not None:
            raise DamagedStoreError(f"slide {self.slide.name}: {self.name!r} is not whole yet")
        if self._location.folder is None:
            self._put_in_place()
        else:
            self._rename()

    def _put_in_place(self) -> None:
        """Put what was staged where nothing is; the metadata first: it tells whose place it is."""
        keys = sorted(
            found.key.removeprefix(f"{self._staging}/")
            for found in self._location.list_files(self._staging)
        )
        document = layout.ROOT_DOCUMENT
        for batch in ([document], [key for key in keys if key != document]):
            put_files(
                self._location,
                self._place,
                lambda key: self._location.read(f"{self._staging}/{key}"),
                batch,
            )

    def _rename(self) -> None:
        store = self.slide.store
        staged, place = store.path_of(self._staging), store.path_of(self._place)
        (staged / layout.ROOT_DOCUMENT).touch()  # its shards may be old: gc spares it till then
        sync_tree(staged)
        staged.rename(place)
        for leftover in place.rglob(".*"):  # of a writer that was killed, or is slower
            leftover.unlink(missing_ok=True)
        sync_folder(place.parent)

    def _check_own(self, files: Manifest) -> None:
        attributes = files.documents.get("", {}).get("attributes", {})
        found = attributes.get(layout.STORE_ATTRIBUTE, {})
        if {**found, "notes": None} != {**self._record, "notes": None}:
            newest = self.slide.store.head.slides.get(self.slide.name)
            if newest is not None:  # somebody else may have been faster
                self._check_free(newest)
            raise MismatchError(
                f"{self.slide.store.where}/{self._place} was left by a writer with other "
                "settings; `spahgc store gc` removes it"
            )


def commit_drafts(drafts: Sequence[EmbeddingDraft]) -> None:
    """Commit finished embeddings of one slide, all of them or none.

    Raises
    ------
    CommitConflictError
        If the slide was replaced or removed meanwhile.
    DamagedStoreError
        If a shard is missing.
    """
    commit_placed(drafts[0].slide, [draft.place() for draft in drafts])
    for draft in drafts:
        draft.forget()


def digest_fingerprint(fingerprint: Mapping[str, Any]) -> str:
    """Digest everything that decides an embedding's numbers."""
    return sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
