"""Legacy Spatial Transcriptomics: counts, spots, image and labels, one file each.

Letters: S spots, G genes.
"""

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from string import ascii_letters
from textwrap import shorten
from typing import Any, Final, Literal, NamedTuple, TextIO, TypeVar, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix

from spahgc.errors import SlideFormatError, SpahgcError
from spahgc.ingest.images import SlideImage, open_image
from spahgc.ingest.readers.lattice import check_lattice, fit_lattice, square_microns_per_pixel
from spahgc.schema import Finding, Slide, Thumbnail

SPOT_DIAMETER_UM: Final = 100.0
IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".svs", ".ndpi", ".mrxs")

_SPOTS: Final = "_selection"
_LABELS: Final = "_labeled_coordinates"
_THUMBNAIL_PX: Final = {"hires": 2000, "lowres": 600}
_LARGEST_COUNT: Final = np.iinfo(np.uint32).max
_SCALES_DIFFER: Final = 0.05
_SCALES_CONTRADICT: Final = 0.2
_PIXELS: Final = ["pixel_x", "pixel_y"]
_SPOT_ID: Final = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*x\s*(-?\d+(?:\.\d+)?)\s*")
_BLOCK_BYTES: Final = 1 << 26  # a row of many thousand genes must fit into one block
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StFiles:
    """Which files one section consists of; tables are tab-separated and may be gzipped."""

    name: str
    """Becomes the slide's."""

    counts: Path
    """Spots in rows, genes in columns."""

    spots: Path | None = None
    """Columns ``x y``, with pixels ``pixel_x pixel_y`` and perhaps ``selected``."""

    image: Path | None = None
    """The image that the pixel columns refer to."""

    labels: Path | None = None
    """Columns ``x y label``."""

    patient: str | None = None
    """None means unknown."""


def find_sections(folder: Path) -> list[StFiles]:
    """Find the sections of a study in the her2st layout, or of one flat folder.

    Returns
    -------
    list[StFiles]
        Sorted by name. In the her2st layout the letters that a name starts with are the
        patient; in a flat folder the patient is unknown.

    Raises
    ------
    SlideFormatError
        If there is no section, or several files could be the same part of one.
    """
    is_study = (folder / "ST-cnts").is_dir()
    names = _section_names(folder / "ST-cnts" if is_study else folder)
    if not names:
        raise SlideFormatError(
            f"{folder}: no section found, expected ST-cnts/ID.tsv.gz of a study, or ID.tsv.gz "
            f"beside ID{_SPOTS}.tsv and ID.jpg"
        )
    files_of = _files_of_study if is_study else _files_side_by_side
    problems: list[SpahgcError] = []
    found = [_attempt(files_of, folder / name, problems) for name in names]
    _raise_together(problems)
    return [files for files in found if files is not None]


def read_st(
    files: StFiles,
    *,
    pitch_um: float = 200.0,
    patient: str | None = None,
    microns_per_pixel: float | None = None,
) -> Slide:
    """Read one section: the spots that both counts and spots file know.

    Parameters
    ----------
    pitch_um
        Distance between neighbouring spots, in µm; tells the pixel size.
    patient
        Goes before the one in ``files``.
    microns_per_pixel
        Goes before every estimate.

    Raises
    ------
    SlideFormatError
        If a table is not what it should be, the tables share no spot, or the spots do not fit
        the image. Several problems come in one line.
    ImageError
        If the image cannot be read.
    """
    patient = patient or files.patient
    findings = _file_findings(files)
    parts = _read_parts(files)
    with parts.image or nullcontext():
        spots, counts = _join(files, parts, findings)
        centers_S2 = spots[_PIXELS].to_numpy(np.float64)
        sources = {"stated": microns_per_pixel, "pitch": None, "image": None}
        sources["pitch"] = _pitch_microns_per_pixel(files.name, spots, pitch_um, findings)
        if parts.image is not None:
            _check_inside(files.name, centers_S2, parts.image, findings)
            sources["image"] = parts.image.microns_per_pixel
        scales = _agreed_scales(files.name, sources, findings)
        return Slide(
            name=files.name,
            platform="st",
            spots=spots.drop(columns=_PIXELS),
            centers=centers_S2,
            counts=counts,
            genes=pd.DataFrame({"symbol": parts.counts.genes}, index=parts.counts.genes),
            microns_per_pixel=next(iter(scales.values()), None),
            microns_per_pixel_sources=scales,
            spot_diameter_um=SPOT_DIAMETER_UM,
            pitch_um=pitch_um,
            patient=patient,
            section=_section(files.name, patient),
            image=None if parts.image is None else parts.image.file,
            thumbnails=_thumbnails(parts.image),
            findings=tuple(findings),
        )


