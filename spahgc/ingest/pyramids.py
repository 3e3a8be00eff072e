"""Images that OpenSlide reads piece by piece, from the level that suits."""

from pathlib import Path
from typing import Final

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from spahgc.ingest.boxes import Box, Region, Size, downsample, moved, region_around, size_of
from spahgc.ingest.pixel_size import plausible_microns_per_pixel
from spahgc.ingest.resampling import resample
from spahgc.ingest.slide_image import MAX_DECODED_PIXELS, WHITE, Level, SlideImage

_HALF_AND_MORE: Final = [255 * (alpha >= 128) for alpha in range(256)]
_BAND_PIXELS: Final = 1 << 24  # of a level, read at once for a thumbnail: 64 MB


class PyramidImage(SlideImage):
    """An image that OpenSlide opens."""

    def __init__(
        self,
        path: Path,
        *,
        stated: tuple[float, float] | None = None,
        remarks: tuple[str, ...] = (),
    ) -> None:
        """Open ``path``; ``stated`` is the width and height of a pixel in µm, if known better."""
        self._slide = openslide.OpenSlide(path)
        super().__init__(
            path,
            size=self._slide.dimensions,
            reader="openslide",
            microns_per_pixel=plausible_microns_per_pixel(stated or _sides_of_pixel(self._slide)),
            remarks=remarks,
        )
        self._level_sizes = self._slide.level_dimensions
        self._downsamples = [downsample(self.size, size) for size in self._level_sizes]

    def close(self) -> None:
        """Let go of the file."""
        self._slide.close()

    def _resampled(self, box: Box, size: Size) -> NDArray[np.uint8]:
        wanted = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1])
        level = self.level_for(wanted).number
        across, down = self._downsamples[level]
        box = (box[0] / across, box[1] / down, box[2] / across, box[3] / down)
        ends = (self.size[0] / across, self.size[1] / down)
        region = region_around(box, size, self._level_sizes[level], ends)
        pixels, origin = self._read_region(region, level)
        left, top, right, bottom = moved(box, origin)
        # A level may lack the last part of a pixel that the full image has.
        box = (left, top, min(right, pixels.width), min(bottom, pixels.height))
        return resample(np.asarray(pixels), size, box)

    def level_for(self, wanted: float) -> Level:
        """Choose the coarsest level that is no coarser than ``wanted`` level-0 pixels."""
        fine_enough = [max(downsample) <= wanted * 1.001 for downsample in self._downsamples]
        number = max((level for level, is_fine in enumerate(fine_enough) if is_fine), default=0)
        return Level(number, max(self._downsamples[number]))

    def _read_region(self, region: Region, level: int) -> tuple[Image.Image, tuple[float, float]]:
        # OpenSlide takes the corner in whole level-0 pixels, divides it by its own idea of the
        # downsample and interpolates where that gives no whole pixel: start as near to one as
        # can be, and keep the fraction that is left.
        downsample = self._slide.level_downsamples[level]
        corner = round(region[0] * downsample), round(region[1] * downsample)
        seen = self._slide.read_region(corner, level, size_of(region, at_most=MAX_DECODED_PIXELS))
        pixels = Image.new("RGB", seen.size, WHITE)
        # at a scan's edge it interpolates with nothing: that must not pale the last pixels
        pixels.paste(seen, mask=seen.getchannel("A").point(_HALF_AND_MORE))
        return pixels, (corner[0] / downsample, corner[1] / downsample)

    def _shrunk(self, size: Size) -> NDArray[np.uint8]:
        # In bands, because a file without coarse levels has to be read whole.
        (width, height), (full_width, full_height) = size, self.size
        level = self.level_for(min(full_width / width, full_height / height)).number
        level_width, level_height = self._level_sizes[level]
        rows = max(1, int(_BAND_PIXELS * height / (level_width * level_height)))
        bands = [
            self._resampled(
                (0, full_height * top / height, full_width, full_height * bottom / height),
                (width, bottom - top),
            )
            for top in range(0, height, rows)
            for bottom in [min(top + rows, height)]
        ]
        return np.concatenate(bands)


def _sides_of_pixel(slide: openslide.OpenSlide) -> tuple[float, float] | None:
    try:
        across = float(slide.properties[openslide.PROPERTY_NAME_MPP_X])
        return across, float(slide.properties[openslide.PROPERTY_NAME_MPP_Y])
    except (KeyError, ValueError):
        return None
