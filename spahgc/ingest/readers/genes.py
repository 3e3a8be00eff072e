"""One column per gene: stable Ensembl ids, and one rule for genes that come twice.

Letters: S spots, G genes.
"""

import re
from textwrap import shorten
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spahgc.errors import SlideFormatError
from spahgc.schema import Finding

DuplicateRule: TypeAlias = Literal["sum", "first", "suffix"]
"""``sum`` adds up the counts of one id, ``first`` keeps its first column, ``suffix`` keeps all,
with ``-1``, ``-2`` … behind the later ones."""

_VERSIONED: Final = re.compile(r"(ENS[A-Z]*G\d{11})\.\d+(_PAR_Y)?")
_WHAT_WAS_DONE: Final[dict[DuplicateRule, str]] = {
    "sum": "summed",
    "first": "only the first kept",
    "suffix": "told apart by a suffix",
}


class ResolvedGenes(NamedTuple):
    """Counts and genes that belong together."""

    counts: csr_matrix
    """(S, G) of the data type that was given."""

    genes: pd.DataFrame
    """G rows, indexed by unique gene id, with the column ``symbol``."""

    findings: list[Finding]
    """What was done, if anything."""


def strip_versions(genes: pd.DataFrame) -> tuple[pd.DataFrame, list[Finding]]:
    """Cut the version off Ensembl gene ids: ENSG00000141510.12 becomes ENSG00000141510.

    Ids may repeat afterwards. The copies of a gene on the Y chromosome keep their ``_PAR_Y``.

    Parameters
    ----------
    genes
        Indexed by gene id, with the column ``symbol``; a symbol that only repeats the id is cut
        as well.
    """
    written = genes.index.to_series()
    stable = written.str.replace(rf"^{_VERSIONED.pattern}$", r"\1\2", regex=True)
    is_cut = (stable != written).to_numpy()
    if not is_cut.any():
        return genes, []
    symbol = genes["symbol"].where(genes["symbol"] != genes.index, stable.to_numpy())
    text = (
        f"version suffixes cut off {is_cut.sum()} Ensembl ids: "
        f"{written.to_numpy()[is_cut][0]} is now {stable.to_numpy()[is_cut][0]}"
    )
    named = genes.assign(symbol=symbol).set_axis(pd.Index(stable.to_numpy(), dtype=object))
    return named, [Finding(kind="inferred", text=text)]


def resolve_duplicates(
    counts_SG: csr_matrix, genes: pd.DataFrame, *, rule: DuplicateRule = "sum"
) -> ResolvedGenes:
    """Make gene ids unique by one rule; where they are unique, nothing changes.

    Symbols may repeat: a gene is known by its id, and keeps the first symbol it came with.

    Parameters
    ----------
    counts_SG
        (S, G) unsigned integers.
    genes
        G rows, indexed by gene id, with the column ``symbol``.
    rule
        See `DuplicateRule`.

    Raises
    ------
    SlideFormatError
        If a sum of counts does not fit their data type.
    """
    code_G, ids = pd.factorize(genes.index)
    if len(ids) == len(genes):
        return ResolvedGenes(counts_SG, genes, [])
    repeated = ids[np.bincount(code_G) > 1]
    text = f"genes with several columns, {_WHAT_WAS_DONE[rule]}: {', '.join(repeated)}"
    findings = [Finding(kind="warning", text=shorten(text, 160))]
    if rule == "suffix":
        return ResolvedGenes(counts_SG, genes.set_axis(_suffixed(genes.index)), findings)
    is_first_G = ~genes.index.duplicated()
    if rule == "first":
        counts = csr_matrix(counts_SG[:, np.flatnonzero(is_first_G)])
        return ResolvedGenes(counts, genes[is_first_G], findings)
    return ResolvedGenes(_summed(counts_SG, code_G, repeated), genes[is_first_G], findings)


def tidy_counts(counts: csr_matrix) -> csr_matrix:
    """Put a matrix in order, in place: columns ascending, none twice, and no zero stored."""
    counts.sum_duplicates()
    counts.eliminate_zeros()
    return counts


def _summed(
    counts_SG: csr_matrix, code_G: "np.ndarray[tuple[int], np.dtype[np.intp]]", repeated: pd.Index
) -> csr_matrix:
    ones_G = np.ones(len(code_G), np.uint64)
    shape = (len(code_G), int(code_G.max()) + 1)
    joins = csr_matrix((ones_G, (np.arange(len(code_G)), code_G)), shape=shape)
    summed = csr_matrix(counts_SG.astype(np.uint64) @ joins)
    largest = int(summed.data.max(initial=0))
    if largest > np.iinfo(counts_SG.dtype).max:
        raise SlideFormatError(
            f"counts of genes with several columns ({shorten(', '.join(repeated), 80)}) sum up to "
            f"{largest}, expected at most {np.iinfo(counts_SG.dtype).max}; choose "
            "--duplicate-genes first or suffix"
        )
    summed.sort_indices()
    return summed.astype(counts_SG.dtype)


def _suffixed(ids: pd.Index) -> pd.Index:
    taken, named = set(ids), []
    for gene, is_again in zip(ids, ids.duplicated(), strict=True):
        name, number = gene, 0
        while is_again and name in taken:
            number += 1
            name = f"{gene}-{number}"
        taken.add(name)
        named.append(name)
    return pd.Index(named, dtype=object)
