"""Boxes in an image: rectangles in pixels, cut, moved and compared.

Coordinates are x, y; pixel i covers [i, i + 1).
"""

from math import ceil, floor
from typing import TypeAlias

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


def region_around(box: Box, size: Size, image_size: Size, ends: tuple[float, float]) -> Region:
    """Return the whole pixels that resampling a box to ``size`` looks at.

    With a margin for the filter, but beyond an edge of the image only where the box is too: a
    square that lies inside must not pick up white.

    Parameters
    ----------
    box
        What is to be resampled.
    size
        Width and height it is resampled to.
    image_size
        Width and height of the image, or of one of its levels.
    ends
        Where the image ends; for a level this may lie a part of a pixel beyond its size.
    """

    def side(start: float, stop: float, axis: int) -> tuple[int, int]:
        support = 2 * max((stop - start) / size[axis], 1) + 1
        first, last = floor(start - support), ceil(stop + support)
        return (
            max(first, 0) if start >= 0 else first,
            min(last, image_size[axis]) if stop <= ends[axis] else last,
        )

    (left, right), (top, bottom) = side(box[0], box[2], 0), side(box[1], box[3], 1)
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
