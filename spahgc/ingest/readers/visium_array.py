"""The arrays that Visium spots and Visium HD bins lie on: their measures, and what must hold.

Letters: A array spots.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from spahgc.ingest.readers.lattice import (
    check_lattice,
    fit_lattice,
    hexagonal_microns_per_pixel,
    square_microns_per_pixel,
)
from spahgc.schema import Finding, Lattice

_CAPTURE_AREAS: Final = {"6.5 mm": (78, 128), "11 mm": (128, 224)}  # array rows and columns
_SUSPICIOUS_GAP: Final = 0.01  # so few missing positions are lost ones, more were left out


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotArray:
    """What kind of array the spots lie on."""

    shape: Lattice
    """Visium's spots are packed hexagonally, Visium HD's bins squarely."""

    pitch_um: float
    """Distance between neighbouring spots of one row, in µm."""

    spot_diameter_um: float
    """Width of a spot, in µm."""


VISIUM: Final = SpotArray(shape="hexagonal", pitch_um=100.0, spot_diameter_um=55.0)
"""Visium, of either capture area."""


def square_bins(bin_um: int) -> SpotArray:
    """Return the array of Visium HD's bins of ``bin_um`` µm, which leave no gap."""
    return SpotArray(shape="square", pitch_um=float(bin_um), spot_diameter_um=float(bin_um))


def pitch_scale(positions: pd.DataFrame, array: SpotArray) -> float | None:
    """Tell µm per pixel from where the spots lie, unchecked; None where they cannot tell."""
    array_A2 = positions[["array_col", "array_row"]].to_numpy(np.float64)
    fit = fit_lattice(array_A2, positions[["x", "y"]].to_numpy(np.float64))
    if fit is None or not (fit.column_step_px and fit.row_step_px):
        return None
    if array.shape == "square":
        return square_microns_per_pixel(fit, array.pitch_um)
    return hexagonal_microns_per_pixel(fit, array.pitch_um)


def check_array(
    name: str, positions: pd.DataFrame, array: SpotArray, findings: list[Finding]
) -> None:
    """Check that positions are those of such an array.

    Parameters
    ----------
    name
        Of the slide, for the messages.
    positions
        A rows with ``array_row``, ``array_col``, ``x`` and ``y``.
    findings
        Gets what was checked, and what a person should look at.

    Raises
    ------
    SlideFormatError
        If the spots do not lie on a lattice at all.
    """
    if array.shape == "hexagonal":
        findings.extend(_extent_findings(positions))
        findings.extend(_parity_warning(positions))
    array_A2 = positions[["array_col", "array_row"]].to_numpy(np.float64)
    fit = fit_lattice(array_A2, positions[["x", "y"]].to_numpy(np.float64))
    if fit is None:
        text = "fewer than three spots, or all in one line: the pitch cannot be told"
        findings.append(Finding(kind="warning", text=text))
        return
    findings.extend(check_lattice(fit, name=name, shape=array.shape))


def _extent_findings(positions: pd.DataFrame) -> list[Finding]:
    """Compare the number of positions, and the largest row and column, with both areas'."""
    n_found = len(positions)
    n_rows, n_columns = (int(positions[key].max()) + 1 for key in ("array_row", "array_col"))
    for area, (rows, columns) in _CAPTURE_AREAS.items():
        if n_rows > rows or n_columns > columns:
            continue
        n_expected = rows * columns // 2
        text = f"{n_found} of the {n_expected} positions of a {area} capture area are listed"
        is_odd = n_found > n_expected or 0 < n_expected - n_found < _SUSPICIOUS_GAP * n_expected
        return [Finding(kind="warning" if is_odd else "check", text=text)]
    text = (
        f"array rows reach {n_rows - 1} and columns {n_columns - 1}, expected at most 127 and 223 "
        f"as on an 11 mm capture area; {n_found} positions are listed"
    )
    return [Finding(kind="warning", text=text)]


def _parity_warning(positions: pd.DataFrame) -> list[Finding]:
    n_odd = int(((positions["array_row"] + positions["array_col"]) % 2 != 0).sum())
    if not n_odd:
        return []
    text = (
        f"{n_odd} of {len(positions)} spots have an odd sum of array row and column, expected "
        "none on a hexagonal array"
    )
    return [Finding(kind="warning", text=text)]
