"""Files that are named by what is in them: written once, never changed, checked when read."""

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from spahgc.errors import DamagedStoreError, StoreError
from spahgc.store import layout
from spahgc.store.locations.location import Location


class Blobs:
    """A location whose files have their sha256 for a name; commits stand on them."""

    def __init__(self, location: Location, *, is_single_writer: bool = False) -> None:
        """Look at ``location``; a single writer promises that no other writes meanwhile."""
        self.location = location
        self.is_single_writer = is_single_writer

    @property
    def where(self) -> str:
        """The location as the user names it."""
        return self.location.where

    @property
    def path(self) -> Path:
        """The folder of a store on this machine.

        Raises
        ------
        StoreError
            If it lies elsewhere.
        """
        if self.location.folder is None:
            raise StoreError(f"{self.where} is no folder of this machine")
        return self.location.folder

    def path_of(self, key: str) -> Path:
        """Give the path of a key of a store on this machine.

        Raises
        ------
        StoreError
            If the store lies elsewhere, or a link leads out of it.
        """
        return self.location.path_of(key)

    def put_blob(self, key_of: Callable[[str], str], content: bytes) -> str:
        """Write bytes under their own digest, and return that sha256."""
        self.check_writable()
        digest = sha256(content).hexdigest()
        self.put_if_absent(key_of(digest), content)
        return digest

    def read_blob(self, key_of: Callable[[str], str], digest: str) -> bytes:
        """Read bytes by their digest.

        Raises
        ------
        DamagedStoreError
            If they are missing or have another digest.
        """
        if not layout.DIGEST.fullmatch(digest):
            raise DamagedStoreError(f"{self.where}: {digest[:80]!r} is no sha256")
        key = key_of(digest)
        try:
            content = self.location.read(key)
        except FileNotFoundError:
            raise DamagedStoreError(f"{self.where}: {key} is missing") from None
        if sha256(content).hexdigest() != digest:
            raise DamagedStoreError(f"{self.where}: {key} is damaged: its digest is another one")
        return content

    def put_document(self, key_of: Callable[[str], str], document: Mapping[str, Any]) -> str:
        """Write one JSON document under its own digest, and return that sha256."""
        return self.put_blob(key_of, spell_document(document))

    def read_document(self, key_of: Callable[[str], str], digest: str) -> dict[str, Any]:
        """Read one JSON document by its digest.

        Raises
        ------
        DamagedStoreError
            If it is missing, its bytes have another digest, or it is no JSON object.
        """
        content = self.read_blob(key_of, digest)
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise DamagedStoreError(f"{self.where}: {key_of(digest)} is no JSON object")
        return document

    def check_writable(self) -> None:
        """Refuse a place that cannot be written, or where two writers could lose commits.

        Raises
        ------
        StoreError
            If it is one.
        """
        self.location.refuse_reading_only()
        if not self._is_safe:
            raise StoreError(
                f"{self.where}: this place lets a second writer overwrite the first one's commit "
                "(no put-if-absent); where never more than one process writes, make the store "
                "with `spahgc store init --single-writer`"
            )

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Write a file where none lies yet; say whether that was so."""
        if not self.is_single_writer:
            return self.location.put_if_absent(key, content)
        if self.location.size(key) is not None:
            return False
        self.location.put(key, content)
        return True

    @cached_property
    def _is_safe(self) -> bool:
        return self.is_single_writer or self.location.keeps_put_if_absent()


def spell_document(document: Mapping[str, Any]) -> bytes:
    """Give the bytes of a document that is named by their digest."""
    return json.dumps(document, sort_keys=True).encode()
