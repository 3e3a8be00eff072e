"""Writing that survives a power cut: whole files or none, and on the disk before they count."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spahgc.errors import StoreError


def write_durably(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, replacing what was there in one step."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """Give a place beside ``place`` to write a file or folder, and put it there when it is whole.

    Raises
    ------
    StoreError
        If something cannot be written, or a file would take the place of a folder.
    """
    unfinished = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        if place.is_dir() and not unfinished.is_dir():
            raise StoreError(f"{place} is a folder, expected the place of a file")
        sync_tree(unfinished)
        if place.is_dir():  # a folder cannot be replaced in one step
            old = place.rename(unfinished.with_suffix(".old"))
            try:
                unfinished.rename(place)
            except OSError:
                old.rename(place)
                raise
            shutil.rmtree(old)
        else:
            unfinished.replace(place)
        sync_folder(place.parent)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        is_below_file = isinstance(error, FileExistsError)
        reason = os.strerror(errno.ENOTDIR) if is_below_file else error.strerror or error
        raise StoreError(f"{place} cannot be written: {reason}") from error
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        elif unfinished.exists():
            unfinished.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(place: Path) -> None:
    """Make a file, or every file and folder under a folder, last."""
    if place.is_file():
        _sync_file(place)
    for parent, _, files in os.walk(place):
        for name in files:
            _sync_file(Path(parent) / name)
        sync_folder(Path(parent))


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
