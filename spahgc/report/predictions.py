"""Predictions as files: for scanpy, for data frames, and for QuPath.

Dimension letters in this file:

S spots, G genes, P corners of a polygon
"""

import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spahgc.errors import MismatchError, StoreError
from spahgc.schema import SPATIAL, UNS
from spahgc.store import layout
from spahgc.store.durable import replacing
from spahgc.store.export import write_h5ad, write_zarr

SUFFIXES: Final = (".h5ad", ".zarr", ".parquet", ".geojson")
PLACEHOLDER: Final = "{slide}"
"""In a path: where the slide's name goes."""
N_CORNERS: Final = 16
"""Of the polygon drawn for a round spot."""
_FLAGGED: Final = {"name": "unlike references", "color": [213, 94, 0]}
_PREDICTED: Final = {"name": "predicted", "color": [0, 114, 178]}


def check_places(places: Sequence[Path], *, slides: Sequence[str], overwrite: bool = False) -> None:
    """Refuse places that predictions of these slides cannot, or must not, be written to.

    Parameters
    ----------
    places
        As `write_prediction` takes them.
    slides
        Names; two slides may have one.
    overwrite
        Whether what is there may be replaced.

    Raises
    ------
    MismatchError
        If a suffix says no format, or several slides would be written to one place.
    StoreError
        If something is there that is not to be replaced, or nobody may write there.
    """
    name, n_times = Counter(slides).most_common(1)[0]
    if n_times > 1:
        raise MismatchError(
            f"{n_times} slides are called {name}, so one prediction would take the other's place; "
            "predict them one by one"
        )
    for place in places:
        if place.suffix.lower() not in SUFFIXES:
            raise MismatchError(
                f"{place}: a prediction is written by the suffix of its name; expected one of "
                f"{', '.join(SUFFIXES)}"
            )
        if len(slides) > 1 and PLACEHOLDER not in str(place):
            raise MismatchError(
                f"{place} is one place for {len(slides)} slides; put {PLACEHOLDER} where the "
                f"slide's name goes, as in maps/{PLACEHOLDER}{place.suffix}"
            )
    for place in places:
        for slide in slides:
            _check_free(_fill_in(place, slide), overwrite=overwrite)


def _fill_in(place: Path, slide: str) -> Path:
    return Path(str(place).replace(PLACEHOLDER, slide))


