"""What is committed: numbered, append-only documents that say which slides a store holds."""

import getpass
import json
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Self

from spahgc.errors import CommitConflictError, DamagedStoreError
from spahgc.store import layout
from spahgc.store.blobs import Blobs
from spahgc.store.entries import Catalogue, PageRecord, SlideEntry, catalogue_of

ATTEMPTS = 100
"""How often a commit is tried again when others commit at the same moment."""

_PLAIN = ("number", "message", "made_at", "made_by", "unique")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Everything a store holds at one moment."""

    number: int = 0
    """0 is the empty store before its first commit."""

    slides: Mapping[str, SlideEntry] = field(default_factory=dict)
    """By slide name; read when asked for."""

    indexes: Mapping[str, str] = field(default_factory=dict)
    """sha256 of each index record, by the index's name."""

    message: str = ""
    """What changed, for people."""

    made_at: str = ""
    """ISO 8601, UTC."""

    made_by: str = ""
    """user@host; empty where it was handed on without."""

    unique: str = ""
    """Different in every commit ever made, so that a writer knows its own again."""

    @property
    def catalogue(self) -> Catalogue:
        """The slides as what finds one of them without reading all."""
        return self.slides if isinstance(self.slides, Catalogue) else catalogue_of(self.slides)

    def with_slide(self, name: str, entry: SlideEntry) -> Self:
        """Add one slide, or put it in the place of the one of that name."""
        return replace(self, slides=self.catalogue.with_entry(name, entry))

    def without_slide(self, name: str) -> Self:
        """Leave one slide out."""
        return replace(self, slides=self.catalogue.without(name))

    def with_index(self, name: str, digest: str) -> Self:
        """Add the record of one index."""
        return replace(self, indexes={**self.indexes, name: digest})

    def digest(self) -> str:
        """Digest all that is held; two stores of one digest hold the same."""
        held = {"slides": self.catalogue.digest(), "indexes": dict(self.indexes)}
        return sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()

    @classmethod
    def parse(cls, text: bytes, *, number: int, read: Callable[[str], Mapping[str, Any]]) -> Self:
        """Read one commit document; ``number`` is the one in its key."""
        key = layout.commit_key(number)
        try:
            document = json.loads(text)
            document.pop("digest")
            pages = {page: PageRecord(**it) for page, it in document.pop("pages").items()}
            commit = cls(**document, slides=Catalogue(pages, read))
            _check(commit, pages)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DamagedStoreError(f"{key} cannot be read: {error}") from None
        if text != _spell({**json.loads(text), "digest": _digest(text)}) or commit.number != number:
            raise DamagedStoreError(f"{key} is damaged: its digest is another one")
        return commit

    def serialise(self, pages: Mapping[str, PageRecord]) -> bytes:
        """Spell this commit as JSON that carries its own digest."""
        document = {key: getattr(self, key) for key in _PLAIN}
        document |= {"indexes": dict(self.indexes)}
        document |= {"pages": {page: asdict(record) for page, record in sorted(pages.items())}}
        return _spell({**document, "digest": _digest(_spell(document))})


class Store(Blobs):
    """A store, opened: its newest commit, and the one door through which it changes.

    `spahgc.store.opening.open_store` and `spahgc.store.opening.create_store` make one.
    """

    is_signed = True
    """Whether commits say who makes them."""

    @property
    def head(self) -> Commit:
        """The newest commit, read afresh: without listing, so that any web server will do."""
        number = self.read_newest()
        commit = Commit() if number == 0 else self.read_commit(number)
        if commit is None:
            raise DamagedStoreError(
                f"{self.where}: {layout.commit_key(number)} is missing, though "
                f"{layout.NEWEST} names it"
            )
        while (later := self.read_commit(commit.number + 1)) is not None:
            commit = later
        return commit

    def history(self) -> Iterator[Commit]:
        """Give every commit, newest first; the pages of old ones may be gone.

        Raises
        ------
        DamagedStoreError
            Where one is missing, since nobody knows what it and those before it name.
        """
        commit = self.head
        while commit.number > 0:
            yield commit
            number = commit.number - 1
            before = Commit() if number == 0 else self.read_commit(number)
            if before is None:
                raise DamagedStoreError(
                    f"{self.where}: {layout.commit_key(number)} is missing; "
                    "`spahgc store verify` lists all damage"
                )
            commit = before

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
        StoreError
            If the place cannot be written, or not safely.
        """
        for _ in range(ATTEMPTS):
            found = self.head
            wanted = change(found)
            if wanted is found:
                return found
            self.check_writable()
            made = replace(
                wanted,
                number=found.number + 1,
                slides=wanted.catalogue,
                message=message,
                made_at=datetime.now(UTC).isoformat(timespec="seconds"),
                made_by=f"{name_user()}@{socket.gethostname()}" if self.is_signed else "",
                unique=uuid.uuid4().hex,
            )
            pages = made.catalogue.write(lambda page: self.put_document(layout.page_key, page))
            if self.put_if_absent(layout.commit_key(made.number), made.serialise(pages)):
                self.point_at(made.number)
                return made
        raise CommitConflictError(f"{self.where}: others committed first {ATTEMPTS} times; again?")

    def point_at(self, number: int) -> None:
        """Leave the number of the newest commit for those who open the store next."""
        self.location.put(layout.NEWEST, spell_newest(number))

    def read_newest(self) -> int:
        """Read the number that the last writer left; it may lag behind, never lead."""
        try:
            number = json.loads(self._read_small(layout.NEWEST))["number"]
        except FileNotFoundError:
            return 0
        except (ValueError, TypeError, KeyError, RecursionError):
            number = None
        if not isinstance(number, int) or number < 1:
            raise DamagedStoreError(
                f"{self.where}: {layout.NEWEST} is damaged; remove it, and `spahgc store gc` "
                "writes it anew"
            )
        return number

    def read_commit(self, number: int) -> Commit | None:
        """Read one commit, None if it was never made."""
        try:
            text = self._read_small(layout.commit_key(number))
        except FileNotFoundError:
            return None
        return Commit.parse(text, number=number, read=self._read_page)

    def _read_small(self, key: str) -> bytes:
        return self.location.read(key, at_most=layout.LARGEST_DOCUMENT)

    def _read_page(self, digest: str) -> Mapping[str, Any]:
        return self.read_document(layout.page_key, digest)


def name_user() -> str:
    """Name who runs this; by number in containers and on clusters where nobody has a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # as Python spells it up to 3.12, from 3.13, Windows
        return f"uid{os.getuid()}" if hasattr(os, "getuid") else "unknown"


def spell_newest(number: int) -> bytes:
    """Give the bytes of the document that tells the number of the newest commit."""
    return _spell({"number": number})


def _check(commit: Commit, pages: Mapping[str, PageRecord]) -> None:
    digests = [*commit.indexes.values(), *(page.sha256 for page in pages.values())]
    if not all(layout.DIGEST.fullmatch(digest) for digest in digests):
        raise ValueError("it names what is no sha256")
    for name in commit.indexes:
        layout.check_embedding_name(name)
    datetime.fromisoformat(commit.made_at)
    if not isinstance(commit.message, str) or not isinstance(commit.made_by, str):
        raise TypeError("its message is no text")


def _digest(text: bytes) -> str:
    """Digest a commit document but for the digest in it."""
    document = json.loads(text)
    document.pop("digest", None)
    return sha256(_spell(document)).hexdigest()


def _spell(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode()
