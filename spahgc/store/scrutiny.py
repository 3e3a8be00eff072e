"""What a slide of a store that somebody else wrote must not make us do."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from spahgc.errors import DamagedStoreError
from spahgc.store import layout
from spahgc.store.entries import SlideEntry
from spahgc.store.manifest import Manifest

CODECS: Final = frozenset(
    ["blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "vlen-utf8", "zstd"]
)
"""None of them runs what it reads."""

DTYPES: Final = frozenset(
    [
        "bool",
        *(f"{sign}int{n_bits}" for sign in ("", "u") for n_bits in (8, 16, 32, 64)),
        *(f"float{n_bits}" for n_bits in (16, 32, 64)),
        "string",
    ]
)

LARGEST_CHUNK: Final = 1 << 28
"""Bytes of one chunk, unpacked."""

LARGEST_RATIO: Final = 20_000
"""Times that a file may grow when it is unpacked; constant numbers do by some thousands."""

_STRING_BYTES = 8


def check_manifest(manifest: Manifest, entry: SlideEntry) -> None:
    """Refuse a slide whose arrays name unknown codecs, or more numbers than can be there.

    Every array must have all its files, so that none is filled with what was never written,
    and may not unpack to absurdly more than they hold.

    Raises
    ------
    DamagedStoreError
        If one does.
    """
    if len(manifest.files) > 100_000 or len(manifest.documents) > 10_000:
        raise DamagedStoreError(f"{len(manifest.files)} files in one slide are refused")
    n_files = _count_chunks(manifest)
    for key, document in manifest.documents.items():
        try:
            if document["node_type"] == "array":
                _check_array(document, *n_files.get(key, (0, 0)))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise DamagedStoreError(f"{key} is refused: {error}") from None
    _check_lengths(manifest, entry)


def _count_chunks(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Count the files of each array, and their bytes."""
    found: dict[str, tuple[int, int]] = {}
    for key, record in manifest.files.items():
        array = _array_of(key)
        if array is not None:
            n_files, n_bytes = found.get(array, (0, 0))
            found[array] = (n_files + 1, n_bytes + record.size)
    return found


def _array_of(key: str) -> str | None:
    """Name the array that a file is a chunk of: ``X/data`` of ``X/data/c/0``, ``n`` of ``n/c``."""
    parts = key.split("/")
    while parts and parts[-1].isdecimal():
        parts.pop()
    return "/".join(parts[:-1]) if parts and parts[-1] == "c" else None


def _check_array(document: Mapping[str, Any], n_files: int, n_bytes: int) -> None:
    shape = [int(n) for n in document["shape"]]
    if any(n < 0 or n != m for n, m in zip(shape, document["shape"], strict=True)):
        raise ValueError(f"its shape {document['shape']} is none")
    if document["data_type"] not in DTYPES:
        raise ValueError(f"it holds {str(document['data_type'])[:80]}, which is not read")
    if document["chunk_key_encoding"]["name"] != "default":
        raise ValueError("its files are named in another way")
    _check_codecs(document["codecs"])
    chunks = [int(n) for n in document["chunk_grid"]["configuration"]["chunk_shape"]]
    expected = math.prod(-(-n // chunk) for n, chunk in zip(shape, chunks, strict=True))
    if expected != n_files:
        raise ValueError(f"its shape {shape} needs {expected} files, {n_files} were committed")
    _check_size(document, shape, chunks, n_bytes)


def _check_size(
    document: Mapping[str, Any], shape: list[int], chunks: list[int], n_bytes: int
) -> None:
    is_text = document["data_type"] == "string"
    itemsize = _STRING_BYTES if is_text else np.dtype(document["data_type"]).itemsize
    inner = next(
        (c["configuration"]["chunk_shape"] for c in document["codecs"] if _is_sharding(c)), chunks
    )
    if math.prod(int(n) for n in inner) * itemsize > LARGEST_CHUNK:
        raise ValueError(f"chunks of {inner} numbers are too large")
    declared = math.prod(shape) * itemsize
    if declared > LARGEST_RATIO * n_bytes + LARGEST_CHUNK // 256:
        raise ValueError(f"its shape {shape} does not fit {n_bytes} bytes of files")


def _check_codecs(codecs: list[Mapping[str, Any]]) -> None:
    for codec in codecs:
        if codec["name"] not in CODECS:
            raise ValueError(f"its codec {str(codec['name'])[:80]!r} is not read")
        if _is_sharding(codec):
            _check_codecs(codec["configuration"]["codecs"])
            _check_codecs(codec["configuration"]["index_codecs"])


def _is_sharding(codec: Mapping[str, Any]) -> bool:
    return bool(codec["name"] == "sharding_indexed")


def _check_lengths(manifest: Manifest, entry: SlideEntry) -> None:
    """Compare the arrays that have a row for every spot with what the commit says."""
    embeddings = [f"{layout.EMBEDDINGS}/{name}" for name in entry.encoders]
    for key in (layout.CENTERS, *embeddings):
        shape = manifest.documents.get(key, {}).get("shape")
        if not isinstance(shape, list) or len(shape) != 2 or shape[0] != entry.n_spots:
            raise DamagedStoreError(
                f"{key} has the shape {shape}, the slide {entry.n_spots} spots; refused"
            )
