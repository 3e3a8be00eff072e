"""Kernel ridge regression with a Gaussian kernel, for several penalties at once.

Where similarities decide it is a retrieval of the most similar training spots, and with a wide
kernel nearly a linear regression. On many training spots only some serve as landmarks (Nyström).

Dimension letters in this file:

S spots, N training spots, P features, M landmarks, R outputs

References: Williams and Seeger, Using the Nyström method to speed up kernel machines, NIPS 2000.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import rbf_kernel

from spahgc.model.features import blocks_of

MOST_LANDMARKS: Final = 2000
"""Their kernel takes 32 MB, and two seconds to decompose."""

BLOCK: Final = 4096
"""Spots whose similarities are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelRidge:
    """A fitted regression."""

    landmarks_MP: NDArray[np.float32]
    """(M, P) training spots that others are compared with."""

    weights_MR: NDArray[np.float32]
    """(M, R) from similarities to outputs."""

    gamma: float
    """Of the kernel exp(-gamma · distance²)."""

    def predict(self, features_SP: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict the (S, R) outputs of spots with (S, P) features."""
        weights_MR = self.weights_MR.astype(np.float64)
        outputs = [
            rbf_kernel(features_SP[rows].astype(np.float64), self.landmarks_MP, gamma=self.gamma)
            @ weights_MR
            for rows in blocks_of(len(features_SP), BLOCK)
        ]
        return np.concatenate(outputs).astype(np.float32)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Give everything by name, to be stored; `read` takes it back."""
        gamma = np.array([self.gamma], np.float32)
        return {"landmarks": self.landmarks_MP, "weights": self.weights_MR, "gamma": gamma}

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[np.float32]]) -> "KernelRidge":
        """Take back what `arrays` gave."""
        return cls(
            landmarks_MP=arrays["landmarks"],
            weights_MR=arrays["weights"],
            gamma=float(arrays["gamma"][0]),
        )


def fit_kernel_ridge(
    features_NP: NDArray[np.float32],
    outputs_NR: NDArray[np.float32],
    *,
    penalties: Sequence[float],
    seed: int,
) -> list[KernelRidge]:
    """Fit one regression per penalty; most of the work is shared.

    Parameters
    ----------
    features_NP
        (N, P) of the training spots, on one scale: the kernel is as wide as half of their pairs
        are apart.
    outputs_NR
        (N, R) of mean about 0: far from every training spot the prediction is 0.
    penalties
        Each times the number of training spots.
    seed
        Chooses the landmarks where there are more than `MOST_LANDMARKS` spots.
    """
    generator = np.random.default_rng(seed)
    landmarks_MP = _draw(features_NP, MOST_LANDMARKS, generator)
    sample_MP = _draw(landmarks_MP, 1000, generator).astype(np.float64)
    distance = float(np.median(pdist(sample_MP, "sqeuclidean"))) if len(sample_MP) > 1 else 0.0
    gamma = float(np.float32(1 / distance)) if distance > 0 else 1.0  # as it will be stored
    root_MM = _inverse_root(rbf_kernel(landmarks_MP.astype(np.float64), gamma=gamma))
    similar_NM = rbf_kernel(features_NP.astype(np.float64), landmarks_MP, gamma=gamma) @ root_MM
    strength_M, turn_MM = np.linalg.eigh(similar_NM.T @ similar_NM)
    turned_MR = turn_MM.T @ (similar_NM.T @ outputs_NR.astype(np.float64))
    back_MM = root_MM @ turn_MM
    return [
        KernelRidge(
            landmarks_MP=landmarks_MP.astype(np.float32),
            weights_MR=_weights(back_MM, turned_MR, strength_M + penalty * len(features_NP)),
            gamma=gamma,
        )
        for penalty in penalties
    ]


def _draw(
    rows_NP: NDArray[np.float32], most: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    if len(rows_NP) <= most:
        return rows_NP
    return rows_NP[np.sort(generator.choice(len(rows_NP), most, replace=False))]


def _inverse_root(kernel_MM: NDArray[np.float64]) -> NDArray[np.float64]:
    strength_M, vectors_MM = np.linalg.eigh(kernel_MM)
    # spots of the same looks make the kernel singular
    return vectors_MM / np.sqrt(np.maximum(strength_M, 1e-10 * strength_M[-1]))


def _weights(
    back_MM: NDArray[np.float64], turned_MR: NDArray[np.float64], penalised_M: NDArray[np.float64]
) -> NDArray[np.float32]:
    weights_MR: NDArray[np.float32] = (back_MM @ (turned_MR / penalised_M[:, None])).astype(
        np.float32
    )
    return weights_MR
