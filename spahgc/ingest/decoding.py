"""Decode plain images: JPEG by libjpeg-turbo; PNG, TIFF and odd JPEG by Pillow."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from spahgc.allocator import KEPT_IN_ALL, KeptBlocks
from spahgc.errors import ImageError

TURBO: Final = "libjpeg-turbo"

_FORMATS: Final = ("JPEG", "PNG", "TIFF")
_EIGHT_BIT_MODES: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_WHITE: Final = (255, 255, 255)
_blocks = KeptBlocks(at_most=KEPT_IN_ALL)
_process_wide = threading.Lock()  # guards Pillow's limit and the filters of warnings
logging.getLogger("PIL").addHandler(logging.NullHandler())  # our error tells of a broken file


@contextmanager
def opened(path: Path, *, remarks: list[str] | None = None) -> Iterator[ImageFile.ImageFile]:
    """Open an image, whatever its size, reading no more than its header.

    What Pillow warns of while the header is read goes to ``remarks``, where a list is given, and
    nowhere else.
    """
    # Pillow's guard against decompression bombs is one number for the whole process: it is
    # lifted only while the header is read, and `refuse_undecodable` sets our own limit.
    with _process_wide:
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with _recorded_warnings() as told:
                image = Image.open(path, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = usual
    if remarks is not None:
        remarks.extend(f"{path.name}: {text}" for text in told)
    with image:
        yield image


def refuse_undecodable(path: Path, image: ImageFile.ImageFile) -> None:
    """Refuse an image of more than 8 bits per channel.

    Raises
    ------
    ImageError
        If it is one.
    """
    is_wide = image.mode.startswith("I;16") or any(";16" in str(tile.args) for tile in image.tile)
    if is_wide or image.mode not in _EIGHT_BIT_MODES:
        raise ImageError(
            f"{path}: pixels are {image.mode}{' of 16 bits' if is_wide else ''}, "
            "expected 8 bits per channel; convert it to 8 bits first"
        )


def orientation_remarks(path: Path, image: ImageFile.ImageFile) -> tuple[str, ...]:
    """Say so where EXIF asks to show the image otherwise than its pixels are stored."""
    if image.format == "TIFF":  # `read_ome_pixel_size` refuses such a TIFF
        return ()
    with _process_wide, _recorded_warnings() as told:
        tag = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    if tag == 1:
        return tuple(f"{path.name}: {text}" for text in told)
    text = (
        f"{path.name} asks to be shown turned or mirrored (orientation tag {tag}); its pixels are "
        "taken as they are stored: check that the coordinates were measured that way"
    )
    return (text,)


def decoder_of(image: ImageFile.ImageFile) -> str:
    """Name what `decode` will decode an image with."""
    is_usual = image.format == "JPEG" and image.mode in {"RGB", "L"}
    return TURBO if is_usual else "pillow"


def decode(path: Path, decoder: str) -> NDArray[np.uint8]:
    """Decode an image whole: (height, width, 3) RGB, over white where it is transparent."""
    if decoder == TURBO:
        # Anything unusual raises here, and Pillow, three times slower, is the judge of it.
        with suppress(ValueError):
            return _decode_jpeg(path.read_bytes())
    with opened(path) as image:
        return np.asarray(over_white(image))


def _decode_jpeg(content: bytes) -> NDArray[np.uint8]:
    height, width, *_ = simplejpeg.decode_jpeg_header(content)
    pixels_HW3 = _blocks.take(height * width * 3).reshape(height, width, 3)
    simplejpeg.decode_jpeg(content, buffer=pixels_HW3)
    return pixels_HW3


@contextmanager
def _recorded_warnings() -> Iterator[list[str]]:
    """Put what Pillow warns of into a list: a broken file is told once, in one line."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    told.extend(" ".join(str(one.message).split()) for one in caught)


def over_white(image: ImageFile.ImageFile) -> Image.Image:
    """Return the image in RGB, laid over white where it is transparent."""
    _decode(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    clear = image.convert("RGBA")
    pixels = Image.new("RGB", clear.size, _WHITE)
    pixels.paste(clear, mask=clear.getchannel("A"))
    return pixels


def _decode(image: ImageFile.ImageFile) -> None:
    if image.format != "TIFF":
        image.load()
        return
    with _process_wide, _recorded_warnings():  # of tags that were told of by the header
        image.load()


def shrink(
    pixels: Image.Image,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> NDArray[np.uint8]:
    """Return pixels (of a box) resampled to a smaller width and height; (height, width, 3)."""
    return np.array(pixels.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))
