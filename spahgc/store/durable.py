"""Writing that survives a power cut: whole files or none, and on the disk before they count."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from spahgc.errors import StoreError

IS_WINDOWS: Final = os.name == "nt"
"""There a folder cannot be opened, nor a file be made to last that is open for reading only."""

_NO_FOLDER_SYNC: Final = frozenset([errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP])
"""What network and user-space file systems say that have no way to make a folder last."""


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
            old = place.rename(unfinished.with_name(f"{unfinished.name}.old"))
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
    """Make renames inside ``folder`` last; Windows has no way to ask for that."""
    if IS_WINDOWS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
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
    with path.open("r+b" if IS_WINDOWS else "rb") as file:
        os.fsync(file.fileno())
