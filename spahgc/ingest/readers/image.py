"""One H&E image without any expression: a grid of spots over its tissue.

Letters: H, W height and width of the thumbnail, A points of the grid, S spots.
"""

from math import floor, sqrt
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spahgc.errors import ImageError
from spahgc.ingest.images import open_image
from spahgc.ingest.readers.overlay import thumbnails
from spahgc.ingest.readers.scales import SCALES_DIFFER
from spahgc.ingest.slide_image import SlideImage
from spahgc.ingest.tissue import find_tissue, share_of_tissue
from spahgc.schema import Finding, Slide

TISSUE_MICRONS_PER_PIXEL: Final = 8.0
"""Of the thumbnail that tissue is looked for in: fine enough for a gland's edge."""

LONGEST_TISSUE_PX: Final = 2000
"""Longer side of that thumbnail at most; a large slide is looked at more coarsely."""

MOST_CELLS: Final = 20_000_000
"""Of a grid: more are a slip of the keyboard, and take all memory before they are counted."""

GridShape: TypeAlias = Literal["square", "hex"]


def read_image_slide(
    path: Path,
    *,
    name: str | None = None,
    microns_per_pixel: float | None = None,
    pitch_um: float = 100.0,
    lattice: GridShape = "square",
    patient: str | None = None,
    min_tissue_fraction: float = 0.2,
) -> Slide:
    """Lay a grid of spots over the tissue of an image.

    Parameters
    ----------
    name
        Of the slide; the file's name without its ending by default.
    microns_per_pixel
        Goes before what the file states.
    pitch_um
        Distance between neighbouring spots, in µm.
    lattice
        ``square``, or ``hex`` as on Visium: neighbours in a row are two array columns apart, and
        array row and column of a spot add up to an even number.
    min_tissue_fraction
        A spot is kept where at least this share of its cell is tissue, 0 to 1. A cell is as wide
        as the pitch and as high as rows are apart: cells fill the image without gaps.

    Returns
    -------
    Slide
        Without counts; ``spots`` has ``array_row``, ``array_col`` and ``tissue_fraction``.

    Raises
    ------
    ImageError
        If the image cannot be read, nothing tells its pixel size, or it shows no tissue.
    """
    with open_image(path) as image:
        sources, findings = _scale(image, microns_per_pixel)
        scale = next(iter(sources.values()))
        spots, centers_S2, found = _spots_on_tissue(
            image,
            pitch_px=pitch_um / scale,
            scale=scale,
            lattice=lattice,
            min_tissue_fraction=min_tissue_fraction,
        )
        return Slide(
            name=name or path.stem,
            platform="image",
            spots=spots,
            centers=centers_S2,
            counts=csr_matrix(np.zeros((len(spots), 0), np.uint32)),
            genes=pd.DataFrame({"symbol": pd.Series([], dtype=str)}, index=pd.Index([], dtype=str)),
            microns_per_pixel=scale,
            microns_per_pixel_sources=sources,
            pitch_um=pitch_um,
            lattice="hexagonal" if lattice == "hex" else "square",
            patient=patient,
            image=image.file,
            thumbnails=thumbnails(image),
            findings=(
                Finding(kind="file", text=f"image: {path.name}"),
                *(Finding(kind="warning", text=text) for text in image.remarks),
                *findings,
                *found,
            ),
        )


def check_image(path: Path, *, microns_per_pixel: float | None, pitch_um: float) -> None:
    """Refuse what `read_image_slide` would, as far as the header of the image tells.

    Raises
    ------
    ImageError
        If the image cannot be opened, nothing tells its pixel size, or no grid fits into it.
    """
    with open_image(path) as image:
        sources, _ = _scale(image, microns_per_pixel)
        _check_pitch(image, pitch_um / next(iter(sources.values())))


def _scale(image: SlideImage, stated: float | None) -> tuple[dict[str, float], list[Finding]]:
    estimates = {"stated": stated, "image": image.microns_per_pixel}
    sources = {source: value for source, value in estimates.items() if value is not None}
    if not sources:
        raise ImageError(
            f"{image.path} does not state its pixel size, expected µm per pixel: give --mpp"
        )
    if not all(value > 0 for value in sources.values()):
        raise ImageError(f"{image.path}: µm per pixel are {sources}, expected positive numbers")
    best = next(iter(sources))
    findings = [
        Finding(kind="inferred", text=f"{sources[best]:.4f} µm per pixel, taken from: {best}")
    ]
    difference = abs(sources.get("image", sources[best]) / sources[best] - 1)
    if difference > SCALES_DIFFER:
        text = f"the image states {sources['image']:.4f} µm per pixel, {difference:.0%} off"
        findings.append(Finding(kind="warning", text=text))
    return sources, findings


