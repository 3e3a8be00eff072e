"""Gene programmes: what many genes do together, which a single noisy gene does not show.

A spot of a few thousand counts says little about one gene and much about the sum of hundreds.
Programmes are the principal components of all genes seen on the training slides; a model that
predicts a few programmes, and each gene of the panel from them, has far less noise to learn.

Dimension letters in this file:

S spots, N training spots, A genes that programmes are made of, G genes of the panel, R programmes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from spahgc.model.features import standardise


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Programmes:
    """Programmes of the training slides, and the way from them to the panel."""

    loadings_AR: NDArray[np.float32]
    """(A, R) from genes, standardised on their slide, to programmes."""

    genes_RG: NDArray[np.float32]
    """(R, G) from programmes to the panel's genes, in units of their expression."""

    mean_G: NDArray[np.float32]
    """(G,) mean expression over the training spots."""

    def score(self, wide_SA: NDArray[np.float32]) -> NDArray[np.float32]:
        """Say how strong each programme is at the spots of one slide.

        Parameters
        ----------
        wide_SA
            (S, A) normalised expression; NaN for a gene that the slide's files do not list.

        Returns
        -------
        NDArray[np.float32]
            (S, R); the first programme has a spread of about 1, each further one less, as it
            explains less.
        """
        standard_SA = np.nan_to_num(standardise(wide_SA))
        return standard_SA @ self.loadings_AR

    def express(self, programmes_SR: NDArray[np.floating]) -> NDArray[np.float32]:
        """Give the (S, G) expression of the panel that programmes stand for, less its mean."""
        return (programmes_SR @ self.genes_RG).astype(np.float32)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Give everything by name, to be stored; `read` takes it back."""
        return {"loadings": self.loadings_AR, "genes": self.genes_RG, "mean": self.mean_G}

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[np.float32]]) -> "Programmes":
        """Take back what `arrays` gave."""
        return cls(loadings_AR=arrays["loadings"], genes_RG=arrays["genes"], mean_G=arrays["mean"])


def fit_programmes(
    wide: Sequence[NDArray[np.float32]],
    panel: Sequence[NDArray[np.float32]],
    *,
    n_programmes: int,
    seed: int,
) -> Programmes:
    """Find the programmes of some slides.

    Genes are standardised slide by slide, so that programmes tell spots of one slide apart and
    not one slide from another.

    Parameters
    ----------
    wide
        (S, A) normalised expression of each slide; NaN for a gene its files do not list.
    panel
        (S, G) normalised expression of the panel, slide for slide.
    n_programmes
        R at most.
    seed
        Of the randomised decomposition.
    """
    standard_NA = np.concatenate([np.nan_to_num(standardise(wide_SA)) for wide_SA in wide])
    n_programmes = min(n_programmes, *standard_NA.shape)
    left_NR, strength_R, right_RA = randomized_svd(
        standard_NA, n_programmes, n_iter=7, random_state=seed
    )
    is_there_R = strength_R > 1e-6 * max(strength_R[0], 1e-30)
    left_NR, right_RA = left_NR[:, is_there_R], right_RA[is_there_R]
    scale = np.sqrt(len(standard_NA)) / strength_R[0] if is_there_R.any() else 1.0
    centred_NG = np.concatenate([_centred(panel_SG) for panel_SG in panel])
    weight_R1 = scale * strength_R[is_there_R, None]
    return Programmes(
        loadings_AR=(scale * right_RA.T).astype(np.float32),
        # least squares: the left vectors are orthonormal
        genes_RG=(left_NR.T @ centred_NG / weight_R1).astype(np.float32),
        mean_G=np.concatenate(panel).mean(axis=0, dtype=np.float64).astype(np.float32),
    )


def _centred(panel_SG: NDArray[np.float32]) -> NDArray[np.float64]:
    return panel_SG - panel_SG.mean(axis=0, dtype=np.float64)
