"""What a model sees of a slide: embeddings, normalised expression of a panel, places.

Dimension letters in this file:

S spots, D embedding size, G genes, A genes of a wide panel, Q near spots
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors

from spahgc.errors import MissingError
from spahgc.lattices import find_rings
from spahgc.model.expression import log_depth, normalise
from spahgc.model.features import FeatureConfig, read_features
from spahgc.model.panels import GenePanel
from spahgc.schema import Lattice
from spahgc.store.gene_names import BY_ID, GeneNames
from spahgc.store.slide import StoredSlide

N_NEAR: Final = 6
"""Nearest spots that are near where there is no lattice; the first ring of a hexagonal one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearConfig:
    """Which spots are near: whole rings of the lattice, since equally far spots are all or none."""

    square: int = 8
    """4: those beside it in its row and column; 8: the diagonal ones as well."""

    staggered: int = 8
    """4: the diagonal ones; 8: the next ones in its row and column as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearRing:
    """How far near spots reach on a slide, in the middle of its tissue."""

    lattice: str | None
    """A `spahgc.schema.Lattice`; None where the nearest are taken, whatever the lattice."""

    n_near: int
    """Spots."""

    radius_um: float | None
    """To the farthest of them, in µm; None where the pixel size is not known."""


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
    """(S, Q) rows of the near spots on the slide, nearest first, -1 where there is none."""

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

    ring: NearRing | None = None
    """How far ``near_SQ`` reaches; None where nobody said."""

    microns_per_pixel: float | None = None
    """Of full-resolution pixels, in µm; None where unknown."""


def read_spots(
    slide: StoredSlide,
    *,
    features: FeatureConfig,
    panel: GenePanel,
    target_sum: float,
    wide: GenePanel | None = None,
    gene_names: GeneNames = BY_ID,
    near: NearConfig | None = NearConfig(),
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
    near
        Which spots are near; see `find_near`.

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
    near_SQ, ring = near_of(slide, near)
    return SlideSpots(
        name=slide.name,
        spot_names=tuple(map(str, slide.spots.index)),
        embedding_SD=read_features(slide, features),
        centers_S2=slide.centers,
        near_SQ=near_SQ,
        ring=ring,
        expression_SG=expression_SG,
        log_depth_S=depth_S,
        genes=panel.genes,
        fingerprint="+".join(slide.entry.encoders[name] for name in features.embeddings),
        wide_SA=wide_SA,
        microns_per_pixel=slide.entry.microns_per_pixel,
    )


def _columns(normalised: csr_matrix, genes: pd.Index, wanted: GenePanel) -> NDArray[np.float32]:
    column_G = genes.get_indexer(pd.Index(wanted.genes)).astype(np.int64)
    expression_SG: NDArray[np.float32] = normalised[:, np.maximum(column_G, 0)].toarray()
    expression_SG[:, column_G < 0] = np.nan
    return expression_SG


def near_of(slide: StoredSlide, config: NearConfig | None) -> tuple[NDArray[np.int64], NearRing]:
    """Find the near spots of each spot of a stored slide; see `find_near`."""
    return find_near(
        slide.array,
        slide.centers,
        lattice=slide.lattice,
        microns_per_pixel=slide.entry.microns_per_pixel,
        config=config,
    )


def find_near(
    array_S2: NDArray[np.int64] | None,
    centers_S2: NDArray[np.float64],
    *,
    lattice: Lattice | None,
    microns_per_pixel: float | None,
    config: NearConfig | None,
) -> tuple[NDArray[np.int64], NearRing]:
    """Find the near spots of each spot.

    Parameters
    ----------
    array_S2
        (S, 2) ``array_col``, ``array_row``; None where they are not known.
    centers_S2
        (S, 2) x, y in full-resolution pixels.
    lattice
        How the spots are laid; None where nothing tells.
    microns_per_pixel
        Of full-resolution pixels; None where unknown.
    config
        Whole rings: of a hexagonal lattice the first. None, and spots on no lattice, take the six
        nearest, as runs did that say nothing of rings.

    Returns
    -------
    tuple[NDArray[np.int64], NearRing]
        (S, Q) rows, nearest first, -1 where a spot has fewer, and how far they reach.
    """
    found = None
    if config is not None:
        n_rings: dict[Lattice, int] = {
            "square": config.square // 4,
            "staggered": config.staggered // 4,
            "hexagonal": 1,
        }
        found = find_rings(array_S2, centers_S2, lattice=lattice, n_rings=n_rings)
    if found is None:
        table_SQ = nearest_others(centers_S2, N_NEAR)
        lattice, n_near, radius_px = None, N_NEAR, _reach_of(table_SQ, centers_S2)
    else:
        table_SQ, (lattice, n_near, radius_px) = found
    radius_um = None if microns_per_pixel is None else radius_px * microns_per_pixel
    if radius_um is not None and not np.isfinite(radius_um):
        radius_um = None
    return table_SQ, NearRing(lattice=lattice, n_near=n_near, radius_um=radius_um)


def _reach_of(table_SQ: NDArray[np.int64], centers_S2: NDArray[np.float64]) -> float:
    """Give how far the last of the nearest spots lies, in the median; NaN where there is none."""
    last_S = table_SQ[:, -1]
    if not (last_S >= 0).any():
        return float("nan")
    away_S = np.linalg.norm(centers_S2 - centers_S2[last_S], axis=1)
    return float(np.median(away_S[last_S >= 0]))


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
        raise MissingError(f"slide {spots.name} has no expression to find programs in")
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
