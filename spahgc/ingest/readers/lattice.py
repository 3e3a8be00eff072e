"""The lattice that spots were printed on, fitted to where they lie in the image.

Letters: S spots.
"""

from dataclasses import dataclass
from math import atan2, degrees, hypot, sqrt
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import SlideFormatError
from spahgc.schema import Finding

LatticeShape: TypeAlias = Literal["square", "hexagonal"]

# Rows lie this many column steps apart: on the hexagonal lattice neighbours in a row are two
# columns apart and rows are sqrt(3)/2 of a pitch apart.
_ROW_PER_COLUMN_STEP: Final[dict[LatticeShape, float]] = {"square": 1.0, "hexagonal": sqrt(3)}
_STEP_TOLERANCE: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatticeFit:
    """Least-squares map from array coordinates to pixels: pixel = matrix (column, row) + offset."""

    matrix: NDArray[np.float64]
    """(2, 2) pixels per array step; column 0 is one step of ``array_col``, column 1 of
    ``array_row``."""

    offset: NDArray[np.float64]
    """(2,) x, y in pixels of array column 0, row 0."""

    rms_residual_px: float
    """Root mean square distance of the spots from the fitted lattice, in pixels."""

    largest_residual_px: float
    """The farthest spot's distance from the fitted lattice, in pixels."""

    @property
    def column_step_px(self) -> float:
        """Pixels from one array column to the next."""
        return hypot(*self.matrix[:, 0])

    @property
    def row_step_px(self) -> float:
        """Pixels from one array row to the next."""
        return hypot(*self.matrix[:, 1])

    @property
    def rotation_degrees(self) -> float:
        """Angle from the image's x axis to rising array columns, -180 to 180, clockwise on screen.

        Clockwise because y points down in an image.
        """
        return degrees(atan2(self.matrix[1, 0], self.matrix[0, 0]))

    @property
    def is_mirrored(self) -> bool:
        """Whether the lattice has to be flipped, not only turned, to lie on the image."""
        return bool(np.linalg.det(self.matrix) < 0)


def fit_lattice(
    array_S2: NDArray[np.float64], centers_S2: NDArray[np.float64]
) -> LatticeFit | None:
    """Fit where array columns and rows lie in the image.

    Parameters
    ----------
    array_S2
        ``array_col``, ``array_row`` of each spot.
    centers_S2
        Spot centers as x, y in pixels; spots with a NaN are left out.

    Returns
    -------
    LatticeFit | None
        None where it cannot be told: fewer than three spots, or all of them on one line of
        the array.
    """
    is_known_S = np.isfinite(array_S2).all(1) & np.isfinite(centers_S2).all(1)
    array_S2, centers_S2 = array_S2[is_known_S], centers_S2[is_known_S]
    if len(array_S2) < 3:
        return None
    array_mean_2, center_mean_2 = array_S2.mean(0), centers_S2.mean(0)
    solution_22, _, rank, _ = np.linalg.lstsq(
        array_S2 - array_mean_2, centers_S2 - center_mean_2, rcond=1e-9
    )
    if rank < 2:
        return None
    offset_2 = center_mean_2 - array_mean_2 @ solution_22
    distance_S = np.linalg.norm(centers_S2 - array_S2 @ solution_22 - offset_2, axis=1)
    return LatticeFit(
        matrix=solution_22.T,
        offset=offset_2,
        rms_residual_px=float(np.sqrt(np.mean(distance_S**2))),
        largest_residual_px=float(distance_S.max()),
    )


def guess_shape(fit: LatticeFit, array_S2: NDArray[np.float64]) -> LatticeShape:
    """Tell the shape of a lattice from how far apart its rows and columns lie.

    Parameters
    ----------
    fit
        How the lattice lies in the image.
    array_S2
        ``array_col``, ``array_row`` of each spot; on a hexagonal lattice their sum is even.
    """
    halfway = sqrt(_ROW_PER_COLUMN_STEP["hexagonal"])
    is_wide = fit.row_step_px > halfway * fit.column_step_px
    parity_S = array_S2[np.isfinite(array_S2).all(axis=1)].sum(axis=1) % 2
    return "hexagonal" if is_wide and bool((parity_S == 0).all()) else "square"


