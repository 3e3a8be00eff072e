"""Read what an h5ad file (AnnData) holds of one slide.

Letters: S spots, G genes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, Final

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_complex_dtype, is_numeric_dtype
from scipy.sparse import csr_matrix

from spahgc.errors import SlideFormatError, SpahgcError
from spahgc.ingest.readers.exported import Exported, read_exported
from spahgc.ingest.readers.genes import DuplicateRule, resolve_duplicates, strip_versions
from spahgc.ingest.readers.h5ad_counts import find_counts, read_counts, read_element
from spahgc.ingest.readers.hdf5 import open_hdf5
from spahgc.ingest.readers.unpacking import check_file
from spahgc.schema import Finding, Thumbnail

_CENTERS: Final = ("spatial", "X_spatial")
_SYMBOLS: Final = (
    *("symbol", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "SYMBOL"),
    "feature_name",
)
_IDS: Final = ("gene_ids", "gene_id")
_FEATURE_TYPES: Final = ("feature_types", "feature_type")
_GENE_EXPRESSION: Final = "Gene Expression"
_ENSEMBL: Final = r"^ENS[A-Z]*G\d{11}"
_LIBRARY: Final = "library_id"
_PICTURES: Final = {"hires": "hires", "lowres": "lowres", "downscaled_fullres": "hires"}
_LATTICE: Final = ("array_row", "array_col")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpotTable:
    """What one file holds. Letters: S spots, G genes."""

    spots: pd.DataFrame
    """S rows by unique name; ``array_row`` and ``array_col`` only where they are integers."""

    centers: NDArray[np.float64]
    """(S, 2) x, y in full-resolution pixels."""

    counts: csr_matrix
    """(S, G) uint32."""

    genes: pd.DataFrame
    """G rows, indexed by unique gene id, with the column ``symbol``."""

    scale_factors: dict[str, float]
    """As the file has them, for example ``spot_diameter_fullres``."""

    exported: Exported
    """What `spahgc store export` wrote of the slide, where it made the file."""

    thumbnails: dict[str, Thumbnail]
    """Small pictures that the file holds."""

    findings: tuple[Finding, ...]
    """What was taken for what, and left out."""


def read_spot_table(
    path: Path, *, counts_layer: str | None = None, duplicate_genes: DuplicateRule = "sum"
) -> SpotTable:
    """Read spots, raw counts and centers; of the rest of the file nothing is read.

    Parameters
    ----------
    counts_layer
        Name of the layer that holds raw counts, ``X`` or ``raw``; None looks for it.
    duplicate_genes
        What becomes of genes that have several columns.

    Raises
    ------
    SlideFormatError
        If the file is damaged, holds no raw counts or no centers, or names a spot twice.
    """
    findings = [Finding(kind="file", text=f"table: {path.name}")]
    with _as_format_errors(path), open_hdf5(path) as file:
        spots = _read_spots(path, file, findings)
        centers_S2 = _read_centers(path, file, n_spots=len(spots))
        place, owner = find_counts(file, counts_layer, findings)
        counts, genes = _read_genes(file, place, owner, n_spots=len(spots), findings=findings)
        scale_factors, thumbnails = _read_spatial(path, file, spots, findings)
        exported = read_exported(file, findings)
    genes, stripped = strip_versions(genes)
    resolved = resolve_duplicates(counts, genes, rule=duplicate_genes)
    findings.extend([*stripped, *resolved.findings])
    return SpotTable(
        spots=spots,
        centers=centers_S2,
        counts=resolved.counts,
        genes=resolved.genes,
        scale_factors=scale_factors,
        exported=exported,
        thumbnails=thumbnails,
        findings=tuple(findings),
    )


def _read_spots(path: Path, file: h5py.File, findings: list[Finding]) -> pd.DataFrame:
    table = _read_table(file, "obs")
    if not len(table):
        raise SlideFormatError(f"{path}: found no spot in obs, expected one row per spot")
    names = table.index.astype(str)
    if names.has_duplicates:
        raise SlideFormatError(
            f"{path}: spot {names[names.duplicated()][0]} occurs more than once in obs, expected "
            "each spot once; give the spots of one slide, with `adata.obs_names_make_unique()` "
            "where only the names repeat"
        )
    columns = {str(name): _simple(table[name]) for name in table.columns}
    left_out = [name for name, column in columns.items() if column is None]
    if left_out:
        text = f"columns of obs that are not simple were left out: {', '.join(left_out)}"
        findings.append(Finding(kind="warning", text=shorten(text, 160)))
    kept = {name: column for name, column in columns.items() if column is not None}
    spots = pd.DataFrame(kept, index=table.index).set_axis(pd.Index(names, dtype=object))
    return _with_vendor_flags(spots, findings)


def _read_table(owner: h5py.Group, name: str) -> pd.DataFrame:
    table = read_element(owner[name])
    if not isinstance(table, pd.DataFrame):
        raise SlideFormatError(
            f"{owner.file.filename}: {name} is no table of today's AnnData; open the file with a "
            "current anndata and write it again"
        )
    return table


def _simple(column: "pd.Series[Any]") -> "pd.Series[Any] | None":
    is_category = isinstance(column.dtype, pd.CategoricalDtype)
    if is_category or (is_numeric_dtype(column) and not is_complex_dtype(column)):
        return column
    if is_bool_dtype(column):
        return column
    texts = column.astype(object).where(column.notna(), "")
    return texts if all(isinstance(text, str) for text in texts) else None


def _with_vendor_flags(spots: pd.DataFrame, findings: list[Finding]) -> pd.DataFrame:
    """Make ``in_tissue`` true or false and array places integers, or leave them out."""
    wanted = {"in_tissue": np.bool_, **dict.fromkeys(_LATTICE, np.int64)}
    for name, dtype in wanted.items():
        if name not in spots:
            continue
        numbers = pd.to_numeric(spots[name].astype(object), errors="coerce").astype(float)
        is_whole = bool((numbers == np.rint(numbers)).all())
        is_flag = bool(numbers.isin((0, 1)).all())
        if is_whole and (dtype is not np.bool_ or is_flag):
            spots = spots.assign(**{name: numbers.astype(dtype)})
            continue
        text = f"{name} of obs was left out: it holds more than whole numbers"
        findings.append(Finding(kind="warning", text=text))
        spots = spots.drop(columns=name)
    if sum(name in spots for name in _LATTICE) == 1:
        spots = spots.drop(columns=list(_LATTICE), errors="ignore")
    return spots


def _read_centers(path: Path, file: h5py.File, *, n_spots: int) -> NDArray[np.float64]:
    places = [name for name in _CENTERS if name in file.get("obsm", {})]
    if not places:
        found = ", ".join(sorted(file.get("obsm", {}))) or "nothing"
        raise SlideFormatError(
            f"{path}: found {found} in obsm, expected 'spatial' with x and y of each spot in "
            "full-resolution pixels"
        )
    places_S2 = read_element(file["obsm"][places[0]])
    centers_S2 = np.asarray(places_S2, dtype=np.float64)
    if centers_S2.shape != (n_spots, 2):
        raise SlideFormatError(
            f"{path}: obsm/{places[0]} is {' x '.join(map(str, centers_S2.shape))}, expected "
            f"{n_spots} x 2: x and y of each spot"
        )
    is_lost_S = ~np.isfinite(centers_S2).all(axis=1)
    if is_lost_S.any():
        raise SlideFormatError(
            f"{path}: {is_lost_S.sum()} of {n_spots} spots have no place in obsm/{places[0]}, the "
            f"first in row {int(np.argmax(is_lost_S)) + 1}, expected x and y for each"
        )
    return centers_S2


def _read_genes(
    file: h5py.File, place: str, owner: h5py.Group, *, n_spots: int, findings: list[Finding]
) -> tuple[csr_matrix, pd.DataFrame]:
    """Return raw counts and the genes' symbols by id, of which each may repeat."""
    table = _read_table(owner, "var")
    counts = read_counts(file, place, n_spots=n_spots, n_genes=len(table))
    types = next((table[name] for name in _FEATURE_TYPES if name in table), None)
    if types is not None and (types == _GENE_EXPRESSION).any():
        is_gene_G = (types == _GENE_EXPRESSION).to_numpy()
        if not is_gene_G.all():
            text = f"{(~is_gene_G).sum()} features that are not of type {_GENE_EXPRESSION} left out"
            findings.append(Finding(kind="check", text=text))
            table, counts = table[is_gene_G], csr_matrix(counts[:, np.flatnonzero(is_gene_G)])
    return counts, _named_genes(table)


