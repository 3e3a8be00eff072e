"""Write a slide as Space Ranger does: an ``outs`` folder and the image it was given.

Dimension letters in this file:

A array spots, S spots under tissue, G genes, H rows and W columns of the image, R rows and
C columns of bins
"""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final, Literal

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy.io import mmwrite
from scipy.sparse import coo_matrix, csc_matrix

PITCH_UM: Final = 100.0
SPOT_DIAMETER_UM: Final = 55.0
ROW_STEP_UM: Final = PITCH_UM * 3**0.5 / 2
COLUMN_STEP_UM: Final = PITCH_UM / 2

_SCALED_SPOT_UM: Final = 65.0  # what spot_diameter_fullres is documented to measure
_HIRES_PX: Final = 800
_LOWRES_PX: Final = 300
_GENOME: Final = "synthetic"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VisiumSlide:
    """One capture area as Space Ranger would report it.

    Letters: A array spots, S spots under tissue, G genes, H rows and W columns of the image.
    """

    barcodes: tuple[str, ...]
    """A barcodes, such as ``ACGCCTGACACGCGCT-1``."""

    array: NDArray[np.int64]
    """(A, 2) array row and array column; their sum is even."""

    centers: NDArray[np.float64]
    """(A, 2) spot centers as x, y in full-resolution pixels."""

    in_tissue: NDArray[np.bool_]
    """(A,) which spots lie under tissue."""

    counts: NDArray[np.uint32]
    """(S, G) counts of the spots under tissue, in their order."""

    gene_ids: tuple[str, ...]
    """G unique gene ids."""

    gene_symbols: tuple[str, ...]
    """G gene symbols."""

    microns_per_pixel: float
    """Pixel size of the full-resolution image, in µm."""

    image: NDArray[np.uint8] | None = None
    """(H, W, 3) RGB at full resolution; None writes no picture at all."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HdBins:
    """One capture area of Visium HD in bins of one size. Letters: R rows, C columns, G genes."""

    bin_um: int
    """Width of a bin, in µm."""

    counts: NDArray[np.uint32]
    """(R, C, G) counts."""

    in_tissue: NDArray[np.bool_]
    """(R, C) which bins lie under tissue."""

    centers: NDArray[np.float64]
    """(R, C, 2) bin centers as x, y in full-resolution pixels."""

    gene_ids: tuple[str, ...]
    """G unique gene ids."""

    gene_symbols: tuple[str, ...]
    """G gene symbols."""

    microns_per_pixel: float
    """Pixel size of the full-resolution image, in µm."""


def write_visium_hd(folder: Path, sizes: Iterable[HdBins]) -> None:
    """Write ``outs/binned_outputs/square_…um`` for each size of bins, without pictures."""
    for bins in sizes:
        place = folder / "outs" / "binned_outputs" / f"square_{bins.bin_um:03d}um"
        (place / "spatial").mkdir(parents=True, exist_ok=True)
        rows, columns = np.indices(bins.in_tissue.shape).reshape(2, -1)
        places = zip(rows, columns, strict=True)
        barcodes = np.array([f"s_{bins.bin_um:03d}um_{r:05d}_{c:05d}-1" for r, c in places])
        in_tissue = bins.in_tissue.ravel()
        counts_GS = csc_matrix(bins.counts.reshape(len(rows), -1)[in_tissue].T)
        _write_h5(place, counts_GS, barcodes[in_tissue], bins)
        table = {
            "barcode": barcodes,
            "in_tissue": in_tissue.astype(np.int64),
            "array_row": rows,
            "array_col": columns,
            "pxl_row_in_fullres": bins.centers[..., 1].ravel(),
            "pxl_col_in_fullres": bins.centers[..., 0].ravel(),
        }
        pq.write_table(pa.table(table), place / "spatial" / "tissue_positions.parquet")
        factors = {
            "spot_diameter_fullres": bins.bin_um / bins.microns_per_pixel,
            "bin_size_um": float(bins.bin_um),
            "microns_per_pixel": bins.microns_per_pixel,
        }
        path = place / "spatial" / "scalefactors_json.json"
        path.write_text(json.dumps(factors), encoding="utf-8")


def write_visium(
    folder: Path,
    slide: VisiumSlide,
    *,
    matrix: Literal["h5", "mtx"] = "h5",
    has_header: bool = True,
) -> None:
    """Write ``outs/`` and, beside it, the full-resolution ``image.tif``.

    Parameters
    ----------
    matrix
        Counts as one HDF5 file or as a folder of gzipped text.
    has_header
        Positions as Space Ranger 2 writes them (``tissue_positions.csv``), or as 1 did
        (``tissue_positions_list.csv``, no header).
    """
    spatial = folder / "outs" / "spatial"
    spatial.mkdir(parents=True, exist_ok=True)
    # Space Ranger sorts the counts by barcode and the positions by place.
    barcodes_S = np.array(slide.barcodes, dtype=np.str_)[slide.in_tissue]
    order_S = np.argsort(barcodes_S)
    counts_GS = csc_matrix(slide.counts[order_S].T)
    write = _write_h5 if matrix == "h5" else _write_mtx
    write(folder / "outs", counts_GS, barcodes_S[order_S], slide)
    _write_positions(spatial, slide, has_header=has_header)
    _write_scale_factors(spatial, slide)
    if slide.image is not None:
        _write_small_images(spatial, slide.image)
        write_pyramid(folder / "image.tif", slide.image, slide.microns_per_pixel)


def write_pyramid(path: Path, image_HW3: NDArray[np.uint8], microns_per_pixel: float) -> None:
    """Write a tiled TIFF with halved levels, which OpenSlide opens.

    Parameters
    ----------
    image_HW3
        (H, W, 3) RGB.
    microns_per_pixel
        Kept in the resolution tags of the file.
    """
    level = Image.fromarray(image_HW3)
    with tifffile.TiffWriter(path) as file:
        per_cm = 1e4 / microns_per_pixel
        while True:
            file.write(
                np.asarray(level),
                photometric="rgb",
                tile=(256, 256),
                compression="adobe_deflate",
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=int(level.width < image_HW3.shape[1]),
                metadata=None,
            )
            if max(level.size) <= 512:
                return
            level, per_cm = level.reduce(2), per_cm / 2


def _write_h5(
    outs: Path, counts_GS: csc_matrix, barcodes_S: NDArray[np.str_], slide: VisiumSlide | HdBins
) -> None:
    n_genes = len(slide.gene_ids)
    with h5py.File(outs / "filtered_feature_bc_matrix.h5", "w") as file:
        file.attrs["filetype"] = "matrix"
        file.attrs["software_version"] = "synthetic"
        file.attrs["version"] = 2
        group = file.create_group("matrix")
        group["barcodes"] = _as_bytes(barcodes_S)
        group.create_dataset("data", data=counts_GS.data.astype(np.int32), compression="gzip")
        group.create_dataset("indices", data=counts_GS.indices.astype(np.int64), compression="gzip")
        group["indptr"] = counts_GS.indptr.astype(np.int64)
        group["shape"] = np.array(counts_GS.shape, dtype=np.int32)
        features = group.create_group("features")
        features["id"] = _as_bytes(slide.gene_ids)
        features["name"] = _as_bytes(slide.gene_symbols)
        features["feature_type"] = _as_bytes(["Gene Expression"] * n_genes)
        features["genome"] = _as_bytes([_GENOME] * n_genes)


def _write_mtx(
    outs: Path, counts_GS: csc_matrix, barcodes_S: NDArray[np.str_], slide: VisiumSlide
) -> None:
    folder = outs / "filtered_feature_bc_matrix"
    folder.mkdir(parents=True, exist_ok=True)
    text = BytesIO()
    mmwrite(text, coo_matrix(counts_GS), field="integer", symmetry="general")
    _write_gzip(folder / "matrix.mtx.gz", text.getvalue())
    rows = zip(slide.gene_ids, slide.gene_symbols, strict=True)
    features = "".join(f"{gene}\t{symbol}\tGene Expression\n" for gene, symbol in rows)
    _write_gzip(folder / "features.tsv.gz", features.encode())
    _write_gzip(folder / "barcodes.tsv.gz", "".join(f"{name}\n" for name in barcodes_S).encode())


def _as_bytes(texts: NDArray[np.str_] | tuple[str, ...] | list[str]) -> NDArray[np.bytes_]:
    encoded = [str(text).encode() for text in texts]
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def _write_gzip(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, mtime=0))


def _write_positions(spatial: Path, slide: VisiumSlide, *, has_header: bool) -> None:
    table = pd.DataFrame(
        {
            "barcode": slide.barcodes,
            "in_tissue": slide.in_tissue.astype(int),
            "array_row": slide.array[:, 0],
            "array_col": slide.array[:, 1],
            "pxl_row_in_fullres": slide.centers[:, 1],
            "pxl_col_in_fullres": slide.centers[:, 0],
        }
    )
    name = "tissue_positions.csv" if has_header else "tissue_positions_list.csv"
    table.to_csv(spatial / name, index=False, header=has_header)


def _write_scale_factors(spatial: Path, slide: VisiumSlide) -> None:
    factors = {"spot_diameter_fullres": _SCALED_SPOT_UM / slide.microns_per_pixel}
    if slide.image is not None:
        factors["tissue_hires_scalef"] = _scale(slide.image, _HIRES_PX)
        factors["tissue_lowres_scalef"] = _scale(slide.image, _LOWRES_PX)
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors), encoding="utf-8")


def _scale(image_HW3: NDArray[np.uint8], longest_px: int) -> float:
    return min(1.0, longest_px / max(image_HW3.shape[:2]))


def _write_small_images(spatial: Path, image_HW3: NDArray[np.uint8]) -> None:
    full = Image.fromarray(image_HW3)
    for name, longest_px in (("hires", _HIRES_PX), ("lowres", _LOWRES_PX)):
        scale = _scale(image_HW3, longest_px)
        size = (max(1, round(full.width * scale)), max(1, round(full.height * scale)))
        small = full.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
        small.save(spatial / f"tissue_{name}_image.png")