class _Counts(NamedTuple):
    written: "pd.Series[str]"
    """Spot ids as the file has them, by normalised spot id."""

    matrix: csr_matrix
    genes: pd.Index
    repeated: list[str]
    """Genes that had several columns, now summed."""


class _Parts(NamedTuple):
    counts: _Counts
    spots: pd.DataFrame | None
    labels: "pd.Series[str] | None"
    image: SlideImage | None


def _section_names(folder: Path) -> list[str]:
    tables = (re.fullmatch(r"([^.].*)\.tsv(?:\.gz)?", path.name) for path in folder.glob("*"))
    names = {table[1] for table in tables if table}
    return sorted(name for name in names if not name.endswith((_SPOTS, _LABELS)))


def _files_of_study(path: Path) -> StFiles:
    study, name = path.parent, path.name
    patient = name[: len(name) - len(name.lstrip(ascii_letters))]
    return StFiles(
        name=name,
        counts=_table(study / "ST-cnts", name) or study / "ST-cnts" / f"{name}.tsv",
        spots=_table(study / "ST-spotfiles", f"{name}{_SPOTS}"),
        image=_only_image((study / "ST-imgs" / patient / name).glob("*")),
        labels=_table(study / "ST-pat" / "lbl", f"{name}{_LABELS}"),
        patient=patient or None,
    )


def _files_side_by_side(path: Path) -> StFiles:
    folder, name = path.parent, path.name
    return StFiles(
        name=name,
        counts=_table(folder, name) or folder / f"{name}.tsv",
        spots=_table(folder, f"{name}{_SPOTS}"),
        image=_only_image(file for file in folder.glob("*") if file.stem == name),
        labels=_table(folder, f"{name}{_LABELS}"),
    )


def _table(folder: Path, name: str) -> Path | None:
    return _only(
        [path for end in (".tsv", ".tsv.gz") if (path := folder / f"{name}{end}").is_file()]
    )


def _only_image(paths: Iterable[Path]) -> Path | None:
    is_image = (path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)
    return _only([path for path in is_image if path.is_file() and not path.name.startswith(".")])


def _only(paths: list[Path]) -> Path | None:
    if len(paths) > 1:
        names = ", ".join(sorted(path.name for path in paths))
        raise SlideFormatError(f"{paths[0].parent}: found {names}, expected only one of them")
    return paths[0] if paths else None


def _attempt(
    read: Callable[[Path], _T], path: Path | None, problems: list[SpahgcError]
) -> _T | None:
    try:
        return None if path is None else read(path)
    except SpahgcError as error:
        problems.append(error)
        return None


