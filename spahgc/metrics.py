"""Scores of predicted expression, on plain arrays.

Dimension letters in this file:

S spots, G genes, F slides, U units that are drawn whole: slides, or the patients they are of
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata, wilcoxon

from spahgc.errors import MismatchError

Floats: TypeAlias = NDArray[np.float64]
SCORES: Final = ("pcc", "spearman", "rmse", "mae", "r2", "ccc")
FEWEST_UNITS: Final = 10
"""Units below which no interval is given. Where a true null moves all genes of a slide together, a
95 % interval over slides excludes 0 in 20 % of simulations with 4 slides, 12 % with 8 and 10 % with
10; one over slide-gene pairs in 24 to 51 % with any number (`benchmarks/interval_coverage.py`).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneSummary:
    """Scores of one slide, averaged over its genes."""

    n_genes: int
    """Genes scored."""

    n_undefined: int
    """Genes without a Pearson correlation: constant in what was measured or predicted."""

    mean_pcc: float
    """Pearson correlation, undefined genes left out; NaN where every gene is undefined."""

    mean_pcc_zero: float
    """Pearson correlation, undefined genes counted as zero."""

    mean_spearman: float
    """Rank correlation, undefined genes left out."""

    mean_rmse: float
    """Root mean squared error, in the units of the expression."""

    mean_mae: float
    """Mean absolute error, in units of the expression."""

    mean_r2: float
    """Share of a gene's variance explained; genes constant in what was measured left out."""

    mean_ccc: float
    """Concordance correlation; genes constant in both left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """How much one method is better than another on the same slides."""

    mean: float
    """Mean over slides of first minus second."""

    by_slide: Mapping[str, float]
    """First minus second on each slide."""

    n_units: int
    """Units that were, or would have been, drawn: slides, or patients where there are several."""

    low: float
    """Lower end of the bootstrap interval of ``mean``; NaN below `FEWEST_UNITS`."""

    high: float
    """Upper end of it."""

    p_value: float
    """Two-sided Wilcoxon signed-rank test over units, 1 where none differs; NaN as ``low``."""


def score_genes(
    measured_SG: ArrayLike, predicted_SG: ArrayLike, *, genes: Sequence[str]
) -> pd.DataFrame:
    """Score each gene over the spots of one slide.

    Parameters
    ----------
    measured_SG, predicted_SG
        (S, G) finite expression in the same units.
    genes
        G names, in column order.

    Returns
    -------
    pd.DataFrame
        G rows indexed by ``gene``; float64 columns ``pcc`` and ``spearman`` (-1 to 1, NaN where
        the gene is constant in either array), ``rmse`` and ``mae`` (units of the expression),
        ``r2`` (at most 1, NaN where the gene is constant in what was measured) and ``ccc``
        (-1 to 1, NaN where it is constant in both).

    Raises
    ------
    MismatchError
        If the shapes or the number of genes differ, or a value is not finite.
    """
    measured_SG, predicted_SG = np.asarray(measured_SG), np.asarray(predicted_SG)
    _check_pair(measured_SG, predicted_SG, genes)
    still_G, stuck_G = _is_constant(measured_SG), _is_constant(predicted_SG)
    undefined_G = still_G | stuck_G
    y_SG, p_SG = measured_SG.astype(np.float64), predicted_SG.astype(np.float64)
    error_SG = p_SG - y_SG
    columns = {
        "pcc": _correlation(y_SG, p_SG, undefined_G=undefined_G),
        "spearman": _correlation(
            rankdata(y_SG, axis=0), rankdata(p_SG, axis=0), undefined_G=undefined_G
        ),
        "rmse": np.sqrt(np.mean(error_SG**2, axis=0)),
        "mae": np.mean(np.abs(error_SG), axis=0),
        "r2": 1 - _ratio(np.mean(error_SG**2, axis=0), y_SG.var(axis=0), undefined_G=still_G),
        "ccc": _concordance(y_SG, p_SG, undefined_G=still_G & stuck_G),
    }
    return pd.DataFrame(columns, index=pd.Index(list(genes), name="gene"))


def spot_pcc(measured_SG: ArrayLike, predicted_SG: ArrayLike) -> NDArray[np.float64]:
    """Correlate measured with predicted expression over the genes of each spot.

    Parameters
    ----------
    measured_SG, predicted_SG
        (S, G) finite expression in the same units.

    Returns
    -------
    NDArray[np.float64]
        (S,) Pearson correlations, -1 to 1; NaN where a spot is constant in either array.

    Raises
    ------
    MismatchError
        If the shapes differ, or there is no gene.
    """
    measured_GS, predicted_GS = np.asarray(measured_SG).T, np.asarray(predicted_SG).T
    if measured_GS.shape != predicted_GS.shape or measured_GS.ndim != 2 or len(measured_GS) == 0:
        raise MismatchError(
            f"measured expression is {measured_GS.T.shape}, predicted is {predicted_GS.T.shape}; "
            "expected the same (spots, genes) with at least one gene"
        )
    undefined_S = _is_constant(measured_GS) | _is_constant(predicted_GS)
    y_GS, p_GS = measured_GS.astype(np.float64), predicted_GS.astype(np.float64)
    return _correlation(y_GS, p_GS, undefined_G=undefined_S)


def summarise(scores_per_gene: pd.DataFrame) -> GeneSummary:
    """Average the scores of `score_genes` over genes.

    Parameters
    ----------
    scores_per_gene
        One row per gene, columns as `score_genes` returns them.

    Returns
    -------
    GeneSummary
        Counts and means; a mean over nothing is NaN.
    """
    mean = scores_per_gene[list(SCORES)].mean()
    return GeneSummary(
        n_genes=len(scores_per_gene),
        n_undefined=int(scores_per_gene["pcc"].isna().sum()),
        mean_pcc=float(mean["pcc"]),
        mean_pcc_zero=float(scores_per_gene["pcc"].fillna(0.0).mean()),
        mean_spearman=float(mean["spearman"]),
        mean_rmse=float(mean["rmse"]),
        mean_mae=float(mean["mae"]),
        mean_r2=float(mean["r2"]),
        mean_ccc=float(mean["ccc"]),
    )


def bootstrap_interval(
    by_slide: Mapping[str, float],
    *,
    units: Mapping[str, str] | None = None,
    seed: int,
    level: float = 0.95,
    n: int = 2000,
) -> tuple[float, float]:
    """Bound a mean over slides by drawing slides, or whole patients, again and again.

    A slide's genes and spots are not drawn: they share whatever is odd about their slide, so taken
    for independent they make an interval far too narrow.

    Parameters
    ----------
    by_slide
        One number per slide, already averaged over its genes; NaN is left out.
    units
        What each slide is drawn with, as `spahgc.store.splits.units_of` gives it; None: alone.
    seed
        Of the resampling.
    level
        Share of resampled means inside the interval, 0 to 1.
    n
        Number of resamplings.

    Returns
    -------
    tuple[float, float]
        Lower and upper percentile of the resampled means; NaN below `FEWEST_UNITS`.
    """
    total_U, n_slides_U = _sum_by_unit(by_slide, units)
    n_units = len(total_U)
    if n_units < FEWEST_UNITS:
        return float("nan"), float("nan")
    chosen_nU = np.random.default_rng(seed).integers(n_units, size=(n, n_units))
    means_n = total_U[chosen_nU].sum(axis=1) / n_slides_U[chosen_nU].sum(axis=1)
    low, high = np.quantile(means_n, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    first: Mapping[str, float],
    second: Mapping[str, float],
    *,
    units: Mapping[str, str] | None = None,
    seed: int,
    level: float = 0.95,
) -> PairedDifference:
    """Compare two methods slide by slide.

    Parameters
    ----------
    first, second
        Scores of the same slides, each averaged over the same genes; a slide with NaN in either is
        left out.
    units, seed, level
        See `bootstrap_interval`.

    Returns
    -------
    PairedDifference
        ``mean`` is NaN where no slide has both scores.
    """
    both = {name: first[name] - second[name] for name in first if name in second}
    both = {name: float(value) for name, value in both.items() if not np.isnan(value)}
    total_U, n_slides_U = _sum_by_unit(both, units)
    low, high = bootstrap_interval(both, units=units, seed=seed, level=level)
    p_value = float("nan")
    if len(total_U) >= FEWEST_UNITS:
        p_value = float(wilcoxon(total_U / n_slides_U).pvalue) if total_U.any() else 1.0
    return PairedDifference(
        mean=float(np.mean(list(both.values()))) if both else float("nan"),
        by_slide=both,
        n_units=len(total_U),
        low=low,
        high=high,
        p_value=p_value,
    )


def _sum_by_unit(
    by_slide: Mapping[str, float], units: Mapping[str, str] | None
) -> tuple[Floats, Floats]:
    """Give the sum over each unit's slides and how many they are, both (U,)."""
    known = {name: value for name, value in by_slide.items() if not np.isnan(value)}
    if not known:
        return np.zeros(0), np.zeros(0)
    names = [name if units is None else units[name] for name in known]
    unit_F = np.unique(names, return_inverse=True)[1]
    total_U = np.bincount(unit_F, weights=list(known.values()))
    return total_U.astype(np.float64), np.bincount(unit_F).astype(np.float64)


