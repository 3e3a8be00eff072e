"""10x Visium: a Space Ranger folder → `Slide`.

Dimension letters in this file:

S spots
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spahgc.errors import SlideFormatError, SpahgcError
from spahgc.ingest.images import SlideImage, open_image
from spahgc.ingest.readers.lattice import check_lattice, fit_lattice, hexagonal_microns_per_pixel
from spahgc.ingest.readers.visium_counts import VisiumCounts, read_visium_counts
from spahgc.ingest.readers.visium_files import VisiumFiles, find_visium_files
from spahgc.ingest.readers.visium_pictures import (
    check_image,
    complete_thumbnails,
    read_scale_factors,
    read_thumbnails,
)
from spahgc.ingest.readers.visium_positions import read_visium_positions
from spahgc.schema import Finding, Slide

SPOT_DIAMETER_UM: Final = 55.0
PITCH_UM: Final = 100.0

_SCALED_SPOT_UM: Final = 65.0  # what spot_diameter_fullres is documented to measure
_SCALES_DIFFER: Final = 0.05
_T = TypeVar("_T")


def read_visium(
    folder: Path,
    *,
    image: Path | None = None,
    name: str | None = None,
    patient: str | None = None,
    microns_per_pixel: float | None = None,
    genome: str | None = None,
) -> Slide:
    """Read one slide from Space Ranger's ``outs``, its parent, or a flat folder.

    Counts and positions are joined by barcode. Filtered counts keep all their spots; of any
    others those under tissue are kept.

    Parameters
    ----------
    image
        The full-resolution image that Space Ranger was given; None takes the one image of an
        obvious name that lies there, if there is one.
    name
        None takes the folder's, or that of the folder that ``outs`` lies in.
    patient
        None means unknown.
    microns_per_pixel
        Of the full-resolution image; goes before the pitch of the spots.
    genome
        Which genome to keep; needed only where there are several.

    Raises
    ------
    SlideFormatError
        If a file is missing or damaged, the files share no barcode, or the image does not hold
        the spots. Several problems come in one line.
    ImageError
        If the image cannot be read.
    """
    files = find_visium_files(folder, image=image)
    name = name or files.name
    findings = list(files.findings)
    parts = _read_parts(files, genome)
    with parts.image or nullcontext():
        findings.extend(parts.counts.findings)
        spots, matrix = _join(name, files, parts, findings)
        centers_S2 = spots[["x", "y"]].to_numpy(np.float64)
        _refuse_unplaced(name, spots)
        sources = _scales(name, parts, microns_per_pixel, findings)
        thumbnails = read_thumbnails(files.small_images, parts.scale_factors, findings)
        if parts.image is not None:
            check_image(name, parts.image, centers_S2, thumbnails, findings)
            complete_thumbnails(thumbnails, parts.image, findings)
        return Slide(
            name=name,
            platform="visium",
            spots=spots[["array_row", "array_col", "in_tissue"]],
            centers=centers_S2,
            counts=matrix,
            genes=parts.counts.genes,
            microns_per_pixel=_chosen_scale(sources, findings),
            microns_per_pixel_sources=sources,
            spot_diameter_um=SPOT_DIAMETER_UM,
            pitch_um=PITCH_UM,
            patient=patient,
            image=None if parts.image is None else parts.image.file,
            thumbnails=thumbnails,
            findings=tuple(findings),
        )


class _Parts(NamedTuple):
    counts: VisiumCounts
    positions: pd.DataFrame
    scale_factors: dict[str, float]
    image: SlideImage | None


def _read_parts(files: VisiumFiles, genome: str | None) -> _Parts:
    problems: list[SpahgcError] = []
    counts = _attempt(lambda: read_visium_counts(files.counts, genome=genome), problems)
    positions = _attempt(lambda: read_visium_positions(files.positions), problems)
    scale_factors = _attempt(lambda: read_scale_factors(files.scale_factors), problems)
    path = files.image
    image = None if path is None else _attempt(lambda: open_image(path), problems)
    if counts is None or positions is None or scale_factors is None or problems:
        if image is not None:
            image.close()
        if len(problems) == 1:
            raise problems[0]
        raise SlideFormatError("; ".join(map(str, problems)))
    return _Parts(counts, positions, scale_factors, image)


def _attempt(read: Callable[[], _T], problems: list[SpahgcError]) -> _T | None:
    try:
        return read()
    except SpahgcError as error:
        problems.append(error)
        return None


def _join(
    name: str, files: VisiumFiles, parts: _Parts, findings: list[Finding]
) -> tuple[pd.DataFrame, csr_matrix]:
    barcodes, positions = parts.counts.barcodes, parts.positions
    is_placed_S = np.asarray(barcodes.isin(positions.index))
    if not is_placed_S.any():
        raise SlideFormatError(
            f"{name}: none of the {len(barcodes)} barcodes of {files.counts} (first {barcodes[0]}) "
            f"is among the {len(positions)} of {files.positions} (first {positions.index[0]}), "
            "expected the same slide"
        )
    n_lost = int((~is_placed_S).sum())
    text = (
        f"{is_placed_S.sum()} spots in both {files.counts.name} and {files.positions.name}; only "
        f"in the first: {n_lost}, only in the second: {len(positions) - is_placed_S.sum()}"
    )
    findings.append(Finding(kind="warning" if n_lost else "check", text=text))
    spots, matrix = positions.loc[barcodes[is_placed_S]], parts.counts.matrix[is_placed_S]
    kept_S = spots["in_tissue"].to_numpy()
    n_on_glass = int((~kept_S).sum())
    if files.is_filtered:
        if n_on_glass:
            text = f"{n_on_glass} of {len(spots)} filtered spots are not under tissue; kept"
            findings.append(Finding(kind="warning", text=text))
        return spots, matrix
    if not kept_S.any():
        raise SlideFormatError(
            f"{name}: none of {len(spots)} spots is under tissue in "
            f"{files.positions}, expected some with in_tissue 1"
        )
    if n_on_glass:
        text = f"{n_on_glass} of {len(spots)} spots are not under tissue and were left out"
        findings.append(Finding(kind="check", text=text))
    return spots[kept_S], matrix[kept_S]


def _refuse_unplaced(name: str, spots: pd.DataFrame) -> None:
    for what, is_bad in (
        ("no pixel coordinates", spots[["x", "y"]].isna().any(axis=1)),
        ("negative pixel coordinates", (spots[["x", "y"]] < 0).any(axis=1)),
    ):
        if is_bad.any():
            first = spots[is_bad].iloc[0]
            raise SlideFormatError(
                f"{name}: {int(is_bad.sum())} of {len(spots)} spots have {what}, for example "
                f"{first.name} with x {first['x']:g}, y {first['y']:g}; expected a place inside "
                "the image for each"
            )


def _scales(
    name: str, parts: _Parts, stated: float | None, findings: list[Finding]
) -> dict[str, float]:
    """Return µm per pixel by source, the most trusted first."""
    if stated is not None and not 0 < stated < float("inf"):
        raise SlideFormatError(f"{name}: --mpp is {stated}, expected a positive number")
    sources = {} if stated is None else {"stated": stated}
    pitch = _pitch_scale(name, parts.positions, findings)
    if pitch is not None:
        sources["pitch"] = pitch
    if parts.image is not None and parts.image.microns_per_pixel is not None:
        sources["image"] = parts.image.microns_per_pixel
    diameter_px = parts.scale_factors.get("spot_diameter_fullres")
    if diameter_px is not None:
        sources["spot_diameter_65um"] = _SCALED_SPOT_UM / diameter_px
    return sources


def _pitch_scale(name: str, positions: pd.DataFrame, findings: list[Finding]) -> float | None:
    array_S2 = positions[["array_col", "array_row"]].to_numpy(np.float64)
    n_odd = int((array_S2.sum(axis=1) % 2 != 0).sum())
    if n_odd:
        text = (
            f"{n_odd} of {len(positions)} spots have an odd sum of array row and column, expected "
            "none on a hexagonal array"
        )
        findings.append(Finding(kind="warning", text=text))
    fit = fit_lattice(array_S2, positions[["x", "y"]].to_numpy(np.float64))
    if fit is None:
        text = "fewer than three spots, or all in one line: the pitch cannot be told"
        findings.append(Finding(kind="warning", text=text))
        return None
    findings.extend(check_lattice(fit, name=name, shape="hexagonal"))
    return hexagonal_microns_per_pixel(fit, PITCH_UM)


def _chosen_scale(sources: dict[str, float], findings: list[Finding]) -> float | None:
    best = next((source for source in sources if source != "spot_diameter_65um"), None)
    if best is None:
        text = "nothing reliable tells the pixel size; give --mpp"
        findings.append(Finding(kind="warning", text=text))
        return None
    text = f"{sources[best]:.4f} µm per pixel, taken from: {best}"
    findings.append(Finding(kind="inferred", text=text))
    for other, value in sources.items():
        difference = abs(value / sources[best] - 1)
        if difference > _SCALES_DIFFER:
            text = (
                f"µm per pixel differ by {difference:.0%}: {sources[best]:.4f} ({best}) and "
                f"{value:.4f} ({other})"
            )
            findings.append(Finding(kind="warning", text=text))
    return sources[best]
