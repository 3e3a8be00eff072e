"""Read where the spots of a Visium array lie.

Letters: A array spots.
"""

import csv
import io
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.unpacking import MIB, read_bytes

COLUMNS: Final = (
    "barcode",
    "in_tissue",
    "array_row",
    "array_col",
    "pxl_row_in_fullres",
    "pxl_col_in_fullres",
)
"""The order that every version of Space Ranger writes, with a header or without."""

_MOST_COLUMNS: Final = 1_000_000
_MOST_CSV_BYTES: Final = 128 * MIB  # 4,992 spots take 0.3 MiB, a million bins 60
_MOST_PARQUET_BYTES: Final = 1024 * MIB
_MOST_BINS: Final = 20_000_000  # 11 million of 2 µm lie on a Visium HD slide


def read_visium_positions(path: Path) -> pd.DataFrame:
    """Read the position of every array spot.

    Whether a CSV has a header is told by its first cell, never by the file's name.

    Returns
    -------
    pd.DataFrame
        A rows, indexed by unique barcode: ``array_row``, ``array_col`` (integers), ``in_tissue``
        (bool), ``x`` and ``y`` in full-resolution pixels (NaN where the file has none).

    Raises
    ------
    SlideFormatError
        If the table has other columns or values, or names a barcode or a place twice.
    """
    table = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    table = table.set_index("barcode").rename_axis(index=None)
    positions = pd.DataFrame(
        {
            "array_row": _whole_numbers(path, table["array_row"]),
            "array_col": _whole_numbers(path, table["array_col"]),
            "in_tissue": _flags(path, table["in_tissue"]),
            "x": _pixels(path, table["pxl_col_in_fullres"]),
            "y": _pixels(path, table["pxl_row_in_fullres"]),
        }
    )
    _refuse_repeated(path, "barcode", positions.index)
    _refuse_shared_places(path, positions)
    return positions


def _read_parquet(path: Path) -> pd.DataFrame:
    content = read_bytes(path, most=_MOST_PARQUET_BYTES)
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        _check_parquet(path, file)
        frame = file.read(list(COLUMNS)).to_pandas()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise SlideFormatError(
            f"{path}: found a file that cannot be read ({reason}), expected a parquet table; copy "
            "it again from where it came"
        ) from error
    kind = pd.api.types.infer_dtype(frame["barcode"], skipna=False)
    if kind != "string":
        raise SlideFormatError(f"{path}: found barcodes of type {kind}, expected texts")
    return frame


def _check_parquet(path: Path, file: pq.ParquetFile) -> None:
    names, n_rows = file.schema_arrow.names, file.metadata.num_rows
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise SlideFormatError(
            f"{path}: found the columns {', '.join(names)}, expected {', '.join(missing)} too"
        )
    if not n_rows:
        raise SlideFormatError(f"{path}: found no spot, expected one row for each")
    if n_rows > _MOST_BINS:
        raise SlideFormatError(
            f"{path}: found {n_rows} rows, expected at most {_MOST_BINS}, one for each spot; copy "
            "it again from where it came"
        )


def _read_csv(path: Path) -> pd.DataFrame:
    return pd.DataFrame(_read_rows(path), columns=list(COLUMNS))


def _read_rows(path: Path) -> list[list[str]]:
    try:
        lines = read_bytes(path, most=_MOST_CSV_BYTES).decode("utf-8-sig").splitlines()
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SlideFormatError(f"{path}: found no text ({error}), expected a CSV table") from error
    if rows and rows[0][0] == "barcode":
        header = rows.pop(0)
        if tuple(header) != COLUMNS:
            raise SlideFormatError(
                f"{path}: its header is {','.join(header)}, expected {','.join(COLUMNS)}"
            )
    if not rows:
        raise SlideFormatError(f"{path}: found no spot, expected one row for each")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(COLUMNS):
            raise SlideFormatError(
                f"{path}: found {len(row)} columns in spot row {number}, expected {len(COLUMNS)}: "
                f"{','.join(COLUMNS)}"
            )
    return rows


def _numbers(path: Path, column: "pd.Series[str]") -> "pd.Series[float]":
    """Return numbers; an empty cell or a written NaN is NaN, and any other text is refused."""
    if pd.api.types.is_numeric_dtype(column):  # which a parquet's columns are
        return column.astype(np.float64)
    column = column.astype(str)
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    is_blank = column.str.lower().isin(["", "nan", "na"])
    _refuse(path, column, numbers.isna() & ~is_blank, expected="a number")
    # pandas may be off by the last bit, Python never is
    return column.where(~is_blank, "nan").map(float)


def _pixels(path: Path, column: "pd.Series[str]") -> "pd.Series[float]":
    numbers = _numbers(path, column)
    _refuse(path, column, numbers.abs() == np.inf, expected="a finite number")
    return numbers


def _whole_numbers(path: Path, column: "pd.Series[str]") -> "pd.Series[int]":
    numbers = _numbers(path, column)
    is_whole = (numbers >= 0) & (numbers < _MOST_COLUMNS) & (np.floor(numbers) == numbers)
    _refuse(path, column, ~is_whole, expected="a whole number from 0")
    return numbers.astype(np.int64)


def _flags(path: Path, column: "pd.Series[str]") -> "pd.Series[bool]":
    numbers = _numbers(path, column)
    _refuse(path, column, ~numbers.isin([0, 1]), expected="0 or 1")
    return numbers == 1


def _refuse(
    path: Path, column: "pd.Series[str]", is_bad: "pd.Series[bool]", *, expected: str
) -> None:
    if is_bad.any():
        row = int(np.argmax(is_bad.to_numpy()))
        raise SlideFormatError(
            f"{path}: found {column.iloc[row]!r} as {column.name} of spot {column.index[row]}, "
            f"expected {expected}"
        )


def _refuse_repeated(path: Path, what: str, names: pd.Index) -> None:
    if names.has_duplicates:
        repeated = names[names.duplicated()].unique()
        raise SlideFormatError(
            f"{path}: found {len(repeated)} times a {what} that another spot has too, for example "
            f"{repeated[0]!r}, expected each once"
        )


def _refuse_shared_places(path: Path, positions: pd.DataFrame) -> None:
    place = positions["array_row"].to_numpy() * _MOST_COLUMNS + positions["array_col"].to_numpy()
    is_repeated = pd.Index(place).duplicated()
    if is_repeated.any():
        first = positions[is_repeated].iloc[0]
        raise SlideFormatError(
            f"{path}: found {int(is_repeated.sum())} times an array row and column that another "
            f"spot has too, for example row {first['array_row']}, column {first['array_col']}, "
            "expected each once"
        )
