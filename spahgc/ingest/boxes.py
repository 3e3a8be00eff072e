"""Boxes in an image: rectangles in pixels, cut, moved and compared.

Coordinates are x, y; pixel i covers [i, i + 1).
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom
Region: TypeAlias = tuple[int, int, int, int]  # the same, whole pixels
Size: TypeAlias = tuple[int, int]  # width, height


def downsample(full: Size, level: Size) -> tuple[float, float]:
    """Tell how many full-resolution pixels one pixel of a level is wide and high."""
    # Levels drop or complete the last odd pixels, so the ratio of the sizes is slightly off:
    # take the whole number behind it where there is one.
    across, down = full[0] / level[0], full[1] / level[1]
    whole = round((across + down) / 2)
    is_whole = all(abs(n / whole - m) < 1 for n, m in zip(full, level, strict=True))
    return (whole, whole) if is_whole else (across, down)


def regions_around(
    box_B4: NDArray[np.float64], size: Size, image_size: Size, ends: tuple[float, float]
) -> NDArray[np.int64]:
    """Return the whole pixels that resampling each box to ``size`` looks at: (B, 4).

    With a margin for the filter, but beyond an edge of the image only where the box is too: a
    square that lies inside must not pick up white.

    Parameters
    ----------
    box_B4
        (B, 4) left, top, right and bottom of what is to be resampled.
    size
        Width and height it is resampled to.
    image_size
        Width and height of the image, or of one of its levels.
    ends
        Where the image ends; for a level this may lie a part of a pixel beyond its size.
    """
    start_B2, stop_B2 = box_B4[:, :2], box_B4[:, 2:]
    support_B2 = 2 * np.maximum((stop_B2 - start_B2) / size, 1) + 1
    first_B2 = np.floor(start_B2 - support_B2).astype(np.int64)
    last_B2 = np.ceil(stop_B2 + support_B2).astype(np.int64)
    first_B2 = np.where(start_B2 >= 0, np.maximum(first_B2, 0), first_B2)
    last_B2 = np.where(stop_B2 <= ends, np.minimum(last_B2, image_size), last_B2)
    return np.concatenate([first_B2, last_B2], axis=1)


def region_around(box: Box, size: Size, image_size: Size, ends: tuple[float, float]) -> Region:
    """Return what `regions_around` gives for one box."""
    left, top, right, bottom = regions_around(np.array([box]), size, image_size, ends)[0].tolist()
    return left, top, right, bottom


def size_of(region: Region, *, at_most: int) -> Size:
    """Return a region's width and height.

    Raises
    ------
    ValueError
        If it has more than ``at_most`` pixels.
    """
    width, height = region[2] - region[0], region[3] - region[1]
    if width * height > at_most:
        raise ValueError(f"{width} x {height} px at once, at most {at_most:,} px")
    return width, height


def moved(box: Box, origin: tuple[float, ...]) -> Box:
    """Return a box as seen from another origin (x, y)."""
    x, y = origin[:2]
    return box[0] - x, box[1] - y, box[2] - x, box[3] - y


def share_outside(box: Box, size: Size) -> float:
    """Return the share of a box's area that lies outside an image, 0 to 1."""
    width = max(0.0, min(box[2], size[0]) - max(box[0], 0.0))
    height = max(0.0, min(box[3], size[1]) - max(box[1], 0.0))
    return max(0.0, 1 - width * height / ((box[2] - box[0]) * (box[3] - box[1])))
