"""Read Space Ranger's counts: one HDF5 file, or a matrix folder.

Dimension letters in this file:

S spots, F features (genes and whatever else was counted), G genes
"""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.genes import (
    DuplicateRule,
    resolve_duplicates,
    strip_versions,
    tidy_counts,
)
from spahgc.ingest.readers.visium_h5 import chosen_genome, read_h5
from spahgc.ingest.readers.visium_mtx import read_mtx
from spahgc.ingest.readers.visium_probes import sum_probes
from spahgc.schema import Finding

_GENE_EXPRESSION: Final = "Gene Expression"


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
    """What was left out, added up, or renamed."""


def read_visium_counts(
    path: Path,
    *,
    genome: str | None = None,
    probes: bool = False,
    duplicate_genes: DuplicateRule = "sum",
) -> VisiumCounts:
    """Read counts of genes, spot by spot.

    Gene symbols may repeat; a gene is known by its id.

    Parameters
    ----------
    path
        An HDF5 file, or the ``matrix.mtx`` of a matrix folder, which may be gzipped.
    genome
        Which genome to keep; needed only where the file has several.
    probes
        Whether counts of probes are added up by gene; otherwise they are refused.
    duplicate_genes
        What becomes of genes that have several columns, Ensembl versions cut off.

    Raises
    ------
    SlideFormatError
        If the file is damaged, holds probes instead of genes, or names a spot twice.
    """
    with _as_format_errors(path):
        raw = read_h5(path, genome=genome) if path.suffix == ".h5" else read_mtx(path)
    if not raw.barcodes:
        raise SlideFormatError(f"{path}: found no barcode, expected one per spot")
    _refuse_repeated(path, raw.barcodes)
    findings: list[Finding] = []
    matrix, features = raw.matrix, raw.features
    if raw.is_probes:
        _refuse_probes(path, wanted=probes)
        matrix, features = sum_probes(path, matrix, features, findings)
    kept_F = _kept_features(path, features, genome, findings)
    genes = features.loc[kept_F, ["id", "symbol"]].set_index("id").rename_axis(index=None)
    genes, versions = strip_versions(genes) if "." in "".join(genes.index) else (genes, [])
    matrix = tidy_counts(matrix if kept_F.all() else csr_matrix(matrix[:, kept_F]))
    resolved = resolve_duplicates(matrix, genes, rule=duplicate_genes)
    _refuse_empty(path, resolved.counts)
    findings += [*versions, *resolved.findings, *_repeated_symbols(resolved.genes)]
    return VisiumCounts(
        barcodes=pd.Index(raw.barcodes, dtype=object),
        matrix=resolved.counts,
        genes=resolved.genes,
        findings=tuple(findings),
    )


def _refuse_probes(path: Path, *, wanted: bool) -> None:
    if not wanted:
        raise SlideFormatError(
            f"{path} counts probes, expected genes; give the folder with "
            "filtered_feature_bc_matrix.h5 of the same run, or add them up with --sum-probes"
        )


def _refuse_repeated(path: Path, barcodes: list[str]) -> None:
    names = pd.Index(barcodes, dtype=object)
    if names.has_duplicates:
        repeated = names[names.duplicated()].unique()
        raise SlideFormatError(
            f"{path}: found {len(repeated)} barcodes more than once, for example {repeated[0]!r}, "
            "expected each once"
        )


def _refuse_empty(path: Path, matrix: csr_matrix) -> None:
    if not matrix.nnz:
        raise SlideFormatError(
            f"{path}: found no count above 0 at {matrix.shape[0]} spots, expected some; copy the "
            "file again"
        )


def _repeated_symbols(genes: pd.DataFrame) -> list[Finding]:
    n_repeated = int(genes["symbol"].duplicated(keep=False).sum())
    if not n_repeated:
        return []
    text = f"{n_repeated} genes share their symbol with another; genes are kept apart by id"
    return [Finding(kind="check", text=text)]


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
        chosen = chosen_genome(path, genomes, genome)
        is_other_F = kept_F & (features["genome"] != chosen).to_numpy()
        if is_other_F.any():
            text = f"{int(is_other_F.sum())} genes of other genomes than {chosen} left out"
            findings.append(Finding(kind="check", text=text))
        kept_F &= ~is_other_F
    elif genome is not None:
        raise SlideFormatError(f"{path} names no genome, expected none to be chosen (--genome)")
    return kept_F


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
    except (
        OSError,
        EOFError,
        TypeError,
        ValueError,
        OverflowError,
        MemoryError,
        RuntimeError,
        csv.Error,
    ) as error:
        reason = " ".join(str(error).split())
        raise SlideFormatError(
            f"{path}: found a file that cannot be read ({reason}), expected a Space Ranger count "
            "matrix; copy it again from where it came"
        ) from error