def _raise_together(problems: list[SpahgcError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise SlideFormatError("; ".join(map(str, problems)))


def _read_parts(files: StFiles) -> _Parts:
    problems: list[SpahgcError] = []
    counts = _attempt(_read_counts, files.counts, problems)
    spots = _attempt(_read_spots, files.spots, problems)
    labels = _attempt(_read_labels, files.labels, problems)
    image = _attempt(open_image, files.image, problems)
    if image is not None and problems:
        image.close()
    _raise_together(problems)
    return _Parts(cast("_Counts", counts), spots, labels, image)


def _read_counts(path: Path) -> _Counts:
    with _as_format_errors(path):
        genes = _read_gene_names(path)
        table = _read_columns(path, n_columns=len(genes) + 1)
    if table.num_rows == 0:
        raise SlideFormatError(f"{path}: no row below its header, expected one per spot")
    written = table.column(0).to_pandas()
    written.index = _normalised(path, written)
    matrix = _to_csr(path, written, genes, table.columns[1:])
    code_G, unique = pd.factorize(pd.Index(genes))
    if len(unique) < len(genes):
        ones_G = np.ones(len(genes), np.uint32)
        shape = (len(genes), len(unique))
        matrix = matrix @ csr_matrix((ones_G, (np.arange(len(genes)), code_G)), shape=shape)
    repeated = unique[np.bincount(code_G) > 1].tolist()
    return _Counts(written, matrix, unique, repeated)


def _read_gene_names(path: Path) -> list[str]:
    with _opened_text(path) as lines:
        rows = list(islice(csv.reader(lines, delimiter="\t"), 2))
    if not rows:
        raise SlideFormatError(f"{path} is empty, expected genes in columns and spots in rows")
    header, first = rows[0], rows[-1]
    # R writes no cell above its row names.
    genes = header if len(first) == len(header) + 1 else header[1:]
    if not genes:
        found = max(",; ", key=header[0].count) if header else ""
        raise SlideFormatError(f"{path}: no tab in its header, found {found!r}, expected tabs")
    if not all(gene.strip() for gene in genes):
        raise SlideFormatError(f"{path}: a column has no gene name, expected one above each")
    return [gene.strip() for gene in genes]


def _read_columns(path: Path, *, n_columns: int) -> Any:  # noqa: ANN401  pyarrow is untyped
    compression = "gzip" if _is_gzipped(path) else None
    names = [str(number) for number in range(n_columns)]  # gene names may repeat
    with pa.input_stream(path, compression=compression) as stream:
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


def _read_spots(path: Path) -> pd.DataFrame:
    frame = _read_frame(path, ["x", "y"])
    x, y = _numbers(path, frame["x"]), _numbers(path, frame["y"])
    spots = pd.DataFrame({"array_row": np.rint(y), "array_col": np.rint(x)}).astype(int)
    for name in _PIXELS:
        spots[name] = _numbers(path, frame[name], may_miss=True) if name in frame else np.nan
    spots["written"] = frame["x"] + "x" + frame["y"]
    spots["is_selected"] = _numbers(path, frame["selected"]) == 1 if "selected" in frame else True
    return spots.set_index(_spot_ids(x, y))


def _read_labels(path: Path) -> "pd.Series[str]":
    frame = _read_frame(path, ["x", "y", "label"])
    ids = _spot_ids(_numbers(path, frame["x"]), _numbers(path, frame["y"]))
    labels = frame["label"].fillna("").set_axis(ids)
    labels = labels[~pd.DataFrame({"id": ids, "label": labels.to_numpy()}).duplicated().to_numpy()]
    if labels.index.has_duplicates:
        spot = labels.index[labels.index.duplicated()][0]
        found = " and ".join(map(repr, labels[[spot]]))
        raise SlideFormatError(f"{path}: spot {spot} is labelled {found}, expected one label")
    return labels


def _read_frame(path: Path, needed: list[str]) -> pd.DataFrame:
    with _as_format_errors(path), _opened_text(path) as lines:
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


def _is_gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _opened_text(path: Path) -> TextIO:
    opener = gzip.open if _is_gzipped(path) else open
    return cast("TextIO", opener(path, "rt", encoding="utf-8-sig", newline=""))


@contextmanager
def _as_format_errors(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise SlideFormatError(f"{path} does not exist, expected a table")
    try:
        yield
    except SpahgcError:
        raise
    except pd.errors.EmptyDataError:
        raise SlideFormatError(f"{path} is empty, expected a tab-separated table") from None
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        reason = shorten(" ".join(str(error).split()), 160)
        raise SlideFormatError(f"{path}: found {reason}, expected a tab-separated table") from error


def _join(
    files: StFiles, parts: _Parts, findings: list[Finding]
) -> tuple[pd.DataFrame, csr_matrix]:
    if parts.counts.repeated:
        text = f"genes with several columns, summed: {', '.join(parts.counts.repeated)}"
        findings.append(Finding(kind="warning", text=shorten(text, 160)))
    written = parts.counts.written
    spots = _selected(parts.spots, written, findings)
    is_shared_S = written.index.isin(spots.index)
    only_spots = int((~spots.index.isin(written.index)).sum())
    if not is_shared_S.any():
        raise SlideFormatError(
            f"{files.name}: none of the {len(written)} spots of {files.counts} is among the "
            f"{len(spots)} of {files.spots}, expected the same section"
        )
    _refuse_repeated(files.counts, written[is_shared_S])
    ids = written.index[is_shared_S]
    spots = spots[spots.index.isin(ids)]
    _refuse_repeated(files.spots or files.counts, spots.pop("written"))
    if files.spots is not None:
        text = (
            f"{len(ids)} spots in both {files.counts.name} and {files.spots.name}; only in the "
            f"first: {(~is_shared_S).sum()}, only in the second: {only_spots}"
        )
        findings.append(Finding(kind="check", text=text))
    return _labelled(spots.loc[ids], parts.labels, findings), parts.counts.matrix[is_shared_S]


def _selected(
    spots: pd.DataFrame | None, written: "pd.Series[str]", findings: list[Finding]
) -> pd.DataFrame:
    if spots is None:
        array = written.index.str.extract(_SPOT_ID).astype(int)
        rows = pd.DataFrame({"array_row": array[1], "array_col": array[0]})
        rows = rows.assign(pixel_x=np.nan, pixel_y=np.nan, written=written.to_numpy())
        return rows.set_index(written.index)
    is_selected = spots.pop("is_selected")
    n_dropped = int((~is_selected).sum())
    if n_dropped:
        text = f"{n_dropped} of {len(spots)} spots are not selected and were left out"
        findings.append(Finding(kind="check", text=text))
    return spots[is_selected]


def _refuse_repeated(path: Path, written: "pd.Series[str]") -> None:
    if not written.index.has_duplicates:
        return
    spot = written.index[written.index.duplicated()][0]
    found = " and ".join(written[[spot]])
    raise SlideFormatError(
        f"{path}: spot {spot} occurs more than once, as {found}, expected each spot once"
    )


def _labelled(
    spots: pd.DataFrame, labels: "pd.Series[str] | None", findings: list[Finding]
) -> pd.DataFrame:
    if labels is None:
        return spots
    spots = spots.assign(label=labels.reindex(spots.index).fillna(""))
    n_found = int((spots["label"] != "").sum())
    n_other = int((~labels.index.isin(spots.index)).sum())
    text = f"{n_found} of {len(spots)} spots have a label; labels of no spot here: {n_other}"
    kind: Literal["check", "warning"] = "check" if n_found else "warning"
    findings.append(Finding(kind=kind, text=text))
    return spots


def _pitch_microns_per_pixel(
    name: str, spots: pd.DataFrame, pitch_um: float, findings: list[Finding]
) -> float | None:
    pixels_S2 = spots[_PIXELS].to_numpy(float)
    n_missing = int(np.isnan(pixels_S2).any(axis=1).sum())
    if n_missing:
        text = (
            f"{n_missing} of {len(spots)} spots have no pixel coordinates and no place in the image"
        )
        findings.append(Finding(kind="warning", text=text))
    fit = fit_lattice(spots[["array_col", "array_row"]].to_numpy(float), pixels_S2)
    if fit is None:
        text = (
            "fewer than three spots have a place, or all lie in one line: the pitch cannot be told"
        )
        findings.append(Finding(kind="warning", text=text))
        return None
    findings.extend(check_lattice(fit, name=name, shape="square"))
    return square_microns_per_pixel(fit, pitch_um)


def _check_inside(
    name: str, centers_S2: NDArray[np.float64], image: SlideImage, findings: list[Finding]
) -> None:
    known_N2 = centers_S2[np.isfinite(centers_S2).all(axis=1)]
    n_outside = int(((known_N2 < 0) | (known_N2 > image.size)).any(axis=1).sum())
    if not n_outside:
        return
    width, height = image.size
    text = (
        f"{n_outside} of {len(known_N2)} spots lie outside {image.path.name} of {width} x {height} "
        f"px; the largest coordinates are {known_N2[:, 0].max():.0f}, {known_N2[:, 1].max():.0f}"
    )
    if n_outside > len(known_N2) / 2:
        raise SlideFormatError(
            f"{name}: {text}; expected the image that the coordinates were measured on, not "
            "another slide's or a smaller copy"
        )
    findings.append(Finding(kind="warning", text=text))


def _agreed_scales(
    name: str, estimates: dict[str, float | None], findings: list[Finding]
) -> dict[str, float]:
    sources = {source: value for source, value in estimates.items() if value is not None}
    if any(not value > 0 for value in sources.values()):
        raise SlideFormatError(f"{name}: µm per pixel are {sources}, expected positive numbers")
    if not sources:
        findings.append(Finding(kind="warning", text="nothing tells the pixel size; give --mpp"))
        return {}
    best = next(iter(sources))
    text = f"{sources[best]:.4f} µm per pixel, taken from: {best}"
    findings.append(Finding(kind="inferred", text=text))
    for other in list(sources)[1:]:
        difference = abs(sources[other] / sources[best] - 1)
        text = (
            f"µm per pixel differ by {difference:.0%}: {sources[best]:.4f} ({best}) and "
            f"{sources[other]:.4f} ({other})"
        )
        if difference > _SCALES_CONTRADICT and best != "stated":
            raise SlideFormatError(f"{name}: {text}; give the right one with --mpp")
        if difference > _SCALES_DIFFER:
            findings.append(Finding(kind="warning", text=text))
    return sources


def _file_findings(files: StFiles) -> list[Finding]:
    parts = {part: getattr(files, part) for part in ("counts", "spots", "image", "labels")}
    found = [
        Finding(kind="file", text=f"{part}: {path.name}") for part, path in parts.items() if path
    ]
    if files.spots is None:
        found.append(Finding(kind="warning", text="no spots file: the spots have no place"))
    if files.image is None:
        found.append(Finding(kind="warning", text="no image: the slide cannot be embedded"))
    return found


def _section(name: str, patient: str | None) -> str | None:
    if not patient or not name.startswith(patient):
        return None
    return name[len(patient) :].lstrip("_-. ") or None


def _thumbnails(image: SlideImage | None) -> dict[str, Thumbnail]:
    if image is None:
        return {}
    return {name: image.thumbnail(longest) for name, longest in _THUMBNAIL_PX.items()}
