"""Read the tables of one legacy Spatial Transcriptomics section.

Letters: S spots, G genes, N cells of the counts, row by row.
"""

import csv
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any, Final, NamedTuple, TextIO, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix, vstack

from spahgc.errors import SlideFormatError, SpahgcError
from spahgc.ingest.readers.unpacking import MIB, check_file, open_bytes

PIXELS: Final = ["pixel_x", "pixel_y"]
"""Columns of a spots file that hold spot centers."""

_LARGEST_COUNT: Final = np.iinfo(np.uint32).max
_SPOT_ID: Final = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*x\s*(-?\d+(?:\.\d+)?)\s*")
_TAB_TO_LINE_END: Final = bytes.maketrans(b"\t", b"\n")
_BLOCK_BYTES: Final = 64 * MIB  # a row of many thousand genes must fit into one block
_ROWS_BYTES: Final = 16 * MIB
_MOST_COUNT_BYTES: Final = 512 * MIB  # 1,000 spots of 20,000 genes take 40
_MOST_TABLE_BYTES: Final = 64 * MIB  # 1,000 spots take 0.05


class StCounts(NamedTuple):
    """A table of counts. Letters: S spots, G genes."""

    written: "pd.Series[str]"
    """S spot ids as the file has them, by spot id (``10x21``); ids may repeat."""

    matrix: csr_matrix
    """(S, G) uint32."""

    genes: pd.Index
    """G gene names as written; they may repeat."""


def read_counts(path: Path) -> StCounts:
    """Read spots × genes from a tab-separated table, which may be gzipped.

    Raises
    ------
    SlideFormatError
        If it is no such table, or holds anything but counts.
    """
    with _as_format_errors(path):
        genes = _read_gene_names(path)
        plain = _read_plain(path, genes)
        if plain is not None:
            return plain
        table = _read_columns(path, n_columns=len(genes) + 1)
    if table.num_rows == 0:
        raise SlideFormatError(f"{path}: no row below its header, expected one per spot")
    written = table.column(0).to_pandas()
    written.index = _normalised(path, written)
    matrix = _to_csr(path, written, genes, table.columns[1:])
    return StCounts(written, matrix, pd.Index(genes, dtype=object))


def read_spots(path: Path) -> pd.DataFrame:
    """Read where the spots lie on the array and in the image.

    Returns
    -------
    pd.DataFrame
        By spot id, which may repeat: ``array_row``, ``array_col``, ``pixel_x`` and ``pixel_y``
        (NaN where the file has none), ``written`` as the file has the id, ``is_selected``.

    Raises
    ------
    SlideFormatError
        If it is no such table.
    """
    frame = _read_frame(path, ["x", "y"])
    x, y = _numbers(path, frame["x"]), _numbers(path, frame["y"])
    spots = pd.DataFrame({"array_row": np.rint(y), "array_col": np.rint(x)}).astype(int)
    for name in PIXELS:
        spots[name] = _numbers(path, frame[name], may_miss=True) if name in frame else np.nan
    spots["written"] = frame["x"] + "x" + frame["y"]
    spots["is_selected"] = _numbers(path, frame["selected"]) == 1 if "selected" in frame else True
    return spots.set_index(_spot_ids(x, y))


def read_labels(path: Path) -> "pd.Series[str]":
    """Read one label per spot, by spot id.

    Raises
    ------
    SlideFormatError
        If it is no such table, or gives a spot two labels.
    """
    frame = _read_frame(path, ["x", "y", "label"])
    ids = _spot_ids(_numbers(path, frame["x"]), _numbers(path, frame["y"]))
    labels = frame["label"].fillna("").set_axis(ids)
    labels = labels[~pd.DataFrame({"id": ids, "label": labels.to_numpy()}).duplicated().to_numpy()]
    if labels.index.has_duplicates:
        spot = labels.index[labels.index.duplicated()][0]
        found = " and ".join(map(repr, labels[[spot]]))
        raise SlideFormatError(f"{path}: spot {spot} is labelled {found}, expected one label")
    return labels


