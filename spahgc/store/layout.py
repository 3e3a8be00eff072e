"""Names inside a store, its format version, and which names a slide may have.

Keys are relative to the store's root and use ``/``::

    zarr.json                        root group: format version, SpatialData's container mark
    tables/<group>/…                 one AnnData a slide
    manifests/<sha256>.json          every file of one slide version: size, digests, Zarr metadata
    indexes/<name>/<sha256>.json     one index record
    pages/<sha256>.json              some of the slides of a commit
    commits/00000001.json …          append-only; the newest says what the store holds
    commits/newest.json              a hint: the number of a commit that may not be the last
    staging/…                        what is being written; never read
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from spahgc.errors import SlideFormatError

FORMAT_VERSION: Final = 1
STORE_ATTRIBUTE: Final = "spahgc"
ROOT_DOCUMENT: Final = "zarr.json"

TABLES: Final = "tables"
MANIFESTS: Final = "manifests"
INDEXES: Final = "indexes"
PAGES: Final = "pages"
COMMITS: Final = "commits"
NEWEST: Final = "commits/newest.json"
STAGING: Final = "staging"

DIGEST: Final = re.compile(r"[0-9a-f]{64}")
"""A sha256 as it is spelled in keys and documents."""

COUNTS: Final = "X"
OBS: Final = "obs"
VAR: Final = "var"
CENTERS: Final = "obsm/spatial"
EMBEDDINGS: Final = "obsm"
RECORD: Final = "uns/spahgc"
PICTURES: Final = "uns/spatial"

ROOT_ATTRIBUTES: Final[dict[str, dict[str, Any]]] = {
    "spatialdata_attrs": {"version": "0.2", "spatialdata_software_version": "0.5.0"},
}
TABLE_ATTRIBUTES: Final = {
    "encoding-type": "anndata",
    "encoding-version": "0.1.0",
    "spatialdata-encoding-type": "ngff:regions_table",
    "region": None,
    "region_key": None,
    "instance_key": None,
    "version": "0.2",
}

LARGEST_DOCUMENT: Final = 1 << 28
"""Bytes of a JSON document of a store; a manifest of 100,000 files has some 20 million."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = r"\.v[0-9]{1,9}"
_GROUP = re.compile(rf"{_NAME.pattern}({_VERSION})?")
_VERSIONS = re.compile(rf"({_VERSION})+$", re.IGNORECASE)
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul"] + [f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)]
)


def check_slide_name(name: str) -> None:
    """Refuse a name that some file system or URL would not carry.

    Raises
    ------
    SlideFormatError
        If ``name`` is not 1 to 128 letters, digits, dots, dashes or underscores starting with
        a letter or digit, or is a device name on Windows.
    """
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise SlideFormatError(
            f"{name!r} cannot name a slide: use letters, digits, '.', '_' and '-' "
            "(at most 128, first a letter or digit); choose another with `--name`"
        )
    if _is_device(name):
        raise SlideFormatError(
            f"{name!r} cannot name a slide: Windows keeps that name for a device; "
            "choose another with `--name`"
        )


def check_new_slide_name(name: str) -> None:
    """Refuse a name that a slide may have in an older store, but no new one may be given.

    Raises
    ------
    SlideFormatError
        As `check_slide_name`, and if it ends as the group of a replaced slide does, in ``.v2``.
    """
    check_slide_name(name)
    if name != without_version(name):
        raise SlideFormatError(
            f"{name!r} cannot name a slide: it ends as a later version of a slide "
            f"{without_version(name)!r} would; choose another with `--name`"
        )


def without_version(name: str) -> str:
    """Leave out ``.v2`` and the like at the end: what names of one kind of group share."""
    return _VERSIONS.sub("", name)


def version_key(name: str, version: int) -> str:
    """Spell the key of the group that a version of a slide may lie in, counted from 1."""
    return f"{TABLES}/{name}" if version == 1 else f"{TABLES}/{name}.v{version}"


def check_group(group: str) -> None:
    """Refuse a key that is no group of a slide.

    Raises
    ------
    ValueError
        If it is one.
    """
    table, _, name = group.partition("/")
    if table != TABLES or not _GROUP.fullmatch(name) or name.endswith(".") or _is_device(name):
        raise ValueError(f"{group[:200]!r} is no place of a slide")


def spelled_like(name: str, known: Iterable[str]) -> str | None:
    """Give what differs from ``name`` in case only: one folder on macOS and Windows."""
    alike = (other for other in known if other != name and other.lower() == name.lower())
    return next(alike, None)


def check_embedding_name(name: str) -> None:
    """Refuse a name of an embedding or index that some file system or URL would not carry.

    Raises
    ------
    SlideFormatError
        As `check_slide_name`, and for ``spatial``, which holds the spot centers.
    """
    if not _NAME.fullmatch(name) or name.endswith(".") or name == "spatial":
        raise SlideFormatError(
            f"{name[:80]!r} cannot name an embedding: use letters, digits, '.', '_' and '-'; "
            "choose another with `--name`"
        )


def check_new_embedding_name(name: str) -> None:
    """Refuse a name that an embedding or index may have in an older store, but no new one.

    Raises
    ------
    SlideFormatError
        As `check_embedding_name`, and if it is a device name on Windows, or ``spatial`` in
        other letters.
    """
    check_embedding_name(name)
    if _is_device(name) or name.lower() == "spatial":
        raise SlideFormatError(
            f"{name!r} cannot name an embedding: it is a name that Windows or the store keeps; "
            "choose another with `--name`"
        )


def _is_device(name: str) -> bool:
    return name.lower().split(".")[0] in _DEVICES


def commit_key(number: int) -> str:
    """Spell the key of one commit, counted from 1."""
    return f"{COMMITS}/{number:08d}.json"


def claim_key(group: str) -> str:
    """Spell the key of the claim that keeps others from filling ``group``."""
    return f"{STAGING}/claims/{group.replace('/', '~')}"


def manifest_key(digest: str) -> str:
    """Spell the key of one manifest; ``digest`` is its sha256 in hex."""
    return f"{MANIFESTS}/{digest}.json"


def page_key(digest: str) -> str:
    """Spell the key of one page of slides; ``digest`` is its sha256 in hex."""
    return f"{PAGES}/{digest}.json"


def index_key(name: str, digest: str) -> str:
    """Spell the key of one index record; ``digest`` is its sha256 in hex."""
    return f"{INDEXES}/{name}/{digest}.json"