def _check_free(place: Path, *, overwrite: bool) -> None:
    if place.is_dir() and not _is_anndata(place):
        raise StoreError(f"{place} is a folder, and no prediction; name another place with `--out`")
    if place.exists() and not overwrite:
        raise StoreError(f"{place} exists already; replace it with `--overwrite`")
    if store := next(filter(_is_store, place.absolute().parents), None):
        raise StoreError(f"{place} is inside the store {store}; name a place outside with `--out`")
    folder = next(parent for parent in place.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise StoreError(f"{place} cannot be written: {folder} is no folder you may write to")


def _is_store(folder: Path) -> bool:
    return (folder / layout.COMMITS).is_dir() and (folder / "zarr.json").is_file()


def _is_anndata(folder: Path) -> bool:
    """Whether a folder is an AnnData alone: a store or a container of slides is not."""
    try:
        attributes = json.loads((folder / "zarr.json").read_bytes())["attributes"]
        return attributes["encoding-type"] == "anndata"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_prediction(table: anndata.AnnData, place: Path) -> Path:
    """Write a prediction in the format its place's suffix says, whole or not at all.

    ``.h5ad`` and ``.zarr`` are the AnnData itself; ``.parquet`` has one row per spot: ``slide``,
    ``spot``, ``x`` and ``y`` (full-resolution pixels), what is known of the spot, and one column
    per gene, with how far to believe each gene in the file's metadata; ``.geojson`` is a
    FeatureCollection of detections, one polygon a spot, that QuPath opens over the image.

    Parameters
    ----------
    table
        See `spahgc.model.prediction.as_anndata`.
    place
        Where; ``{slide}`` in it becomes the slide's name, and an older prediction is replaced.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    StoreError
        If it cannot be written, or a folder is there that is no prediction.
    MismatchError
        If the suffix says no format, or QuPath is to show spots without places.
    """
    slide = table.uns[UNS]["slide"]
    check_places([place], slides=[slide], overwrite=True)
    place = _fill_in(place, slide)
    suffix = place.suffix.lower()
    if suffix == ".h5ad":
        write_h5ad(table, place)
    elif suffix == ".zarr":
        write_zarr(table, place)
    elif suffix == ".parquet":
        with replacing(place) as unfinished:
            pq.write_table(as_parquet(table), unfinished, compression="zstd")
    else:
        with replacing(place) as unfinished, unfinished.open("w", encoding="utf-8") as file:
            file.writelines(as_geojson(table))
    return place


def as_parquet(table: anndata.AnnData) -> pa.Table:
    """Lay a prediction out as one row per spot; see `write_prediction`."""
    provenance = table.uns[UNS]
    columns = {
        "slide": provenance["slide"],
        "spot": table.obs_names.astype(str),
        "x": table.obsm[SPATIAL][:, 0],
        "y": table.obsm[SPATIAL][:, 1],
    }
    known = pd.DataFrame(columns, index=table.obs_names)
    genes = pd.DataFrame(table.X, index=table.obs_names, columns=table.var_names)
    frame = pd.concat([known, table.obs, genes], axis=1)
    rows = pa.Table.from_pandas(frame, preserve_index=False)
    trust = json.loads(table.var.to_json(orient="index"))
    told = {"spahgc": json.dumps(_plain(provenance)), "spahgc.genes": json.dumps(trust)}
    return rows.replace_schema_metadata({**(rows.schema.metadata or {}), **told})


def as_geojson(table: anndata.AnnData) -> Iterator[str]:
    """Spell a prediction as GeoJSON, spot by spot.

    Raises
    ------
    MismatchError
        If the spots have no places in the image.

    References
    ----------
    RFC 7946; QuPath's documentation, "Exporting annotations" (objects as GeoJSON).
    """
    centers_S2 = table.obsm[SPATIAL]
    if not np.isfinite(centers_S2).all():
        raise MismatchError(
            f"slide {table.uns[UNS]['slide']} has spots without places in the image, so they "
            "cannot be drawn over it; write .h5ad or .parquet"
        )
    shape_P2 = _circle(float(table.uns[UNS]["spot_diameter_px"]))
    yield '{"type": "FeatureCollection", "features": [\n'
    for row in range(table.n_obs):
        yield (",\n" if row else "") + json.dumps(_feature(table, row, shape_P2))
    yield "\n]}\n"


def _feature(table: anndata.AnnData, row: int, shape_P2: NDArray[np.float64]) -> dict[str, Any]:
    spot = str(table.obs_names[row])
    corners_P2 = np.round(table.obsm[SPATIAL][row] + shape_P2, 2)
    is_flagged = "unlike_references" in table.obs and bool(table.obs["unlike_references"].iloc[row])
    measured = {
        str(name): float(table.obs[name].iloc[row])
        for name in ("reference_similarity", "nearness")
        if name in table.obs
    }
    genes = zip(map(str, table.var_names), table.X[row].tolist(), strict=True)
    return {
        "type": "Feature",
        # the same spot of the same slide keeps its id, so that a second import replaces it
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{table.uns[UNS]['slide']}/{spot}")),
        "geometry": {"type": "Polygon", "coordinates": [corners_P2.tolist()]},
        "properties": {
            "objectType": "detection",
            "name": spot,
            "classification": _FLAGGED if is_flagged else _PREDICTED,
            "measurements": {**measured, **{gene: round(value, 5) for gene, value in genes}},
        },
    }


def _circle(diameter: float) -> NDArray[np.float64]:
    """Give the (P, 2) corners of a closed polygon around 0."""
    angle_P = np.linspace(0, 2 * np.pi, N_CORNERS + 1)
    corners_P2 = np.stack([np.cos(angle_P), np.sin(angle_P)], axis=1) * diameter / 2
    corners_P2[-1] = corners_P2[0]
    return corners_P2


def _plain(value: Any) -> Any:  # noqa: ANN401  whatever an AnnData keeps in uns
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
