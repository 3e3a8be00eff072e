"""One H&E image without any expression: a grid of spots over its tissue.

Letters: H, W height and width of the thumbnail, R, C rows and columns of the grid, S spots.
"""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates
from scipy.sparse import csr_matrix
from skimage.filters import threshold_otsu
from skimage.morphology import closing, disk, opening

from spahgc.errors import ImageError
from spahgc.ingest.images import SlideImage, open_image
from spahgc.schema import Finding, Slide

TISSUE_MICRONS_PER_PIXEL: Final = 8.0
"""Of the thumbnail that tissue is looked for in: fine enough for a gland's edge."""

LONGEST_TISSUE_PX: Final = 2000
"""Longer side of that thumbnail at most; a large slide is looked at more coarsely."""

SATURATION_RANGE: Final = (0.05, 0.2)
"""The tissue threshold stays within: paler is glass, and Otsu's threshold lies inside the tissue
where a slide has nearly no glass."""

DARKEST_TISSUE: Final = 0.2
"""Darker HSV values are a scanner's frame or marker, not stained tissue; 0 to 1."""

_THUMBNAIL_PX: Final = {"hires": 2000, "lowres": 600}
_SCALES_DIFFER: Final = 0.05


class TissueMask(NamedTuple):
    """Where a slide has tissue."""

    is_tissue: NDArray[np.bool_]
    """(H, W)"""

    saturation: float
    """Threshold on the HSV saturation, 0 to 1."""


def read_image_slide(
    path: Path,
    *,
    name: str | None = None,
    microns_per_pixel: float | None = None,
    pitch_um: float = 100.0,
    patient: str | None = None,
    min_tissue_fraction: float = 0.2,
) -> Slide:
    """Lay a square grid over the tissue of an image.

    Parameters
    ----------
    name
        Of the slide; the file's name without its ending by default.
    microns_per_pixel
        Goes before what the file states.
    pitch_um
        Distance between neighbouring spots and side of a spot's square, in µm.
    min_tissue_fraction
        A spot is kept where at least this share of its square is tissue, 0 to 1.

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
            image, scale=scale, pitch_um=pitch_um, min_tissue_fraction=min_tissue_fraction
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
            patient=patient,
            image=image.file,
            thumbnails={key: image.thumbnail(px) for key, px in _THUMBNAIL_PX.items()},
            findings=(Finding(kind="file", text=f"image: {path.name}"), *findings, *found),
        )


def find_tissue(pixels_HW3: NDArray[np.uint8]) -> TissueMask:
    """Tell tissue from glass by its saturation, with Otsu's threshold.

    Parameters
    ----------
    pixels_HW3
        RGB of a thumbnail, at about 8 µm per pixel.

    References
    ----------
    Otsu, A threshold selection method from gray-level histograms, 1979,
    doi 10.1109/TSMC.1979.4310076
    """
    hsv_HW3 = np.asarray(Image.fromarray(pixels_HW3).convert("HSV"))
    # Black has no colour, but its noise looks saturated.
    saturation_HW = np.where(hsv_HW3[..., 2] < 255 * DARKEST_TISSUE, 0, hsv_HW3[..., 1])
    least, most = (round(255 * bound) for bound in SATURATION_RANGE)
    threshold = int(np.clip(threshold_otsu(saturation_HW), least, most))
    rough_HW = saturation_HW > threshold
    # Opening takes away dust and pen dots, closing fills fat and vessels narrower than a cell row.
    is_tissue_HW = closing(opening(rough_HW, disk(1)), disk(2))
    return TissueMask(is_tissue_HW, threshold / 255)


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
    if difference > _SCALES_DIFFER:
        text = f"the image states {sources['image']:.4f} µm per pixel, {difference:.0%} off"
        findings.append(Finding(kind="warning", text=text))
    return sources, findings


def _spots_on_tissue(
    image: SlideImage, *, scale: float, pitch_um: float, min_tissue_fraction: float
) -> tuple[pd.DataFrame, NDArray[np.float64], list[Finding]]:
    x_edges, y_edges = _grid_edges(image, pitch_px=pitch_um / scale)
    longest_um = max(image.size) * scale
    longest_px = min(LONGEST_TISSUE_PX, round(longest_um / TISSUE_MICRONS_PER_PIXEL))
    mask = find_tissue(image.thumbnail(max(1, longest_px)).pixels)
    tissue_RC = _share_of_tissue(mask.is_tissue, x_edges, y_edges, size=image.size)
    row_S, column_S = np.nonzero(tissue_RC >= min_tissue_fraction)
    if not len(row_S):
        raise ImageError(
            f"{image.path}: no tissue found, the fullest of {tissue_RC.size} squares has "
            f"{tissue_RC.max():.0%}, expected at least {min_tissue_fraction:.0%}"
        )
    spots = pd.DataFrame(
        {"array_row": row_S, "array_col": column_S, "tissue_fraction": tissue_RC[row_S, column_S]},
        index=pd.Index([f"{column}x{row}" for row, column in zip(row_S, column_S, strict=True)]),
    )
    middle_x, middle_y = (x_edges[:-1] + x_edges[1:]) / 2, (y_edges[:-1] + y_edges[1:]) / 2
    text = (
        f"{len(spots)} of {tissue_RC.size} grid squares have at least {min_tissue_fraction:.0%} "
        f"tissue (saturation above {mask.saturation:.2f})"
    )
    centers_S2 = np.stack([middle_x[column_S], middle_y[row_S]], axis=1)
    return spots, centers_S2, [Finding(kind="inferred", text=text)]


def _grid_edges(
    image: SlideImage, *, pitch_px: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges of as many whole squares as fit, in the middle of the image, in level-0 pixels."""
    if not 0 < pitch_px <= min(image.size):
        raise ImageError(
            f"{image.path}: a pitch of {pitch_px:.0f} px does not fit into "
            f"{image.size[0]} x {image.size[1]} px; check --mpp and --pitch-um"
        )
    return _edges(image.size[0], pitch_px), _edges(image.size[1], pitch_px)


def _edges(side: int, pitch_px: float) -> NDArray[np.float64]:
    n_squares = int(side / pitch_px)
    margin = (side - n_squares * pitch_px) / 2
    return margin + pitch_px * np.arange(n_squares + 1, dtype=np.float64)


def _share_of_tissue(
    is_tissue_HW: NDArray[np.bool_],
    x_edges: NDArray[np.float64],
    y_edges: NDArray[np.float64],
    *,
    size: tuple[int, int],
) -> NDArray[np.float64]:
    """Give each square's share of tissue; (R, C), 0 to 1.

    The sum of tissue above and left of a corner is linear between thumbnail pixels, so squares
    need not end on one.
    """
    height, width = is_tissue_HW.shape
    sum_HW = np.pad(is_tissue_HW.cumsum(0).cumsum(1).astype(float), ((1, 0), (1, 0)))
    corners = np.meshgrid(y_edges * height / size[1], x_edges * width / size[0], indexing="ij")
    corner_RC = map_coordinates(sum_HW, corners, order=1, mode="nearest")
    tissue_RC = np.diff(np.diff(corner_RC, axis=0), axis=1)
    area = (
        (x_edges[1] - x_edges[0]) * width / size[0] * (y_edges[1] - y_edges[0]) * height / size[1]
    )
    return np.clip(tissue_RC / area, 0, 1)
