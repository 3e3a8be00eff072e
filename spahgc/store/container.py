"""A slide as a SpatialData container of its own, written without the package of that name.

That package pins an older dask than embedding needs, so the layout is spelled here
(SpatialData container 0.2: table 0.2, shapes 0.3, raster 0.3) and read back by the real package
in ``tests/interop``. Everything lies in one coordinate system, ``global``: full-resolution pixels.

Dimension letters in this file:

H and W height and width of the picture
"""

import json
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import zarr
from pyarrow import parquet
from zarr.errors import ZarrUserWarning

from spahgc.schema import Thumbnail
from spahgc.store import layout
from spahgc.store.slide import StoredSlide
from spahgc.store.table import drawn_width, small_and_checked

TABLE: Final = "table"
REGION_KEY: Final = "region"
INSTANCE_KEY: Final = "spot_id"
PICTURE: Final = "hires"
PICTURE_CHUNK: Final = 512
"""Pixels of a side."""

_WKB_POINT: Final = struct.Struct("<BIdd")
_GEO: Final = {
    "version": "1.0.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"], "crs": None}},
}


def write_container(slide: StoredSlide, table: anndata.AnnData, path: Path) -> None:
    """Write ``path`` as a SpatialData container of one slide.

    It holds ``tables/table``; ``shapes/<slide>``, a circle for each spot, where the spots have
    places; and ``images/<slide>_hires_image`` where the slide has that picture.

    Parameters
    ----------
    slide
        The slide itself.
    table
        The same slide as AnnData; see `spahgc.store.export.as_table`.
    path
        Where nothing lies yet.
    """
    root = zarr.open_group(path, mode="w", zarr_format=3)
    root.attrs.update({"spatialdata_attrs": layout.ROOT_ATTRIBUTES["spatialdata_attrs"]})
    has_places = bool(slide.n_spots) and bool(np.isfinite(slide.centers).all())
    _write_table(root, table, region=slide.name if has_places else None)
    picture = slide.read_thumbnail(PICTURE)
    if picture is not None:
        _write_picture(root, f"{slide.name}_{PICTURE}_image", picture)
    if has_places:
        _describe_circles(root, slide.name)
    with warnings.catch_warnings():  # that Zarr 3 has no consolidated metadata yet, but tools do
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(root.store)
    if has_places:  # no part of the Zarr hierarchy, so it comes last
        _write_circles(path / "shapes" / slide.name / "shapes.parquet", slide)


def measure_spot(slide: StoredSlide) -> float | None:
    """Give how wide to draw a spot; see `spahgc.store.table.drawn_width`."""
    record = slide.record
    return drawn_width(
        record.get("spot_diameter_um"), record.get("microns_per_pixel"), slide.centers
    )


def _write_table(root: zarr.Group, table: anndata.AnnData, *, region: str | None) -> None:
    keys: dict[str, str | None] = {"region": None, "region_key": None, "instance_key": None}
    if region is not None:
        region_key = _free_column(table.obs, REGION_KEY)
        instance_key = _free_column(table.obs, INSTANCE_KEY)
        table.obs[region_key] = pd.Categorical([region] * table.n_obs)
        table.obs[instance_key] = table.obs_names.to_numpy()
        keys = {"region": region, "region_key": region_key, "instance_key": instance_key}
        table.uns["spatialdata_attrs"] = keys
    settings = anndata.settings.override(
        zarr_write_format=3, auto_shard_zarr_v3=False, allow_write_nullable_strings=True
    )
    tables = root.create_group("tables")
    how = {"compressors": small_and_checked()}
    with settings:
        anndata.io.write_elem(tables, TABLE, table, dataset_kwargs=how)
    tables.require_group(TABLE).attrs.update({**layout.TABLE_ATTRIBUTES, **keys})


def _free_column(spots: pd.DataFrame, name: str) -> str:
    while name in spots.columns:
        name += "_"
    return name


def _write_picture(root: zarr.Group, name: str, picture: Thumbnail) -> None:
    group = root.require_group("images").create_group(name)
    pixels_3HW = np.ascontiguousarray(picture.pixels.transpose(2, 0, 1))
    array = group.create_array(
        "s0",
        shape=pixels_3HW.shape,
        dtype=pixels_3HW.dtype,
        chunks=(3, *(min(PICTURE_CHUNK, side) for side in pixels_3HW.shape[1:])),
        compressors=small_and_checked(),
        dimension_names=["c", "y", "x"],
    )
    array[:] = pixels_3HW
    in_full_pixels = [1.0, 1 / picture.scale, 1 / picture.scale]
    multiscale: dict[str, Any] = {
        "name": f"/images/{name}",
        "axes": [
            {"name": "c", "type": "channel"},
            {"name": "y", "type": "space"},
            {"name": "x", "type": "space"},
        ],
        "datasets": [
            {
                "path": "s0",
                "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0, 1.0]}],
            }
        ],
        "coordinateTransformations": [
            {"type": "scale", "scale": in_full_pixels, **_between("cyx")},
        ],
    }
    group.attrs["ome"] = {
        "version": "0.5-dev-spatialdata",
        "multiscales": [multiscale],
        "omero": {"channels": [{"label": color} for color in "rgb"]},
    }
    group.attrs["spatialdata_attrs"] = {"version": "0.3"}


def _describe_circles(root: zarr.Group, name: str) -> None:
    root.require_group("shapes").create_group(name).attrs.update(
        {
            "encoding-type": "ngff:shapes",
            "axes": ["x", "y"],
            "coordinateTransformations": [{"type": "identity", **_between("xy")}],
            "spatialdata_attrs": {"version": "0.3"},
        }
    )


def _write_circles(path: Path, slide: StoredSlide) -> None:
    """Write centers and radii, in full-resolution pixels, as GeoParquet 1.0."""
    circles = pd.DataFrame(
        {
            "geometry": [_WKB_POINT.pack(1, 1, x, y) for x, y in slide.centers],
            "radius": np.full(slide.n_spots, (measure_spot(slide) or 2.0) / 2),
        },
        index=slide.spots.index,
    )
    table = pa.Table.from_pandas(circles, preserve_index=True)
    metadata = {**(table.schema.metadata or {}), b"geo": json.dumps(_GEO).encode()}
    parquet.write_table(table.replace_schema_metadata(metadata), path)


def _between(axes: Sequence[str]) -> dict[str, Any]:
    described = [
        {"name": axis, "type": "channel"}
        if axis == "c"
        else {"name": axis, "type": "space", "unit": "unit"}
        for axis in axes
    ]
    return {
        "input": {"name": "".join(axes), "axes": described},
        "output": {"name": "global", "axes": described},
    }
