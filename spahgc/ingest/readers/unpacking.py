"""Read the files of a slide, packed or not, and never more of one than such a file holds."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import h5py

from spahgc.errors import SlideFormatError

MIB: Final = 1 << 20
_BLOCK_BYTES: Final = MIB
_AGAIN: Final = "see that it is the right one, and copy it again from where it came"
_SMALL_PART_BYTES: Final = 256 * MIB
_MOST_TIMES_UNPACKED: Final = 200  # counts and their places take a twentieth of it


def check_file(path: Path, *, expected: str) -> None:
    """Check that there is a file at ``path``; ``expected`` says of what kind.

    Raises
    ------
    SlideFormatError
        If there is none.
    """
    if not path.is_file():
        missing = "is a link that leads nowhere" if path.is_symlink() else "does not exist"
        found = "is a folder" if path.is_dir() else missing
        raise SlideFormatError(f"{path} {found}, expected {expected}")


def check_folder(path: Path, *, expected: str) -> None:
    """Check that there is a folder at ``path``; ``expected`` says of what kind.

    Raises
    ------
    SlideFormatError
        If there is none.
    """
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise SlideFormatError(f"{path} {found}, expected {expected}")


def read_bytes(path: Path, *, most: int) -> bytes:
    """Read a file, unzipped where it is gzipped, whatever its name.

    Parameters
    ----------
    most
        Bytes that no such file exceeds once it is unzipped.

    Raises
    ------
    SlideFormatError
        If the file cannot be read, breaks off or holds more.
    """
    content = bytearray()
    try:
        with open_bytes(path, most=most) as file:
            while block := file.read(_BLOCK_BYTES):
                content += block
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise SlideFormatError(
            f"{path}: found a file that cannot be read ({reason}), expected a whole one; copy it "
            "again from where it came"
        ) from error
    return bytes(content)


@contextmanager
def open_bytes(path: Path, *, most: int, advice: str = _AGAIN) -> Iterator[BinaryIO]:
    """Open a file, unzipped where it is gzipped, whatever its name.

    Parameters
    ----------
    most
        Bytes that no such file exceeds once it is unzipped; reading on raises SlideFormatError.
    advice
        What to do with a file that does.

    Raises
    ------
    OSError
        If the file cannot be opened; reading it may raise EOFError and zlib.error too.
    """
    with path.open("rb") as file:
        is_packed = _is_gzipped(file)
        source = gzip.GzipFile(fileobj=file) if is_packed else file
        found = f"{most // MIB} MiB" + (" once unzipped" if is_packed else "")
        refusal = f"{path}: found more than {found}, expected less of such a file; {advice}"
        bounded = _Bounded(cast("BinaryIO", source), most, refusal)
        with io.BufferedReader(bounded, _BLOCK_BYTES) as opened:
            yield cast("BinaryIO", opened)


def is_gzipped(path: Path) -> bool:
    """Tell by its first bytes whether a file is gzipped.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        return _is_gzipped(file)


def check_stored(path: Path, element: h5py.Dataset | h5py.Group) -> None:
    """Check, before any is read, that arrays of an HDF5 file are as large as it can hold.

    Raises
    ------
    SlideFormatError
        If one claims more than 256 MiB and than 200 times the whole file.
    """
    most = max(_SMALL_PART_BYTES, _MOST_TIMES_UNPACKED * path.stat().st_size)

    def check(_name: str, part: Any) -> None:  # noqa: ANN401  h5py is untyped
        if isinstance(part, h5py.Dataset) and part.size and part.nbytes > most:
            raise SlideFormatError(
                f"{path}: {part.name.lstrip('/')} claims {part.nbytes // MIB} MiB, expected at "
                f"most {most // MIB} MiB in a file of its size; copy it again from where it came"
            )

    check("", element)
    if isinstance(element, h5py.Group):
        element.visititems(check)


class _Bounded(io.RawIOBase):
    """A file of which only so much may be read."""

    def __init__(self, file: BinaryIO, most: int, refusal: str) -> None:
        self._file = file
        self._left = most
        self._refusal = refusal

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  as the base class has it
        """Fill ``buffer``, or raise SlideFormatError where no more may be read."""
        content = self._file.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise SlideFormatError(self._refusal)
        buffer[: len(content)] = content
        return len(content)


def _is_gzipped(file: io.BufferedReader) -> bool:
    return file.peek(2)[:2] == b"\x1f\x8b"
