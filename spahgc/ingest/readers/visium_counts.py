"""Read Space Ranger's counts: one HDF5 file, or a matrix folder.

Dimension letters in this file:

S spots, F features (genes and whatever else was counted), G genes, N stored counts
"""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import mmread
from scipy.sparse import coo_matrix, csr_matrix, issparse

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.visium_files import read_bytes
from spahgc.schema import Finding

_GENE_EXPRESSION: Final = "Gene Expression"
_LARGEST_COUNT: Final = np.iinfo(np.uint32).max


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VisiumCounts:
    """Counts of one file. Letters: S spots, G genes."""

    barcodes: pd.Index
    """S unique barcodes, as written."""

    matrix: csr_matrix
    """(S, G) uint32, sorted and without stored zeros."""

    genes: pd.DataFrame
    """G rows, indexed by unique gene id, with the column ``symbol``."""

    findings: tuple[Finding, ...]
    """What was left out."""


class _Raw(NamedTuple):
    """A file's content before anything is left out."""

    barcodes: list[str]
    features: pd.DataFrame
    """F rows with ``id``, ``symbol`` and, where the file tells, ``type`` and ``genome``."""

    matrix: csr_matrix
    """(S, F)."""


def read_visium_counts(path: Path, *, genome: str | None = None) -> VisiumCounts:
    """Read counts of genes, spot by spot.

    Gene symbols may repeat; a gene is known by its id.

    Parameters
    ----------
    path
        An HDF5 file, or the ``matrix.mtx`` of a matrix folder, which may be gzipped.
    genome
        Which genome to keep; needed only where the file has several.

    Raises
    ------
    SlideFormatError
        If the file is damaged, holds probes instead of genes, or names a spot or gene twice.
    """
    with _as_format_errors(path):
        raw = _read_h5(path, genome) if path.suffix == ".h5" else _read_mtx(path)
    if not raw.barcodes:
        raise SlideFormatError(f"{path}: found no barcode, expected one per spot")
    _refuse_repeated(path, "barcode", pd.Index(raw.barcodes))
    findings: list[Finding] = []
    kept_F = _kept_features(path, raw.features, genome, findings)
    genes = raw.features.loc[kept_F, ["id", "symbol"]].set_index("id")
    _refuse_repeated(path, "gene id", genes.index)
    n_repeated = int(genes["symbol"].duplicated(keep=False).sum())
    if n_repeated:
        text = f"{n_repeated} genes share their symbol with another; genes are kept apart by id"
        findings.append(Finding(kind="check", text=text))
    return VisiumCounts(
        barcodes=pd.Index(raw.barcodes, dtype=object),
        matrix=_tidy(raw.matrix if kept_F.all() else raw.matrix[:, kept_F]),
        genes=genes.rename_axis(index=None),
        findings=tuple(findings),
    )


def _read_h5(path: Path, genome: str | None) -> _Raw:
    with h5py.File(path, "r") as file:
        if "matrix" in file:
            group = file["matrix"]
            features = _h5_features(path, group)
        else:
            group, features = _oldest_layout(path, file, genome)
        barcodes = _texts(group["barcodes"])
        shape = (len(barcodes), len(features))
        stated = tuple(int(n) for n in group["shape"][:])[::-1]
        if stated != shape:
            raise SlideFormatError(
                f"{path}: its shape states {stated[0]} spots and {stated[1]} features, found "
                f"{shape[0]} barcodes and {shape[1]} features, expected the same"
            )
        parts = (group[part][:] for part in ("data", "indices", "indptr"))
        return _Raw(barcodes, features, _checked_csr(path, *parts, shape=shape))


def _h5_features(path: Path, group: Any) -> pd.DataFrame:  # noqa: ANN401  h5py is untyped
    features = group["features"]
    if "gene_id" in features or "probe_region" in features:
        raise SlideFormatError(
            f"{path} counts probes, expected genes; give the folder with "
            "filtered_feature_bc_matrix.h5 of the same run"
        )
    columns = {"id": "id", "symbol": "name", "type": "feature_type", "genome": "genome"}
    needed = {"id", "name"}
    return pd.DataFrame(
        {
            column: _texts(features[name])
            for column, name in columns.items()
            if name in features or name in needed
        }
    )


def _oldest_layout(path: Path, file: Any, genome: str | None) -> tuple[Any, pd.DataFrame]:  # noqa: ANN401
    """Return the group of one genome, and its genes; Cell Ranger 2 had one group for each."""
    genomes = [name for name, group in file.items() if "genes" in getattr(group, "keys", dict)()]
    if not genomes:
        found = ", ".join(sorted(file)) or "nothing"
        raise SlideFormatError(f"{path}: found {found}, expected the group 'matrix'")
    chosen = _chosen_genome(path, genomes, genome)
    group = file[chosen]
    features = {"id": _texts(group["genes"]), "symbol": _texts(group["gene_names"])}
    return group, pd.DataFrame(features).assign(genome=chosen)


def _texts(dataset: Any) -> list[str]:  # noqa: ANN401
    return [str(text) for text in dataset.asstr()[:]]


