"""What the lattice that spots were printed on tells of a slide: its pixel size, what is odd."""

from typing import Final

import numpy as np

from spahgc.errors import SlideFormatError
from spahgc.lattices import STEP_RATIO, LatticeFit, fit_lattice, recognise_lattice
from spahgc.schema import Finding, Lattice

__all__ = [
    "LatticeFit",
    "check_lattice",
    "fit_lattice",
    "hexagonal_microns_per_pixel",
    "microns_per_pixel_of",
    "recognise_lattice",
    "square_microns_per_pixel",
]

_STEP_TOLERANCE: Final = 0.05


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


def microns_per_pixel_of(fit: LatticeFit, shape: Lattice, pitch_um: float) -> float:
    """Tell the pixel size from any lattice; neighbours on a staggered one are diagonal."""
    return pitch_um / _pitch_px(fit, shape)


def check_lattice(fit: LatticeFit, *, name: str, shape: Lattice) -> list[Finding]:
    """Say how the spots lie in the image, and warn of swapped, turned or stretched coordinates.

    Parameters
    ----------
    name
        Of the slide, for the messages.
    shape
        ``square`` or ``staggered`` for legacy ST, ``hexagonal`` for Visium.

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


def _refuse_scattered(fit: LatticeFit, *, name: str, shape: Lattice) -> None:
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


def _pitch_px(fit: LatticeFit, shape: Lattice) -> float:
    if shape == "hexagonal":
        return 2 * fit.column_step_px
    if shape == "staggered":
        return fit.diagonal_px
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


def _stretch_warning(fit: LatticeFit, shape: Lattice) -> str | None:
    expected = STEP_RATIO[shape]
    found = fit.step_ratio
    if abs(found / expected - 1) <= _STEP_TOLERANCE:
        return None
    return (
        f"rows lie {found:.2f} column steps apart, expected {expected:.2f} on a {shape} lattice: "
        "the coordinates are stretched, or array rows and columns are swapped"
    )