def _spots_on_tissue(
    image: SlideImage,
    *,
    pitch_px: float,
    scale: float,
    lattice: GridShape,
    min_tissue_fraction: float,
) -> tuple[pd.DataFrame, NDArray[np.float64], list[Finding]]:
    grid = _grid(image, pitch_px, lattice)
    longest_um = max(image.size) * scale
    longest_px = min(LONGEST_TISSUE_PX, round(longest_um / TISSUE_MICRONS_PER_PIXEL))
    thumbnail = image.thumbnail(max(1, longest_px))
    mask = find_tissue(thumbnail.pixels)
    tissue_A = share_of_tissue(mask.is_tissue, grid.centers_A2, cell=grid.cell, size=image.size)
    is_kept_A = tissue_A >= min_tissue_fraction
    if not is_kept_A.any():
        is_grey = not np.ptp(thumbnail.pixels, axis=2).any()
        raise ImageError(
            f"{image.path}: no tissue found, the fullest of {len(tissue_A)} squares has "
            f"{tissue_A.max():.0%}, expected at least {min_tissue_fraction:.0%}"
            f"{'; the image has no colour, and tissue is told by its colour' if is_grey else ''}"
        )
    row_S, column_S = grid.row_A[is_kept_A], grid.column_A[is_kept_A]
    spots = pd.DataFrame(
        {"array_row": row_S, "array_col": column_S, "tissue_fraction": tissue_A[is_kept_A]},
        index=pd.Index([f"{column}x{row}" for row, column in zip(row_S, column_S, strict=True)]),
    )
    text = (
        f"{len(spots)} of {len(tissue_A)} grid squares have at least {min_tissue_fraction:.0%} "
        f"tissue (saturation above {mask.saturation:.2f})"
    )
    return spots, grid.centers_A2[is_kept_A], [Finding(kind="inferred", text=text)]


class _Grid(NamedTuple):
    """Points of a grid, row by row, each in the middle of a cell."""

    row_A: NDArray[np.int64]
    column_A: NDArray[np.int64]
    centers_A2: NDArray[np.float64]
    cell: tuple[float, float]
    """Width and height, in level-0 pixels."""


def _grid(image: SlideImage, pitch_px: float, lattice: GridShape) -> _Grid:
    """Lay as many whole cells as fit into the middle of an image."""
    _check_pitch(image, pitch_px)
    is_hex = lattice == "hex"
    step = (pitch_px / 2, pitch_px * sqrt(3) / 2) if is_hex else (pitch_px, pitch_px)
    cell = (pitch_px, step[1])
    x_C, y_R = (
        _middles(side, wide, apart)
        for side, wide, apart in zip(image.size, cell, step, strict=True)
    )
    row_A, column_A = (at.ravel() for at in np.indices((len(y_R), len(x_C))))
    if is_hex:
        is_even_A = (row_A + column_A) % 2 == 0
        row_A, column_A = row_A[is_even_A], column_A[is_even_A]
    return _Grid(row_A, column_A, np.stack([x_C[column_A], y_R[row_A]], axis=1), cell)


def _check_pitch(image: SlideImage, pitch_px: float) -> None:
    width, height = image.size
    fits = 0 < pitch_px <= min(width, height)
    if not fits or width * height / pitch_px**2 > MOST_CELLS:
        problem = f"lays more than {MOST_CELLS:,} spots over" if fits else "does not fit into"
        raise ImageError(
            f"{image.path}: a pitch of {pitch_px:.6g} px {problem} {width} x {height} px; check "
            "--mpp and --pitch-um"
        )


def _middles(side: float, wide: float, apart: float) -> NDArray[np.float64]:
    """Return the middles of as many cells of a width as fit, in the middle of the side."""
    n_cells = 1 + floor((side - wide) / apart + 1e-9)
    margin = (side - wide - (n_cells - 1) * apart) / 2
    return margin + wide / 2 + apart * np.arange(n_cells, dtype=np.float64)
