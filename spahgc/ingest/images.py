"""Slide images: squares around spots and small pictures, whichever library opens the file.

Coordinates are x, y in level-0 pixels; pixel i covers [i, i + 1), so the center of the first
pixel is 0.5 and an image of width w ends at w. Whole-slide formats are read piece by piece by
OpenSlide; plain JPEG, PNG and striped TIFF are decoded once into memory by Pillow, on the first
pixel asked for.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil, floor, isfinite
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeAlias

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from spahgc.errors import ImageError
from spahgc.schema import SlideImageFile, Thumbnail

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom
Region: TypeAlias = tuple[int, int, int, int]  # the same, whole pixels
Size: TypeAlias = tuple[int, int]  # width, height

MAX_DECODED_PIXELS: Final = 400_000_000
"""Largest plain image that is decoded, in pixels; Pillow needs 4 bytes for each."""

PLAUSIBLE_MICRONS_PER_PIXEL: Final = (0.05, 20.0)
"""A file that states less or more states a printer's dpi or a program's default."""

_PLAIN_FORMATS: Final = ("JPEG", "PNG", "TIFF")
_EIGHT_BIT_MODES: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_WHITE: Final = (255, 255, 255)
_BAND_PIXELS: Final = 1 << 24  # of a level, read at once for a thumbnail: 64 MB
_pillow_limit = threading.Lock()


class Square(NamedTuple):
    """A square piece of a slide image."""

    pixels: NDArray[np.uint8]
    """(out_px, out_px, 3) RGB."""

    padded_fraction: float
    """Share of the square's area that lies outside the image and is white, 0 to 1."""


class SlideImage(ABC):
    """An open slide image; use it in a ``with`` block.

    Several threads may read one image. Only the header is read before the first square or
    thumbnail. Transparent parts are shown over white.
    """

    def __init__(
        self, path: Path, *, size: Size, reader: str, microns_per_pixel: float | None
    ) -> None:
        self.path = path
        self.size = size
        self.reader = reader
        self.microns_per_pixel = microns_per_pixel

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
        return Square(pixels, _share_outside(box, self.size))

    def thumbnail(self, longest_px: int) -> Thumbnail:
        """Shrink the whole image until its longer side has at most ``longest_px`` pixels."""
        scale = min(1.0, longest_px / max(self.size))
        width, height = (max(1, round(side * scale)) for side in self.size)
        with _as_image_errors(self.path):
            pixels = self._shrunk((width, height))
        return Thumbnail(pixels=pixels, scale=scale)

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
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise ImageError(f"{path} {found}, expected an image file")
    with _as_image_errors(path):
        if openslide.OpenSlide.detect_format(path) is not None:
            return _PyramidImage(path)
        return _PlainImage(path)


class _PyramidImage(SlideImage):
    """An image that OpenSlide reads piece by piece, from the level that suits."""

    def __init__(self, path: Path) -> None:
        self._slide = openslide.OpenSlide(path)
        super().__init__(
            path,
            size=self._slide.dimensions,
            reader="openslide",
            microns_per_pixel=_stated_microns_per_pixel(self._slide.properties),
        )
        self._level_sizes = self._slide.level_dimensions
        self._downsamples = [_downsample(self.size, size) for size in self._level_sizes]

    def close(self) -> None:
        self._slide.close()

    def _resampled(self, box: Box, size: Size) -> Image.Image:
        wanted = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1])
        level = self._level_for(wanted)
        across, down = self._downsamples[level]
        box = (box[0] / across, box[1] / down, box[2] / across, box[3] / down)
        ends = (self.size[0] / across, self.size[1] / down)
        region = _region_around(box, size, self._level_sizes[level], ends)
        pixels, origin = self._read_region(region, level)
        left, top, right, bottom = _moved(box, origin)
        # A level may lack the last part of a pixel that the full image has.
        box = (left, top, min(right, pixels.width), min(bottom, pixels.height))
        return pixels.resize(size, Image.Resampling.BICUBIC, box=box)

    def _level_for(self, wanted: float) -> int:
        fine_enough = [max(downsample) <= wanted * 1.001 for downsample in self._downsamples]
        return max((level for level, is_fine in enumerate(fine_enough) if is_fine), default=0)

    def _read_region(self, region: Region, level: int) -> tuple[Image.Image, tuple[float, float]]:
        # OpenSlide takes the corner in whole level-0 pixels, divides it by its own idea of the
        # downsample and interpolates where that gives no whole pixel: start as near to one as
        # can be, and keep the fraction that is left.
        downsample = self._slide.level_downsamples[level]
        corner = round(region[0] * downsample), round(region[1] * downsample)
        seen = self._slide.read_region(corner, level, _size_of(region))
        pixels = Image.new("RGB", seen.size, _WHITE)
        pixels.paste(seen, mask=seen.getchannel("A"))
        return pixels, (corner[0] / downsample, corner[1] / downsample)

    def _shrunk(self, size: Size) -> NDArray[np.uint8]:
        # In bands, because a file without coarse levels has to be read whole.
        (width, height), (full_width, full_height) = size, self.size
        level = self._level_for(min(full_width / width, full_height / height))
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

    def __init__(self, path: Path) -> None:
        with _opened(path) as image:
            _refuse_undecodable(path, image)
            super().__init__(path, size=image.size, reader="pillow", microns_per_pixel=None)
        self._pixels: Image.Image | None = None
        self._decoding = threading.Lock()

    def close(self) -> None:
        self._pixels = None

    def _resampled(self, box: Box, size: Size) -> Image.Image:
        pixels = self._decoded()
        region = _region_around(box, size, self.size, self.size)
        if _share_outside(region, self.size) > 0:
            padded = Image.new("RGB", _size_of(region), _WHITE)
            padded.paste(pixels, (-region[0], -region[1]))
            pixels, box = padded, _moved(box, region)
        return pixels.resize(size, Image.Resampling.BICUBIC, box=box)

    def _decoded(self) -> Image.Image:
        with self._decoding:
            if self._pixels is None:
                with _opened(self.path) as image:
                    self._pixels = _over_white(image)
            return self._pixels

    def _shrunk(self, size: Size) -> NDArray[np.uint8]:
        if self._pixels is not None:
            return _shrink(self._pixels, size)
        with _opened(self.path) as image:
            # A JPEG decodes straight to a half, a quarter or an eighth of its size.
            draft = image.draft(None, size)
            if draft is not None:
                return _shrink(_over_white(image), size, draft[1])
        return _shrink(self._decoded(), size)


