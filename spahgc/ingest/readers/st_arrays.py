"""The printed arrays of legacy Spatial Transcriptomics: which one it is, and what it measures.

Letters: A places of the array.
"""

from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.lattice import LatticeFit, microns_per_pixel_of
from spahgc.ingest.readers.scales import STAGGERED_PITCH_UM
from spahgc.ingest.readers.st_layouts import StFiles
from spahgc.ingest.readers.st_tables import array_of
from spahgc.lattices import Parity, parity_of, recognise_lattice
from spahgc.schema import Finding, Lattice

Preset: TypeAlias = Literal["her2st", "cscc"]


class StArray(NamedTuple):
    """Measures of a printed array."""

    pitch_um: float
    """Distance between neighbouring spots, in µm."""

    spot_diameter_um: float | None
    """Width of a spot, in µm; None means unknown."""


PRESETS: Final[dict[Preset, StArray]] = {
    "her2st": StArray(200.0, 100.0),
    "cscc": StArray(STAGGERED_PITCH_UM, 110.0),
}
"""The 1k array, and the 2k array of GSE144240."""

_SIZE_UM: Final = (6_200.0, 6_600.0)
_STEPS: Final = (65, 62)
"""Width and height of the 2k array as published, and its steps from frame to frame. The published
150 µm and this size differ by 5 %. The same size is published of the 1k array, whose 32 x 34 steps
of 200 µm are 3 % more: so sizes run small, and the 150 µm are taken."""


class KnownArray(NamedTuple):
    """Which array a section lies on."""

    lattice: Lattice
    """How its spots are laid."""

    measures: StArray
    """In µm."""

    is_stated: bool
    """Whether the user gave the pitch."""


def find_array(
    files: StFiles,
    ids: pd.Index,
    fit: LatticeFit | None,
    findings: list[Finding],
    *,
    pitch_um: float | None,
    preset: Preset | None,
) -> KnownArray:
    """Tell the 2k array from the 1k array by the spots' ids.

    Parameters
    ----------
    files
        Where they came from.
    ids
        Of all spots that any table of the section names, in tissue or not.
    fit
        The array in the image; None where it cannot be told.
    findings
        Gets which array it is.
    pitch_um
        As the user states it.
    preset
        As the user states it.

    Raises
    ------
    SlideFormatError
        If the array is not the one that the user states, or the study is said to have.
    """
    array_A2 = array_of(ids.unique())[["array_col", "array_row"]].to_numpy(np.float64)
    is_second = recognise_lattice(array_A2, fit) == "staggered"
    _refuse_other(files, array_A2, pitch_um, preset, is_second=is_second)
    findings.extend(_parity_findings(array_A2, fit, preset, is_second=is_second))
    measures = _measures(files, pitch_um, preset, findings, is_second=is_second)
    return KnownArray("staggered" if is_second else "square", measures, pitch_um is not None)


def array_scales(
    array: KnownArray, fit: LatticeFit | None, findings: list[Finding]
) -> dict[str, float | None]:
    """Tell µm per pixel from a checked array, by source, the most trusted first.

    Parameters
    ----------
    array
        As `find_array` gives it.
    fit
        The array in the image; None where it cannot be told.
    findings
        Gets how sure the pixel size of a 2k array is.
    """
    if fit is None:
        return {"pitch": None}
    by_pitch = microns_per_pixel_of(fit, array.lattice, array.measures.pitch_um)
    if array.lattice != "staggered" or array.is_stated:
        return {"pitch": by_pitch}
    by_size = _scale_by_size(fit)
    width, height = (side / 1_000 for side in _SIZE_UM)
    text = (
        f"the pixel size of a 2k array is sure to ±5 % only: {by_pitch:.3f} µm per pixel by "
        f"{array.measures.pitch_um:g} µm between diagonal neighbours, {by_size:.3f} by an array of "
        f"{width:g} x {height:g} mm; --mpp states it"
    )
    findings.append(Finding(kind="inferred", text=text))
    return {"pitch": by_pitch, "array size": by_size}


def _refuse_other(
    files: StFiles,
    array_A2: NDArray[np.float64],
    pitch_um: float | None,
    preset: Preset | None,
    *,
    is_second: bool,
) -> None:
    parity = parity_of(array_A2)
    if is_second and preset == "her2st" and pitch_um is None:
        raise SlideFormatError(
            f"{files.name}: {_spell(parity)}, as on the 2k array, but --preset her2st is of the "
            "1k array; leave --preset out, or give --pitch-um"
        )
    if not is_second and files.layout == "cscc" and preset is None and pitch_um is None:
        raise SlideFormatError(
            f"{files.name}: the cSCC study (GSE144240) is of the 2k array, where x + y is always "
            f"even, but here {_spell(parity)}, so how far apart they lie is not known: give "
            f"--pitch-um, or --preset cscc for {PRESETS['cscc'].pitch_um:g} µm"
        )


def _parity_findings(
    array_A2: NDArray[np.float64],
    fit: LatticeFit | None,
    preset: Preset | None,
    *,
    is_second: bool,
) -> list[Finding]:
    parity = parity_of(array_A2)
    share = _spell(parity)
    if is_second:
        text = f"{share}: a 2k array, whose lattice is staggered: nearest neighbours are diagonal"
        return [Finding(kind="inferred", text=text)]
    if parity.is_sure and fit is not None:
        text = (
            f"{share}, as on the 2k array, but rows lie {fit.step_ratio:.2f} "
            "column steps apart, where the 2k array has 1.11: taken for a 1k array of which every "
            "other spot was left out; if it is not, give --mpp"
        )
        return [Finding(kind="warning", text=text)]
    if preset == "cscc":
        text = f"{share}, expected all as on the 2k array, which --preset cscc is of"
        return [Finding(kind="warning", text=text)]
    return []


def _measures(
    files: StFiles,
    pitch_um: float | None,
    preset: Preset | None,
    findings: list[Finding],
    *,
    is_second: bool,
) -> StArray:
    if preset is None and pitch_um is not None and not is_second:
        is_known = files.layout != "cscc"
        return StArray(pitch_um, PRESETS["her2st"].spot_diameter_um if is_known else None)
    array = PRESETS[preset or ("cscc" if is_second else "her2st")]
    if pitch_um is not None:
        return array._replace(pitch_um=pitch_um)
    source = f"as on {'2k' if is_second else '1k'} arrays"
    text = f"spots {array.pitch_um:g} µm apart, " + (
        f"taken from the preset {preset}" if preset else source
    )
    findings.append(Finding(kind="inferred", text=text))
    return array


def _spell(parity: Parity) -> str:
    kind = "even" if 2 * parity.n_even >= parity.n_spots else "odd"
    return f"x + y is {kind} for {parity.n_same} of {parity.n_spots} spots"


def _scale_by_size(fit: LatticeFit) -> float:
    steps_px = (fit.column_step_px, fit.row_step_px)
    scales = [
        size_um / n_steps / step_px
        for size_um, n_steps, step_px in zip(_SIZE_UM, _STEPS, steps_px, strict=True)
    ]
    return float(np.mean(scales))
