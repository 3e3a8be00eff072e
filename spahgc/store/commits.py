"""What is committed: numbered, append-only documents that say which slides a store holds."""

import errno
import getpass
import json
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore

from spahgc.errors import (
    CommitConflictError,
    DamagedStoreError,
    FormatVersionError,
    StoreError,
)
from spahgc.store import layout
from spahgc.store.durable import sync_folder, write_durably

ATTEMPTS = 100
"""How often a commit is tried again when others commit at the same moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideEntry:
    """One slide as a commit knows it: where it lies, and enough to list it."""

    group: str
    """Key of its Zarr group, as ``tables/C2``."""

    manifest: str
    """sha256 of its manifest."""

    content: str
    """Digest of what was ingested; the same input gives the same digest."""

    platform: str
    """Which reader made it."""

    patient: str | None
    """None means unknown."""

    n_spots: int
    """Rows of every table of this slide."""

    n_genes: int
    """0 for an image without expression."""

    microns_per_pixel: float | None
    """Of full-resolution pixels, in µm."""

    image: str | None
    """Where the full-resolution image was at ingest."""

    counts_digest: str | None = None
    """Digest of the raw counts alone; None for an image without expression."""

    image_digest: str | None = None
    """sha256 of the image file."""

    encoders: Mapping[str, str] = field(default_factory=dict)
    """Digest of each embedding's encoder fingerprint, by the embedding's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Everything a store holds at one moment."""

    number: int = 0
    """0 is the empty store before its first commit."""

    slides: Mapping[str, SlideEntry] = field(default_factory=dict)
    """By slide name."""

    indexes: Mapping[str, str] = field(default_factory=dict)
    """sha256 of each index record, by the index's name."""

    message: str = ""
    """What changed, for people."""

    made_at: str = ""
    """ISO 8601, UTC."""

    made_by: str = ""
    """user@host."""

    @classmethod
    def parse(cls, text: bytes, *, number: int) -> Self:
        """Read one commit document; ``number`` is the one in its key."""
        try:
            document = json.loads(text)
            slides = {name: SlideEntry(**entry) for name, entry in document["slides"].items()}
            return cls(**{**document, "slides": slides, "number": number})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedStoreError(f"commit {number} cannot be read: {error}") from error

    def serialise(self) -> bytes:
        """Spell this commit as JSON."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()


class Store:
    """A store on disk, opened: its newest commit, and the one door through which it changes."""

    def __init__(self, path: Path) -> None:
        """Use `open_store` or `create_store`."""
        self.path = path
        self._objects = LocalStore(path)

    @property
    def head(self) -> Commit:
        """The newest commit, read afresh."""
        number = max(self._commit_numbers(), default=0)
        if number == 0:
            return Commit()
        return self._read_commit(number)

    def history(self) -> Iterator[Commit]:
        """Give every commit that is still kept, newest first."""
        for number in sorted(self._commit_numbers(), reverse=True):
            yield self._read_commit(number)

    def commit(self, change: Callable[[Commit], Commit], *, message: str) -> Commit:
        """Apply ``change`` to the newest commit and put the result after it.

        Parameters
        ----------
        change
            From the commit it finds to the one it wants; called again if somebody else
            committed first, so it must look at what it is given. Returning its argument
            unchanged commits nothing.
        message
            What changed, for people.

        Raises
        ------
        CommitConflictError
            If others were faster `ATTEMPTS` times.
        """
        for _ in range(ATTEMPTS):
            found = self.head
            wanted = change(found)
            if wanted is found:
                return found
            made = replace(
                wanted,
                number=found.number + 1,
                message=message,
                made_at=datetime.now(UTC).isoformat(timespec="seconds"),
                made_by=f"{getpass.getuser()}@{socket.gethostname()}",
            )
            if self._put_if_absent(layout.commit_key(made.number), made.serialise()):
                return made
        raise CommitConflictError(
            f"{self.path}: others committed first {ATTEMPTS} times; try again"
        )

    def put_document(self, key_of: Callable[[str], str], document: Mapping[str, Any]) -> str:
        """Write one JSON document under its own digest, and return that sha256."""
        text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        digest = sha256(text).hexdigest()
        self._put_if_absent(key_of(digest), text)
        return digest

    def read_document(self, key_of: Callable[[str], str], digest: str) -> dict[str, Any]:
        """Read one JSON document by its digest.

        Raises
        ------
        DamagedStoreError
            If it is missing or its bytes have another digest.
        """
        key = key_of(digest)
        try:
            text = (self.path / key).read_bytes()
        except FileNotFoundError:
            raise DamagedStoreError(f"{self.path}: {key} is missing") from None
        if sha256(text).hexdigest() != digest:
            raise DamagedStoreError(f"{self.path}: {key} is damaged: its digest is another one")
        document: dict[str, Any] = json.loads(text)
        return document

    def _read_commit(self, number: int) -> Commit:
        return Commit.parse((self.path / layout.commit_key(number)).read_bytes(), number=number)

    def _commit_numbers(self) -> list[int]:
        folder = self.path / layout.COMMITS
        return [int(file.stem) for file in folder.glob("*.json") if file.stem.isdecimal()]

    def _put_if_absent(self, key: str, text: bytes) -> bool:
        try:
            obstore.put(self._objects, key, text, mode="create")
        except AlreadyExistsError:
            return False
        sync_folder((self.path / key).parent)
        return True


def open_store(path: Path) -> Store:
    """Open an existing store.

    Raises
    ------
    StoreError
        If there is nothing at ``path``, or something else than a store.
    FormatVersionError
        If a newer spahgc wrote it.
    """
    document = path / layout.ROOT_DOCUMENT
    if not path.exists():
        raise StoreError(f"{path} does not exist; `spahgc ingest` makes a store")
    try:
        attributes = json.loads(document.read_bytes())["attributes"]
        version = attributes[layout.STORE_ATTRIBUTE]["format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(
            f"{path} is not a spahgc store: no format version in {layout.ROOT_DOCUMENT}; "
            "name another place with `--store`"
        ) from None
    if not isinstance(version, int) or version > layout.FORMAT_VERSION:
        raise FormatVersionError(
            f"{path} has format {version}, this spahgc reads up to {layout.FORMAT_VERSION}; "
            "upgrade with `pip install --upgrade spahgc`"
        )
    return Store(path)


def create_store(path: Path) -> Store:
    """Open the store at ``path``, making an empty one where there is nothing.

    Raises
    ------
    StoreError
        If something else than a store lies there, or the place cannot be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        return open_store(path)
    unfinished = path.absolute().with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        for folder in (layout.TABLES, layout.MANIFESTS, layout.COMMITS, layout.STAGING):
            (unfinished / folder).mkdir(parents=True)
        _write_group(unfinished / layout.TABLES, {})
        _write_group(unfinished, layout.ROOT_ATTRIBUTES)
        unfinished.rename(path)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:  # another process was faster
            return open_store(path)
        raise StoreError(f"{path} cannot be made: {error.strerror}") from error
    return Store(path)


def _write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    write_durably(folder / layout.ROOT_DOCUMENT, json.dumps(document, indent=1).encode())