def _stated_microns_per_pixel(properties: Mapping[str, str]) -> float | None:
    try:
        across = float(properties[openslide.PROPERTY_NAME_MPP_X])
        down = float(properties[openslide.PROPERTY_NAME_MPP_Y])
    except (KeyError, ValueError):
        return None
    smallest, largest = PLAUSIBLE_MICRONS_PER_PIXEL
    is_square = abs(across - down) <= 0.02 * abs(across)
    is_plausible = smallest <= across <= largest
    return (across + down) / 2 if is_square and is_plausible else None


def _downsample(full: Size, level: Size) -> tuple[float, float]:
    # Levels drop or complete the last odd pixels, so the ratio of the sizes is slightly off:
    # take the whole number behind it where there is one.
    across, down = full[0] / level[0], full[1] / level[1]
    whole = round((across + down) / 2)
    is_whole = all(abs(n / whole - m) < 1 for n, m in zip(full, level, strict=True))
    return (whole, whole) if is_whole else (across, down)


def _region_around(box: Box, size: Size, image_size: Size, ends: tuple[float, float]) -> Region:
    # With a margin for the filter, but beyond an edge of the image only where the box is too:
    # a square that lies inside must not pick up white. A level's `ends` may lie a part of a
    # pixel beyond its `image_size`.
    support_x = 2 * max((box[2] - box[0]) / size[0], 1) + 1
    support_y = 2 * max((box[3] - box[1]) / size[1], 1) + 1
    width, height = image_size
    left, top = floor(box[0] - support_x), floor(box[1] - support_y)
    right, bottom = ceil(box[2] + support_x), ceil(box[3] + support_y)
    return (
        max(left, 0) if box[0] >= 0 else left,
        max(top, 0) if box[1] >= 0 else top,
        min(right, width) if box[2] <= ends[0] else right,
        min(bottom, height) if box[3] <= ends[1] else bottom,
    )


def _size_of(region: Region) -> Size:
    width, height = region[2] - region[0], region[3] - region[1]
    if width * height > MAX_DECODED_PIXELS:
        raise ValueError(f"{width} x {height} px at once, at most {MAX_DECODED_PIXELS:,} px")
    return width, height


def _moved(box: Box, origin: tuple[float, ...]) -> Box:
    x, y = origin[:2]
    return box[0] - x, box[1] - y, box[2] - x, box[3] - y


def _share_outside(box: Box, size: Size) -> float:
    width = max(0.0, min(box[2], size[0]) - max(box[0], 0.0))
    height = max(0.0, min(box[3], size[1]) - max(box[1], 0.0))
    return max(0.0, 1 - width * height / ((box[2] - box[0]) * (box[3] - box[1])))


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    # Pillow's guard against decompression bombs is one number for the whole process: it is
    # lifted only while the header is read, and `_refuse_undecodable` sets our own limit.
    with _pillow_limit:
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path, formats=_PLAIN_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = usual
    with image:
        yield image


def _refuse_undecodable(path: Path, image: ImageFile.ImageFile) -> None:
    width, height = image.size
    if width * height > MAX_DECODED_PIXELS:
        raise ImageError(
            f"{path}: {width} x {height} px is too large to decode, expected at most "
            f"{MAX_DECODED_PIXELS:,} px; convert it once, "
            f"`vips tiffsave {path.name} {path.stem}.tif --tile --pyramid`, and give the result"
        )
    is_wide = image.mode.startswith("I;16") or any(";16" in str(tile.args) for tile in image.tile)
    if is_wide or image.mode not in _EIGHT_BIT_MODES:
        raise ImageError(
            f"{path}: pixels are {image.mode}{' of 16 bits' if is_wide else ''}, "
            "expected 8 bits per channel; convert it to 8 bits first"
        )


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        if image.mode != "RGB":
            return image.convert("RGB")
        image.load()
        return image
    clear = image.convert("RGBA")
    pixels = Image.new("RGB", clear.size, _WHITE)
    pixels.paste(clear, mask=clear.getchannel("A"))
    return pixels


def _shrink(pixels: Image.Image, size: Size, box: Box | None = None) -> NDArray[np.uint8]:
    return np.array(pixels.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))


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
