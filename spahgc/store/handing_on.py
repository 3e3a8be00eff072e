"""A store as it is handed on: without where its files lay, since names of patients travel in paths.

Nothing else is left out, and what has no path in it is handed on byte for byte, so that a copy of
a copy is the same again.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from spahgc.errors import DamagedStoreError
from spahgc.store import layout
from spahgc.store.blobs import spell_document
from spahgc.store.cohort import Cohort
from spahgc.store.commits import Commit
from spahgc.store.entries import Catalogue, PageRecord
from spahgc.store.manifest import Manifest
from spahgc.store.slide import StoredSlide

_SEPARATOR: Final = re.compile(r"(?<=\S)[/\\]|[/\\](?=\S)")
"""Of folders; ``77 / 154`` has none."""

_NO_PATH: Final = re.compile(
    r"https?://\S+|(?<!\S)(?:layers|obs|obsm|obsp|raw|uns|var|varm|varp|X)/\S+"
)
"""URLs of the web, and keys inside an h5ad file."""

_WORDS: Final = frozenset({"slide", "platform", "patient", "section", "tissue", "licence"})
"""Keys of what people say, in which a ``/`` parts words."""


def name_of_file(path: str) -> str:
    """Give the last part of a path of any operating system."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def without_folders(text: str) -> str:
    """Leave the folders out of a sentence that quotes paths.

    Folders' names may hold any character, spaces too, so all between the beginning of the sentence,
    or the last colon before its first path, and the last file's name goes.
    """
    masked = _NO_PATH.sub(lambda found: "-" * len(found[0]), text)
    ends = [found.end() for found in _SEPARATOR.finditer(masked)]
    if not ends:
        return text
    start = text.rfind(": ", 0, ends[0])
    return text[: start + 2 if start >= 0 else 0] + text[ends[-1] :]


class CohortToHandOn(Cohort):
    """The slides of a store without where their files lay."""

    def __init__(self, cohort: Cohort) -> None:
        """Look at ``cohort``; see `hand_on`."""
        super().__init__(cohort.store, cohort.commit)
        self._handed: dict[str, StoredSlide] = {}

    def __getitem__(self, name: str) -> StoredSlide:
        """Give one slide; see `Cohort`."""
        if name not in self._handed:
            self._handed[name] = SlideToHandOn(super().__getitem__(name))
        return self._handed[name]

    def spell_commits(self) -> dict[str, bytes]:
        """Give every commit, made by nobody, and the pages of the newest one, by key."""
        contents: dict[str, bytes] = {}
        for number in range(1, self.commit.number):
            commit = self.store.read_commit(number)
            if commit is None:
                raise DamagedStoreError(f"{self.where}: {layout.commit_key(number)} is missing")
            contents[layout.commit_key(number)] = _unsigned(commit, commit.catalogue.pages)
        if self.commit.number:
            pages = self._catalogue().write(lambda page: _add(contents, spell_document(page)))
            contents[layout.commit_key(self.commit.number)] = _unsigned(self.commit, pages)
        return contents

    def _catalogue(self) -> Catalogue:
        """Give the slides as a commit knows them once they are handed on."""
        catalogue = self.commit.catalogue
        for name in self.commit.slides:
            slide = self[name]
            digest, entry = sha256(slide.spell_manifest()).hexdigest(), slide.entry
            if digest != entry.manifest:
                entry = replace(entry, manifest=digest, n_bytes=slide.manifest.n_bytes)
            catalogue = catalogue.with_entry(name, entry)
        return catalogue


