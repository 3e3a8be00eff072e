"""The list of everything one slide version consists of, and reading that trusts nothing else."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, Self

import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.group import ConsolidatedMetadata, GroupMetadata
from zarr.storage import LocalStore, StorePath, WrapperStore

from spahgc.errors import DamagedStoreError
from spahgc.store import layout
from spahgc.store.durable import write_durably


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size and digest of one committed file."""

    size: int
    """In bytes."""

    sha256: str
    """In hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Every file of one slide version, and its Zarr metadata in one piece.

    The group's own ``zarr.json`` is not among the files: it is derived from this manifest for
    readers that know nothing of commits (see `write_group_document`).
    """

    attributes: Mapping[str, Any]
    """Attributes of the slide's group."""

    documents: Mapping[str, Mapping[str, Any]]
    """Zarr metadata of every member, by key relative to the group."""

    files: Mapping[str, FileRecord]
    """Every file below the group but its own ``zarr.json``, by key relative to the group."""

    @classmethod
    def of_group(cls, folder: Path, *, attributes: Mapping[str, Any]) -> Self:
        """Read back a slide's group that was just written below ``folder``."""
        return cls._of(folder, attributes, leave_out=folder / layout.ROOT_DOCUMENT)

    @classmethod
    def of_array(cls, folder: Path) -> Self:
        """Read back one array that was just written below ``folder``; see `with_member`."""
        return cls._of(folder, {}, leave_out=None)

    @classmethod
    def _of(cls, folder: Path, attributes: Mapping[str, Any], *, leave_out: Path | None) -> Self:
        files = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path != leave_out
        }
        documents = {
            key.rpartition("/")[0]: json.loads(path.read_bytes())
            for key, path in files.items()
            if path.name == layout.ROOT_DOCUMENT
        }
        records = {key: _read_record(path) for key, path in files.items()}
        return cls(attributes=attributes, documents=documents, files=records)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Take a manifest apart that `serialise` spelled."""
        try:
            files = {key: FileRecord(**record) for key, record in document["files"].items()}
            return cls(
                attributes=document["attributes"], documents=document["documents"], files=files
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedStoreError(f"a manifest lacks {error}") from error

    def serialise(self) -> dict[str, Any]:
        """Spell this manifest as a JSON document."""
        return asdict(self)

    def with_member(self, key: str, member: "Manifest") -> "Manifest":
        """Add the array whose folder ``member`` describes under ``key``."""
        documents = {f"{key}/{name}".rstrip("/"): doc for name, doc in member.documents.items()}
        files = {f"{key}/{name}": record for name, record in member.files.items()}
        return Manifest(
            attributes=self.attributes,
            documents={**self.documents, **documents},
            files={**self.files, **files},
        )

    def group_document(self) -> dict[str, Any]:
        """Spell the group's own ``zarr.json``, with every member's metadata consolidated."""
        metadata = GroupMetadata(
            attributes=dict(self.attributes),
            zarr_format=3,
            consolidated_metadata=ConsolidatedMetadata.from_dict(
                {
                    "kind": "inline",
                    "must_understand": False,
                    "metadata": {name: dict(doc) for name, doc in self.documents.items()},
                }
            ),
        )
        return metadata.to_dict()

    def open_group(self, folder: Path) -> zarr.Group:
        """Open the group below ``folder`` as this manifest knows it, without reading a file."""
        store = _CommittedStore(LocalStore(folder, read_only=True), self.files, folder)
        metadata = GroupMetadata.from_dict(self.group_document())
        return zarr.Group(zarr.AsyncGroup(metadata=metadata, store_path=StorePath(store)))

    def problems(self, folder: Path, *, deep: bool) -> Iterable[str]:
        """List what differs between the files below ``folder`` and this manifest.

        Parameters
        ----------
        folder
            Of the slide's group.
        deep
            Compare digests too, which reads every byte; else presence and sizes.
        """
        for key, record in self.files.items():
            path = folder / key
            if path.is_symlink() or not path.is_file():
                yield f"{key} is missing"
            elif (size := path.stat().st_size) != record.size:
                yield f"{key} has {size} bytes instead of {record.size}"
            elif deep and _read_record(path) != record:
                yield f"{key} is damaged: its digest is another one"
        if not self.is_derived(folder):
            yield f"{layout.ROOT_DOCUMENT} is out of date; `spahgc store gc` writes it anew"

    def is_derived(self, folder: Path) -> bool:
        """Tell whether the group's ``zarr.json`` is the one this manifest asks for."""
        try:
            found = json.loads((folder / layout.ROOT_DOCUMENT).read_bytes())
        except (OSError, ValueError):
            return False
        return bool(found == json.loads(json.dumps(self.group_document())))

    def write_group_document(self, folder: Path) -> None:
        """Write the group's ``zarr.json`` for AnnData, SpatialData and plain HTTP servers."""
        text = json.dumps(self.group_document(), indent=1, sort_keys=True)
        write_durably(folder / layout.ROOT_DOCUMENT, text.encode())


class _CommittedStore(WrapperStore[LocalStore]):
    """A Zarr store that knows which files there must be: a missing chunk is no silent fill."""

    def __init__(self, store: LocalStore, files: Mapping[str, FileRecord], folder: Path) -> None:
        super().__init__(store)
        self._files = files
        self._folder = folder

    def _with_store(self, store: LocalStore) -> "_CommittedStore":
        return type(self)(store, self._files, self._folder)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read one committed file, or part of it."""
        record = self._files.get(key)
        if record is None:
            return None
        await asyncio.to_thread(self._check, key, record)
        return await super().get(key, prototype, byte_range)

    def _check(self, key: str, record: FileRecord) -> None:
        path = self._folder / key
        size = None if path.is_symlink() or not path.is_file() else path.stat().st_size
        if size != record.size:
            raise DamagedStoreError(
                f"{path} is {'missing' if size is None else f'{size} bytes'}, "
                f"committed were {record.size} bytes; `spahgc store verify --deep` lists all damage"
            )


def _read_record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        return FileRecord(path.stat().st_size, file_digest(file, "sha256").hexdigest())
