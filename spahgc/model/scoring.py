"""Score predictions of slides, whose files may not list every gene.

Dimension letters in this file:

S spots, G genes
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spahgc.metrics import score_genes


def score_listed(
    measured_SG: NDArray[np.float32], predicted_SG: NDArray[np.float32], *, genes: Sequence[str]
) -> pd.DataFrame:
    """Score the genes that were measured on a slide.

    Parameters
    ----------
    measured_SG
        NaN for a gene that the slide's files do not list.
    predicted_SG
        Of the same spots and genes.
    genes
        Names of the columns.

    Returns
    -------
    pd.DataFrame
        As `spahgc.metrics.score_genes` gives it, without the genes that are not listed.
    """
    listed: list[int] = np.flatnonzero(np.isfinite(measured_SG).all(axis=0)).tolist()
    names = [genes[column] for column in listed]
    return score_genes(measured_SG[:, listed], predicted_SG[:, listed], genes=names)


def mean_pcc(measured_SG: NDArray[np.float32], predicted_SG: NDArray[np.float32]) -> float:
    """Give the mean PCC over the genes that have one, 0 where none has."""
    genes = [str(column) for column in range(measured_SG.shape[1])]
    if not np.isfinite(measured_SG).all(axis=0).any():
        return 0.0
    scores = score_listed(measured_SG, predicted_SG, genes=genes)["pcc"]
    return float(scores.fillna(0).mean() if scores.isna().all() else scores.mean())
