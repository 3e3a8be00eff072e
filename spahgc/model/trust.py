"""How far to believe a prediction: by gene, from held-out slides; by spot, from its references.

Dimension letters in this file:

S spots, F held-out slides, U units that are drawn whole, G genes, N resamplings,
K nearest references, Q quantiles, B bins, T tiles
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spahgc.metrics import score_genes
from spahgc.model.spots import SlideSpots, expression_of
from spahgc.model.teaching import TeachingSet
from spahgc.store.confidence import FEWEST_HELD_OUT, GENE_COLUMNS, Trust
from spahgc.store.splits import units_of

N_NEAREST: Final = 10
"""References whose mean similarity says how near a spot's references are."""
FLAGGED_BELOW: Final = 0.01
"""Quantile of held-out spots' nearness below which a spot is flagged."""
N_QUANTILES: Final = 1001
N_BINS: Final = 5
N_RESAMPLINGS: Final = 400
TILE_PITCHES: Final = 4.0
"""Side of the tiles that are drawn whole, in distances between neighbouring spots: spots side by
side are alike, and drawn one by one they would make the interval too narrow."""


def find_trust(
    teaching: TeachingSet,
    *,
    held_out: Mapping[str, NDArray[np.float32]],
    seed: int = 0,
) -> Trust:
    """Judge genes and calibrate nearness on slides that were held out of training in turn.

    Parameters
    ----------
    teaching
        What the model learned from.
    held_out
        (S, G) predictions of slides, none of them a test slide, by models that had not learned
        from them, by slide.
    seed
        Of the bootstrap.

    Returns
    -------
    Trust
        Nearness is calibrated on every training slide and every slide in ``held_out``, each asking
        the training slides it may borrow from.
    """
    slides = {name: _spots_of(teaching, name) for name in held_out}
    nearness = {
        name: nearness_of(teaching, spots, teaching.read_looks(name))
        for name, spots in {**teaching.spots, **slides}.items()
        if teaching.among(spots)  # nobody to borrow from, nothing to be near to
    }
    every = np.concatenate(list(nearness.values()))
    limit = np.quantile(every, FLAGGED_BELOW)
    return Trust(
        slides=tuple(held_out),
        genes=judge_genes(
            slides,
            held_out,
            genes=teaching.panel.genes,
            units=units_of(teaching.cohort.patients(slides)),
            seed=seed,
        ),
        n_nearest=N_NEAREST,
        nearness_Q=np.quantile(every, np.linspace(0, 1, N_QUANTILES)),
        flagged_share=float(max(np.mean(near_S < limit) for near_S in nearness.values())),
        error_B=_error_by_nearness(slides, held_out, nearness),
    )


