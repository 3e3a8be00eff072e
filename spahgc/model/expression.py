"""Raw counts → what the model learns: normalised expression, and how much was counted.

Dimension letters in this file:

S spots, G genes
"""

import anndata as ad
import numpy as np
import scanpy as sc
from numpy.typing import NDArray
from scipy.sparse import csr_matrix


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
    scaled = float_counts(counts)
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


def float_counts(counts: csr_matrix) -> csr_matrix:
    """Copy counts as float32, without entries that are zero."""
    floats = csr_matrix(counts, dtype=np.float32, copy=True)
    floats.eliminate_zeros()
    return floats
