"""Scores of several methods on several test slides, as tables for the screen and for files.

A table of scores is long: one row per fold, test slide, method, seed and gene; see
`spahgc.model.judged.Judged`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spahgc.metrics import FEWEST_UNITS, bootstrap_interval
from spahgc.model.baselines import is_baseline

MEAN: Final = "mean"
OR_ZERO: Final = "mean, undefined as 0"
RMSE: Final = "rmse"
MAE: Final = "mae"
UNDEFINED: Final = "undefined genes"
SEEDS: Final = "seeds"
SPOT_PCC: Final = "spot pcc"

_OVERALL: Final = {MEAN: "mean", OR_ZERO: "or 0", "low": "low", "high": "high", SEEDS: "sd"}
_OTHERS: Final = {"spearman": "rank", "r2": "R2", "ccc": "CCC", SPOT_PCC: "per spot"}
_ERRORS: Final = {RMSE: "RMSE", MAE: "MAE", UNDEFINED: "no PCC"}
_RANGE: Final = {"worst": "worst", "best": "best"}
_LOWER_IS_BETTER: Final = frozenset({RMSE, MAE, UNDEFINED})
_LEGEND: Final = (
    "Pearson correlation (PCC) over the spots of a slide, mean over genes, then over slides; "
    "{interval}; no PCC: genes constant in what was measured "
    "or predicted, summed over slides, left out of the mean and zero in 'or 0'; sd: standard "
    "deviation of the mean over seeds; rank: Spearman; per spot: PCC over the genes of a spot; "
    "own|near: features of the spot and their mean over its neighbors; smoothed: prediction "
    "averaged over a spot and its neighbors."
)


def mean_table(scores: pd.DataFrame, spots: pd.DataFrame | None = None) -> pd.DataFrame:
    """Average scores over genes and seeds, then over test slides.

    Parameters
    ----------
    scores
        Long table of scores.
    spots
        Long table of per-spot correlations, where there is one.

    Returns
    -------
    pd.DataFrame
        One row per method: the model first, then the baselines, each by falling ``mean``. One
        column per test slide and ``mean``: Pearson correlation, undefined genes left out;
        ``mean, undefined as 0``: the same with those as zero; ``rmse`` and ``mae``: in units of the
        expression; ``undefined genes``: genes without a correlation, summed over slides, mean over
        seeds; ``spearman``, ``r2``, ``ccc``, ``spot pcc``; ``seeds``: standard deviation of
        ``mean`` over seeds, NaN where there is one.
    """
    pcc = _by_slide(scores, scores["pcc"])
    table = pcc.set_axis([str(slide) for slide in pcc.columns], axis=1)
    table[MEAN] = pcc.mean(axis=1)
    table[OR_ZERO] = _by_slide(scores, scores["pcc"].fillna(0.0)).mean(axis=1)
    table[RMSE] = _by_slide(scores, scores["rmse"]).mean(axis=1)
    table[MAE] = _by_slide(scores, scores["mae"]).mean(axis=1)
    n_seeds = scores["seed"].groupby(scores["method"]).nunique().clip(lower=1)
    table[UNDEFINED] = scores["pcc"].isna().groupby(scores["method"]).sum() / n_seeds
    for column in ("spearman", "r2", "ccc"):
        table[column] = _by_slide(scores, scores[column]).mean(axis=1)
    table[SPOT_PCC] = np.nan if spots is None else _by_slide(spots, spots["pcc"]).mean(axis=1)
    table[SEEDS] = seed_means(scores).groupby("method")["pcc"].std()
    return _in_order(table)


def seed_means(scores: pd.DataFrame) -> pd.DataFrame:
    """Average correlations over genes, then over test slides, for each method and seed.

    Returns
    -------
    pd.DataFrame
        ``method``, ``seed`` and ``pcc``; baselines, which have no seed, are not in it.
    """
    of_slide = scores.groupby(["method", "seed", "slide"], sort=False)["pcc"].mean()
    return of_slide.groupby(["method", "seed"], sort=False).mean().reset_index()


def method_order(scores: pd.DataFrame) -> list[str]:
    """Order methods as every table and picture shows them.

    Parameters
    ----------
    scores
        Long table of scores.

    Returns
    -------
    list[str]
        What is no baseline first, then the baselines; each by falling mean correlation.
    """
    return [str(method) for method in mean_table(scores).index]


def print_scores(
    scores: pd.DataFrame,
    *,
    console: Console,
    title: str,
    notes: Sequence[str] = (),
    spots: pd.DataFrame | None = None,
    units: Mapping[str, str] | None = None,
) -> None:
    """Show how well each method predicts.

    The best value of a column is bold; on paper and in pipes it has an asterisk. Slides that do
    not fit beside the other columns come in a table of their own, or as the worst and best.

    Parameters
    ----------
    scores
        Long table of scores.
    console
        Where to; its width decides what fits.
    title
        Above the table.
    notes
        What a reader must know to trust the numbers, one per line below.
    spots
        Long table of per-spot correlations, where there is one.
    units
        What each slide is drawn with for intervals; None: alone. See `spahgc.metrics`.
    """
    table = mean_table(scores, spots)
    slides = [str(slide) for slide in scores["slide"].unique()]
    intervals = method_intervals(scores, units=units)
    table[["low", "high"]] = [intervals[str(method)] for method in table.index]
    table["worst"], table["best"] = table[slides].min(axis=1), table[slides].max(axis=1)
    for columns in _layout(table, slides, console=console):
        console.print(_render(table, columns, title=title, console=console))
        title = "The same methods, continued"
    for note in notes:
        console.print(Text(f"Note: {note}"))
    legend = _LEGEND.format(interval=_say_interval(slides, units))
    console.print(Text(legend if _can_be_bold(console) else f"*: best. {legend}", style="dim"))


def _by_slide(scores: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    of_one = values.groupby([scores["method"], scores["slide"]], sort=False)
    return of_one.mean().unstack("slide")  # noqa: PD010 (a pivot table drops slides without PCC)


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    last = [is_baseline(str(method)) for method in table.index]
    order = pd.DataFrame({"is_baseline": last, "fallen": -table[MEAN]}, index=table.index)
    return table.loc[order.sort_values(["is_baseline", "fallen"], kind="stable").index]


def method_intervals(
    scores: pd.DataFrame, *, units: Mapping[str, str] | None = None
) -> dict[str, tuple[float, float]]:
    """Bound each method's mean correlation over slides; see `spahgc.metrics.bootstrap_interval`."""
    pcc = _by_slide(scores, scores["pcc"])
    return {
        str(method): bootstrap_interval(by_slide(row), units=units, seed=0)
        for method, row in pcc.iterrows()
    }


