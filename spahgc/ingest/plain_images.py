"""Plain images, decoded whole into memory when their first pixel is asked for."""

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spahgc.ingest.boxes import Box, Size, moved, region_around, size_of
from spahgc.ingest.decoding import decode, opened, over_white, shrink
from spahgc.ingest.resampling import resample
from spahgc.ingest.slide_image import (
    MAX_DECODED_PIXELS,
    WHITE,
    SlideImage,
    as_image_errors,
)


class PlainImage(SlideImage):
    """A JPEG, PNG or TIFF that fits into memory."""

    def __init__(
        self,
        path: Path,
        *,
        size: Size,
        decoder: str,
        microns_per_pixel: float | None,
        remarks: tuple[str, ...],
    ) -> None:
        """Take what the header says; ``decoder`` is that of `decode`."""
        super().__init__(
            path,
            size=size,
            reader=decoder,
            microns_per_pixel=microns_per_pixel,
            remarks=remarks,
        )
        self._pixels_HW3: NDArray[np.uint8] | None = None
        self._decoding = threading.Lock()

    def decode(self) -> None:
        """Decode the image now, where that is not done."""
        with as_image_errors(self.path):
            self._decoded()

    def close(self) -> None:
        """Let go of decoded pixels."""
        self._pixels_HW3 = None

    def _resampled(self, box: Box, size: Size) -> NDArray[np.uint8]:
        pixels_HW3 = self._decoded()
        region = region_around(box, size, self.size, self.size)
        left, top, right, bottom = region
        width, height = self.size
        if left >= 0 and top >= 0 and right <= width and bottom <= height:
            return resample(pixels_HW3, size, moved(box, region), region=region)
        across, down = size_of(region, at_most=MAX_DECODED_PIXELS)
        padded_HW3 = np.full((down, across, 3), WHITE, np.uint8)
        seen_HW3 = pixels_HW3[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        y, x = max(-top, 0), max(-left, 0)
        padded_HW3[y : y + len(seen_HW3), x : x + seen_HW3.shape[1]] = seen_HW3
        return resample(padded_HW3, size, moved(box, region))

    def _decoded(self) -> NDArray[np.uint8]:
        with self._decoding:
            if self._pixels_HW3 is None:
                self._pixels_HW3 = decode(self.path, self.reader)
            return self._pixels_HW3

    def _shrunk(self, size: Size) -> NDArray[np.uint8]:
        with opened(self.path) as image:
            # A JPEG decodes straight to a half, a quarter or an eighth of its size; also where it
            # is decoded already: an overview, and stains found on it, are the same at any time.
            draft = image.draft(None, size)
            if draft is not None:
                return shrink(over_white(image), size, draft[1])
        return shrink(Image.fromarray(self._decoded()), size)
