"""What a model sees of a slide: embeddings, normalised expression of a panel, places.

Dimension letters in this file:

S spots, D embedding size, G genes, A genes of a wide panel, Q near spots
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors

from spahgc.errors import MissingError
from spahgc.model.expression import log_depth, normalise
from spahgc.model.features import FeatureConfig, read_features
from spahgc.model.panels import GenePanel
from spahgc.store.gene_names import BY_ID, GeneNames
from spahgc.store.slide import StoredSlide

N_NEAR = 6
"""Spots in the first ring of a hexagonal lattice."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlideSpots:
    """The spots of one slide, ready for a model or a baseline."""

    name: str
    """Of the slide."""

    spot_names: tuple[str, ...]
    """S barcodes or spot ids."""

    embedding_SD: NDArray[np.float32]
    """(S, D) what is seen of each spot: its fields of view side by side, see
    `spahgc.model.features`."""

    centers_S2: NDArray[np.float64]
    """(S, 2) x, y in full-resolution pixels."""

    near_SQ: NDArray[np.int64]
    """(S, Q) rows of the nearest spots on the slide, nearest first, -1 where there is none."""

    expression_SG: NDArray[np.float32] | None = None
    """(S, G) log1p of counts per library size, in panel order; NaN for a gene that the slide's
    files do not list. None for an image without expression."""

    log_depth_S: NDArray[np.float64] | None = None
    """(S,) log1p of the spot's total count."""

    genes: tuple[str, ...] | None = None
    """G gene ids, in the order of ``expression_SG``; None where nobody said."""

    fingerprint: str | None = None
    """Digest of how the embeddings were made; None where nobody said."""

    wide_SA: NDArray[np.float32] | None = None
    """(S, A) expression of many more genes, to find programmes in; as ``expression_SG``."""


def read_spots(
    slide: StoredSlide,
    *,
    features: FeatureConfig,
    panel: GenePanel,
    target_sum: float,
    wide: GenePanel | None = None,
    gene_names: GeneNames = BY_ID,
) -> SlideSpots:
    """Read what a model needs of a stored slide.

    Parameters
    ----------
    slide
        With the embeddings; its expression is read too where it has any.
    features
        Which embeddings, and what is done to them.
    panel
        Genes wanted, in their order.
    target_sum
        Library size after scaling, in counts.
    wide
        Further genes wanted, where programmes are to be found.
    gene_names
        What the genes wanted are named by.

    Raises
    ------
    MissingError
        If the slide lacks an embedding.
    """
    expression_SG = depth_S = wide_SA = None
    if slide.has_expression:
        counts, genes = gene_names.read(slide)
        normalised = normalise(counts, target_sum=target_sum)
        expression_SG = _columns(normalised, genes, panel)
        wide_SA = None if wide is None else _columns(normalised, genes, wide)
        depth_S = log_depth(counts)
    return SlideSpots(
        name=slide.name,
        spot_names=tuple(map(str, slide.spots.index)),
        embedding_SD=read_features(slide, features),
        centers_S2=slide.centers,
        near_SQ=nearest_others(slide.centers, N_NEAR),
        expression_SG=expression_SG,
        log_depth_S=depth_S,
        genes=panel.genes,
        fingerprint="+".join(slide.entry.encoders[name] for name in features.embeddings),
        wide_SA=wide_SA,
    )


def _columns(normalised: csr_matrix, genes: pd.Index, wanted: GenePanel) -> NDArray[np.float32]:
    column_G = genes.get_indexer(pd.Index(wanted.genes)).astype(np.int64)
    expression_SG: NDArray[np.float32] = normalised[:, np.maximum(column_G, 0)].toarray()
    expression_SG[:, column_G < 0] = np.nan
    return expression_SG


def nearest_others(points_SD: NDArray[np.floating], n_nearest: int) -> NDArray[np.int64]:
    """Find the nearest other points of each point, by Euclidean distance.

    Returns
    -------
    NDArray[np.int64]
        (S, n_nearest) rows, nearest first; -1 where there are fewer points. A point is never
        among its own, even where others lie on the same place.
    """
    n_points = len(points_SD)
    table_SQ = np.full((n_points, n_nearest), -1, dtype=np.int64)
    n_found = min(n_nearest, n_points - 1)
    if n_found > 0:
        finder = NearestNeighbors(n_neighbors=n_found).fit(points_SD)
        table_SQ[:, :n_found] = finder.kneighbors(return_distance=False)
    return table_SQ


def expression_of(spots: SlideSpots) -> NDArray[np.float32]:
    """Give a slide's measured expression.

    Raises
    ------
    MissingError
        If nothing was measured on it.
    """
    if spots.expression_SG is None:
        raise MissingError(f"slide {spots.name} has no expression")
    return spots.expression_SG


def wide_of(spots: SlideSpots) -> NDArray[np.float32]:
    """Give a slide's measured expression of the genes that programmes are made of.

    Raises
    ------
    MissingError
        If nothing was measured on it, or nobody asked for those genes.
    """
    if spots.wide_SA is None:
        raise MissingError(f"slide {spots.name} has no expression to find programmes in")
    return spots.wide_SA


def depth_of(spots: SlideSpots) -> NDArray[np.float64]:
    """Give how much was counted at each spot, (S,) log1p of the total.

    Raises
    ------
    MissingError
        If nothing was measured on the slide.
    """
    if spots.log_depth_S is None:
        raise MissingError(f"slide {spots.name} has no expression")
    return spots.log_depth_S