def array_of(ids: pd.Index) -> pd.DataFrame:
    """Return ``array_row`` and ``array_col`` of spot ids such as ``10x21``, in their order."""
    parts = ids.to_series().str.extract(_SPOT_ID).astype(int)
    return pd.DataFrame({"array_row": parts[1], "array_col": parts[0]}).set_axis(ids)


def _read_gene_names(path: Path) -> list[str]:
    with _opened_text(path, most=_MOST_COUNT_BYTES) as lines:
        rows = list(islice(csv.reader(lines, delimiter="\t"), 2))
    if not rows:
        raise SlideFormatError(f"{path} is empty, expected genes in columns and spots in rows")
    header, first = rows[0], rows[-1]
    if len(first) == len(header) and header and _SPOT_ID.fullmatch(header[0]):
        raise SlideFormatError(
            f"{path}: its first line is that of spot {header[0]}, expected a header of gene names"
        )
    # R writes no cell above its row names.
    genes = header if len(first) == len(header) + 1 else header[1:]
    if not genes:
        found = max(",; ", key=header[0].count) if header else ""
        raise SlideFormatError(f"{path}: no tab in its header, found {found!r}, expected tabs")
    if not all(gene.strip() for gene in genes):
        raise SlideFormatError(f"{path}: a column has no gene name, expected one above each")
    return [gene.strip() for gene in genes]


def _read_plain(path: Path, genes: list[str]) -> StCounts | None:
    """Read a table whose cells are all plain counts; None leaves it to a reader that explains."""
    ids: list[str] = []
    blocks: list[csr_matrix] = []
    with open_bytes(path, most=_MOST_COUNT_BYTES) as file:
        file.readline()
        while lines := file.readlines(_ROWS_BYTES):
            cells = [line.partition(b"\t") for text in lines if (line := text.rstrip(b"\r\n"))]
            ids.extend(spot.decode().strip('"') for spot, _, _ in cells)
            block = _plain_rows([row for _, _, row in cells], n_genes=len(genes))
            if block is None:
                return None
            blocks.append(block)
    if not ids:
        return None
    written = pd.Series(ids)
    written.index = _normalised(path, written)
    return StCounts(written, csr_matrix(vstack(blocks)), pd.Index(genes, dtype=object))


def _plain_rows(rows: list[bytes], *, n_genes: int) -> csr_matrix | None:
    if any(row.count(b"\t") != n_genes - 1 for row in rows):
        return None
    count_N = _read_one_column(b"\n".join(rows).translate(_TAB_TO_LINE_END))
    if count_N is None or len(count_N) != len(rows) * n_genes:
        return None
    return _to_rows(count_N, n_genes=n_genes)


def _to_rows(count_N: NDArray[np.uint32], *, n_genes: int) -> csr_matrix:
    n_spots = len(count_N) // n_genes
    seen = np.flatnonzero(count_N)
    starts = np.searchsorted(seen, np.arange(n_spots + 1) * n_genes)
    return csr_matrix((count_N[seen], seen % n_genes, starts), shape=(n_spots, n_genes))


def _read_one_column(cells: bytes) -> NDArray[np.uint32] | None:
    # A table has far more genes than spots, and each column of its own costs more than its cells.
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(cells),
            read_options=pyarrow.csv.ReadOptions(column_names=["count"], block_size=1 << 22),
            parse_options=pyarrow.csv.ParseOptions(quote_char=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={"count": pa.uint32()}, null_values=[]
            ),
        )
    except pa.ArrowInvalid:
        return None
    return cast("NDArray[np.uint32]", table.column(0).to_numpy())


def _read_columns(path: Path, *, n_columns: int) -> Any:  # noqa: ANN401  pyarrow is untyped
    names = [str(number) for number in range(n_columns)]  # gene names may repeat
    with open_bytes(path, most=_MOST_COUNT_BYTES) as stream:
        return pyarrow.csv.read_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(
                column_names=names, skip_rows=1, block_size=_BLOCK_BYTES
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter="\t"),
            convert_options=pyarrow.csv.ConvertOptions(column_types={"0": pa.string()}),
        )


