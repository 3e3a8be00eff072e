"""The nearest other points of each point of one set, exactly.

Dimension letters in this file:

S points, D numbers of each, K nearest
"""

import numpy as np
from numpy.typing import NDArray

from spahgc.store.index.distances import Metric
from spahgc.store.index.exact import search_exactly
from spahgc.store.index.pieces import Piece


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
        (S, k) rows, nearest first, ties by row; -1 where there are fewer points. A point is never
        among its own, even where others lie on the same place.
    """
    points_SD = np.ascontiguousarray(points_SD, dtype=np.float32)
    piece = Piece("these points", points_SD, metric=metric)
    found_SN = search_exactly(points_SD, [piece], k=k + 1).spot_SA
    is_itself_SN = found_SN == np.arange(len(points_SD))[:, None]
    # among many on one place a point may not be its own neighbour: then the farthest goes
    is_itself_SN[~is_itself_SN.any(axis=1), -1] = True
    return found_SN[~is_itself_SN].reshape(len(points_SD), k)
