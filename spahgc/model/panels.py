"""Which genes a model predicts: chosen on training slides, or listed by somebody.

Dimension letters in this file:

S spots, G genes
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csr_matrix

from spahgc.errors import MismatchError
from spahgc.model.expression import float_counts
from spahgc.model.panel_rules import LISTED, PanelRule, some_of

SEEN_FRACTION: Final = 0.1
"""Share of a slide's spots a gene must be counted in before a rule may choose it."""


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

    @property
    def is_listed(self) -> bool:
        """Whether a list gave the genes, and no slide."""
        return self.rule.startswith(LISTED)

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
                f"the {len(genes)} genes of the slides ({some_of(missing)}); expected gene ids or "
                "symbols that the training slides share"
            )
        return column_G


def choose_panel(
    counts_by_slide: Mapping[str, csr_matrix], genes: Sequence[str], *, rule: PanelRule
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
        How they are chosen.

    Returns
    -------
    GenePanel
        In the order of gene ids; in the file's order where there is one.

    Raises
    ------
    MismatchError
        If the rule asks for more genes than there are, or lists unknown ones.

    References
    ----------
    Jaume et al., HEST-1k, NeurIPS 2024, arXiv 2406.16192; Satija et al., Nature Biotechnology
    2015, doi:10.1038/nbt.3192.
    """
    _check_slides(counts_by_slide, genes)
    if rule.kind == "file":
        panel = GenePanel(genes=rule.genes, rule=str(rule))
        panel.columns(genes)
        return panel
    chosen = np.asarray(genes, dtype=object)
    if rule.n_genes is not None:
        chosen = chosen[_choose(counts_by_slide, genes, rule=rule, n_genes=rule.n_genes)]
    return GenePanel(genes=tuple(sorted(chosen)), rule=str(rule))


def choose_wide(counts_by_slide: Mapping[str, csr_matrix], genes: Sequence[str]) -> GenePanel:
    """Choose every gene counted in at least 10 % of the spots of every training slide.

    Parameters are those of `choose_panel`.

    Raises
    ------
    MismatchError
        If no gene is.
    """
    _check_slides(counts_by_slide, genes)
    seen_G = np.all([is_seen(counts) for counts in counts_by_slide.values()], axis=0)
    check_wide(int(seen_G.sum()), n_slides=len(counts_by_slide))
    chosen = np.asarray(genes, dtype=object)[seen_G]
    return GenePanel(genes=tuple(sorted(chosen)), rule="seen")


def is_seen(counts: csr_matrix) -> NDArray[np.bool_]:
    """Say of each gene, (G,), whether a slide's (S, G) counts let a rule choose it."""
    n_spots_G = np.asarray((counts > 0).sum(axis=0)).ravel()
    return n_spots_G >= SEEN_FRACTION * counts.shape[0]


def check_ranked(rule: PanelRule, *, n_seen: int, n_genes: int, n_slides: int) -> None:
    """Refuse a rule that asks for more genes than are seen on every one of some slides.

    Raises
    ------
    MismatchError
        If it does.
    """
    if rule.n_genes is not None and n_seen < rule.n_genes:
        raise MismatchError(
            f"gene panel {rule} asks for {rule.n_genes} genes, but {n_seen} of {n_genes} are "
            f"counted in at least {SEEN_FRACTION:.0%} of the spots of each of the {n_slides} "
            "training slides; ask for fewer, or give `all` or a file"
        )


def check_wide(n_seen: int, *, n_slides: int) -> None:
    """Refuse to find programmes where no gene is seen on every one of some slides.

    Raises
    ------
    MismatchError
        If none is.
    """
    if n_seen == 0:
        raise MismatchError(
            f"no gene is counted in at least {SEEN_FRACTION:.0%} of the spots of each of the "
            f"{n_slides} training slides, so no program can be found; train with "
            "`--preset paper`"
        )


def _check_slides(counts_by_slide: Mapping[str, csr_matrix], genes: Sequence[str]) -> None:
    if not counts_by_slide:
        raise MismatchError("a gene panel needs training slides; found none, expected at least one")
    for name, counts in counts_by_slide.items():
        if counts.shape[1] != len(genes) or counts.shape[0] == 0:
            raise MismatchError(
                f"slide {name!r} has counts of shape {counts.shape}; "
                f"expected at least one spot and {len(genes)} genes"
            )


def _choose(
    counts_by_slide: Mapping[str, csr_matrix],
    genes: Sequence[str],
    *,
    rule: PanelRule,
    n_genes: int,
) -> NDArray[np.int64]:
    seen = np.flatnonzero(np.all([is_seen(c) for c in counts_by_slide.values()], axis=0))
    check_ranked(rule, n_seen=len(seen), n_genes=len(genes), n_slides=len(counts_by_slide))
    counts = sparse.vstack([float_counts(c[:, seen]) for c in counts_by_slide.values()], "csr")
    score = _dispersion(counts) if rule.kind == "hvg" else np.asarray(counts.mean(axis=0)).ravel()
    by_name = np.asarray(genes, dtype=object)[seen].argsort(kind="stable")
    best = by_name[np.argsort(-score[by_name], kind="stable")[:n_genes]]
    return seen[best]


def _dispersion(counts: csr_matrix) -> NDArray[np.float64]:
    table = ad.AnnData(counts)
    sc.pp.log1p(table)
    # without n_top_genes: that warns where genes have no dispersion, and may return more at a tie
    dispersion_G = sc.pp.highly_variable_genes(table, inplace=False)["dispersions_norm"]
    return dispersion_G.fillna(-np.inf).to_numpy(dtype=np.float64)