def nearness_of(
    teaching: TeachingSet, spots: SlideSpots, looks_SD: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Give the mean cosine similarity of each spot to its nearest references.

    Parameters
    ----------
    teaching
        What may be borrowed from.
    spots
        The slide.
    looks_SD
        (S, D) the first of the model's embeddings as it was made: standardised slide by slide, as
        a model may like it, a foreign slide would look like any other.

    Returns
    -------
    NDArray[np.float64]
        (S,), -1 to 1; over the `N_NEAREST` most similar spots of the slides it may borrow from.
    """
    found = teaching.looks.search(
        looks_SD, k=N_NEAREST, only_slides=teaching.among(spots), asked_by=spots.name
    )
    return np.nanmean(1 - found.distance_SK, axis=1)


def judge_spots(trust: Trust, nearness_S: NDArray[np.float64]) -> pd.DataFrame:
    """Compare the nearness of spots with that of held-out spots.

    Returns
    -------
    pd.DataFrame
        S rows: ``reference_similarity``, the nearness itself; ``nearness``, the share of held-out
        spots that lay less near, 0 to 1; ``unlike_references``, whether the spot is less near than
        all but 1 % of them were.
    """
    quantiles_Q = np.linspace(0, 1, len(trust.nearness_Q))
    share_S = np.interp(nearness_S, trust.nearness_Q, quantiles_Q)
    return pd.DataFrame(
        {
            "reference_similarity": nearness_S,
            "nearness": share_S,
            "unlike_references": share_S < FLAGGED_BELOW,
        }
    )


def judge_slide(trust: Trust, judged: pd.DataFrame) -> str | None:
    """Say in one line that a slide looks unlike the references, or None where it does not.

    It does where more than twice as many of its spots are flagged as of any held-out slide, and at
    least one in twenty.
    """
    share = float(judged["unlike_references"].mean())
    if share <= max(2 * trust.flagged_share, 0.05):
        return None
    return (
        f"{share:.0%} of its spots look unlike every reference (of held-out spots "
        f"{FLAGGED_BELOW:.0%} do): stain, focus, scale or tissue may differ; do not trust them"
    )


def judge_genes(
    slides: Mapping[str, SlideSpots],
    predicted: Mapping[str, NDArray[np.float32]],
    *,
    genes: Sequence[str],
    units: Mapping[str, str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Give each gene's correlation on slides that were held out, with its interval.

    The bootstrap draws slides or whole patients, and on each drawn slide tiles of neighbouring
    spots, so that it speaks of other tissue of the same kind. Of few slides no bootstrap can say
    how much the next will differ: below `FEWEST_HELD_OUT` there is no interval.

    Parameters
    ----------
    slides
        Measured, by name.
    predicted
        (S, G) by slide, genes in the order of ``genes``.
    genes
        G names.
    units
        What each slide is drawn with, as `spahgc.store.splits.units_of` gives it; None: alone.
    seed
        Of the bootstrap.

    Returns
    -------
    pd.DataFrame
        See `spahgc.store.confidence.Trust.genes`.
    """
    generator = np.random.default_rng(seed)
    point_FG, drawn_FNG = [], []
    for name, spots in slides.items():
        measured_SG = expression_of(spots)
        listed_G = np.isfinite(measured_SG).all(axis=0)
        y_SG = np.where(listed_G, measured_SG, 0).astype(np.float64)
        p_SG = predicted[name].astype(np.float64)
        scores = score_genes(y_SG, p_SG, genes=[str(gene) for gene in genes])["pcc"].to_numpy()
        weight_NS = _tile_weights(spots, generator)
        point_FG.append(np.where(listed_G, scores, np.nan))
        known_G = np.isfinite(point_FG[-1])
        drawn_FNG.append(np.where(known_G, _weighted_pcc(y_SG, p_SG, weight_NS), np.nan))
    if not point_FG:
        return pd.DataFrame(
            {column: 0.0 if column == "cv_slides" else np.nan for column in GENE_COLUMNS},
            index=pd.Index(list(genes), name="gene"),
        )
    point, drawn = np.stack(point_FG), np.stack(drawn_FNG)
    unit_F = np.unique([units[name] if units else name for name in slides], return_inverse=True)[1]
    low_G, high_G = _bounds(drawn, unit_F, generator)
    known_FG = np.isfinite(point)
    n_slides_G = known_FG.sum(axis=0).astype(np.float64)
    worst_G = np.where(n_slides_G > 0, np.where(known_FG, point, np.inf).min(axis=0), np.nan)
    best_G = np.where(n_slides_G > 0, np.where(known_FG, point, -np.inf).max(axis=0), np.nan)
    values = (_mean(point), low_G, high_G, n_slides_G, worst_G, best_G)
    columns = dict(zip(GENE_COLUMNS, values, strict=True))
    return pd.DataFrame(columns, index=pd.Index(list(genes), name="gene"))


def _spots_of(teaching: TeachingSet, name: str) -> SlideSpots:
    return teaching.spots[name] if name in teaching.spots else teaching.read(name)


def _tile_weights(spots: SlideSpots, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw (N, S) how often each spot counts, in tiles of neighbouring spots."""
    tile_S = _tiles(spots)
    n_tiles = int(tile_S.max()) + 1
    chosen_NT = generator.multinomial(n_tiles, np.full(n_tiles, 1 / n_tiles), size=N_RESAMPLINGS)
    return chosen_NT[:, tile_S].astype(np.float64)


def _tiles(spots: SlideSpots) -> NDArray[np.int64]:
    """Give the number of the square tile that each spot lies in."""
    near_S = spots.near_SQ[:, 0]
    has_near_S = near_S >= 0  # a spot by itself has none
    if not np.isfinite(spots.centers_S2).all() or not has_near_S.any():
        return np.arange(len(near_S))
    distance_S = np.linalg.norm(spots.centers_S2 - spots.centers_S2[near_S], axis=1)
    side = TILE_PITCHES * float(np.median(distance_S[has_near_S]))
    if side == 0:
        return np.arange(len(near_S))
    place_S2 = np.floor((spots.centers_S2 - spots.centers_S2.min(axis=0)) / side)
    return np.unique(place_S2, axis=0, return_inverse=True)[1].reshape(-1)


def _weighted_pcc(
    y_SG: NDArray[np.float64], p_SG: NDArray[np.float64], weight_NS: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Correlate each gene under each of N weightings of the spots, 0 where it is undefined."""
    y_SG, p_SG = y_SG - y_SG.mean(axis=0), p_SG - p_SG.mean(axis=0)
    weight_NS = weight_NS / weight_NS.sum(axis=1, keepdims=True)
    mean_y_NG, mean_p_NG = weight_NS @ y_SG, weight_NS @ p_SG
    covariance_NG = weight_NS @ (y_SG * p_SG) - mean_y_NG * mean_p_NG
    spread_NG = (weight_NS @ y_SG**2 - mean_y_NG**2) * (weight_NS @ p_SG**2 - mean_p_NG**2)
    is_spread_NG = spread_NG > 1e-20
    root_NG = np.sqrt(np.where(is_spread_NG, spread_NG, 1.0))
    return np.where(is_spread_NG, np.clip(covariance_NG / root_NG, -1, 1), 0.0)


def _bounds(
    drawn_FNG: NDArray[np.float64], unit_F: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw units too, and give the (G,) ends of the 95 % interval of the mean over slides."""
    n_units, n_drawn, n_genes = int(unit_F.max()) + 1, *drawn_FNG.shape[1:]
    known_FG: NDArray[np.bool_] = np.isfinite(drawn_FNG[:, 0])  # a gene is known in every draw
    n_units_G = np.array([len(np.unique(unit_F[known_F])) for known_F in known_FG.T])
    is_bound_G = n_units_G >= FEWEST_HELD_OUT
    low_G, high_G = np.full(n_genes, np.nan), np.full(n_genes, np.nan)
    if is_bound_G.any():
        times_NU = generator.multinomial(n_units, np.full(n_units, 1 / n_units), size=n_drawn)
        times_NF = times_NU[:, unit_F].astype(np.float64)
        values_FNG = np.where(known_FG[:, None], drawn_FNG, 0)[:, :, is_bound_G]
        total_NG = np.einsum("nf,fng->ng", times_NF, values_FNG)
        n_NG = times_NF @ known_FG[:, is_bound_G]
        mean_NG = np.divide(total_NG, n_NG, out=np.full(n_NG.shape, np.nan), where=n_NG > 0)
        low_G[is_bound_G], high_G[is_bound_G] = np.nanquantile(mean_NG, [0.025, 0.975], axis=0)
    return low_G, high_G


def _mean(values_FG: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the slides that have a value; NaN where none has."""
    known_FG = np.isfinite(values_FG)
    n_G = known_FG.sum(axis=0)
    total_G = np.where(known_FG, values_FG, 0).sum(axis=0)
    return np.divide(total_G, n_G, out=np.full(n_G.shape, np.nan), where=n_G > 0)


def _error_by_nearness(
    slides: Mapping[str, SlideSpots],
    predicted: Mapping[str, NDArray[np.float32]],
    nearness: Mapping[str, NDArray[np.float64]],
) -> NDArray[np.float64]:
    if not slides:
        return np.full(N_BINS, np.nan)
    error_S = np.concatenate([spot_error(slides[name], predicted[name]) for name in slides])
    near_S = np.concatenate([nearness[name] for name in slides])
    bins = np.array_split(np.argsort(near_S, kind="stable"), N_BINS)
    return np.array(
        [np.sqrt(np.mean(error_S[rows] ** 2)) if len(rows) else np.nan for rows in bins]
    )


def spot_error(spots: SlideSpots, predicted_SG: NDArray[np.float32]) -> NDArray[np.float64]:
    """Give the (S,) root mean squared error of each spot, in the genes' standard deviations.

    A gene that is constant on the slide, or that its files do not list, is left out.
    """
    measured_SG = expression_of(spots).astype(np.float64)
    spread_G = measured_SG.std(axis=0)
    varies_G = np.isfinite(spread_G) & (spread_G > 0)
    error_SG = (predicted_SG - measured_SG)[:, varies_G] / spread_G[varies_G]
    return np.sqrt(np.mean(error_SG**2, axis=1)) if varies_G.any() else np.zeros(len(error_SG))
