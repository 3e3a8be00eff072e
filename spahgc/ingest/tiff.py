"""What a TIFF's header says that the libraries which decode it do not heed."""

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import tifffile

from spahgc.errors import ImageError

_ORIENTATION: Final = 274
_PAGES: Final = 1000  # looked at; a stack of more has told enough
_MICRONS_OF_UNIT: Final = {"\u00b5m": 1.0, "\u03bcm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}
_STARTS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF, both byte orders

# A broken file is told by the error raised for it, not by a log line per broken tag besides.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def is_tiff(path: Path) -> bool:
    """Tell a TIFF or BigTIFF by its first bytes."""
    with path.open("rb") as file:
        return file.read(4) in _STARTS


def read_ome_pixel_size(path: Path) -> tuple[float, float] | None:
    """Read the pixel size that OME-XML states, and refuse what would be decoded wrongly.

    OpenSlide keeps only the upper byte of 16-bit channels, takes the first of several grey
    channels for the picture, and turns pixels as an orientation tag asks; Pillow does the last
    two as well.

    Returns
    -------
    tuple[float, float] | None
        Width and height of a pixel, in µm.

    Raises
    ------
    ImageError
        If the first picture is not 8 bits per channel, its channels are separate pictures, or
        it is stored turned or mirrored.
    """
    with _opened(path) as tiff:
        _refuse_misread(path, tiff)
        return _ome_pixel_size(tiff.ome_metadata)


def page_remarks(path: Path) -> tuple[str, ...]:
    """Say so where a TIFF holds other pictures beside its first one, which alone is read.

    Smaller pictures of the same shape are levels, and what is marked as reduced or as a mask is
    no picture of its own.

    Raises
    ------
    ImageError
        If another picture is larger than the first one: it is not clear which is the slide.
    """
    with _opened(path) as tiff:
        first = _size_of(tiff.pages.first)
        others = [
            _size_of(page) for page in tiff.pages[1:_PAGES] if not (page.is_reduced or page.is_mask)
        ]
    larger = [size for size in others if prod(size) > prod(first)]
    if larger:
        raise ImageError(
            f"{path}: its first picture has {first[0]} x {first[1]} px and a later one "
            f"{larger[0][0]} x {larger[0][1]} px, expected the slide first; save it alone, "
            f"`vips copy {path.name}[page=N] slide.tif`"
        )
    n_same = others.count(first)
    if not n_same:
        return ()
    return (f"{path.name} holds {n_same + 1} pictures of one size; only the first is read",)


def _size_of(page: Any) -> tuple[int, int]:  # noqa: ANN401  tifffile is untyped
    return page.imagewidth, page.imagelength


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with tifffile.TiffFile(path) as tiff:
            yield tiff
    except ImageError:
        raise
    except (tifffile.TiffFileError, struct.error, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ImageError(f"{path} cannot be read as an image: {reason}") from error


def _refuse_misread(path: Path, tiff: Any) -> None:  # noqa: ANN401  tifffile is untyped
    page = tiff.pages.first
    if page.bitspersample > 8:
        raise ImageError(
            f"{path}: pixels are of {page.bitspersample} bits, expected 8 bits per channel; "
            "convert it to 8 bits first"
        )
    if page.samplesperpixel == 1 and tiff.is_ome:
        n_channels = tiff.series[0].sizes.get("channel", 1)
        if n_channels > 1:
            raise ImageError(
                f"{path}: its {n_channels} channels are separate grey pictures, expected one RGB "
                f"picture; convert it once, `bfconvert -merge {path.name} rgb.ome.tif`"
            )
    tag = page.tags.get(_ORIENTATION)
    if tag is not None and tag.value != 1:
        raise ImageError(
            f"{path}: its orientation tag is {int(tag.value)}, so programs disagree about where "
            "x and y begin, expected 1; save it upright, "
            f"`vips autorot {path.name} upright.tif[tile,pyramid]`"
        )


def _ome_pixel_size(ome_xml: str | None) -> tuple[float, float] | None:
    if ome_xml is None:
        return None
    try:
        pixels = ET.fromstring(ome_xml).find("{*}Image/{*}Pixels")  # noqa: S314  expat bounds entities
    except ET.ParseError:
        return None
    if pixels is None:
        return None
    sides = []
    for axis in ("X", "Y"):
        unit = _MICRONS_OF_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        value = pixels.get(f"PhysicalSize{axis}")
        if unit is None or value is None:
            return None
        try:
            sides.append(float(value) * unit)
        except ValueError:
            return None
    return sides[0], sides[1]
