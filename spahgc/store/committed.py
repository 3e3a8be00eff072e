"""Reading a slide's arrays and trusting nothing but its manifest."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from threading import Lock
from typing import Any

import numpy as np
import xxhash
import zarr
from numpy.typing import NDArray
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.group import GroupMetadata
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import LocalStore, StorePath

from spahgc.errors import DamagedStoreError
from spahgc.store.locations.location import Location
from spahgc.store.manifest import FileRecord, Manifest


def open_group(location: Location, group: str, manifest: Manifest) -> zarr.Group:
    """Open a slide's group as its manifest knows it, without reading a file."""
    store = CommittedFiles(location, group, manifest)
    metadata = GroupMetadata.from_dict(manifest.group_document())
    return zarr.Group(zarr.AsyncGroup(metadata=metadata, store_path=StorePath(store)))


def open_array(location: Location, group: str, key: str, manifest: Manifest) -> zarr.Array[Any]:
    """Open one array of a slide's group, without reading a file.

    Raises
    ------
    KeyError
        If the manifest knows no array of that key.
    """
    return _array(StorePath(CommittedFiles(location, group, manifest), key), manifest)


def read_array(location: Location, group: str, key: str, manifest: Manifest) -> NDArray[Any]:
    """Read one array whole; through the ``zarrs`` package where it is installed.

    Raises
    ------
    DamagedStoreError
        If a file of it is missing or another one.
    KeyError
        If the manifest knows no array of that key.
    """
    if location.folder is None or find_spec("zarrs") is None:
        return np.asarray(open_array(location, group, key, manifest)[:])
    files = CommittedFiles(location, group, manifest)
    with ThreadPoolExecutor(max_workers=1) as pool:
        checked = pool.submit(files.check_below, key)
        try:  # it reads the files itself, so they are checked beside it
            place = StorePath(LocalStore(location.folder / group, read_only=True), key)
            return np.asarray(_read_by_zarrs(_array(place, manifest)))
        finally:
            checked.result()  # what is wrong with a file comes before how reading it failed


def _read_by_zarrs(array: zarr.Array[Any]) -> Any:  # noqa: ANN401  zarr gives what it holds
    from zarrs import ZarrsCodecPipeline

    # of this array alone: Zarr's setting is one for all threads
    pipeline = ZarrsCodecPipeline.from_array_metadata_and_store(
        array.metadata, array.store_path.store
    )
    object.__setattr__(array.async_array, "codec_pipeline", pipeline)
    return array[:]


def _array(place: StorePath, manifest: Manifest) -> zarr.Array[Any]:
    metadata = ArrayV3Metadata.from_dict(dict(manifest.documents[place.path]))
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=place))


class CommittedFiles(Store):
    """A Zarr store that knows which files there must be, and what is in them.

    A missing file is no silent fill, and a file that was damaged, cut short or exchanged is an
    error however little of it is read.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, location: Location, group: str, manifest: Manifest) -> None:
        super().__init__(read_only=True)
        self._location = location
        self._group = group
        self._manifest = manifest
        self._intact: set[str] = set()
        self._kept: tuple[str, bytes] = ("", b"")
        self._lock = Lock()

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = Store.__hash__

    def check_below(self, prefix: str) -> None:
        """Compare the files of one array with the manifest.

        Raises
        ------
        DamagedStoreError
            If one is missing or another one.
        """
        for key in self._manifest.files:
            if key.startswith(f"{prefix}/"):
                self._check(key)

    def _check(self, key: str) -> None:
        record = self._manifest.files[key]
        digest = xxhash.xxh3_128()
        size = 0
        try:
            for piece in self._location.read_pieces(f"{self._group}/{key}"):
                digest.update(piece)
                size += len(piece)
        except FileNotFoundError:
            raise self._damaged(key, "is missing") from None
        self._compare(key, record, size=size, xxh3=digest.hexdigest())

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read one committed file, or part of it."""
        record = self._manifest.files.get(key)
        if record is None:
            return None
        content = await asyncio.to_thread(self._read, key, record, byte_range)
        return prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Read parts of several files."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether a file was committed."""
        return key in self._manifest.files

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: what was committed stays as it is."""
        raise ValueError(f"{key}: a committed slide is read-only, {value!r} cannot be written")

    async def delete(self, key: str) -> None:
        """Refuse: what was committed stays as it is."""
        raise ValueError(f"{key} cannot be removed: a committed slide is read-only")

    async def list(self) -> AsyncIterator[str]:
        """Give the key of every file."""
        for key in self._manifest.files:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Give the key of every file that starts so."""
        for key in self._manifest.files:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Give the names right below a folder."""
        lead = f"{prefix.rstrip('/')}/" if prefix else ""
        below = (key[len(lead) :] for key in self._manifest.files if key.startswith(lead))
        for name in dict.fromkeys(key.split("/")[0] for key in below):
            yield name

    def _read(self, key: str, record: FileRecord, part: ByteRequest | None) -> bytes:
        if part is None:
            return self._read_whole(key, record)
        start, stop = span_of(part, record.size)
        if self._location.folder is None:  # what is far away is fetched once
            return self._fetch_once(key, record)[start:stop]
        if key not in self._intact:
            self._read_whole(key, record)
            self._intact.add(key)
        return self._location.read_part(f"{self._group}/{key}", start=start, stop=stop)

    def _fetch_once(self, key: str, record: FileRecord) -> bytes:
        with self._lock:
            if self._kept[0] != key:
                self._kept = (key, self._read_whole(key, record))
            return self._kept[1]

    def _read_whole(self, key: str, record: FileRecord) -> bytes:
        try:
            content = self._location.read(f"{self._group}/{key}", at_most=record.size)
        except FileNotFoundError:
            raise self._damaged(key, "is missing") from None
        self._compare(key, record, size=len(content), xxh3=xxhash.xxh3_128_hexdigest(content))
        return content

    def _compare(self, key: str, record: FileRecord, *, size: int, xxh3: str) -> None:
        if size != record.size:
            raise self._damaged(key, f"has {size} bytes, committed were {record.size}")
        if xxh3 != record.xxh3:
            raise self._damaged(key, "is damaged: its checksum is another one")

    def _damaged(self, key: str, how: str) -> DamagedStoreError:
        return DamagedStoreError(
            f"{self._location.where}/{self._group}/{key} {how}; "
            "`spahgc store verify --deep` lists all damage"
        )


def span_of(part: ByteRequest, size: int) -> tuple[int, int]:
    """Give the first byte of a part of a file of ``size`` bytes, and the one after its last."""
    match part:
        case RangeByteRequest(start, end):
            return start, min(end, size)
        case OffsetByteRequest(offset):
            return offset, size
        case SuffixByteRequest(suffix):
            return max(0, size - suffix), size
    raise TypeError(f"{part!r} is no part of a file")
