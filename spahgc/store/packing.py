"""A store in one file, to be sent or put on a web server: an uncompressed .zip."""

import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

from spahgc.errors import DamagedStoreError, StoreError
from spahgc.store import layout
from spahgc.store.cohort import Cohort
from spahgc.store.commits import spell_newest
from spahgc.store.contents import index_keys, read_file
from spahgc.store.durable import replacing
from spahgc.store.handing_on import CohortToHandOn

_DATE: Final = (1980, 1, 1, 0, 0, 0)
"""Of every file inside, so that the same store makes the same archive."""


def pack_store(
    source: Cohort,
    archive: Path,
    *,
    keep_paths: bool = False,
    advance: Callable[[int], None] | None = None,
) -> int:
    """Write all that a store holds now into one .zip, and return its size in bytes.

    Parameters
    ----------
    source
        The store.
    archive
        The file to be made.
    keep_paths
        Tell where the files of the slides lay, and who made the commits; else only the files'
        names, see `spahgc.store.handing_on`.
    advance
        Told how many more bytes are written.

    Raises
    ------
    StoreError
        If the file is there already, or cannot be written.
    DamagedStoreError
        If a file of the store is missing or damaged; no archive is left then.
    """
    if archive.exists():
        raise StoreError(f"{archive} is there already; remove it, or name another file")
    if archive.suffix != ".zip":
        raise StoreError(f"{archive}: a packed store is known by its name; let it end in .zip")
    with (
        replacing(archive) as unfinished,
        zipfile.ZipFile(unfinished, "x", zipfile.ZIP_STORED) as file,
    ):
        handed = source if keep_paths else CohortToHandOn(source)
        for key, content in _contents(handed):
            file.writestr(zipfile.ZipInfo(key, _DATE), content)
            if advance is not None:
                advance(len(content))
    return archive.stat().st_size


def _contents(source: Cohort) -> Iterator[tuple[str, bytes]]:
    """Give every file of the newest commit, the small ones that tell of the others first."""
    store = source.store
    groups = (layout.ROOT_DOCUMENT, f"{layout.TABLES}/{layout.ROOT_DOCUMENT}")
    yield from ((key, _read(source, key)) for key in groups)
    if isinstance(source, CohortToHandOn):
        yield from source.spell_commits().items()
    else:
        yield from ((key, _read(source, key)) for key in _commits_and_pages(source))
    if source.commit.number:
        yield layout.NEWEST, spell_newest(source.commit.number)
    for key, digest in index_keys(source.commit).items():
        yield key, store.read_blob(lambda _, key=key: key, digest)  # type: ignore[misc]
    for slide in source.slides.values():
        group = slide.entry.group
        manifest = slide.spell_manifest()
        yield layout.manifest_key(sha256(manifest).hexdigest()), manifest
        yield f"{group}/{layout.ROOT_DOCUMENT}", slide.manifest.spell_group()
        for key in slide.manifest.files:
            yield f"{group}/{key}", read_file(slide, key)


def _read(source: Cohort, key: str) -> bytes:
    try:
        return source.store.location.read(key)
    except FileNotFoundError:
        raise DamagedStoreError(f"{source.where}: {key} is missing") from None


def _commits_and_pages(source: Cohort) -> Iterator[str]:
    yield from (layout.commit_key(n) for n in range(1, source.commit.number + 1))
    yield from (layout.page_key(page.sha256) for page in source.commit.catalogue.pages.values())
