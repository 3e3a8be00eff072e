"""A contact sheet of patches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spahgc.report.saving import save_picture

_DOTS_PER_INCH: Final = 110
_MOST_COLUMNS: Final = 8


def plot_patches(
    path: Path, cells: Sequence[tuple[str, NDArray[np.uint8]]], *, title: str, columns: int
) -> None:
    """Draw patches in a grid.

    Parameters
    ----------
    path
        File to write; its suffix says which format.
    cells
        A caption and (H, W, 3) RGB pixels each.
    title
        Above all.
    columns
        Cells that belong together stand in one row: rows hold a multiple of so many.
    """
    per_row = max(columns, _MOST_COLUMNS // columns * columns)
    n_rows = -(-len(cells) // per_row)
    figure = Figure(figsize=(1.7 * per_row, 1.95 * n_rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    axes = figure.subplots(n_rows, per_row, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (caption, pixels) in zip(axes, cells, strict=False):
        axis.imshow(pixels)
        axis.plot(pixels.shape[1] / 2 - 0.5, pixels.shape[0] / 2 - 0.5, "+", color="white")
        axis.set_title(caption, fontsize=7, parse_math=False)
    save_picture(figure, path, dots_per_inch=_DOTS_PER_INCH)
