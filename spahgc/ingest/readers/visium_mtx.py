"""Read a matrix folder: ``matrix.mtx`` and the lists of features and barcodes beside it."""

import csv
import io
from pathlib import Path
from typing import Final

import pandas as pd
from scipy.io import mmread
from scipy.sparse import coo_matrix, csr_matrix, issparse

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.visium_folders import read_bytes
from spahgc.ingest.readers.visium_h5 import RawMatrix, whole_numbers

_FEATURE_COLUMNS: Final = ("id", "symbol", "type")


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
    barcodes = [line.strip() for line in _lines(barcodes_path) if line.strip()]
    matrix = mmread(io.BytesIO(read_bytes(path)))
    if not issparse(matrix):
        raise SlideFormatError(f"{path}: found a dense matrix, expected coordinates")
    if matrix.shape != (len(features), len(barcodes)):
        raise SlideFormatError(
            f"{path}: found {matrix.shape[0]} x {matrix.shape[1]}, expected {len(features)} "
            f"features x {len(barcodes)} barcodes as the files beside it list"
        )
    values_N = whole_numbers(path, matrix.data)
    swapped = coo_matrix((values_N, (matrix.col, matrix.row)), shape=matrix.shape[::-1])
    return RawMatrix(barcodes, features, csr_matrix(swapped), is_probes=False)


def _beside(path: Path, prefix: str, names: tuple[str, ...]) -> Path:
    candidates = [path.with_name(f"{prefix}{name}{end}") for name in names for end in ("", ".gz")]
    found = [candidate for candidate in candidates if candidate.is_file()]
    if not found:
        expected = " or ".join(f"{prefix}{name}[.gz]" for name in names)
        raise SlideFormatError(f"{path.parent}: found {path.name} alone, expected {expected} too")
    return found[0]


def _read_features(path: Path) -> pd.DataFrame:
    rows = [row for row in csv.reader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE) if row]
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


def _lines(path: Path) -> list[str]:
    return read_bytes(path).decode("utf-8-sig").splitlines()