def _check_pair(
    measured_SG: NDArray[np.generic], predicted_SG: NDArray[np.generic], genes: Sequence[str]
) -> None:
    shape = (len(measured_SG), len(genes))
    if measured_SG.shape != shape or predicted_SG.shape != shape or shape[0] == 0:
        raise MismatchError(
            f"measured expression is {measured_SG.shape}, predicted is {predicted_SG.shape}; "
            f"expected (spots, {len(genes)}) with at least one spot in both"
        )
    for name, values_SG in (("measured", measured_SG), ("predicted", predicted_SG)):
        bad_G = ~np.isfinite(values_SG).all(axis=0)
        if bad_G.any():
            first = genes[int(np.flatnonzero(bad_G)[0])]
            raise MismatchError(
                f"{name} expression of {bad_G.sum()} genes ({first}, …) is not finite; "
                "expected a number for every spot"
            )


def _is_constant(values_SG: NDArray[np.generic]) -> NDArray[np.bool_]:
    is_float = values_SG.dtype.kind == "f"
    # a mean taken per spot leaves a constant gene rounding noise in its last digits
    digits = 4 * float(np.finfo(values_SG.dtype.name).eps) if is_float else 0.0
    low_G = values_SG.min(axis=0).astype(np.float64)
    high_G = values_SG.max(axis=0).astype(np.float64)
    return high_G - low_G <= digits * np.maximum(np.abs(low_G), np.abs(high_G))


