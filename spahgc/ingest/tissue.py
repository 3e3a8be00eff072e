"""Where a slide has tissue, and how much of it lies under each spot.

Letters: H, W height and width of a thumbnail, A cells, S spots.
"""

from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates
from skimage.filters import threshold_otsu
from skimage.morphology import closing, disk, opening

from spahgc.schema import Finding, Slide

SATURATION_RANGE: Final = (0.05, 0.2)
"""The tissue threshold stays within: paler is glass, and Otsu's threshold lies inside the tissue
where a slide has nearly no glass."""

DARKEST_TISSUE: Final = 0.2
"""Darker HSV values are a scanner's frame or marker, not stained tissue; 0 to 1."""

BARE: Final = 0.1
"""A spot with a smaller share of tissue under it is said to have none, 0 to 1."""


class TissueMask(NamedTuple):
    """Where a slide has tissue."""

    is_tissue: NDArray[np.bool_]
    """(H, W)"""

    saturation: float
    """Threshold on the HSV saturation, 0 to 1."""


def with_tissue_fraction(slide: Slide) -> Slide:
    """Measure the tissue under each spot in the slide's thumbnail, beside the vendor's flag.

    Returns
    -------
    Slide
        With the column ``tissue_fraction`` (0 to 1) in ``spots`` and a finding about spots
        without tissue; the slide itself where it has the column, no thumbnail, no scale or no
        coordinates.
    """
    thumbnail = slide.thumbnails.get("hires") or slide.thumbnails.get("lowres")
    width_um = slide.spot_diameter_um
    if (
        thumbnail is None
        or width_um is None
        or slide.microns_per_pixel is None
        or "tissue_fraction" in slide.spots
        or not np.isfinite(slide.centers).all()
    ):
        return slide
    height, width = thumbnail.pixels.shape[:2]
    side_px = width_um / slide.microns_per_pixel
    fraction_S = share_of_tissue(
        find_tissue(thumbnail.pixels).is_tissue,
        slide.centers,
        cell=(side_px, side_px),
        size=(round(width / thumbnail.scale), round(height / thumbnail.scale)),
    )
    n_bare = int((fraction_S < BARE).sum())
    text = f"{n_bare} of {len(fraction_S)} spots have less than {BARE:.0%} tissue under them"
    finding = Finding(kind="warning" if n_bare > len(fraction_S) / 2 else "check", text=text)
    return replace(
        slide,
        spots=slide.spots.assign(tissue_fraction=fraction_S),
        findings=(*slide.findings, finding),
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


def share_of_tissue(
    is_tissue_HW: NDArray[np.bool_],
    centers_A2: NDArray[np.float64],
    *,
    cell: tuple[float, float],
    size: tuple[int, int],
) -> NDArray[np.float64]:
    """Give each cell's share of tissue: (A,), 0 to 1.

    Parameters
    ----------
    is_tissue_HW
        (H, W) mask of the whole image, shrunk.
    centers_A2
        (A, 2) middle of each cell as x, y in level-0 pixels.
    cell
        Width and height of a cell, in level-0 pixels.
    size
        Width and height of the image, in level-0 pixels.
    """
    # The sum of tissue above and left of a corner is linear between thumbnail pixels, so cells
    # need not end on one.
    height, width = is_tissue_HW.shape
    sum_HW = np.pad(is_tissue_HW.cumsum(0).cumsum(1).astype(float), ((1, 0), (1, 0)))
    shrink_2 = np.array([width / size[0], height / size[1]])
    half_2 = np.array(cell) / 2 * shrink_2
    x_A, y_A = (centers_A2 * shrink_2).T

    def sum_before(x_sign: int, y_sign: int) -> NDArray[np.float64]:
        corners = (y_A + y_sign * half_2[1], x_A + x_sign * half_2[0])
        return np.asarray(map_coordinates(sum_HW, corners, order=1, mode="nearest"))

    tissue_A = sum_before(1, 1) - sum_before(-1, 1) - sum_before(1, -1) + sum_before(-1, -1)
    return np.clip(tissue_A / (4 * half_2.prod()), 0, 1)
