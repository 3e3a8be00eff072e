"""Counts of probes → counts of genes: those that Space Ranger includes, added up exactly.

Dimension letters in this file:

S spots, P probes, G genes
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spahgc.errors import SlideFormatError
from spahgc.schema import Finding


def sum_probes(
    path: Path, counts_SP: csr_matrix, probes: pd.DataFrame, findings: list[Finding]
) -> tuple[csr_matrix, pd.DataFrame]:
    """Add up the counts of each gene's included probes.

    Parameters
    ----------
    path
        Of the file, for the messages.
    counts_SP
        (S, P) uint32.
    probes
        P rows with ``id`` and ``symbol`` of the probe's gene, ``is_included``, and more.
    findings
        Gets what was added up and what was left out.

    Returns
    -------
    tuple[csr_matrix, pd.DataFrame]
        (S, G) uint32, and G genes in the order of their first probe, with the columns of
        ``probes``.

    Raises
    ------
    SlideFormatError
        If no probe is included, or a sum is too large for 32 bits.
    """
    is_included_P = probes["is_included"].to_numpy(np.bool_)
    included = probes[is_included_P]
    if included.empty:
        raise SlideFormatError(f"{path}: none of {len(probes)} probes is included, expected some")
    code_P, ids = pd.factorize(included["id"])
    joins_PG = csr_matrix(
        (np.ones(len(code_P), np.uint64), (np.flatnonzero(is_included_P), code_P)),
        shape=(len(probes), len(ids)),
    )
    summed_SG = csr_matrix(counts_SP.astype(np.uint64) @ joins_PG)
    if summed_SG.data.max(initial=0) > np.iinfo(np.uint32).max:
        raise SlideFormatError(f"{path}: probes of one gene sum up to more than 32 bits can hold")
    text = f"{len(included)} probes added up to {len(ids)} genes, as asked for"
    findings.append(Finding(kind="inferred", text=text))
    n_left = len(probes) - len(included)
    if n_left:
        n_counts = int(counts_SP.sum()) - int(summed_SG.sum())
        text = f"{n_left} probes with {n_counts} counts left out: the file does not include them"
        findings.append(Finding(kind="check", text=text))
    return summed_SG.astype(np.uint32), included[~included["id"].duplicated()]
