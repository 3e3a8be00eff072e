"""Open the store that lies somewhere, or make one."""

import errno
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spahgc.errors import FormatVersionError, StoreError
from spahgc.store import layout
from spahgc.store.commits import Store
from spahgc.store.durable import IS_WINDOWS, write_durably
from spahgc.store.locations.location import Location
from spahgc.store.locations.opening import open_location


def open_store(where: str | Path) -> Store:
    """Open an existing store: a folder, ``s3://bucket/name``, ``https://…`` or a .zip.

    Raises
    ------
    StoreError
        If there is nothing, or something else than a store.
    FormatVersionError
        If a newer spahgc wrote it.
    """
    location = open_location(where)
    attributes = _read_attributes(location)
    version = attributes.get("format")
    if not isinstance(version, int) or version > layout.FORMAT_VERSION:
        raise FormatVersionError(
            f"{location.where} has format {version}, this spahgc reads up to "
            f"{layout.FORMAT_VERSION}; upgrade with `pip install --upgrade spahgc`"
        )
    return Store(location, is_single_writer=attributes.get("single_writer") is True)


def find_store(where: str | Path) -> Store | None:
    """Open the store that lies there, or give None where nothing lies yet.

    Raises
    ------
    StoreError
        If something else than a store lies there.
    """
    return open_store(where) if open_location(where).exists() else None


def create_store(where: str | Path, *, is_single_writer: bool = False) -> Store:
    """Open the store that lies there, making an empty one where there is nothing.

    Parameters
    ----------
    where
        A folder, or ``s3://bucket/name``.
    is_single_writer
        Only one process will ever write at a time; for places that cannot keep two apart.

    Raises
    ------
    StoreError
        If something else than a store lies there, or the place cannot be written, or not
        safely by several.
    """
    location = open_location(where)
    if not location.is_writable:
        return open_store(where)
    if location.folder is not None:
        return _create_folder(location.folder, is_single_writer=is_single_writer)
    if not location.exists():
        Store(location, is_single_writer=is_single_writer).check_writable()
        for key, attributes in group_attributes(is_single_writer=is_single_writer).items():
            location.put(key, spell_group(attributes))
    return open_store(where)


def _read_attributes(location: Location) -> Mapping[str, Any]:
    try:
        document = location.read(layout.ROOT_DOCUMENT, at_most=layout.LARGEST_DOCUMENT)
        attributes = json.loads(document)["attributes"][layout.STORE_ATTRIBUTE]
    except FileNotFoundError:
        if not location.exists():
            raise StoreError(
                f"{location.where} does not exist; `spahgc ingest` makes a store"
            ) from None
        attributes = None
    except (ValueError, KeyError, TypeError, RecursionError):
        attributes = None
    except NotADirectoryError:
        attributes = None
    if not isinstance(attributes, dict):
        raise StoreError(
            f"{location.where} is not a spahgc store: no format version in "
            f"{layout.ROOT_DOCUMENT}; name another place with `--store`"
        )
    return attributes


def group_attributes(*, is_single_writer: bool) -> dict[str, Mapping[str, Any]]:
    """Give the attributes of the groups above the slides; the root, which makes a store, last."""
    ours: dict[str, Any] = {"format": layout.FORMAT_VERSION}
    if is_single_writer:
        ours["single_writer"] = True
    root = {layout.STORE_ATTRIBUTE: ours, **layout.ROOT_ATTRIBUTES}
    return {f"{layout.TABLES}/{layout.ROOT_DOCUMENT}": {}, layout.ROOT_DOCUMENT: root}


def spell_group(attributes: Mapping[str, Any]) -> bytes:
    """Give the bytes of a group's ``zarr.json``."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(document, indent=1).encode()


def _create_folder(path: Path, *, is_single_writer: bool) -> Store:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        return open_store(path)
    unfinished = path.absolute().with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        for folder in (layout.TABLES, layout.COMMITS, layout.STAGING):
            (unfinished / folder).mkdir(parents=True)
        for key, attributes in group_attributes(is_single_writer=is_single_writer).items():
            write_durably(unfinished / key, spell_group(attributes))
        if IS_WINDOWS and path.exists():  # an empty folder, which a rename does not replace there
            path.rmdir()
        unfinished.rename(path)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:  # another process was faster
            return open_store(path)
        raise StoreError(f"{path} cannot be made: {error.strerror}") from error
    return open_store(path)
