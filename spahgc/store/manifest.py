"""The list of everything one slide version consists of."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Self

import xxhash

from spahgc.errors import DamagedStoreError
from spahgc.store import layout
from spahgc.store.locations.location import Location, check_key


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size and digests of one committed file."""

    size: int
    """In bytes."""

    sha256: str
    """In hex; what `spahgc.store.care.verify_store` and copies compare."""

    xxh3: str
    """XXH3, 128 bits, in hex: what every reading compares, as fast as memory. (No CRC-32C: of
    files that end in their own, as shards do, it is the same for all.)"""

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Take one record apart; anything but a size and two digests is a `ValueError`."""
        record = cls(**document)
        digests = (record.sha256, record.xxh3)
        if not isinstance(record.size, int) or record.size < 0:
            raise ValueError(f"{str(record.size)[:80]!r} is no size")
        if not all(isinstance(digest, str) for digest in digests):
            raise ValueError(f"{str(digests)[:80]} are no digests")
        return record

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Describe one file."""
        return cls(
            size=len(content),
            sha256=sha256(content).hexdigest(),
            xxh3=xxhash.xxh3_128_hexdigest(content),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Every file of one slide version, and its Zarr metadata in one piece.

    The group's own ``zarr.json`` is not among the files: it is derived from this manifest for
    readers that know nothing of commits (see `group_document`).
    """

    attributes: Mapping[str, Any]
    """Attributes of the slide's group."""

    documents: Mapping[str, Mapping[str, Any]]
    """Zarr metadata of every member, by key relative to the group."""

    files: Mapping[str, FileRecord]
    """Every file below the group but its own ``zarr.json``, by key relative to the group."""

    @classmethod
    def of_group(cls, location: Location, prefix: str, *, attributes: Mapping[str, Any]) -> Self:
        """Read back a slide's group that was just written below ``prefix``."""
        return cls._of(location, prefix, attributes, leave_out=layout.ROOT_DOCUMENT)

    @classmethod
    def of_array(cls, location: Location, prefix: str) -> Self:
        """Read back one array that was just written below ``prefix``; see `with_member`."""
        return cls._of(location, prefix, {}, leave_out=None)

    @classmethod
    def _of(
        cls,
        location: Location,
        prefix: str,
        attributes: Mapping[str, Any],
        *,
        leave_out: str | None,
    ) -> Self:
        documents, files = {}, {}
        for found in sorted(location.list_files(prefix), key=lambda found: found.key):
            key = found.key.removeprefix(f"{prefix}/")
            if key == leave_out or key.rpartition("/")[2].startswith("."):  # a writer's own
                continue
            content = location.read(found.key)
            files[key] = FileRecord.of(content)
            folder, _, name = key.rpartition("/")
            if name == layout.ROOT_DOCUMENT:
                documents[folder] = json.loads(content)
        return cls(attributes=attributes, documents=documents, files=files)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Take a manifest apart that `serialise` spelled.

        Raises
        ------
        DamagedStoreError
            If it lacks something, or a key in it leads out of the slide.
        """
        try:
            files = {
                check_key(key, where="a manifest"): FileRecord.parse(record)
                for key, record in document["files"].items()
            }
            documents = {key: dict(member) for key, member in document["documents"].items()}
            return cls(attributes=dict(document["attributes"]), documents=documents, files=files)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DamagedStoreError(f"a manifest cannot be read: {error}") from None

    def serialise(self) -> dict[str, Any]:
        """Spell this manifest as a JSON document."""
        return {
            "attributes": dict(self.attributes),
            "documents": {key: dict(document) for key, document in self.documents.items()},
            "files": {
                key: {"size": record.size, "sha256": record.sha256, "xxh3": record.xxh3}
                for key, record in self.files.items()
            },
        }

    @property
    def n_bytes(self) -> int:
        """Of all files."""
        return sum(record.size for record in self.files.values())

    def with_member(self, key: str, member: "Manifest") -> "Manifest":
        """Add the array whose folder ``member`` describes under ``key``."""
        documents = {f"{key}/{name}".rstrip("/"): doc for name, doc in member.documents.items()}
        files = {f"{key}/{name}": record for name, record in member.files.items()}
        return replace(
            self,
            documents={**self.documents, **documents},
            files={**self.files, **files},
        )

    def member(self, key: str) -> "Manifest":
        """Give what `with_member` added under ``key``."""
        documents = {
            name.removeprefix(key).strip("/"): doc
            for name, doc in self.documents.items()
            if name == key or name.startswith(f"{key}/")
        }
        files = {
            name.removeprefix(f"{key}/"): record
            for name, record in self.files.items()
            if name.startswith(f"{key}/")
        }
        return Manifest(attributes={}, documents=documents, files=files)

    def without_member(self, key: str) -> "Manifest":
        """Leave one array out."""
        return replace(
            self,
            documents={
                name: doc
                for name, doc in self.documents.items()
                if name != key and not name.startswith(f"{key}/")
            },
            files={
                name: record
                for name, record in self.files.items()
                if not name.startswith(f"{key}/")
            },
        )

    def with_contents(self, contents: Mapping[str, bytes]) -> "Manifest":
        """Exchange what is in some of the files, by key."""
        suffix = f"/{layout.ROOT_DOCUMENT}"
        documents = {
            key.removesuffix(suffix): json.loads(content)
            for key, content in contents.items()
            if key.endswith(suffix)
        }
        files = {key: FileRecord.of(content) for key, content in contents.items()}
        return replace(
            self,
            documents={**self.documents, **documents},
            files={**self.files, **files},
        )

    def group_document(self) -> dict[str, Any]:
        """Spell the group's own ``zarr.json``, with every member's metadata consolidated."""
        return {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": dict(self.attributes),
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": {name: _consolidated(doc) for name, doc in self.documents.items()},
            },
        }

    def spell_group(self) -> bytes:
        """Give the bytes of the group's own ``zarr.json``."""
        return json.dumps(self.group_document(), sort_keys=True).encode()

    def problems(self, location: Location, group: str, *, deep: bool) -> Iterator[str]:
        """List what differs between the files below ``group`` and this manifest.

        Parameters
        ----------
        location
            That holds the group.
        group
            Key of the slide's group.
        deep
            Compare digests too, which reads every byte; else presence and sizes.
        """
        sizes = location.sizes(group, self.files)
        for key, record in self.files.items():
            if (size := sizes[key]) is None:
                yield f"{key} is missing"
            elif size != record.size:
                yield f"{key} has {size} bytes instead of {record.size}"
            elif deep and not _is_intact(location, f"{group}/{key}", record):
                yield f"{key} is damaged: its digest is another one"
        if not self.is_derived(location, group):
            yield f"{layout.ROOT_DOCUMENT} is out of date; `spahgc store gc` writes it anew"

    def is_derived(self, location: Location, group: str) -> bool:
        """Tell whether the group's ``zarr.json`` is the one this manifest asks for."""
        try:
            found = location.read(f"{group}/{layout.ROOT_DOCUMENT}")
        except FileNotFoundError:
            return False
        if found == self.spell_group():
            return True
        older = json.dumps(self.group_document(), indent=1, sort_keys=True)  # it was indented once
        return found == older.encode()


def _consolidated(document: Mapping[str, Any]) -> dict[str, Any]:
    """Say of a group that what is below it is told above, or Zarr would list an empty one."""
    if document.get("node_type") != "group":
        return dict(document)
    nothing = {"kind": "inline", "must_understand": False, "metadata": {}}
    return {**document, "consolidated_metadata": nothing}


def _is_intact(location: Location, key: str, record: FileRecord) -> bool:
    try:
        return FileRecord.of(location.read(key)) == record
    except FileNotFoundError:
        return False
