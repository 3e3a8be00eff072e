"""A store packed into one .zip: only read, and never unpacked to be read."""

import io
import struct
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime

from spahgc.errors import DamagedStoreError, StoreError
from spahgc.store.locations.location import Found, Location, check_key

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SIGNATURE = b"PK\x03\x04"
_SLACK = 64
"""Bytes that a local header may be longer than its name, so that one request fetches both."""


class ArchiveLocation(Location):
    """An uncompressed .zip, so that any part of it can be read where it lies."""

    def __init__(self, host: Location, name: str, *, where: str) -> None:
        """Read the table of contents of the file ``name`` in ``host``."""
        super().__init__(where, address=f"{host.address}/{name}")
        self._host = host
        self._name = name
        size = host.size(name)
        if size is None:
            raise StoreError(f"{where} does not exist; `spahgc store pack` makes one")
        self._size = size
        self._entries = self._read_contents()
        self._starts: dict[str, int] = {}

    def exists(self) -> bool:
        """Say yes: an archive that was opened is there."""
        return True

    def read(self, key: str, *, at_most: int | None = None) -> bytes:
        """Read one file whole."""
        entry = self._entry(key)
        self._check_size(key, entry.file_size, at_most)
        if key in self._starts:
            return self.read_part(key, start=0, stop=entry.file_size)
        lead = _LOCAL_HEADER.size + len(entry.filename.encode()) + _SLACK
        stop = min(entry.header_offset + lead + entry.file_size, self._size)
        block = self._host.read_part(self._name, start=entry.header_offset, stop=stop)
        skip = self._learn_start(entry, block) - entry.header_offset
        if len(block) < skip + entry.file_size:
            return self.read_part(key, start=0, stop=entry.file_size)
        return block[skip : skip + entry.file_size]

    def read_part(self, key: str, *, start: int, stop: int) -> bytes:
        """Read bytes ``start`` to ``stop`` (not included) of one file."""
        entry = self._entry(key)
        first = self._start(entry)
        stop = min(stop, entry.file_size)
        return self._host.read_part(self._name, start=first + start, stop=first + stop)

    def size(self, key: str) -> int | None:
        """Give the size of one file in bytes, None if there is none of that key."""
        entry = self._entries.get(check_key(key, where=self.where))
        return None if entry is None else entry.file_size

    def list_files(self, prefix: str) -> Iterator[Found]:
        """Give every file below the folder ``prefix``, in no order; none if it is not there."""
        for key, entry in self._entries.items():
            if key.startswith(f"{prefix}/"):
                yield Found(key, entry.file_size, _date_of(entry))

    def _entry(self, key: str) -> zipfile.ZipInfo:
        try:
            return self._entries[check_key(key, where=self.where)]
        except KeyError:
            raise FileNotFoundError(f"{self.where}/{key}") from None

    def _start(self, entry: zipfile.ZipInfo) -> int:
        if entry.filename not in self._starts:
            stop = entry.header_offset + _LOCAL_HEADER.size
            header = self._host.read_part(self._name, start=entry.header_offset, stop=stop)
            self._learn_start(entry, header)
        return self._starts[entry.filename]

    def _learn_start(self, entry: zipfile.ZipInfo, block: bytes) -> int:
        signature, n_name, n_extra = _LOCAL_HEADER.unpack_from(block)
        start = entry.header_offset + _LOCAL_HEADER.size + n_name + n_extra
        if signature != _SIGNATURE or start + entry.file_size > self._size:
            raise DamagedStoreError(f"{self.where}: {entry.filename} is not where it should be")
        self._starts[entry.filename] = int(start)
        return int(start)

    def _read_contents(self) -> dict[str, zipfile.ZipInfo]:
        reader = io.BufferedReader(_FileIn(self._host, self._name, self._size), 1 << 16)
        try:
            with zipfile.ZipFile(reader) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError) as error:
            raise StoreError(f"{self.where} is not a .zip file: {error}") from None
        if sum(entry.file_size for entry in entries) > self._size:
            raise DamagedStoreError(f"{self.where} claims to hold more than it has; refused")
        contents: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            self._check(entry)
            if contents.setdefault(entry.filename, entry) is not entry:
                raise DamagedStoreError(f"{self.where} holds {entry.filename} twice; refused")
        return contents

    def _check(self, entry: zipfile.ZipInfo) -> None:
        check_key(entry.filename, where=self.where)
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise StoreError(
                f"{self.where}: {entry.filename} is compressed or encrypted; a packed store is "
                "neither: pack it with `spahgc store pack`"
            )
        if entry.compress_size != entry.file_size or entry.file_size > self._size:
            raise DamagedStoreError(
                f"{self.where}: {entry.filename} claims {entry.file_size} bytes, the whole "
                f"archive has {self._size}; refused"
            )


def _date_of(entry: zipfile.ZipInfo) -> datetime:
    try:
        return datetime(*entry.date_time, tzinfo=UTC)
    except ValueError:  # some programs leave it out, and write month 0
        return datetime(1980, 1, 1, tzinfo=UTC)


class _FileIn(io.RawIOBase):
    """One file of a location, as `zipfile` wants it."""

    def __init__(self, host: Location, name: str, size: int) -> None:
        super().__init__()
        self._host, self._name, self._size, self._position = host, name, size, 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go elsewhere."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise ValueError("before the start of the file")
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        """Say where the next byte is read."""
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read as much as fits, or as there is."""
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        content = self._host.read_part(self._name, start=self._position, stop=stop)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
