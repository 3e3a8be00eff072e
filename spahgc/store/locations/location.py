"""What every place that can hold a store must be able to do."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from spahgc.errors import DamagedStoreError, StoreError

_LONGEST_KEY = 1024
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True, slots=True)
class Found:
    """One file that lies in a location."""

    key: str
    """Relative to the location."""

    size: int
    """In bytes."""

    changed: datetime
    """When it was last written; aware."""


class Location(ABC):
    """A place of files with keys such as ``tables/C2/X/data/c/0``.

    Every method raises `StoreError` where the place itself fails (no network, no rights), and
    `DamagedStoreError` for a key that leads out of it.
    """

    def __init__(self, where: str, *, address: str) -> None:
        """Use `spahgc.store.locations.opening.open_location`."""
        self.where = where
        """As the user names it."""
        self.address = address
        """The same from everywhere: an absolute path or a URL."""

    @property
    def is_writable(self) -> bool:
        """Whether files can be put here at all."""
        return False

    @property
    def can_list(self) -> bool:
        """Whether it can say what it holds."""
        return True

    @property
    def folder(self) -> Path | None:
        """The local folder that this location is, or None."""
        return None

    def path_of(self, key: str) -> Path:
        """Give the path of a key in a local folder, links in it refused."""
        raise StoreError(f"{self.where} is no folder of this machine, so {key} has no path")

    def refuse_reading_only(self) -> None:
        """Refuse a place that can only be read, before any work is done for it.

        Raises
        ------
        StoreError
            If it is one.
        """
        if not self.is_writable:
            raise self._read_only()

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is anything here."""

    @abstractmethod
    def read(self, key: str, *, at_most: int | None = None) -> bytes:
        """Read one file whole.

        Parameters
        ----------
        key
            Of the file.
        at_most
            Bytes it may have; more are not fetched.

        Raises
        ------
        FileNotFoundError
            If there is none of that key.
        DamagedStoreError
            If it is larger.
        """

    @abstractmethod
    def read_part(self, key: str, *, start: int, stop: int) -> bytes:
        """Read bytes ``start`` to ``stop`` (not included) of one file.

        Raises
        ------
        FileNotFoundError
            If there is none of that key.
        """

    def read_pieces(self, key: str) -> Iterator[memoryview]:
        """Read one file bit by bit; a piece is gone when the next one is asked for."""
        yield memoryview(self.read(key))

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Give the size of one file in bytes, None if there is none of that key."""

    def sizes(self, prefix: str, keys: Iterable[str]) -> dict[str, int | None]:
        """Give the sizes of many files below ``prefix``, by key relative to it."""
        return {key: self.size(f"{prefix}/{key}") for key in keys}

    def list_files(self, prefix: str) -> Iterator[Found]:  # noqa: ARG002  for those that can
        """Give every file below the folder ``prefix``, in no order; none if it is not there."""
        raise StoreError(f"{self.where} cannot be listed; `spahgc store copy` it to a folder")

    def put(self, key: str, content: bytes) -> None:
        """Write one file whole, in the place of what was there."""
        raise self._read_only(key, content)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Write one file whole unless there is one of that key; tell whether it was written."""
        raise self._read_only(key, content)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files; those that are not there any more are no error."""
        raise self._read_only(*keys)

    def keeps_put_if_absent(self) -> bool:
        """Try out whether of two writers of one key only the first succeeds."""
        return True

    def _check_size(self, key: str, size: int, at_most: int | None) -> None:
        if at_most is not None and size > at_most:
            raise DamagedStoreError(
                f"{self.where}/{key} has {size} bytes instead of at most {at_most}; refused"
            )

    def _read_only(self, *_: object) -> StoreError:
        return StoreError(
            f"{self.where} can only be read; `spahgc store copy` it to a folder or an s3:// place "
            "to write to it"
        )


def check_key(key: str, *, where: str) -> str:
    """Refuse a key that could lead out of its location, and give it back.

    Raises
    ------
    DamagedStoreError
        If a part of it is empty, ``.`` or ``..``, or it has a backslash, a control character or
        more than 1,024 characters.
    """
    parts = key.split("/")
    if any(part in {"", ".", ".."} for part in parts) or _UNPRINTABLE.search(key):
        raise DamagedStoreError(f"{where}: the key {key[:80]!r} is refused: it may lead elsewhere")
    if len(key) > _LONGEST_KEY:
        raise DamagedStoreError(f"{where}: a key of {len(key)} characters is refused")
    return key
