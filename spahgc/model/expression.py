"""Raw counts → what the model learns: normalised expression of a panel of genes.

Dimension letters in this file:

S spots, G genes
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csr_matrix

from spahgc.errors import MismatchError

SEEN_FRACTION: Final = 0.1
"""Share of a slide's spots a gene must be counted in before a rule may choose it."""

_RANKED: Final[dict[str, Literal["hvg", "heg"]]] = {"hvg": "hvg", "heg": "heg"}
_EXPECTED: Final = "expected hvg:N, heg:N, all, or a text file with one gene per line"


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelRule:
    """How genes are chosen, as a user writes it."""

    kind: Literal["hvg", "heg", "all", "file"]
    """Most variable, highest mean count, every gene, or a list."""

    n_genes: int | None = None
    """Of ``hvg`` and ``heg``."""

    path: Path | None = None
    """Of ``file``."""

    @classmethod
    def parse(cls, text: str) -> "PanelRule":
        """Read a rule.

        Parameters
        ----------
        text
            ``hvg:50``, ``heg:50``, ``all``, ``file:PATH``, or the path of an existing file.

        Returns
        -------
        PanelRule
            ``str(rule)`` is the text again.

        Raises
        ------
        MismatchError
            If the text is none of these, or the file does not exist.
        """
        kind, _, value = text.partition(":")
        if text == "all":
            return cls(kind="all")
        if (ranked := _RANKED.get(kind)) is not None:
            return cls(kind=ranked, n_genes=_n_genes(value, rule=text))
        path = Path(value) if kind == "file" and value else Path(text)
        if not path.is_file():
            problem = f"no file {path}" if kind == "file" else "not a rule and no such file"
            raise MismatchError(f"gene panel {text!r}: {problem}; {_EXPECTED}")
        return cls(kind="file", path=path)

    def __str__(self) -> str:
        if self.kind == "file":
            return f"file:{self.path}"
        return self.kind if self.n_genes is None else f"{self.kind}:{self.n_genes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenePanel:
    """The genes a run predicts, in the one order every array of the run keeps."""

    genes: tuple[str, ...]
    """Unique gene ids: by name, or as listed where they come from a file."""

    rule: str
    """How they were chosen."""

    @property
    def digest(self) -> str:
        """12 hexadecimal digits that change with any gene or with their order."""
        return hashlib.sha256("\n".join(self.genes).encode()).hexdigest()[:12]

    def columns(self, genes: Sequence[str]) -> NDArray[np.int64]:
        """Find the panel in another list of genes.

        Parameters
        ----------
        genes
            Unique gene ids, such as those of a slide.

        Returns
        -------
        NDArray[np.int64]
            (G,) position in ``genes`` of each gene of the panel.

        Raises
        ------
        MismatchError
            If ``genes`` lacks a gene of the panel.
        """
        column_G = pd.Index(genes).get_indexer(pd.Index(self.genes)).astype(np.int64)
        missing = [gene for gene, column in zip(self.genes, column_G, strict=True) if column < 0]
        if missing:
            raise MismatchError(
                f"gene panel {self.rule}: {len(missing)} of {len(self.genes)} genes are not among "
                f"the {len(genes)} genes of the slides ({_some(missing)}); expected the same "
                "gene ids as in the store"
            )
        return column_G


def normalise(counts: csr_matrix, *, target_sum: float = 1e4) -> csr_matrix:
    """Scale each spot to one library size and take log(1 + x).

    Parameters
    ----------
    counts
        (S, G) raw counts of every gene of the slide: the library size is their sum, so a panel is
        picked afterwards.
    target_sum
        Library size after scaling, in counts.

    Returns
    -------
    csr_matrix
        (S, G) float32, at least 0; a spot without counts stays zero.
    """
    scaled = _float_counts(counts)
    if scaled.nnz == 0:
        return scaled
    table = ad.AnnData(scaled[np.diff(scaled.indptr) > 0])  # scanpy warns of empty spots
    sc.pp.normalize_total(table, target_sum=target_sum)
    sc.pp.log1p(table)
    scaled.data = table.X.data  # empty spots have no entry, so the entries are the same
    return scaled


def log_depth(counts: csr_matrix) -> NDArray[np.float64]:
    """Measure how much was counted at each spot.

    Parameters
    ----------
    counts
        (S, G) raw counts of every gene of the slide.

    Returns
    -------
    NDArray[np.float64]
        (S,) log(1 + total counts).
    """
    return np.log1p(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel())


