"""The small pictures of a Visium folder, and how they relate to full-resolution pixels."""

import io
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.unpacking import MIB, read_bytes
from spahgc.ingest.slide_image import SlideImage
from spahgc.schema import Finding, Thumbnail

_THUMBNAIL_PX: Final = {"hires": 2000, "lowres": 600}
_LARGEST_THUMBNAIL_PX: Final = 50_000_000
_MOST_PICTURE_BYTES: Final = 256 * MIB
_MOST_SCALE_FACTOR_BYTES: Final = MIB
_SCALE_FACTORS: Final = (
    "spot_diameter_fullres",
    "tissue_hires_scalef",
    "tissue_lowres_scalef",
    "bin_size_um",
    "microns_per_pixel",
)
_UNREADABLE: Final = (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError)


def read_scale_factors(path: Path | None) -> dict[str, float]:
    """Read how small pictures and spots relate to full-resolution pixels; {} without a file.

    Returns
    -------
    dict[str, float]
        ``spot_diameter_fullres`` (pixels), ``tissue_hires_scalef`` and ``tissue_lowres_scalef``
        (small per full-resolution pixel), and of Visium HD ``bin_size_um`` (µm) and
        ``microns_per_pixel``, where the file has them.

    Raises
    ------
    SlideFormatError
        If the file is no JSON object or a value is not positive.
    """
    if path is None:
        return {}
    content = read_bytes(path, most=_MOST_SCALE_FACTOR_BYTES)
    try:
        factors: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SlideFormatError(f"{path}: found no JSON ({error}), expected an object") from error
    if not isinstance(factors, dict):
        raise SlideFormatError(f"{path}: found a {type(factors).__name__}, expected an object")
    known = {key: factors[key] for key in _SCALE_FACTORS if key in factors}
    for key, value in known.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and 0 < value < float("inf")):
            raise SlideFormatError(f"{path}: {key} is {value!r}, expected a positive number")
    return {key: float(value) for key, value in known.items()}


def read_thumbnails(
    paths: dict[str, Path], scale_factors: dict[str, float], findings: list[Finding]
) -> dict[str, Thumbnail]:
    """Read the small pictures; one without a scale, or damaged, is left out and told so.

    Parameters
    ----------
    paths
        By name, ``hires`` and ``lowres``.
    scale_factors
        As `read_scale_factors` gives them.
    findings
        Gets what was left out.
    """
    thumbnails = {}
    for name, path in paths.items():
        scale = scale_factors.get(f"tissue_{name}_scalef")
        if scale is None:
            text = f"{path.name} left out: no tissue_{name}_scalef tells its scale"
            findings.append(Finding(kind="warning", text=text))
            continue
        try:
            thumbnails[name] = Thumbnail(pixels=_read_small_image(path), scale=scale)
        except SlideFormatError as error:
            findings.append(Finding(kind="warning", text=f"left out: {error}"))
    return thumbnails


def complete_thumbnails(
    thumbnails: dict[str, Thumbnail], image: SlideImage, findings: list[Finding]
) -> None:
    """Make the missing small pictures from the full-resolution image, in place."""
    for name, longest_px in _THUMBNAIL_PX.items():
        if name not in thumbnails:
            thumbnails[name] = image.thumbnail(longest_px)
            text = f"{name} picture made from {image.path.name}"
            findings.append(Finding(kind="inferred", text=text))


def _read_small_image(path: Path) -> NDArray[np.uint8]:
    content = read_bytes(path, most=_MOST_PICTURE_BYTES)
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if picture.width * picture.height > _LARGEST_THUMBNAIL_PX:
                raise SlideFormatError(
                    f"{path} has {picture.width} x {picture.height} px, expected a small picture"
                )
            return np.array(picture.convert("RGB"))
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise SlideFormatError(f"{path} cannot be read as a PNG: {reason}") from error
