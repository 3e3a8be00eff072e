"""Writing an array in the making below a key of a location, wherever that is."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import StorePath

from spahgc.store.committed import span_of
from spahgc.store.locations.location import Location


def open_staged(location: Location, prefix: str) -> StorePath:
    """Let Zarr read and write below ``prefix``, and nowhere above it."""
    return StorePath(StagedFiles(location, prefix))


class StagedFiles(Store):
    """A Zarr store in one folder of a location: every file written whole, or not at all.

    Zarr's own stores would make groups of all folders above an array, and fail over a network
    in other words than ours.
    """

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(self, location: Location, prefix: str) -> None:
        super().__init__(read_only=not location.is_writable)
        self._location = location
        self._prefix = prefix

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = Store.__hash__

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read one file, or part of it; None if there is none of that key."""
        content = await asyncio.to_thread(self._read, key, byte_range)
        return None if content is None else prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Read parts of several files."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether there is a file of that key."""
        return await asyncio.to_thread(self._location.size, self._place(key)) is not None

    async def set(self, key: str, value: Buffer) -> None:
        """Write one file whole."""
        await asyncio.to_thread(self._location.put, self._place(key), value.to_bytes())

    async def delete(self, key: str) -> None:
        """Remove one file."""
        await asyncio.to_thread(self._location.delete, [self._place(key)])

    async def list(self) -> AsyncIterator[str]:
        """Give the key of every file."""
        for found in await asyncio.to_thread(self._location.list_files, self._prefix):
            yield found.key.removeprefix(f"{self._prefix}/")

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Give the key of every file that starts so."""
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Give the names right below a folder."""
        lead = f"{prefix.rstrip('/')}/" if prefix else ""
        names = {key[len(lead) :].split("/")[0] async for key in self.list_prefix(lead)}
        for name in sorted(names):
            yield name

    def _place(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    def _read(self, key: str, part: ByteRequest | None) -> bytes | None:
        place = self._place(key)
        try:
            if part is None:
                return self._location.read(place)
            size = self._location.size(place)
            start, stop = span_of(part, 0 if size is None else size)
            return self._location.read_part(place, start=start, stop=stop)
        except FileNotFoundError:
            return None
