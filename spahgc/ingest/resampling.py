"""Resample a box of pixels with Pillow: whole blocks averaged, the rest bicubic and antialiased."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spahgc.ingest.boxes import Box, Region, Size

NEARLY: Final = 1.01
"""Widths in µm are seldom whole pixels: what falls short of a whole block by so little is one."""

LARGEST_BLOCK: Final = 256
"""Pillow's mean of larger ones may be off by one."""


def resample(
    pixels_HW3: NDArray[np.uint8], size: Size, box: Box, *, region: Region | None = None
) -> NDArray[np.uint8]:
    """Resample a box of an image.

    Where two pixels or more become one, blocks of two or more are averaged first, as the levels of
    a pyramid are, until less than two are left for one: it looks the same and takes less time.

    Parameters
    ----------
    pixels_HW3
        (H, W, 3) uint8.
    size
        Width and height to resample to.
    box
        What to resample, within the region, in pixels from its corner; need not be whole.
    region
        What to look at, as though there were nothing else; all of ``pixels_HW3`` by default.

    Returns
    -------
    NDArray[np.uint8]
        (height, width, 3).
    """
    height, width, _ = pixels_HW3.shape
    left, top, right, bottom = region or (0, 0, width, height)
    image = Image.fromarray(pixels_HW3[top:bottom, left:right])
    n_pixels = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1])
    block = min(max(1, int(n_pixels * NEARLY)), LARGEST_BLOCK)
    if block > 1:
        image = image.reduce(block)
    x0, y0, x1, y1 = (edge / block for edge in box)
    # across first, then down: what a single call does first differs between versions of Pillow
    across = (x0, 0, x1, image.height)
    image = image.resize((size[0], image.height), Image.Resampling.BICUBIC, box=across)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=(0, y0, size[0], y1)))