def choose_panel(
    counts_by_slide: Mapping[str, csr_matrix], genes: Sequence[str], *, rule: str
) -> GenePanel:
    """Choose genes by the training slides alone.

    ``hvg:N`` is the rule of HEST-bench: of the genes counted in at least 10 % of the spots of
    every slide, the N with the highest normalised dispersion (scanpy's flavour ``seurat``) on log1p
    of the raw counts of all spots together. ``heg:N`` takes the highest mean counts of the same
    genes. ``all`` and a file keep every gene.

    Parameters
    ----------
    counts_by_slide
        (S, G) raw counts of each training slide, by its name.
    genes
        G unique gene ids, in the column order of every slide.
    rule
        As `PanelRule.parse` reads it.

    Returns
    -------
    GenePanel
        In the order of gene ids; in the file's order where there is one.

    Raises
    ------
    MismatchError
        If the rule cannot be read, asks for more genes than there are, or lists unknown ones.

    References
    ----------
    Jaume et al., HEST-1k, NeurIPS 2024, arXiv 2406.16192; Satija et al., Nature Biotechnology
    2015, doi:10.1038/nbt.3192.
    """
    parsed = PanelRule.parse(rule)
    _check_slides(counts_by_slide, genes)
    if parsed.path is not None:
        panel = GenePanel(genes=_read_genes(parsed.path), rule=str(parsed))
        panel.columns(genes)
        return panel
    chosen = np.asarray(genes, dtype=object)
    if parsed.n_genes is not None:
        chosen = chosen[_choose(counts_by_slide, genes, rule=parsed, n_genes=parsed.n_genes)]
    return GenePanel(genes=tuple(sorted(chosen)), rule=str(parsed))


def choose_wide(counts_by_slide: Mapping[str, csr_matrix], genes: Sequence[str]) -> GenePanel:
    """Choose every gene counted in at least 10 % of the spots of every training slide.

    Parameters are those of `choose_panel`.

    Raises
    ------
    MismatchError
        If no gene is.
    """
    _check_slides(counts_by_slide, genes)
    seen_G = np.all([_is_seen(counts) for counts in counts_by_slide.values()], axis=0)
    if not seen_G.any():
        raise MismatchError(
            f"no gene is counted in at least {SEEN_FRACTION:.0%} of the spots of each of the "
            f"{len(counts_by_slide)} training slides, so no programme can be found; train with "
            "`--preset paper`"
        )
    chosen = np.asarray(genes, dtype=object)[seen_G]
    return GenePanel(genes=tuple(sorted(chosen)), rule="seen")


def _n_genes(value: str, *, rule: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value) > 0):
        raise MismatchError(f"gene panel {rule!r}: {value!r} is not a number of genes; {_EXPECTED}")
    return int(value)


def _float_counts(counts: csr_matrix) -> csr_matrix:
    floats = csr_matrix(counts, dtype=np.float32, copy=True)
    floats.eliminate_zeros()
    return floats


def _check_slides(counts_by_slide: Mapping[str, csr_matrix], genes: Sequence[str]) -> None:
    if not counts_by_slide:
        raise MismatchError("a gene panel needs training slides; found none, expected at least one")
    for name, counts in counts_by_slide.items():
        if counts.shape[1] != len(genes) or counts.shape[0] == 0:
            raise MismatchError(
                f"slide {name!r} has counts of shape {counts.shape}; "
                f"expected at least one spot and {len(genes)} genes"
            )


def _read_genes(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MismatchError(f"gene panel {path}: not UTF-8 text; expected one gene per line") from (
            error
        )
    genes = [gene for line in text.splitlines() if (gene := line.strip())]
    twice = [gene for gene, n_times in Counter(genes).items() if n_times > 1]
    if twice or not genes:
        problem = f"{_some(twice)} listed twice" if twice else "no gene in it"
        raise MismatchError(f"gene panel {path}: {problem}; expected one gene per line, each once")
    return tuple(genes)


def _choose(
    counts_by_slide: Mapping[str, csr_matrix],
    genes: Sequence[str],
    *,
    rule: PanelRule,
    n_genes: int,
) -> NDArray[np.int64]:
    seen = np.flatnonzero(np.all([_is_seen(c) for c in counts_by_slide.values()], axis=0))
    if len(seen) < n_genes:
        raise MismatchError(
            f"gene panel {rule} asks for {n_genes} genes, but {len(seen)} of {len(genes)} are "
            f"counted in at least {SEEN_FRACTION:.0%} of the spots of each of the "
            f"{len(counts_by_slide)} training slides; ask for fewer, or give `all` or a file"
        )
    counts = sparse.vstack([_float_counts(c[:, seen]) for c in counts_by_slide.values()], "csr")
    score = _dispersion(counts) if rule.kind == "hvg" else np.asarray(counts.mean(axis=0)).ravel()
    by_name = np.asarray(genes, dtype=object)[seen].argsort(kind="stable")
    best = by_name[np.argsort(-score[by_name], kind="stable")[:n_genes]]
    return seen[best]


def _is_seen(counts: csr_matrix) -> NDArray[np.bool_]:
    n_spots_G = np.asarray((counts > 0).sum(axis=0)).ravel()
    return n_spots_G >= SEEN_FRACTION * counts.shape[0]


def _dispersion(counts: csr_matrix) -> NDArray[np.float64]:
    table = ad.AnnData(counts)
    sc.pp.log1p(table)
    # without n_top_genes: that warns where genes have no dispersion, and may return more at a tie
    dispersion_G = sc.pp.highly_variable_genes(table, inplace=False)["dispersions_norm"]
    return dispersion_G.fillna(-np.inf).to_numpy(dtype=np.float64)


def _some(genes: Sequence[str]) -> str:
    return ", ".join(genes[:5]) + (", …" if len(genes) > 5 else "")