def by_slide(scores_F: pd.Series) -> dict[str, float]:
    """Give a series over slides as plain numbers by name."""
    return {str(slide): float(score) for slide, score in scores_F.items()}


def spell_units(slides: Sequence[str], units: Mapping[str, str] | None) -> str:
    """Say how many of what are drawn for an interval: ``4 slides``, or ``12 patients``."""
    drawn = {slide if units is None else units[slide] for slide in slides}
    what = "slide" if drawn <= set(slides) else "patient"
    return f"{len(drawn)} {what}{'s' * (len(drawn) != 1)}"


def has_interval(slides: Sequence[str], units: Mapping[str, str] | None) -> bool:
    """Whether there are slides, or patients, enough for an interval."""
    return len({slide if units is None else units[slide] for slide in slides}) >= FEWEST_UNITS


def _say_interval(slides: Sequence[str], units: Mapping[str, str] | None) -> str:
    drawn = spell_units(slides, units)
    if has_interval(slides, units):
        return f"low and high: 95 % bootstrap interval over {drawn}"
    return f"no interval: {drawn}, at least {FEWEST_UNITS} are needed"


def _layout(table: pd.DataFrame, slides: list[str], *, console: Console) -> list[Mapping[str, str]]:
    slide_columns = {slide: slide for slide in slides}
    has_bounds = table[["low", "high"]].notna().any(axis=None)
    overall = {k: v for k, v in _OVERALL.items() if has_bounds or k not in {"low", "high"}}
    wide_to_narrow: list[list[Mapping[str, str]]] = [
        [{**slide_columns, **overall, **_ERRORS, **_OTHERS}],
        [{**slide_columns, **overall, **_ERRORS}, _OTHERS],
        [{**overall, **_ERRORS}, {**slide_columns, **_OTHERS}],
        [overall, {**slide_columns, **_ERRORS}, _OTHERS],
        [overall, slide_columns, _ERRORS, _OTHERS],
        [{**overall, **_RANGE, **_ERRORS}, _OTHERS],
        [{**overall, **_RANGE}, {**_ERRORS, **_OTHERS}],
        [{**overall, **_RANGE}, _ERRORS, _OTHERS],
        [overall, {**_RANGE, **_ERRORS}, _OTHERS],
    ]
    for layout in wide_to_narrow:
        if all(_fits(table, columns, console=console) for columns in layout):
            return layout
    return wide_to_narrow[-1]


