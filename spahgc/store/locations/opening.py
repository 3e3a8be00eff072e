"""From what a user types to the location it means."""

from pathlib import Path
from urllib.parse import urlsplit

from spahgc.errors import StoreError
from spahgc.store.locations.archive import ArchiveLocation
from spahgc.store.locations.folder import FolderLocation
from spahgc.store.locations.location import Location
from spahgc.store.locations.remote import open_bucket, open_web
from spahgc.urls import how_to_give, scheme_with_password

_ARCHIVE = ".zip"


def open_location(where: str | Path) -> Location:
    """Look at a folder, ``s3://bucket/name``, ``https://…``, or a .zip in any of them.

    Raises
    ------
    StoreError
        If it is empty, a URL of another kind, or an archive that is not there or is none.
    """
    text = str(where)
    refuse_passwords(text)
    if not text:
        raise StoreError("no place is named; name a folder, s3://bucket/name, https://… or a .zip")
    if not text.endswith("://"):
        text = text.rstrip("/") or "/"
    if text.endswith(_ARCHIVE) and not Path(text).is_dir():
        parent, name = _split(text)
        return ArchiveLocation(_open_place(parent), name, where=text)
    return _open_place(text)


def refuse_passwords(text: str) -> None:
    """Refuse a URL that holds a user or a password, without repeating it.

    Raises
    ------
    StoreError
        If it is one.
    """
    if (scheme := scheme_with_password(text)) is not None:
        raise StoreError(how_to_give(scheme))


def is_remote(where: str) -> bool:
    """Whether ``where`` is a URL and no path of this machine."""
    return "://" in where


def _split(text: str) -> tuple[str, str]:
    if is_remote(text):
        parent, _, name = text.rpartition("/")
        return parent, name
    path = Path(text)
    return str(path.parent), path.name


def _open_place(text: str) -> Location:
    if not is_remote(text):
        return FolderLocation(Path(text))
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise StoreError(f"{text} is no URL: {error}") from None
    if parts.query or parts.fragment:
        raise StoreError(f"{text}: a URL with '?' or '#' names no folder of files")
    match parts.scheme:
        case "s3":
            return open_bucket(text)
        case "http" | "https":
            return open_web(text)
        case scheme:
            raise StoreError(
                f"{text}: no {scheme}:// here; name a folder, s3://bucket/name, https://… or a .zip"
            )