def _to_csr(
    path: Path, written: "pd.Series[str]", genes: list[str], columns: list[Any]
) -> csr_matrix:
    rows, values, starts, problems = [], [], [0], []
    for gene, column in zip(genes, columns, strict=True):
        count_S, bad_S = _whole_numbers(column)
        if bad_S.any():
            first = int(np.argmax(bad_S))
            problems.append(f"{column[first]} for gene {gene} at spot {written.iloc[first]}")
        rows.append(np.flatnonzero(count_S))
        values.append(count_S[rows[-1]])
        starts.append(starts[-1] + len(rows[-1]))
    if problems:
        more = f", and {len(problems) - 1} more genes have such" if len(problems) > 1 else ""
        raise SlideFormatError(
            f"{path}: found {problems[0]}{more}, expected counts (whole numbers from 0)"
        )
    parts = (np.concatenate(values), np.concatenate(rows), np.array(starts))
    return csr_matrix(csc_matrix(parts, shape=(len(written), len(genes))))


def _whole_numbers(column: Any) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:  # noqa: ANN401
    raw_S = column.to_numpy()
    if raw_S.dtype.kind not in "iuf":
        raw_S = pd.to_numeric(pd.Series(raw_S).astype(str), errors="coerce").to_numpy(float)
    is_count_S = (raw_S >= 0) & (raw_S <= _LARGEST_COUNT) & (np.floor(raw_S) == raw_S)
    return np.where(is_count_S, raw_S, 0).astype(np.uint32), ~is_count_S


def _normalised(path: Path, written: "pd.Series[str]") -> pd.Index:
    parts = written.fillna("").str.extract(_SPOT_ID)
    is_bad = parts.isna().any(axis=1)
    if is_bad.any():
        raise SlideFormatError(
            f"{path}: {is_bad.sum()} of {len(written)} rows have no spot id like 10x21, for "
            f"example {shorten(str(written[is_bad].iloc[0]), 40)!r}; expected spots in rows"
        )
    return _spot_ids(parts[0].astype(float), parts[1].astype(float))


def _spot_ids(x: "pd.Series[float]", y: "pd.Series[float]") -> pd.Index:
    columns, rows = np.rint(x).astype(int), np.rint(y).astype(int)
    return pd.Index(columns.astype(str) + "x" + rows.astype(str))


def _read_frame(path: Path, needed: list[str]) -> pd.DataFrame:
    with _as_format_errors(path), _opened_text(path, most=_MOST_TABLE_BYTES) as lines:
        frame = pd.read_csv(lines, sep="\t", dtype=str)
    missing = [name for name in needed if name not in frame]
    if missing:
        found = shorten(", ".join(map(repr, frame.columns)), 100)
        raise SlideFormatError(
            f"{path}: no column {' or '.join(missing)} among {found}, expected tab-separated "
            f"columns {' '.join(needed)}"
        )
    return frame.reset_index(drop=True)


def _numbers(path: Path, column: "pd.Series[str]", *, may_miss: bool = False) -> "pd.Series[float]":
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    is_bad = ~np.isfinite(numbers) & ~(column.isna() & may_miss)
    if is_bad.any():
        row = int(np.argmax(is_bad))
        raise SlideFormatError(
            f"{path}: column {column.name} holds {column.iloc[row]!r} in row {row + 1}, "
            "expected a number"
        )
    return numbers


@contextmanager
def _opened_text(path: Path, *, most: int) -> Iterator[TextIO]:
    with open_bytes(path, most=most) as file:
        yield io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


@contextmanager
def _as_format_errors(path: Path) -> Iterator[None]:
    try:
        check_file(path, expected="a table")
        yield
    except SpahgcError:
        raise
    except pd.errors.EmptyDataError:
        raise SlideFormatError(f"{path} is empty, expected a tab-separated table") from None
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        reason = shorten(" ".join(str(error).split()), 160)
        raise SlideFormatError(f"{path}: found {reason}, expected a tab-separated table") from error
