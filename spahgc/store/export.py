"""Slides as files for other programs: AnnData's h5ad, or a SpatialData container."""

import json
from pathlib import Path
from typing import Final, Literal, TypeAlias

import anndata
import zarr

from spahgc.errors import StoreError
from spahgc.schema import SPATIAL
from spahgc.store import layout
from spahgc.store.container import measure_spot, write_container
from spahgc.store.durable import replacing
from spahgc.store.handing_on import SlideToHandOn
from spahgc.store.slide import StoredSlide
from spahgc.store.table import describe_pictures

ExportFormat: TypeAlias = Literal["h5ad", "spatialdata"]

SUFFIXES: Final[dict[ExportFormat, str]] = {"h5ad": ".h5ad", "spatialdata": ".zarr"}


def export_slide(
    slide: StoredSlide,
    folder: Path,
    *,
    to: ExportFormat,
    overwrite: bool = False,
    keep_paths: bool = False,
) -> Path:
    """Write one slide with all its embeddings as ``folder/<slide>.h5ad`` or ``.zarr``.

    Parameters
    ----------
    slide
        Every part of it is read through its checks, so damage is an error and never exported.
    folder
        Made if need be; what is half-written there has a name that starts with a dot.
    to
        ``h5ad``: see `as_table`; ``spatialdata``: see `spahgc.store.container`.
    overwrite
        Replace an earlier file of that name.
    keep_paths
        Tell where the slide's files lay; else only their names, see `spahgc.store.handing_on`.

    Raises
    ------
    StoreError
        If the file is there already and ``overwrite`` is not set, or cannot be written.
    DamagedStoreError
        If the slide is not as it was committed.
    """
    place = find_place(slide, folder, to=to, overwrite=overwrite)
    slide = slide if keep_paths else SlideToHandOn(slide)
    table = as_table(slide)
    with replacing(place) as unfinished:
        if to == "h5ad":
            table.write_h5ad(unfinished, compression="gzip")
        else:
            write_container(slide, table, unfinished)
    return place


def find_place(
    slide: StoredSlide, folder: Path, *, to: ExportFormat, overwrite: bool = False
) -> Path:
    """Say where `export_slide` would write, and write nothing.

    Raises
    ------
    StoreError
        If something is there already and ``overwrite`` is not set.
    """
    place = folder / f"{slide.name}{SUFFIXES[to]}"
    if place.exists() and not overwrite:
        raise StoreError(f"{place} exists already; replace it with `--overwrite`")
    return place


def as_table(slide: StoredSlide) -> anndata.AnnData:
    """Read a whole slide as the AnnData that scanpy and squidpy work on.

    Returns
    -------
    anndata.AnnData
        ``X`` (S, G) raw counts, CSR of unsigned integers; ``obs`` and ``var`` as stored;
        ``obsm["spatial"]`` (S, 2) float64 x, y in full-resolution pixels; each embedding as
        ``obsm[name]`` (S, D) float32; ``uns["spatial"]`` pictures and scale factors;
        ``uns["spahgc"]`` JSON text of what `spahgc store show` prints.
    """
    names = sorted(slide.entry.encoders)
    record = {
        **slide.record,
        "embeddings": {name: slide.embedding_record(name) for name in names},
    }
    return anndata.AnnData(
        X=slide.read_counts(),
        obs=slide.spots.copy(),
        var=slide.genes.copy(),
        obsm={SPATIAL: slide.centers} | {name: slide.read_embedding(name) for name in names},
        uns={
            layout.STORE_ATTRIBUTE: json.dumps(record),
            SPATIAL: describe_pictures(
                slide.name, slide.read_thumbnails(), spot_diameter=measure_spot(slide)
            ),
        },
    )


def write_h5ad(table: anndata.AnnData, path: Path) -> None:
    """Write an AnnData as h5ad, whole or not at all.

    Raises
    ------
    StoreError
        If ``path`` cannot be written.
    """
    with replacing(path) as unfinished:
        table.write_h5ad(unfinished, compression="gzip")


def write_zarr(table: anndata.AnnData, path: Path) -> None:
    """Write an AnnData as a Zarr v3 folder, whole or not at all.

    Raises
    ------
    StoreError
        If ``path`` cannot be written.
    """
    settings = anndata.settings.override(
        zarr_write_format=3, auto_shard_zarr_v3=False, allow_write_nullable_strings=True
    )
    with replacing(path) as unfinished, settings:
        anndata.io.write_elem(zarr.open_group(unfinished, mode="w", zarr_format=3), "/", table)
