"""Read a matrix folder: ``matrix.mtx`` and the lists of features and barcodes beside it."""

import csv
from pathlib import Path
from typing import Final, cast

import pandas as pd
from scipy.io import mminfo, mmread
from scipy.sparse import coo_matrix, csr_matrix

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.unpacking import MIB, is_gzipped, open_bytes, read_bytes
from spahgc.ingest.readers.visium_h5 import RawMatrix, whole_numbers

_FEATURE_COLUMNS: Final = ("id", "symbol", "type")
_MOST_FEATURE_BYTES: Final = 64 * MIB  # 40,000 genes take 1 MiB
_MOST_BARCODE_BYTES: Final = 512 * MIB  # 11 million bins of 2 µm take 250
_MOST_TIMES_UNPACKED: Final = 100  # counts take a tenth of it
_SMALL_MATRIX_BYTES: Final = 64 * MIB
_SHORTEST_ENTRY: Final = 6  # bytes: "1 1 1" and the line's end


def read_mtx(path: Path) -> RawMatrix:
    """Read a matrix and its lists, each plain or gzipped.

    Raises
    ------
    SlideFormatError
        If a list is missing, does not fit the matrix, or counts are no whole numbers.
    ValueError, OverflowError
        If the matrix cannot be read.
    """
    prefix = path.name[: path.name.rindex("matrix.mtx")]
    features = _read_features(_beside(path, prefix, ("features.tsv", "genes.tsv")))
    barcodes_path = _beside(path, prefix, ("barcodes.tsv",))
    lines = _lines(barcodes_path, most=_MOST_BARCODE_BYTES)
    barcodes = [line.strip() for line in lines if line.strip()]
    matrix = _read_matrix(path, (len(features), len(barcodes)))
    values_N = whole_numbers(path, matrix.data)
    swapped = coo_matrix((values_N, (matrix.col, matrix.row)), shape=matrix.shape[::-1])
    return RawMatrix(barcodes, features, csr_matrix(swapped), is_probes=False)


def _read_matrix(path: Path, shape: tuple[int, int]) -> coo_matrix:
    """Read the matrix as a stream, once its header says that it is the one expected."""
    most = _most_bytes(path)
    advice = f"if it is meant to be so large, unpack it: `gunzip --keep {path.name}`"
    with open_bytes(path, most=most, advice=advice) as file:
        n_rows, n_columns, n_entries, layout, *_ = mminfo(file)
    if layout != "coordinate":
        raise SlideFormatError(f"{path}: found a dense matrix, expected coordinates")
    if (n_rows, n_columns) != shape:
        raise SlideFormatError(
            f"{path}: found {n_rows} x {n_columns}, expected {shape[0]} features x {shape[1]} "
            "barcodes as the files beside it list"
        )
    if n_entries > most // _SHORTEST_ENTRY:
        raise SlideFormatError(
            f"{path}: its header announces {n_entries} counts, expected at most "
            f"{most // _SHORTEST_ENTRY} in a file of its size; copy it again from where it came"
        )
    with open_bytes(path, most=most, advice=advice) as file:
        return cast("coo_matrix", mmread(file))


def _most_bytes(path: Path) -> int:
    """Say how long a matrix may be, in bytes: as long as it is, unless it is gzipped."""
    n_bytes = path.stat().st_size
    if not is_gzipped(path):
        return n_bytes
    return max(_SMALL_MATRIX_BYTES, _MOST_TIMES_UNPACKED * n_bytes)


def _beside(path: Path, prefix: str, names: tuple[str, ...]) -> Path:
    candidates = [path.with_name(f"{prefix}{name}{end}") for name in names for end in ("", ".gz")]
    found = [candidate for candidate in candidates if candidate.is_file()]
    if not found:
        expected = " or ".join(f"{prefix}{name}[.gz]" for name in names)
        raise SlideFormatError(f"{path.parent}: found {path.name} alone, expected {expected} too")
    return found[0]


def _read_features(path: Path) -> pd.DataFrame:
    lines = _lines(path, most=_MOST_FEATURE_BYTES)
    rows = [row for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    lengths = {min(len(row), len(_FEATURE_COLUMNS)) for row in rows}
    n_columns = min(lengths, default=0)
    if n_columns < 2 or len(lengths) > 1:
        found = " and ".join(map(str, sorted(lengths))) or "no"
        raise SlideFormatError(
            f"{path}: found rows of {found} columns, expected a gene id, a symbol and perhaps a "
            "type in each, separated by tabs"
        )
    columns = zip(*rows, strict=False)  # rows may end in columns that nobody needs
    return pd.DataFrame(dict(zip(_FEATURE_COLUMNS[:n_columns], columns, strict=False)))


def _lines(path: Path, *, most: int) -> list[str]:
    return read_bytes(path, most=most).decode("utf-8-sig").splitlines()
