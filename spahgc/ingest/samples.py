"""A table of slides, one a row, each with the reader that its platform names."""

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pandas as pd

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.h5ad import read_h5ad_slide
from spahgc.ingest.readers.hest import find_hest, read_hest
from spahgc.ingest.readers.image import read_image_slide
from spahgc.ingest.readers.st import StFiles, find_sections, read_st
from spahgc.ingest.readers.unpacking import MIB, check_file, read_bytes
from spahgc.ingest.readers.visium import read_visium
from spahgc.ingest.slides import PendingSlide
from spahgc.schema import Slide

REQUIRED: Final = ("slide", "platform", "path")
OPTIONAL: Final = ("image", "spots", "labels", "patient", "section", "tissue", "mpp")

_MOST_TABLE_BYTES: Final = 64 * MIB

Row = Mapping[str, str]


def read_samples(table: Path) -> list[PendingSlide]:
    """Read a CSV of slides; the slides themselves are read when they are asked for.

    Parameters
    ----------
    table
        With the columns of `REQUIRED` and any of `OPTIONAL`; paths are relative to it, and an
        empty cell is as good as no column.

    Raises
    ------
    SlideFormatError
        If the table cannot be read, lacks a column, or has an unknown column, platform or number,
        an empty cell that is needed, or one name twice; the text lists all that is wrong.
    """
    check_file(table, expected="a CSV table")
    try:
        content = io.BytesIO(read_bytes(table, most=_MOST_TABLE_BYTES))
        rows = pd.read_csv(content, dtype=str, keep_default_na=False).to_dict("records")
    except SlideFormatError:
        raise
    except ValueError as error:
        raise SlideFormatError(f"{table} cannot be read as CSV: {error}") from error
    samples: list[Row] = [{str(k): str(v).strip() for k, v in row.items()} for row in rows]
    problems = _problems(samples)
    if problems:
        raise SlideFormatError(f"{table}: {'; '.join(problems)}")
    return [
        PendingSlide(name=row["slide"], read=partial(_read, row, table.parent)) for row in samples
    ]


def _problems(samples: list[Row]) -> list[str]:
    if not samples:
        return ["no row, expected one a slide"]
    columns = set(samples[0])
    problems = [f"no column {name!r}" for name in REQUIRED if name not in columns]
    problems += [f"unknown column {n!r}" for n in sorted(columns - {*REQUIRED, *OPTIONAL})]
    if problems:
        return problems
    names = [row["slide"] for row in samples]
    for number, row in enumerate(samples, start=2):  # as a spreadsheet counts, below the header
        problems += [f"line {number}: no {name}" for name in REQUIRED if not row[name]]
        if row["platform"] and row["platform"] not in _READ:
            known = ", ".join(_READ)
            problems.append(
                f"line {number}: unknown platform {row['platform']!r}, expected {known}"
            )
        if names.index(row["slide"]) != number - 2:
            problems.append(f"line {number}: slide {row['slide']!r} is there already")
        if row.get("mpp") and not _is_positive(row["mpp"]):
            problems.append(f"line {number}: mpp {row['mpp']!r} is no positive number")
    return problems


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def _read(row: Row, folder: Path) -> Slide:
    slide = _READ[row["platform"]](row, folder)
    known = {key: row[key] for key in ("patient", "section", "tissue") if row.get(key)}
    return replace(slide, **{**known, "name": row["slide"]})  # type: ignore[arg-type]


def _read_visium(row: Row, folder: Path) -> Slide:
    return read_visium(folder / row["path"], image=_path(row, "image", folder), **_about(row))


def _read_st(row: Row, folder: Path) -> Slide:
    path = folder / row["path"]
    if path.is_dir():
        (files,) = _pick(find_sections(path), row)
    else:
        files = StFiles(
            name=row["slide"],
            counts=path,
            spots=_path(row, "spots", folder),
            image=_path(row, "image", folder),
            labels=_path(row, "labels", folder),
        )
    return read_st(files, **_about(row, name=False))


def _read_hest(row: Row, folder: Path) -> Slide:
    (files,) = _pick(find_hest(folder / row["path"]), row)
    return read_hest(files, **_about(row, name=False))


def _read_h5ad(row: Row, folder: Path) -> Slide:
    return read_h5ad_slide(folder / row["path"], image=_path(row, "image", folder), **_about(row))


def _read_image(row: Row, folder: Path) -> Slide:
    return read_image_slide(folder / row["path"], **_about(row))


_READ: Final[dict[str, Callable[[Row, Path], Slide]]] = {
    "st": _read_st,
    "visium": _read_visium,
    "hest": _read_hest,
    "h5ad": _read_h5ad,
    "image": _read_image,
}


def _about(row: Row, *, name: bool = True) -> dict[str, Any]:
    mpp = row.get("mpp")
    about: dict[str, Any] = {
        "patient": row.get("patient") or None,
        "microns_per_pixel": float(mpp) if mpp else None,
    }
    return {**about, "name": row["slide"]} if name else about


def _path(row: Row, column: str, folder: Path) -> Path | None:
    return folder / row[column] if row.get(column) else None


def _pick(found: list[Any], row: Row) -> list[Any]:
    chosen = [files for files in found if files.name == row["slide"]]
    if len(chosen) != 1:
        names = ", ".join(files.name for files in found)
        raise SlideFormatError(f"{row['path']} has no slide {row['slide']!r}, it has {names}")
    return chosen
