"""The pictures of a Visium folder: small ones, their scale, and whether the large one fits.

Dimension letters in this file:

S spots
"""

import io
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spahgc.errors import SlideFormatError
from spahgc.ingest.images import SlideImage
from spahgc.ingest.readers.visium_files import read_bytes
from spahgc.schema import Finding, Thumbnail

_THUMBNAIL_PX: Final = {"hires": 2000, "lowres": 600}
_LARGEST_THUMBNAIL_PX: Final = 50_000_000
_TOLERATED_OUTSIDE: Final = 0.03  # share of the spots
_SIZES_DIFFER: Final = 0.02
_UNREADABLE: Final = (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError)


def read_scale_factors(path: Path | None) -> dict[str, float]:
    """Read how small pictures and spots relate to full-resolution pixels; {} without a file.

    Returns
    -------
    dict[str, float]
        ``spot_diameter_fullres`` (pixels), ``tissue_hires_scalef`` and ``tissue_lowres_scalef``
        (small per full-resolution pixel), where the file has them.

    Raises
    ------
    SlideFormatError
        If the file is no JSON object or a value is not positive.
    """
    if path is None:
        return {}
    try:
        factors: Any = json.loads(read_bytes(path))
    except ValueError as error:
        raise SlideFormatError(f"{path}: found no JSON ({error}), expected an object") from error
    if not isinstance(factors, dict):
        raise SlideFormatError(f"{path}: found a {type(factors).__name__}, expected an object")
    wanted = ("spot_diameter_fullres", "tissue_hires_scalef", "tissue_lowres_scalef")
    known = {key: factors[key] for key in wanted if key in factors}
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


def check_image(
    name: str,
    image: SlideImage,
    centers_S2: NDArray[np.float64],
    thumbnails: dict[str, Thumbnail],
    findings: list[Finding],
) -> None:
    """Check that the image holds the spots and is as large as the small pictures imply.

    Parameters
    ----------
    name
        Of the slide, for the messages.
    centers_S2
        Spot centers as x, y in full-resolution pixels.
    findings
        Gets what was checked.

    Raises
    ------
    SlideFormatError
        If more than a few spots lie outside.
    """
    width, height = image.size
    expected = _expected_width(thumbnails)
    if (centers_S2 > image.size).any():
        _judge_outside(name, image, centers_S2, expected, findings)
    elif expected is not None and abs(width / expected - 1) > _SIZES_DIFFER:
        text = (
            f"{image.path.name} is {width} px wide, but the small pictures and their scale factors "
            f"imply {expected:.0f} px: check that it is the image Space Ranger was given"
        )
        findings.append(Finding(kind="warning", text=text))
    else:
        text = f"all spots lie inside {image.path.name} of {width} x {height} px"
        findings.append(Finding(kind="check", text=text))


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
    try:
        with Image.open(io.BytesIO(read_bytes(path)), formats=["PNG"]) as picture:
            if picture.width * picture.height > _LARGEST_THUMBNAIL_PX:
                raise SlideFormatError(
                    f"{path} has {picture.width} x {picture.height} px, expected a small picture"
                )
            return np.array(picture.convert("RGB"))
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise SlideFormatError(f"{path} cannot be read as a PNG: {reason}") from error


def _expected_width(thumbnails: dict[str, Thumbnail]) -> float | None:
    for thumbnail in thumbnails.values():
        return thumbnail.pixels.shape[1] / thumbnail.scale
    return None


def _judge_outside(
    name: str,
    image: SlideImage,
    centers_S2: NDArray[np.float64],
    expected_width: float | None,
    findings: list[Finding],
) -> None:
    is_outside_S = (centers_S2 > image.size).any(axis=1)
    largest_2 = centers_S2.max(axis=0)
    text = (
        f"{is_outside_S.sum()} of {len(centers_S2)} spots lie outside {image.path.name} of "
        f"{image.size[0]} x {image.size[1]} px; the largest coordinates are {largest_2[0]:.0f}, "
        f"{largest_2[1]:.0f}"
    )
    if is_outside_S.mean() > _TOLERATED_OUTSIDE:
        if expected_width is None:
            scale = f"at most {min(image.size / largest_2):.3f}"
        else:
            scale = f"about {image.size[0] / expected_width:.3f}"
        raise SlideFormatError(
            f"{name}: {text}; expected the image that Space Ranger was given, this looks like "
            f"a copy at {scale} of its size; give the right one with --image"
        )
    findings.append(Finding(kind="warning", text=text))
