"""What a model sees of a spot: its fields of view side by side, on a scale common to all slides.

Dimension letters in this file:

S spots, F one field's embedding size, D all fields' together, Q near spots, P principal components
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from spahgc.errors import MismatchError
from spahgc.store.slide import StoredSlide

COLUMNS: Final = 256
"""Features that are transformed at once."""

ROWS: Final = 4096
"""Spots that are reduced at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureConfig:
    """Which embeddings a model sees, and what is done to them before anything learns."""

    embeddings: tuple[str, ...] = ("lite0",)
    """Names in the store: one per field of view."""

    signed_root: bool = False
    """Take square roots and keep the signs: few very large values count less."""

    standardise: bool = False
    """Bring each number to mean 0 and spread 1 over the spots of its own slide, which takes away
    what stain and scanner do to a whole slide. It reads no expression."""

    @property
    def are_plain(self) -> bool:
        """Whether a model sees one embedding as it is stored."""
        return len(self.embeddings) == 1 and not (self.signed_root or self.standardise)


def read_features(slide: StoredSlide, config: FeatureConfig) -> NDArray[np.float32]:
    """Read a stored slide's fields of view, joined as `side_by_side` does.

    Raises
    ------
    MissingError
        If the slide lacks one of the embeddings.
    """
    sizes = [slide.open_embedding(name).shape[1] for name in config.embeddings]
    return side_by_side(map(slide.read_embedding, config.embeddings), config, sizes=sizes)


def side_by_side(
    embeddings: Iterable[NDArray[np.float32]], config: FeatureConfig, *, sizes: Sequence[int]
) -> NDArray[np.float32]:
    """Join a slide's fields of view, holding one or two of them beside the result.

    Parameters
    ----------
    embeddings
        (S, F) one per field of view, row for row the same spots.
    config
        What is done to them.
    sizes
        F of each.

    Returns
    -------
    NDArray[np.float32]
        (S, D), of its own memory.
    """
    joined_SD = np.empty((0, sum(sizes)), np.float32)
    stops = np.cumsum(sizes).tolist()
    for field_SF, size, stop in zip(embeddings, sizes, stops, strict=True):
        if not joined_SD.size:
            joined_SD = np.empty((len(field_SF), sum(sizes)), np.float32)
        joined_SD[:, stop - size : stop] = field_SF
    for columns in blocks_of(joined_SD.shape[1], COLUMNS):
        _transform(joined_SD[:, columns], config)
    return joined_SD


def _transform(values_SD: NDArray[np.float32], config: FeatureConfig) -> None:
    """Do in place what ``config`` says."""
    if config.signed_root:
        values_SD[:] = np.sign(values_SD) * np.sqrt(np.abs(values_SD))
    if config.standardise:
        values_SD[:] = standardise(values_SD)


def standardise(values_SD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring each column to mean 0 and spread 1; a constant one becomes 0."""
    centred_SD = values_SD - values_SD.mean(axis=0, dtype=np.float64).astype(np.float32)
    spread_D = centred_SD.std(axis=0, dtype=np.float64)
    # a few roundings apart is constant
    varies_D = spread_D > 1e-6 * np.abs(values_SD).max(axis=0)
    return centred_SD / np.where(varies_D, spread_D, np.inf).astype(np.float32)


def blocks_of(length: int, size: int) -> list[slice]:
    """Cut rows or columns into stretches of ``size``, the last one shorter."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reducer:
    """Principal components of the training slides' features."""

    mean_D: NDArray[np.float32]
    """(D,) over the training spots."""

    components_PD: NDArray[np.float32]
    """(P, D) the strongest first, of such length that a spot's components are about 1."""

    def reduce(self, features_SD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reduce (S, D) features to (S, P).

        Raises
        ------
        MismatchError
            If they are of another size than those of the training slides.
        """
        if features_SD.shape[1] != len(self.mean_D):
            raise MismatchError(
                f"spots have {features_SD.shape[1]} features, expected {len(self.mean_D)} as in "
                "training: embed the slide with the encoder and fields of view of the run"
            )
        reduced_SP = np.empty((len(features_SD), len(self.components_PD)), np.float32)
        for rows in blocks_of(len(features_SD), ROWS):
            reduced_SP[rows] = (features_SD[rows] - self.mean_D) @ self.components_PD.T
        return reduced_SP

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Give everything by name, to be stored; `read` takes it back."""
        return {"mean": self.mean_D, "components": self.components_PD}

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[np.float32]]) -> "Reducer":
        """Take back what `arrays` gave."""
        return cls(mean_D=arrays["mean"], components_PD=arrays["components"])


def fit_reducer(slides: Sequence[NDArray[np.float32]], *, n_components: int, seed: int) -> Reducer:
    """Find the principal components of training slides.

    Parameters
    ----------
    slides
        (S, D) features of each.
    n_components
        P at most; fewer where there are fewer spots or features, or where spots vary in fewer
        directions: which others a solver would give depends on the machine. One of length 0 where
        nothing tells the spots apart.
    seed
        Of the randomised solver, which large tables need.
    """
    stacked_SD = np.concatenate(slides)
    if not np.ptp(stacked_SD, axis=0).any():
        return Reducer(mean_D=stacked_SD[0], components_PD=np.zeros_like(stacked_SD[:1]))
    n_components = min(n_components, stacked_SD.shape[1], len(stacked_SD) - 1)
    pca = PCA(n_components, random_state=seed).fit(stacked_SD)
    variance_P = pca.explained_variance_
    varies_P = variance_P >= 1e-6 * variance_P.max(initial=0)
    spread = float(np.sqrt(np.mean(variance_P[varies_P]))) or 1.0
    return Reducer(
        mean_D=pca.mean_.astype(np.float32),
        components_PD=(pca.components_[varies_P] / spread).astype(np.float32),
    )


def mean_of_near(values_SP: NDArray[np.float32], near_SQ: NDArray[np.int64]) -> NDArray[np.float32]:
    """Average (S, P) values over the near spots of each spot; 0 where it has none."""
    exists_SQ = near_SQ >= 0
    total_SP = np.zeros_like(values_SP)
    for place in range(near_SQ.shape[1]):  # gathering all places at once takes Q times the memory
        total_SP += values_SP[near_SQ[:, place]] * exists_SQ[:, place, None]
    n_near_S1 = np.maximum(exists_SQ.sum(axis=1), 1)[:, None]
    mean_SP: NDArray[np.float32] = total_SP / n_near_S1.astype(np.float32)
    return mean_SP
