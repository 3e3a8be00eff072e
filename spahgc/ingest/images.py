"""Slide images: squares around spots and small pictures, whichever library opens the file.

Coordinates are x, y in level-0 pixels; pixel i covers [i, i + 1), so the center of the first
pixel is 0.5 and an image of width w ends at w. Whole-slide formats are read piece by piece by
OpenSlide; plain JPEG, PNG and striped TIFF are decoded once into memory by Pillow, on the first
pixel asked for.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from spahgc.errors import ImageError
from spahgc.ingest.boxes import (
    Box,
    Region,
    Size,
    downsample,
    moved,
    region_around,
    share_outside,
    size_of,
)
from spahgc.ingest.decoding import (
    opened,
    orientation_remarks,
    over_white,
    refuse_undecodable,
    shrink,
)
from spahgc.ingest.pixel_size import plausible_microns_per_pixel
from spahgc.ingest.tiff import is_tiff, read_ome_pixel_size
from spahgc.schema import SlideImageFile, Thumbnail

MAX_DECODED_PIXELS: Final = 400_000_000
"""Largest plain image that is decoded, in pixels; Pillow needs 4 bytes for each."""

_WHITE: Final = (255, 255, 255)
_BAND_PIXELS: Final = 1 << 24  # of a level, read at once for a thumbnail: 64 MB


class Square(NamedTuple):
    """A square piece of a slide image."""

    pixels: NDArray[np.uint8]
    """(out_px, out_px, 3) RGB."""

    padded_fraction: float
    """Share of the square's area that lies outside the image and is white, 0 to 1."""


class Level(NamedTuple):
    """One of the resolutions at which a file holds its picture."""

    number: int
    """0 is the finest."""

    downsample: float
    """Width of one of its pixels, in level-0 pixels."""


