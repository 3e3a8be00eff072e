"""µm per pixel: every estimate that is at hand, and which one is taken.

Letters: S spots.
"""

from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.lattice import (
    check_lattice,
    fit_lattice,
    microns_per_pixel_of,
    recognise_lattice,
)
from spahgc.schema import Finding, Lattice

HEXAGONAL_PITCH_UM: Final = 100.0
"""Of Visium, the only hexagonal array."""

STAGGERED_PITCH_UM: Final = 150.0
"""Of the 2k array of legacy Spatial Transcriptomics, between diagonal neighbours, as published."""

_PITCHES_UM: Final[dict[Lattice, float]] = {
    "hexagonal": HEXAGONAL_PITCH_UM,
    "staggered": STAGGERED_PITCH_UM,
}

SCALES_DIFFER: Final = 0.05
"""Estimates that differ by more are a warning."""

SCALES_CONTRADICT: Final = 0.2
"""Estimates that differ by more are an error, unless the one taken was stated."""


def agreed_scales(
    name: str,
    estimates: Mapping[str, float | None],
    findings: list[Finding],
    *,
    doubtful: Collection[str] = (),
) -> dict[str, float]:
    """Compare the estimates of a slide's µm per pixel.

    Parameters
    ----------
    name
        Of the slide, for the messages.
    estimates
        µm per pixel by source, the most trusted first; ``stated`` is what the user gave.
    findings
        Gets what was taken, and what differs from it.
    doubtful
        Sources that are known to be wrong at times: they contradict nothing.

    Returns
    -------
    dict[str, float]
        Those that are known; the first is the one to take.

    Raises
    ------
    SlideFormatError
        If one is not positive, or two contradict each other.
    """
    sources = {source: value for source, value in estimates.items() if value is not None}
    if any(not value > 0 for value in sources.values()):
        raise SlideFormatError(f"{name}: µm per pixel are {sources}, expected positive numbers")
    if not sources:
        findings.append(Finding(kind="warning", text="nothing tells the pixel size; give --mpp"))
        return {}
    best = next(iter(sources))
    text = f"{sources[best]:.4f} µm per pixel, taken from: {best}"
    if best in doubtful:
        text += ", which is wrong in some files: check it, or give --mpp"
    findings.append(Finding(kind="warning" if best in doubtful else "inferred", text=text))
    for other in list(sources)[1:]:
        difference = abs(sources[other] / sources[best] - 1)
        text = (
            f"µm per pixel differ by {difference:.0%}: {sources[best]:.4f} ({best}) and "
            f"{sources[other]:.4f} ({other})"
        )
        if difference > SCALES_CONTRADICT and best != "stated" and other not in doubtful:
            raise SlideFormatError(f"{name}: {text}; give the right one with --mpp")
        if difference > SCALES_DIFFER:
            findings.append(Finding(kind="warning", text=text))
    return sources


def lattice_scale(
    name: str,
    spots: pd.DataFrame,
    centers_S2: NDArray[np.float64],
    pitch_um: float | None,
    findings: list[Finding],
) -> tuple[float | None, float | None]:
    """Check the lattice of spots whose shape is not known, and tell the pixel size from it.

    Parameters
    ----------
    name
        Of the slide, for the messages.
    spots
        With ``array_row`` and ``array_col``, or without a lattice.
    centers_S2
        (S, 2) x, y in pixels.
    pitch_um
        Distance between neighbouring spots, in µm; None takes 100 µm on a hexagonal lattice,
        which only Visium has, 150 µm on a staggered one, which only the 2k array has, and leaves
        it open on a square one.
    findings
        Gets how the lattice lies.

    Returns
    -------
    tuple[float | None, float | None]
        µm per pixel and the pitch in µm, None where they cannot be told.

    Raises
    ------
    SlideFormatError
        If the spots do not lie on a lattice.
    """
    array_S2 = _array_of(spots)
    if array_S2 is None:
        text = "no array_row and array_col: whether coordinates fit the array was not checked"
        findings.append(Finding(kind="warning", text=text))
        return None, pitch_um
    fit = fit_lattice(array_S2, centers_S2)
    if fit is None:
        text = "fewer than three spots, or all in one line: the pitch cannot be told"
        findings.append(Finding(kind="warning", text=text))
        return None, pitch_um
    shape = recognise_lattice(array_S2, fit)
    findings.extend(check_lattice(fit, name=name, shape=shape))
    pitch_um = pitch_um or _PITCHES_UM.get(shape)
    if pitch_um is None:
        text = "how far apart spots of a square lattice lie is not known; give --pitch-um"
        findings.append(Finding(kind="warning", text=text))
        return None, None
    return microns_per_pixel_of(fit, shape, pitch_um), pitch_um


def lattice_of(spots: pd.DataFrame, centers_S2: NDArray[np.float64]) -> Lattice | None:
    """Recognise the lattice of spots whose platform does not tell it; None where nothing does."""
    array_S2 = _array_of(spots)
    fit = None if array_S2 is None else fit_lattice(array_S2, centers_S2)
    return None if array_S2 is None or fit is None else recognise_lattice(array_S2, fit)


def _array_of(spots: pd.DataFrame) -> NDArray[np.float64] | None:
    if not {"array_row", "array_col"} <= set(spots.columns):
        return None
    return spots[["array_col", "array_row"]].to_numpy(np.float64)
