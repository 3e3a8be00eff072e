"""A store in a folder of this machine, or of a drive that it sees."""

import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from os.path import normcase
from pathlib import Path

from filelock import FileLock

from spahgc.errors import DamagedStoreError, StoreError
from spahgc.store.durable import sync_folder, write_durably
from spahgc.store.locations.location import Found, Location, check_key

_NO_LINKS = frozenset(
    [errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EINVAL]
)

_PIECE = 2**20


class FolderLocation(Location):
    """A folder; links inside it are refused, since they may lead out of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), address=str(path.absolute()))
        self._path = path
        self._real = Path(os.path.realpath(path))

    @property
    def is_writable(self) -> bool:
        """Folders are; the operating system may refuse single files."""
        return True

    @property
    def folder(self) -> Path:
        """The folder."""
        return self._path

    def path_of(self, key: str) -> Path:
        """Give the path of a key, links in it refused."""
        path = self._real / check_key(key, where=self.where)
        is_within = path.is_relative_to(self._real)  # on Windows, a key may begin with a drive
        # Windows gives back names as they were made, in whatever case they are asked for
        if not is_within or normcase(os.path.realpath(path)) != normcase(path):
            raise DamagedStoreError(f"{self.where}: {key} is refused: a link leads elsewhere")
        return path

    def exists(self) -> bool:
        """Whether the folder is there."""
        return self._path.exists()

    def read(self, key: str, *, at_most: int | None = None) -> bytes:
        """Read one file whole."""
        path = self._file(key)
        self._check_size(key, path.stat().st_size, at_most)
        return path.read_bytes()

    def read_part(self, key: str, *, start: int, stop: int) -> bytes:
        """Read bytes ``start`` to ``stop`` (not included) of one file."""
        with self._file(key).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def read_pieces(self, key: str) -> Iterator[memoryview]:
        """Read one file bit by bit; a piece is gone when the next one is asked for."""
        piece = memoryview(bytearray(_PIECE))
        with self._file(key).open("rb", buffering=0) as file:
            while n := file.readinto(piece):
                yield piece[:n]

    def size(self, key: str) -> int | None:
        """Give the size of one file in bytes, None if there is none of that key."""
        try:
            return self._file(key).stat().st_size
        except FileNotFoundError:
            return None

    def sizes(self, prefix: str, keys: Iterable[str]) -> dict[str, int | None]:
        """Give the sizes of many files below ``prefix``; a link is as good as no file."""
        sizes: dict[str, int | None] = {}
        for key in keys:
            try:
                sizes[key] = self.size(f"{prefix}/{key}")
            except DamagedStoreError:
                sizes[key] = None
        return sizes

    def list_files(self, prefix: str) -> Iterator[Found]:
        """Give every file below the folder ``prefix``, in no order; none if it is not there."""
        for parent, _, names in os.walk(self.path_of(prefix)):
            for name in names:
                path = Path(parent) / name
                try:
                    status = path.lstat()
                except FileNotFoundError:  # removed by another process meanwhile
                    continue
                changed = datetime.fromtimestamp(status.st_mtime, UTC)
                yield Found(path.relative_to(self._real).as_posix(), status.st_size, changed)

    def put(self, key: str, content: bytes) -> None:
        """Write one file whole, in the place of what was there."""
        path = self.path_of(key)
        with self._writing(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, content)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Write one file whole unless there is one of that key; tell whether it was written."""
        path = self.path_of(key)
        unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        with self._writing(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(unfinished, content)
            try:
                return _name_if_absent(unfinished, path)
            finally:
                unfinished.unlink(missing_ok=True)
                sync_folder(path.parent)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files, and the folders that they leave empty."""
        for key in keys:
            path = self.path_of(key)
            path.unlink(missing_ok=True)
            self._prune(path.parent)

    @contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        """Say which store the disk refuses to write: the operating system often does not."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.where} cannot be written: {error.strerror or error} ({key})"
            ) from error

    def _prune(self, folder: Path) -> None:
        while len(folder.relative_to(self._real).parts) > 1:
            try:
                folder.rmdir()
            except OSError:  # not empty, or gone
                return
            folder = folder.parent

    def _file(self, key: str) -> Path:
        path = self.path_of(key)
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return path


def _name_if_absent(unfinished: Path, path: Path) -> bool:
    try:
        os.link(unfinished, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _name_under_lock(unfinished, path)
    return True


def _name_under_lock(unfinished: Path, path: Path) -> bool:
    """Do the same where the file system has no hard links, as on some network drives."""
    with FileLock(path.with_name(".lock")):
        if path.exists():
            return False
        unfinished.rename(path)
    return True
