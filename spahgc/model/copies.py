"""Find one image inside another by the embeddings of its patches.

Dimension letters in this file:

S spots of one slide, R spots of the other, D embedding size
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

ALIKE: Final = 0.95
"""Least cosine, less the slide's mean, of a copied patch. On her2st one saved again as JPEG has
0.99, the most similar of the next section of the same block 0.86."""
CLOSER: Final = 0.1
"""How far a copy is, at most, as a share of how far the second most similar patch is."""
BLANK: Final = 0.995
"""Cosine of the second most similar patch from which a patch counts as blank."""
MANY: Final = 0.1
"""Share of copied patches from which a slide counts as copied."""
BLOCK: Final = 1024
"""Spots compared at once."""


def find_copies(own_SD: NDArray[np.float32], other_RD: NDArray[np.float32]) -> float | None:
    """Give the share of a slide's patches that another slide has too, None where there are few.

    A patch counts where one of the other slide's is nearly the same and all others are not: blank
    glass, which looks the same everywhere, does not count.

    Parameters
    ----------
    own_SD, other_RD
        Embeddings of one encoder.
    """
    if own_SD.shape[1] != other_RD.shape[1] or len(other_RD) < 2:
        return None
    mean_D = own_SD.mean(axis=0, dtype=np.float64)
    unit_SD, unit_RD = _unit(own_SD - mean_D), _unit(other_RD - mean_D)
    n_copied = 0
    for start in range(0, len(unit_SD), BLOCK):
        cosine_SR = unit_SD[start : start + BLOCK] @ unit_RD.T
        two_S2 = np.partition(cosine_SR, -2, axis=1)[:, -2:]
        second_S, best_S = two_S2[:, 0], two_S2[:, 1]
        is_alone_S = (second_S < BLANK) & (1 - best_S <= CLOSER * (1 - second_S))
        n_copied += int(np.sum((best_S >= ALIKE) & is_alone_S))
    share = n_copied / len(unit_SD)
    return share if share >= MANY else None


def _unit(values_SD: NDArray[np.floating]) -> NDArray[np.float32]:
    length_S1 = np.linalg.norm(values_SD, axis=1, keepdims=True)
    unit_SD: NDArray[np.float32] = (values_SD / np.where(length_S1 > 0, length_S1, np.inf)).astype(
        np.float32
    )
    return unit_SD