def _named_genes(table: pd.DataFrame) -> pd.DataFrame:
    names = table.index.astype(str).to_numpy(dtype=object)
    ids = names
    if not pd.Series(names).str.match(_ENSEMBL).any():
        ids = next((_texts(table[name], names) for name in _IDS if name in table), names)
    symbol = next((_texts(table[name], ids) for name in _SYMBOLS if name in table), names)
    return pd.DataFrame({"symbol": symbol}, index=pd.Index(ids, dtype=object))


def _texts(column: "pd.Series[Any]", otherwise: NDArray[Any]) -> NDArray[Any]:
    texts = column.astype(object)
    is_text = np.array([isinstance(text, str) and text != "" for text in texts], dtype=np.bool_)
    return np.where(is_text, texts, otherwise)


def _read_spatial(
    path: Path, file: h5py.File, spots: pd.DataFrame, findings: list[Finding]
) -> tuple[dict[str, float], dict[str, Thumbnail]]:
    libraries = file.get("uns/spatial", {})
    names = [name for name in libraries if isinstance(libraries[name], h5py.Group)]
    slides = [str(name) for name in spots[_LIBRARY].unique()] if _LIBRARY in spots else names
    if len(slides) > 1:
        raise SlideFormatError(
            f"{path}: found {len(slides)} slides ({shorten(', '.join(slides), 60)}), expected one; "
            f"write each to a file of its own, as adata[adata.obs['{_LIBRARY}'] == {slides[0]!r}]"
        )
    if not names:
        return {}, {}
    group = libraries[slides[0] if slides[0] in names else names[0]]
    raw = read_element(group["scalefactors"]) if "scalefactors" in group else {}
    factors = {
        str(name): float(value) for name, value in raw.items() if np.ndim(value) == 0 and value > 0
    }
    images = group.get("images", {})
    found = {
        _PICTURES[name]: _thumbnail(images[name], factors.get(f"tissue_{name}_scalef"))
        for name in images
        if name in _PICTURES
    }
    thumbnails = {name: picture for name, picture in found.items() if picture is not None}
    if thumbnails:
        findings.append(Finding(kind="file", text=f"pictures: {', '.join(thumbnails)}"))
    return factors, thumbnails


def _thumbnail(element: Any, scale: float | None) -> Thumbnail | None:  # noqa: ANN401
    if scale is None or getattr(element, "ndim", 0) != 3 or element.shape[2] not in (3, 4):
        return None
    pixels = element[..., :3]
    if pixels.dtype.kind == "f":
        pixels = np.rint(np.clip(pixels, 0, 1) * 255)
    return Thumbnail(pixels=pixels.astype(np.uint8), scale=scale)


@contextmanager
def _as_format_errors(path: Path) -> Iterator[None]:
    check_file(path, expected="an h5ad file")
    try:
        yield
    except SpahgcError:
        raise
    except (OSError, EOFError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = shorten(" ".join(str(error).split()), 160)
        raise SlideFormatError(
            f"{path}: found a file that cannot be read ({reason}), expected an h5ad file; copy it "
            "again from where it came"
        ) from error