def _read_mtx(path: Path) -> _Raw:
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
    values_N = _whole_numbers(path, matrix.data)
    swapped = coo_matrix((values_N, (matrix.col, matrix.row)), shape=matrix.shape[::-1])
    return _Raw(barcodes, features, csr_matrix(swapped))


def _beside(path: Path, prefix: str, names: tuple[str, ...]) -> Path:
    candidates = [path.with_name(f"{prefix}{name}{end}") for name in names for end in ("", ".gz")]
    found = [candidate for candidate in candidates if candidate.is_file()]
    if not found:
        expected = " or ".join(f"{prefix}{name}[.gz]" for name in names)
        raise SlideFormatError(f"{path.parent}: found {path.name} alone, expected {expected} too")
    return found[0]


def _lines(path: Path) -> list[str]:
    return read_bytes(path).decode("utf-8-sig").splitlines()


def _read_features(path: Path) -> pd.DataFrame:
    rows = [row for row in csv.reader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    n_columns = min(map(len, rows), default=0)
    if n_columns < 2:
        raise SlideFormatError(
            f"{path}: found rows of {n_columns} columns, expected a gene id, a symbol and perhaps "
            "a type, separated by tabs"
        )
    names = ["id", "symbol", "type"][:n_columns]
    return pd.DataFrame([row[: len(names)] for row in rows], columns=names)


def _checked_csr(
    path: Path,
    data_N: NDArray[Any],
    indices_N: NDArray[Any],
    indptr: NDArray[Any],
    *,
    shape: tuple[int, int],
) -> csr_matrix:
    is_sound = (
        len(indptr) == shape[0] + 1
        and indptr[0] == 0
        and indptr[-1] == len(data_N) == len(indices_N)
        and bool((np.diff(indptr) >= 0).all())
        and (len(indices_N) == 0 or (indices_N.min() >= 0 and indices_N.max() < shape[1]))
    )
    if not is_sound:
        raise SlideFormatError(
            f"{path}: its data, indices and indptr do not fit {shape[0]} spots and {shape[1]} "
            "features, expected one compressed column per spot; copy the file again"
        )
    return csr_matrix((_whole_numbers(path, data_N), indices_N, indptr), shape=shape)


def _whole_numbers(path: Path, data_N: NDArray[Any]) -> NDArray[np.uint32]:
    is_count_N = (data_N >= 0) & (data_N <= _LARGEST_COUNT) & (np.floor(data_N) == data_N)
    if not is_count_N.all():
        raise SlideFormatError(
            f"{path}: found {data_N[~is_count_N][0]} among the counts, expected whole numbers "
            "from 0; give the counts before any normalisation"
        )
    return data_N.astype(np.uint32)


def _kept_features(
    path: Path, features: pd.DataFrame, genome: str | None, findings: list[Finding]
) -> NDArray[np.bool_]:
    kept_F = np.ones(len(features), dtype=np.bool_)
    if "type" in features:
        kept_F &= (features["type"] == _GENE_EXPRESSION).to_numpy()
        dropped = features.loc[~kept_F, "type"].value_counts()
        left = ", ".join(f"{n} of type {kind!r}" for kind, n in dropped.items())
        if left:
            findings.append(Finding(kind="check", text=f"features left out: {left}"))
    if not kept_F.any():
        raise SlideFormatError(f"{path}: found no feature of type {_GENE_EXPRESSION!r}")
    if "genome" in features:
        genomes = list(features.loc[kept_F, "genome"].unique())
        chosen = _chosen_genome(path, genomes, genome)
        is_other_F = kept_F & (features["genome"] != chosen).to_numpy()
        if is_other_F.any():
            text = f"{int(is_other_F.sum())} genes of other genomes than {chosen} left out"
            findings.append(Finding(kind="check", text=text))
        kept_F &= ~is_other_F
    elif genome is not None:
        raise SlideFormatError(f"{path} names no genome, expected none to be chosen (--genome)")
    return kept_F


def _chosen_genome(path: Path, genomes: list[str], genome: str | None) -> str:
    if genome is None and len(genomes) == 1:
        return genomes[0]
    if genome in genomes:
        return genome
    found = ", ".join(sorted(genomes))
    if genome is None:
        raise SlideFormatError(f"{path}: found the genomes {found}; choose one with --genome")
    raise SlideFormatError(f"{path}: found the genomes {found}, expected {genome} among them")


def _refuse_repeated(path: Path, what: str, names: pd.Index) -> None:
    if names.has_duplicates:
        repeated = names[names.duplicated()].unique()
        raise SlideFormatError(
            f"{path}: found {len(repeated)} {what}s more than once, for example {repeated[0]!r}, "
            "expected each once"
        )


def _tidy(matrix: csr_matrix) -> csr_matrix:
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


@contextmanager
def _as_format_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except SlideFormatError:
        raise
    except KeyError as error:
        reason = " ".join(str(error.args[0]).split()).lower()
        raise SlideFormatError(
            f"{path}: a part is missing ({reason}), expected a Space Ranger count matrix"
        ) from error
    except (OSError, EOFError, TypeError, ValueError, OverflowError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise SlideFormatError(
            f"{path}: found a file that cannot be read ({reason}), expected a Space Ranger count "
            "matrix; copy it again from where it came"
        ) from error