class SlideImage(ABC):
    """An open slide image; use it in a ``with`` block.

    Several threads may read one image. Only the header is read before the first square or
    thumbnail. Transparent parts are shown over white. Pixels lie as the file stores them;
    ``remarks`` has a line for a person where the file asks for something else.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: Size,
        reader: str,
        microns_per_pixel: float | None,
        remarks: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.size = size
        self.reader = reader
        self.microns_per_pixel = microns_per_pixel
        self.remarks = remarks

    @property
    def file(self) -> SlideImageFile:
        """What a `Slide` records of this image."""
        return SlideImageFile(path=self.path, size=self.size, reader=self.reader)

    def read_square(self, center_xy: tuple[float, float], *, side_px: float, out_px: int) -> Square:
        """Read a square around a point, resampled once (bicubic, antialiased).

        Parameters
        ----------
        center_xy
            Center of the square, in level-0 pixels; need not be whole.
        side_px
            Side of the square, in level-0 pixels; need not be whole.
        out_px
            Side of the returned square, in its own pixels.

        Raises
        ------
        ImageError
            If the center is not a number or the pixels cannot be decoded.
        """
        x, y = float(center_xy[0]), float(center_xy[1])
        if not (isfinite(x) and isfinite(y) and isfinite(side_px) and side_px > 0 and out_px > 0):
            raise ImageError(
                f"{self.path}: cannot cut {side_px} px around ({x}, {y}) into {out_px} px, "
                "expected finite coordinates and positive sides"
            )
        half = side_px / 2
        box = (x - half, y - half, x + half, y + half)
        with _as_image_errors(self.path):
            pixels = np.array(self._resampled(box, (out_px, out_px)))
        return Square(pixels, share_outside(box, self.size))

    def thumbnail(self, longest_px: int) -> Thumbnail:
        """Shrink the whole image until its longer side has at most ``longest_px`` pixels."""
        scale = min(1.0, longest_px / max(self.size))
        width, height = (max(1, round(side * scale)) for side in self.size)
        with _as_image_errors(self.path):
            pixels = self._shrunk((width, height))
        return Thumbnail(pixels=pixels, scale=scale)

    def level_for(self, wanted: float) -> Level:  # noqa: ARG002  a plain image has but one
        """Choose the coarsest level that is no coarser than ``wanted`` level-0 pixels."""
        return Level(0, 1.0)

    @abstractmethod
    def close(self) -> None:
        """Let go of the file and of decoded pixels."""

    @abstractmethod
    def _resampled(self, box: Box, size: Size) -> Image.Image: ...

    @abstractmethod
    def _shrunk(self, size: Size) -> NDArray[np.uint8]: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_image(path: Path) -> SlideImage:
    """Open a slide image, reading no more than its header.

    Raises
    ------
    ImageError
        If there is no such file, it is no image that can be read, or it is a plain image too
        large to decode.
    """
    with _as_image_errors(path):
        if not path.is_file():
            missing = "is a link that leads nowhere" if path.is_symlink() else "does not exist"
            found = "is a folder" if path.is_dir() else missing
            raise ImageError(f"{path} {found}, expected an image file")
        vendor = openslide.OpenSlide.detect_format(path)
        # What a scanner's maker wrote keeps its own rules.
        is_plain_tiff = vendor in (None, "generic-tiff") and is_tiff(path)
        stated = read_ome_pixel_size(path) if is_plain_tiff else None
        if vendor is not None:
            return _PyramidImage(path, stated)
        return _PlainImage(path, stated)


class _PyramidImage(SlideImage):
    """An image that OpenSlide reads piece by piece, from the level that suits."""

    def __init__(self, path: Path, stated: tuple[float, float] | None) -> None:
        self._slide = openslide.OpenSlide(path)
        super().__init__(
            path,
            size=self._slide.dimensions,
            reader="openslide",
            microns_per_pixel=plausible_microns_per_pixel(stated or _sides_of_pixel(self._slide)),
        )
        self._level_sizes = self._slide.level_dimensions
        self._downsamples = [downsample(self.size, size) for size in self._level_sizes]

    def close(self) -> None:
        self._slide.close()

    def _resampled(self, box: Box, size: Size) -> Image.Image:
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
        return pixels.resize(size, Image.Resampling.BICUBIC, box=box)

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
        pixels = Image.new("RGB", seen.size, _WHITE)
        pixels.paste(seen, mask=seen.getchannel("A"))
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
        return np.concatenate([np.asarray(band) for band in bands])


class _PlainImage(SlideImage):
    """An image that Pillow decodes whole, once, when its first pixel is asked for."""

    def __init__(self, path: Path, stated: tuple[float, float] | None) -> None:
        told: list[str] = []
        with opened(path, remarks=told) as image:
            refuse_undecodable(path, image, at_most=MAX_DECODED_PIXELS)
            super().__init__(
                path,
                size=image.size,
                reader="pillow",
                microns_per_pixel=plausible_microns_per_pixel(stated),
                remarks=(*orientation_remarks(path, image), *told),
            )
        self._pixels: Image.Image | None = None
        self._decoding = threading.Lock()

    def close(self) -> None:
        self._pixels = None

    def _resampled(self, box: Box, size: Size) -> Image.Image:
        pixels = self._decoded()
        region = region_around(box, size, self.size, self.size)
        if share_outside(region, self.size) > 0:
            padded = Image.new("RGB", size_of(region, at_most=MAX_DECODED_PIXELS), _WHITE)
            padded.paste(pixels, (-region[0], -region[1]))
            pixels, box = padded, moved(box, region)
        return pixels.resize(size, Image.Resampling.BICUBIC, box=box)

    def _decoded(self) -> Image.Image:
        with self._decoding:
            if self._pixels is None:
                with opened(self.path) as image:
                    self._pixels = over_white(image)
            return self._pixels

    def _shrunk(self, size: Size) -> NDArray[np.uint8]:
        if self._pixels is not None:
            return shrink(self._pixels, size)
        with opened(self.path) as image:
            # A JPEG decodes straight to a half, a quarter or an eighth of its size.
            draft = image.draft(None, size)
            if draft is not None:
                return shrink(over_white(image), size, draft[1])
        return shrink(self._decoded(), size)


def _sides_of_pixel(slide: openslide.OpenSlide) -> tuple[float, float] | None:
    try:
        across = float(slide.properties[openslide.PROPERTY_NAME_MPP_X])
        return across, float(slide.properties[openslide.PROPERTY_NAME_MPP_Y])
    except (KeyError, ValueError):
        return None


@contextmanager
def _as_image_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        found = "is empty" if path.stat().st_size == 0 else "is no image"
        raise ImageError(
            f"{path} {found}, expected JPEG, PNG, TIFF or a format that OpenSlide reads"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, openslide.OpenSlideError) as error:
        reason = " ".join(str(error).split())
        raise ImageError(f"{path} cannot be read as an image: {reason}") from error
