"""One slide as an AnnData table in Zarr: every array checksummed, every chunk written.

Dimension letters in this file:

S spots
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from spahgc.schema import Slide, Thumbnail
from spahgc.store import layout

SPARSE_CHUNK = 262_144
"""Elements of one chunk of a sparse matrix's parts."""


def write_table(slide: Slide, folder: Path, *, made_by: str) -> dict[str, Any]:
    """Write one slide below ``folder`` as a Zarr v3 AnnData, and return its group attributes.

    Parameters
    ----------
    slide
        What a reader returned.
    folder
        A place nobody reads yet.
    made_by
        Name and version of the program that writes.
    """
    settings = anndata.settings.override(
        zarr_write_format=3, auto_shard_zarr_v3=False, allow_write_nullable_strings=True
    )
    with settings, zarr.config.set({"array.write_empty_chunks": True}):
        written: dict[str, Buffer] = {}
        # a file is written once, whole, and not at every step of AnnData's many
        group = zarr.open_group(MemoryStore(written), mode="w", zarr_format=3)
        _write_counts(group, slide.counts)
        centers = {"spatial": slide.centers.astype(np.float64)}
        for key, element in {
            layout.OBS: slide.spots,
            layout.VAR: slide.genes,
            "obsm": centers,
            "uns": {"spahgc": json.dumps(_record(slide, made_by)), "spatial": _pictures(slide)},
            **{key: {} for key in ("varm", "obsp", "varp", "layers")},
        }.items():
            anndata.io.write_elem(
                group, key, element, dataset_kwargs={"compressors": small_and_checked()}
            )
        group.attrs.update(layout.TABLE_ATTRIBUTES)
    for key, content in written.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.as_buffer_like())
    return dict(layout.TABLE_ATTRIBUTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideDigests:
    """By which the same slide, image or counts are known again: sha256 in hex."""

    whole: str
    """Of all that was read from the slide's files."""

    counts: str | None
    """Of its raw counts; None where nothing was measured."""

    image: str | None
    """Of its image file; None without one."""


def digest_slide(slide: Slide) -> SlideDigests:
    """Digest what was read from a slide's files; its counts take the time, a second per GB."""
    counts = _digest_counts(slide)
    image = None if slide.image is None else digest_image(slide.image.path)
    digest = sha256((counts or "").encode())
    digest.update(np.ascontiguousarray(slide.centers).tobytes())
    for frame in (slide.spots, slide.genes):
        digest.update(json.dumps(list(map(str, frame.columns))).encode())
        digest.update(pd.util.hash_pandas_object(frame).to_numpy().tobytes())
    facts = {key: fact for key, fact in _facts(slide).items() if key != "image"}
    digest.update(json.dumps(facts, sort_keys=True).encode())
    digest.update((image or "").encode())
    return SlideDigests(whole=digest.hexdigest(), counts=counts, image=image)


def _digest_counts(slide: Slide) -> str | None:
    if not len(slide.genes):
        return None
    digest = sha256(repr(slide.counts.shape).encode())
    counts = slide.counts
    for part, dtype in ((counts.data, "u4"), (counts.indices, "i4"), (counts.indptr, "i8")):
        digest.update(np.ascontiguousarray(part, dtype=dtype).data)
    return digest.hexdigest()


def digest_image(path: Path) -> str:
    """Digest an image file: its sha256, read once as long as the file stays as it is."""
    status = path.stat()
    return _digest_file(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest_file(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _write_counts(group: zarr.Group, counts: csr_matrix) -> None:
    sparse = group.create_group(layout.COUNTS)
    sparse.attrs.update(
        {
            "encoding-type": "csr_matrix",
            "encoding-version": "0.1.0",
            "shape": [int(n) for n in counts.shape],
        }
    )
    largest = int(counts.data.max(initial=0))
    pointer = np.int32 if counts.nnz < 2**31 else np.int64
    parts = {
        "data": counts.data.astype(np.uint16 if largest < 2**16 else np.uint32),
        # signed: scipy warns of, or refuses, unsigned indices; zstd packs the empty bytes away
        "indices": counts.indices.astype(pointer),
        "indptr": counts.indptr.astype(pointer),
    }
    for name, part in parts.items():
        write_sharded(sparse, name, part, chunk=SPARSE_CHUNK)


def write_sharded(group: zarr.Group, name: str, part: NDArray[Any], *, chunk: int) -> None:
    """Write a 1-D array as one shard that holds exactly the chunks it needs."""
    n_chunks = max(1, -(-len(part) // chunk))
    size = min(chunk, max(1, len(part)))
    array = group.create_array(
        name,
        shape=part.shape,
        dtype=part.dtype,
        chunks=(size,),
        shards=(size * n_chunks,),
        compressors=small_and_checked(),
        attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
    )
    array[:] = part


def small_and_checked() -> list[BloscCodec | Crc32cCodec]:
    """Give the codecs of everything that compresses: a flipped bit is an error, never a number."""
    return [BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec()]


def _facts(slide: Slide) -> dict[str, Any]:
    image = slide.image
    return {
        "slide": slide.name,
        "platform": slide.platform,
        "patient": slide.patient,
        "section": slide.section,
        "tissue": slide.tissue,
        "microns_per_pixel": slide.microns_per_pixel,
        "microns_per_pixel_sources": slide.microns_per_pixel_sources,
        "spot_diameter_um": slide.spot_diameter_um,
        "pitch_um": slide.pitch_um,
        "image": None
        if image is None
        else {"name": image.path.name, "size": list(image.size), "reader": image.reader},
    }


def _record(slide: Slide, made_by: str) -> dict[str, Any]:
    record = _facts(slide)
    if slide.image is not None:
        record["image"] |= _identify(slide.image.path)
    return {
        **record,
        "lattice": slide.lattice,  # no part of its digest: files of older stores are the same
        "findings": [asdict(finding) for finding in slide.findings],
        "made_by": made_by,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _identify(path: Path) -> dict[str, Any]:
    return {
        "path": str(path.absolute()),
        "bytes": path.stat().st_size,
        "sha256": digest_image(path),
    }


def _pictures(slide: Slide) -> Mapping[str, Any]:
    diameter = drawn_width(slide.spot_diameter_um, slide.microns_per_pixel, slide.centers)
    return describe_pictures(slide.name, slide.thumbnails, spot_diameter=diameter)


def drawn_width(
    diameter_um: float | None, microns_per_pixel: float | None, centers_S2: NDArray[np.float64]
) -> float | None:
    """Give how wide to draw a spot, in full-resolution pixels.

    The true width where it is known, or else that of circles which just touch; None where there
    are not two spots with places.
    """
    width = in_pixels(diameter_um, microns_per_pixel)
    known_S2 = centers_S2[np.isfinite(centers_S2).all(axis=1)]
    if width is not None or len(known_S2) < 2:
        return width
    distance_S1, _ = cKDTree(known_S2).query(known_S2, k=[2])  # the nearest is itself
    return float(np.median(distance_S1)) or None


def in_pixels(width_um: float | None, microns_per_pixel: float | None) -> float | None:
    """Give a width of so many µm in full-resolution pixels, None where one is unknown."""
    return width_um / microns_per_pixel if width_um and microns_per_pixel else None


def describe_pictures(
    name: str, thumbnails: Mapping[str, Thumbnail], *, spot_diameter: float | None
) -> dict[str, Any]:
    """Spell what scanpy and squidpy look for in ``uns["spatial"]``.

    Parameters
    ----------
    name
        Of the slide.
    thumbnails
        By scanpy's names for them, ``hires`` and ``lowres``.
    spot_diameter
        In full-resolution pixels.
    """
    scale = {f"tissue_{key}_scalef": picture.scale for key, picture in thumbnails.items()}
    if spot_diameter is not None:
        scale["spot_diameter_fullres"] = spot_diameter
    images = {key: picture.pixels for key, picture in thumbnails.items()}
    return {name: {"images": images, "scalefactors": scale, "metadata": {}}}