def square_microns_per_pixel(fit: LatticeFit, pitch_um: float = 200) -> float:
    """Tell the pixel size from a square lattice whose neighbours lie ``pitch_um`` apart.

    Run `check_lattice` first: it refuses a fit without extent, which has no pixel size.

    Returns
    -------
    float
        µm per pixel.
    """
    return pitch_um / _pitch_px(fit, "square")


def hexagonal_microns_per_pixel(fit: LatticeFit, pitch_um: float = 100) -> float:
    """Tell the pixel size from a hexagonal lattice; neighbours in a row are two columns apart.

    Run `check_lattice` first: it refuses a fit without extent, which has no pixel size.

    Returns
    -------
    float
        µm per pixel.
    """
    return pitch_um / _pitch_px(fit, "hexagonal")


def check_lattice(fit: LatticeFit, *, name: str, shape: LatticeShape) -> list[Finding]:
    """Say how the spots lie in the image, and warn of swapped, turned or stretched coordinates.

    Parameters
    ----------
    name
        Of the slide, for the messages.
    shape
        ``square`` for legacy ST, ``hexagonal`` for Visium.

    Returns
    -------
    list[Finding]
        One check, then any warnings.

    Raises
    ------
    SlideFormatError
        If the spots do not lie on a lattice: their root mean square distance from it is more
        than half a pitch, or all of them lie on one line of the image.
    """
    _refuse_scattered(fit, name=name, shape=shape)
    turned = "mirrored" if fit.is_mirrored else "not mirrored"
    check = Finding(
        kind="check",
        text=f"spots lie on a {shape} lattice with a pitch of {_pitch_px(fit, shape):.1f} px, "
        f"turned by {fit.rotation_degrees:z.1f}°, {turned}, {fit.rms_residual_px:.1f} px (root "
        f"mean square) and at most {fit.largest_residual_px:.1f} px from it",
    )
    warnings = (_axes_warning(fit), _stretch_warning(fit, shape))
    return [check, *(Finding(kind="warning", text=text) for text in warnings if text)]


def _refuse_scattered(fit: LatticeFit, *, name: str, shape: LatticeShape) -> None:
    pitch_px = _pitch_px(fit, shape)
    if fit.rms_residual_px > pitch_px / 2:
        raise SlideFormatError(
            f"{name}: the spots' pixel coordinates do not follow their array coordinates: they lie "
            f"{fit.rms_residual_px:.0f} px from the fitted lattice (root mean square), expected "
            f"less than half its pitch of {pitch_px:.0f} px"
        )
    longest_px, shortest_px = np.linalg.svd(fit.matrix, compute_uv=False)
    if shortest_px < 0.01 * longest_px or longest_px == 0:
        raise SlideFormatError(
            f"{name}: the spots' pixel coordinates lie on one line of the image, "
            f"expected a {shape} lattice"
        )


def _pitch_px(fit: LatticeFit, shape: LatticeShape) -> float:
    if shape == "hexagonal":
        return 2 * fit.column_step_px
    return (fit.column_step_px + fit.row_step_px) / 2


def _axes_warning(fit: LatticeFit) -> str | None:
    if not 45 < abs(fit.rotation_degrees) < 135:
        return None
    if fit.is_mirrored:
        return (
            "x and y look swapped: array columns run along the image's y axis and the lattice is "
            "mirrored; check the order of the pixel columns"
        )
    return (
        f"the lattice is turned by {fit.rotation_degrees:.0f}°, about a quarter turn: check that "
        "the image is the one the coordinates were measured on"
    )


def _stretch_warning(fit: LatticeFit, shape: LatticeShape) -> str | None:
    expected = _ROW_PER_COLUMN_STEP[shape]
    found = fit.row_step_px / fit.column_step_px
    if abs(found / expected - 1) <= _STEP_TOLERANCE:
        return None
    return (
        f"rows lie {found:.2f} column steps apart, expected {expected:.2f} on a {shape} lattice: "
        "the coordinates are stretched, or array rows and columns are swapped"
    )
