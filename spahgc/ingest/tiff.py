"""What a TIFF's header says that the libraries which decode it do not heed."""

import logging
import struct
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import tifffile

from spahgc.errors import ImageError

_ORIENTATION: Final = 274
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
    try:
        with tifffile.TiffFile(path) as tiff:
            _refuse_misread(path, tiff)
            return _ome_pixel_size(tiff.ome_metadata)
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