class SlideToHandOn(StoredSlide):
    """A slide without where its files lay: of its image the name alone is told."""

    def __init__(self, slide: StoredSlide) -> None:
        """Look at ``slide``; nothing is read yet."""
        super().__init__(slide.store, slide.name, slide.entry)
        self._slide = slide
        image = slide.entry.image
        self.entry = replace(slide.entry, image=None if image is None else name_of_file(image))

    @cached_property
    def manifest(self) -> Manifest:
        """Every file that is handed on."""
        return self._slide.manifest.with_contents(self._rewritten)

    @cached_property
    def stored_record(self) -> dict[str, Any]:
        """What was said of the slide at ingest."""
        return _without_paths(self._slide.stored_record)

    def spell_manifest(self) -> bytes:
        """Give the bytes of the document of what is handed on."""
        if not self._rewritten:
            return self._slide.spell_manifest()
        return spell_document(self.manifest.serialise())

    def read_file(self, key: str) -> bytes:
        """Read one file; see `StoredSlide.read_file`."""
        rewritten = self._rewritten.get(key)
        return self._slide.read_file(key) if rewritten is None else rewritten

    def read_embedding(self, name: str) -> NDArray[np.float32]:
        """Read an embedding from the files that lie there; see `StoredSlide.read_embedding`."""
        return self._slide.read_embedding(name)

    @cached_property
    def _rewritten(self) -> dict[str, bytes]:
        """Every file that names a path, without it, by key."""
        contents: dict[str, bytes] = {}
        manifest = self._slide.manifest
        if self.stored_record != self._slide.stored_record:
            contents |= _spell_text(manifest, layout.RECORD, json.dumps(self.stored_record))
        for name in self._slide.entry.encoders:
            key = f"{layout.EMBEDDINGS}/{name}"
            document = dict(manifest.documents.get(key, {}))
            if (stripped := _without_notes(document)) != document:
                contents[f"{key}/{layout.ROOT_DOCUMENT}"] = json.dumps(stripped, indent=2).encode()
        return contents


def _unsigned(commit: Commit, pages: Mapping[str, PageRecord]) -> bytes:
    return replace(commit, made_by="").serialise(pages)


def _add(contents: dict[str, bytes], page: bytes) -> str:
    digest = sha256(page).hexdigest()
    contents[layout.page_key(digest)] = page
    return digest


def _without_paths(record: Mapping[str, Any]) -> dict[str, Any]:
    image = record.get("image")
    if isinstance(image, dict):
        own = {key: name_of_file(str(image[key])) for key in ("path",) if key in image}
        # what follows is where a tiled copy lay
        own |= {key: str(image[key]).split(",")[0] for key in ("reader",) if key in image}
        record = {**record, "image": {**image, **own}}
    return {key: _stripped(value, key) for key, value in record.items()}


def _without_notes(document: Mapping[str, Any]) -> dict[str, Any]:
    """Strip the notes of an embedding; its fingerprint is kept as it is."""
    attributes = document.get("attributes", {})
    record = attributes.get(layout.STORE_ATTRIBUTE, {})
    if not isinstance(record, dict) or not isinstance(record.get("notes"), dict):
        return dict(document)
    record = {**record, "notes": _stripped(record["notes"])}
    return {**document, "attributes": {**attributes, layout.STORE_ATTRIBUTE: record}}


def _stripped(value: Any, key: str = "") -> Any:  # noqa: ANN401  whatever JSON holds
    if isinstance(value, str):
        return value if key in _WORDS else without_folders(value)
    if isinstance(value, dict):
        return {without_folders(inner): _stripped(v, inner) for inner, v in value.items()}
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    return value


def _spell_text(manifest: Manifest, key: str, text: str) -> dict[str, bytes]:
    """Give the files of the array of one text at ``key``, its metadata as they are."""
    files: dict[str, Buffer] = {}
    document = json.dumps(manifest.documents[key]).encode()
    files[layout.ROOT_DOCUMENT] = default_buffer_prototype().buffer.from_bytes(document)
    array = zarr.open_array(MemoryStore(files), mode="r+", zarr_format=3)
    array[...] = np.array(text, dtype=object)
    del files[layout.ROOT_DOCUMENT]
    return {f"{key}/{name}": content.to_bytes() for name, content in files.items()}