def _correlation(first_SG: Floats, second_SG: Floats, *, undefined_G: NDArray[np.bool_]) -> Floats:
    first_SG = first_SG - first_SG.mean(axis=0)
    second_SG = second_SG - second_SG.mean(axis=0)
    covariance_G = np.einsum("sg,sg->g", first_SG, second_SG)
    spread_G = np.linalg.norm(first_SG, axis=0) * np.linalg.norm(second_SG, axis=0)
    return np.clip(_ratio(covariance_G, spread_G, undefined_G=undefined_G), -1.0, 1.0)


def _concordance(first_SG: Floats, second_SG: Floats, *, undefined_G: NDArray[np.bool_]) -> Floats:
    mean_G, other_G = first_SG.mean(axis=0), second_SG.mean(axis=0)
    covariance_G = np.mean((first_SG - mean_G) * (second_SG - other_G), axis=0)
    spread_G = first_SG.var(axis=0) + second_SG.var(axis=0) + (mean_G - other_G) ** 2
    return _ratio(2 * covariance_G, spread_G, undefined_G=undefined_G)


def _ratio(above_G: Floats, below_G: Floats, *, undefined_G: NDArray[np.bool_]) -> Floats:
    ratio_G = np.full(above_G.shape, np.nan)
    return np.divide(above_G, below_G, out=ratio_G, where=~undefined_G & (below_G > 0))
