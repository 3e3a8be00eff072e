"""Pictures of predictions and scores, written as files.

Dimension letters in this file:

S spots
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from spahgc.report.saving import save_picture
from spahgc.report.tables import method_order
from spahgc.schema import Thumbnail

MAP_COLOURS: Final = colormaps["viridis"].with_extremes(bad="#DDDDDD")
# Okabe and Ito's colours, told apart with every kind of colour vision
BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREEN: Final = "#009E73"
GREY: Final = "#595959"
MOST_POINTS: Final = 2000
"""Of single genes, per method; more can no longer be told apart, and the box says it all."""
_MAP_LEGEND: Final = (
    "Expression: log(1 + counts scaled to one library size); as predicted, relative within the "
    "slide.\nEach map has its own colour limits, 1st to 99th percentile: predictions vary less."
)
_UNITS: Final = ("log1p, as measured", "log1p, relative within the slide")
"""On the colour bars of a measured and a predicted map."""


class GeneMap(NamedTuple):
    """One gene on one slide."""

    measured_S: NDArray[np.floating]
    """(S,) normalised expression; NaN where it is unknown."""

    predicted_S: NDArray[np.floating]
    """(S,) normalised expression."""

    pcc: float
    """Pearson correlation of the two; NaN where it is undefined."""


def example_genes(scores_per_gene: pd.DataFrame) -> list[str]:
    """Choose the best, a middle and the worst predicted gene.

    Parameters
    ----------
    scores_per_gene
        Rows by gene with the column ``pcc``, as `spahgc.metrics.score_genes` returns them.

    Returns
    -------
    list[str]
        Up to three different genes, best first; genes without a correlation are passed over.
    """
    genes = scores_per_gene["pcc"].dropna().sort_values(ascending=False, kind="stable").index
    places = (0, (len(genes) - 1) // 2, len(genes) - 1) if len(genes) else ()
    return [str(genes[place]) for place in dict.fromkeys(places)]


def plot_gene_maps(
    path: Path,
    gene_maps: Mapping[str, GeneMap],
    *,
    slide_name: str,
    centers_S2: NDArray[np.float64],
    microns_per_pixel: float,
    spot_diameter_um: float,
    thumbnail: Thumbnail | None = None,
) -> None:
    """Draw measured beside predicted expression over the slide, one gene a row.

    Every map has colour limits of its own, the 1st and 99th percentile of its spots: predictions
    are drawn together towards the mean, and would be one colour on the scale of what was measured.

    Parameters
    ----------
    path
        File to write; its suffix says which format.
    gene_maps
        Maps by gene, from top to bottom.
    slide_name
        In the title.
    centers_S2
        (S, 2) spot centers as x, y in full-resolution pixels.
    microns_per_pixel
        Of full-resolution pixels, in µm.
    spot_diameter_um
        Width of a spot, in µm; spots are drawn to scale.
    thumbnail
        Picture of the slide, drawn in a third column.
    """
    centers_S2 = np.asarray(centers_S2) * microns_per_pixel / 1000
    diameter = spot_diameter_um / 1000
    frame = _frame(centers_S2, margin=diameter)
    figure, axes = _map_grid(len(gene_maps), 2 if thumbnail is None else 3, frame=frame)
    for row, (gene, gene_map) in zip(axes, gene_maps.items(), strict=True):
        for axis, title, values_S, unit in zip(
            row, _titles(gene, gene_map), gene_map[:2], _UNITS, strict=False
        ):
            bar = _draw_spots(axis, centers_S2, values_S.astype(np.float64), diameter=diameter)
            bar.set_label(unit, fontsize=7)
            _dress_map(axis, title=title, frame=frame)
        if thumbnail is not None:
            _draw_thumbnail(row[2], thumbnail, microns_per_pixel=microns_per_pixel)
            _dress_map(row[2], title="H&E", frame=frame)
    figure.suptitle(f"Slide {slide_name}", fontsize=11)
    figure.supxlabel(_MAP_LEGEND, fontsize=8, color=GREY)
    save_picture(figure, path)


def plot_pcc_distribution(path: Path, scores: pd.DataFrame) -> None:
    """Draw how the correlations of single genes spread, one method a row.

    Parameters
    ----------
    path
        File to write; its suffix says which format.
    scores
        Long table of scores; see `spahgc.report.tables`.
    """
    methods = method_order(scores)
    pcc_of = [scores.loc[scores["method"] == method, "pcc"] for method in methods]
    figure = Figure(figsize=(8, 1.4 + 0.42 * len(methods)), layout="constrained")
    axis = figure.add_subplot()
    axis.axvline(0, color=GREY, linewidth=1, linestyle="--")
    for row, pcc in enumerate(pcc_of):
        _draw_distribution(axis, pcc.dropna().to_numpy(dtype=np.float64), row=row)
        if n_undefined := int(pcc.isna().sum()):
            text = f" {n_undefined} of {len(pcc)} undefined"
            place = axis.get_yaxis_transform()
            axis.text(1, row, text, transform=place, va="center", fontsize=8, color=GREY)
    axis.set_yticks(range(len(methods)), methods, parse_math=False)
    axis.set_ylim(len(methods) - 0.4, -0.6)
    axis.set_xlabel("Pearson correlation of one gene over the spots of one test slide")
    axis.set_title("Correlation by gene and method (box: quartiles; diamond: mean)", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    save_picture(figure, path)


def plot_curve(path: Path, curve: pd.DataFrame, *, best_epoch: int) -> None:
    """Draw how training went.

    Parameters
    ----------
    path
        File to write; its suffix says which format.
    curve
        One row per epoch; columns ``epoch``, ``train_loss``, ``validation_loss`` and
        ``validation_pcc``, the last two NaN where nothing was validated.
    best_epoch
        Whose weights were kept.
    """
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    losses = {
        "train_loss": ("training", BLUE, "-"),
        "validation_loss": ("validation", ORANGE, "--"),
    }
    for column, (label, colour, line) in losses.items():
        _draw_line(upper, curve, column, label=label, colour=colour, line=line)
    _draw_line(lower, curve, "validation_pcc", label="validation", colour=GREEN, line="-")
    for axis in (upper, lower):
        axis.axvline(best_epoch, color=GREY, linewidth=1, linestyle=":")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.02)
    upper.set_ylabel("loss")
    upper.legend(frameon=False)
    lower.set_ylabel("mean PCC over genes,\nvalidation slide")
    lower.set_xlabel("epoch")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    upper.set_title(f"Training; weights kept from epoch {best_epoch} (dotted line)", fontsize=10)
    save_picture(figure, path)


class _Frame(NamedTuple):
    """What a map shows, in mm; y grows downwards as in the image."""

    left: float
    right: float
    top: float
    bottom: float


def _frame(centers_S2: NDArray[np.float64], *, margin: float) -> _Frame:
    (left, top), (right, bottom) = np.nanmin(centers_S2, axis=0), np.nanmax(centers_S2, axis=0)
    right = max(right, left + 1.6)  # the scale bar and its label need it
    room = 0.07 * (right - left + 2 * margin)
    return _Frame(left - margin, right + margin, top - margin, bottom + margin + room)


def _map_grid(n_rows: int, n_columns: int, *, frame: _Frame) -> tuple[Figure, NDArray[np.object_]]:
    shape = float(np.clip((frame.bottom - frame.top) / (frame.right - frame.left), 0.1, 2.0))
    size = (3.5 * n_columns, (2.85 * shape + 0.6) * n_rows + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def _titles(gene: str, gene_map: GeneMap) -> tuple[str, str]:
    name = gene if len(gene) <= 24 else f"{gene[:23]}…"
    pcc = "undefined" if np.isnan(gene_map.pcc) else f"{gene_map.pcc:.2f}"
    return f"{name}\nmeasured", f"{name}\npredicted, r = {pcc}"


def _draw_spots(
    axis: Axes, centers_S2: NDArray[np.float64], values_S: NDArray[np.float64], *, diameter: float
) -> Colorbar:
    size_S = np.full(len(values_S), diameter)
    spots = EllipseCollection(
        size_S,
        size_S,
        np.zeros(len(values_S)),
        units="xy",  # mm, so that spots keep their true size
        offsets=centers_S2,
        offset_transform=axis.transData,
        cmap=MAP_COLOURS,
        clim=_colour_limits(values_S),
        array=np.ma.masked_invalid(values_S),
        rasterized=True,
    )
    axis.add_collection(spots)
    # an inset is as tall as the map, whatever the aspect makes of it
    bar = axis.figure.colorbar(spots, cax=axis.inset_axes((1.03, 0.05, 0.04, 0.9)))
    bar.ax.tick_params(labelsize=7)
    return bar


def _colour_limits(values_S: NDArray[np.float64]) -> tuple[float, float]:
    known = values_S[np.isfinite(values_S)]
    low, high = np.percentile(known, [1, 99]) if known.size else (0.0, 0.0)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _dress_map(axis: Axes, *, title: str, frame: _Frame) -> None:
    axis.set(xlim=(frame.left, frame.right), ylim=(frame.bottom, frame.top), aspect="equal")
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9, parse_math=False)
    axis.spines[:].set_color("#CCCCCC")
    unit = frame.right - frame.left
    left, middle = frame.left + 0.03 * unit, frame.bottom - 0.035 * unit
    axis.add_patch(Rectangle((left, middle - 0.005 * unit), 1.0, 0.01 * unit, color="black", lw=0))
    axis.text(left + 1.0, middle, " 1 mm", va="center", fontsize=7)


def _draw_thumbnail(axis: Axes, thumbnail: Thumbnail, *, microns_per_pixel: float) -> None:
    height, width = thumbnail.pixels.shape[:2]
    mm_per_pixel = microns_per_pixel / 1000 / thumbnail.scale
    axis.imshow(thumbnail.pixels, extent=(0, width * mm_per_pixel, height * mm_per_pixel, 0))


def _draw_distribution(axis: Axes, pcc: NDArray[np.float64], *, row: int) -> None:
    if pcc.size == 0:
        return
    if pcc.size <= MOST_POINTS:
        # spread by the golden ratio, not by chance: the same table gives the same picture
        offset = 0.44 * (np.arange(pcc.size) * 0.618034 % 1) - 0.22
        axis.scatter(pcc, row + offset, s=5, color=BLUE, alpha=0.35, linewidths=0, rasterized=True)
    box = axis.boxplot(
        [pcc],
        positions=[row],
        orientation="horizontal",
        widths=0.6,
        showfliers=pcc.size > MOST_POINTS,
        showmeans=True,
        manage_ticks=False,
        flierprops={"marker": ".", "markersize": 2, "markeredgecolor": BLUE},
        meanprops={"marker": "D", "markerfacecolor": ORANGE, "markeredgecolor": "white"},
        medianprops={"color": "black"},
    )
    for line in (*box["boxes"], *box["whiskers"], *box["caps"]):
        line.set_color(GREY)


def _draw_line(
    axis: Axes, curve: pd.DataFrame, column: str, *, label: str, colour: str, line: str
) -> None:
    known = curve[["epoch", column]].dropna()
    if len(known) == 0:
        if column == "validation_pcc":
            axis.text(0.5, 0.5, "no validation slide", transform=axis.transAxes, ha="center")
        return
    marker = "o" if len(known) <= 20 else ""
    axis.plot(
        known["epoch"],
        known[column],
        color=colour,
        linestyle=line,
        marker=marker,
        markersize=3,
        linewidth=1.5,
        label=label,
    )
