"""A spot beside the spots that look most like it: a table, and their patches in one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spahgc.report.pictures import BLUE, GREY
from spahgc.report.saving import save_picture
from spahgc.store.words import spell_plain

PER_ROW: Final = 5
"""Patches beside each other."""


class FoundSpot(NamedTuple):
    """One neighbour of a spot."""

    slide: str
    """It lies on."""

    patient: str | None
    """None means unknown."""

    spot: str
    """Barcode or spot id."""

    distance: float
    """In the index's metric."""


def print_neighbours(
    found: Sequence[FoundSpot], *, console: Console, title: str, metric: str
) -> None:
    """List neighbours, nearest first."""
    table = Table(title=Text(title), title_justify="left")
    table.add_column("", justify="right")
    for column in ("slide", "patient", "spot"):
        table.add_column(column, no_wrap=True)
    table.add_column(f"{metric} distance", justify="right")
    for rank, neighbour in enumerate(found, start=1):
        table.add_row(
            str(rank),
            neighbour.slide,
            Text(spell_plain(neighbour.patient or "unknown")),
            Text(spell_plain(neighbour.spot)),
            f"{neighbour.distance:.4g}",
        )
    console.print(table)


def plot_neighbours(
    path: Path,
    asked: tuple[str, NDArray[np.uint8] | None],
    found: Sequence[tuple[str, NDArray[np.uint8] | None]],
    *,
    title: str,
) -> None:
    """Draw patches in a grid, the one that was asked about first, in a frame.

    Parameters
    ----------
    path
        File to write; its suffix says which format.
    asked, found
        A caption and (H, W, 3) RGB pixels; None where the image is no longer there.
    title
        Above all.
    """
    cells = [asked, *found]
    n_rows = -(-len(cells) // PER_ROW)
    n_columns = min(PER_ROW, len(cells))
    figure = Figure(figsize=(2.1 * n_columns, 2.5 * n_rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for place, (axis, (caption, pixels)) in enumerate(zip(axes, cells, strict=False)):
        if pixels is None:
            axis.text(0.5, 0.5, "image not there", ha="center", color=GREY, fontsize=8)
        else:
            axis.imshow(pixels)
        axis.set_title(caption, fontsize=8, parse_math=False, color=BLUE if not place else "black")
        if not place:
            axis.set_axis_on()
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set(color=BLUE, linewidth=3)
    save_picture(figure, path)