def _fits(table: pd.DataFrame, columns: Mapping[str, str], *, console: Console) -> bool:
    rendered = _render(table, columns, title=None, console=console)
    return console.measure(rendered, options=console.options.update(max_width=10_000)).maximum <= (
        console.width
    )


def _render(
    table: pd.DataFrame, columns: Mapping[str, str], *, title: str | None, console: Console
) -> Table:
    can_be_bold = _can_be_bold(console)
    rendered = Table(
        title=None if title is None else Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1 if can_be_bold else 0, 0, 0),
    )
    rendered.add_column("method", no_wrap=True)
    for heading in columns.values():
        rendered.add_column(
            _marked(heading, can_be_bold=can_be_bold), justify="right", no_wrap=True
        )
    cells = [_cells(table[column], can_be_bold=can_be_bold) for column in columns]
    judged = [not is_baseline(str(method)) for method in table.index]
    for row, method in enumerate(table.index):
        is_last_model = row + 1 < len(table) and judged[row] and not judged[row + 1]
        rendered.add_row(
            Text(str(method)), *(column[row] for column in cells), end_section=is_last_model
        )
    return rendered


def _can_be_bold(console: Console) -> bool:
    return console.is_terminal and not console.no_color


def _marked(text: str, *, can_be_bold: bool, is_best: bool = False) -> Text:
    if can_be_bold:
        return Text(text, style="bold" if is_best else "")
    return Text(text + ("*" if is_best else " "))


def _cells(values: pd.Series, *, can_be_bold: bool) -> list[Text]:
    column, shown = str(values.name), values.to_numpy(dtype=np.float64)
    return [
        _marked(_number(value, column=column), can_be_bold=can_be_bold, is_best=bool(is_best))
        for value, is_best in zip(shown, _best(column, shown), strict=True)
    ]


def _best(column: str, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    known = ~np.isnan(values)
    if column in {"low", "high", UNDEFINED, SEEDS} or not known.any():
        return np.zeros(len(values), dtype=bool)
    rounded = np.round(values, 3)
    extreme = np.nanmin(rounded) if column in _LOWER_IS_BETTER else np.nanmax(rounded)
    return known & (rounded == extreme)


def _number(value: float, *, column: str) -> str:
    if np.isnan(value):
        return "-"
    if column == UNDEFINED:
        return f"{value:.0f}" if value == round(value) else f"{value:.1f}"
    if column in _LOWER_IS_BETTER:
        return f"{value:.3f}"
    # correlations never reach past 1: without their zero more slides fit on a line
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
