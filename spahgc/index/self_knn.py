"""The nearest other points of each point of one set, exactly.

Dimension letters in this file:

S points, D numbers of each, K nearest
"""

import numpy as np
from numpy.typing import NDArray

from spahgc.index.faiss_library import faiss
from spahgc.index.vectors import FAISS_METRIC, Metric


def nearest_within(
    points_SD: NDArray[np.float32], k: int, *, metric: Metric = "l2"
) -> NDArray[np.int64]:
    """Find the ``k`` nearest other points of each point.

    Parameters
    ----------
    points_SD
        (S, D) float32, finite.
    k
        How many.
    metric
        ``l2`` or ``l1``; for ``cosine`` the points must be of unit length.

    Returns
    -------
    NDArray[np.int64]
        (S, k) rows, nearest first; -1 where there are fewer points. A point is never among its
        own, even where others lie on the same place.
    """
    points_SD = np.ascontiguousarray(points_SD, dtype=np.float32)
    n_points = len(points_SD)
    table_SK = np.full((n_points, k), -1, dtype=np.int64)
    n_found = min(k, n_points - 1)
    if n_found > 0:
        _, found_SN = faiss.knn(points_SD, points_SD, n_found + 1, metric=FAISS_METRIC[metric])
        is_itself_SN = found_SN == np.arange(n_points)[:, None]
        # among many on one place a point may not be its own neighbour: then the farthest goes
        is_itself_SN[~is_itself_SN.any(axis=1), -1] = True
        table_SK[:, :n_found] = found_SN[~is_itself_SN].reshape(n_points, n_found)
    return table_SK
