"""Whether a full-resolution image is the one that Space Ranger was given, or a smaller copy of it.

Dimension letters in this file:

S spots
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import SlideFormatError
from spahgc.ingest.slide_image import SlideImage
from spahgc.schema import Finding, Thumbnail

_TOLERATED_OUTSIDE: Final = 0.03  # share of the spots
_SIZES_DIFFER: Final = 0.02
_AXES_DIFFER: Final = 0.01  # a copy is as much smaller across as it is down
_TAGS_DIFFER: Final = 0.01
_LOOKED_AT_PX: Final = 16
_SMALLEST_COPY: Final = 1 / 64


def size_of_copy(
    image: SlideImage, thumbnails: Mapping[str, Thumbnail], pitch_scale: float | None
) -> float:
    """Tell by how much an image was made smaller than the one Space Ranger was given.

    The small pictures tell it, with their scale factors; without them the pixel size in the
    image's tags, if it is a whole multiple of what the pitch of the spots says.

    Parameters
    ----------
    thumbnails
        As the slide's folder has them.
    pitch_scale
        µm per pixel that the coordinates refer to, by the pitch of the spots.

    Returns
    -------
    float
        Pixels of the image per pixel of the coordinates; 1 where nothing says that it was made
        smaller. Within the accuracy of what tells it, one over a whole number is taken for
        meant.
    """
    for thumbnail in thumbnails.values():
        height, width = thumbnail.pixels.shape[:2]
        across, down = (
            side * thumbnail.scale / small
            for side, small in zip(image.size, (width, height), strict=True)
        )
        is_copy = abs(across / down - 1) < max(_AXES_DIFFER, 2 / min(width, height))
        if not is_copy or max(across, down) > 1 - _SIZES_DIFFER:
            return 1.0
        along_the_longer = across if width > height else down
        return _rounded(along_the_longer, tolerance=1 / max(width, height))
    if pitch_scale is not None and image.microns_per_pixel is not None:
        told = pitch_scale / image.microns_per_pixel
        rounded = _rounded(told, tolerance=_TAGS_DIFFER)
        if rounded != told and rounded < 1:
            return rounded
    return 1.0


def _rounded(factor: float, *, tolerance: float) -> float:
    whole = 1 / max(1, round(1 / max(factor, _SMALLEST_COPY)))
    return whole if abs(factor / whole - 1) <= tolerance else factor


def refuse_copy(name: str, image: SlideImage, factor: float) -> None:
    """Refuse a smaller copy of the image, whose pixels the coordinates do not refer to.

    Raises
    ------
    SlideFormatError
        Always.
    """
    width, height = image.size
    raise SlideFormatError(
        f"{name}: {image.path} of {width} x {height} px looks like a copy at about {factor:.3f} of "
        f"its size, expected {width / factor:.0f} x {height / factor:.0f} px as Space Ranger was "
        "given; give that one with --image, or scale the coordinates to this one with "
        "--rescale-image"
    )


def rescaled_factors(factors: Mapping[str, float], factor: float) -> dict[str, float]:
    """Return scale factors that refer to a copy of the image ``factor`` times its size."""
    per_pixel = {
        key: value * factor if key == "spot_diameter_fullres" else value / factor
        for key, value in factors.items()
    }
    if "bin_size_um" in factors:
        per_pixel["bin_size_um"] = factors["bin_size_um"]
    return per_pixel


def rescaled_thumbnails(thumbnails: Mapping[str, Thumbnail], factor: float) -> dict[str, Thumbnail]:
    """Return the same pictures with their scale to a copy ``factor`` times the image's size."""
    return {
        name: replace(thumbnail, scale=thumbnail.scale / factor)
        for name, thumbnail in thumbnails.items()
    }


def check_image(
    name: str,
    image: SlideImage,
    centers_S2: NDArray[np.float64],
    thumbnails: Mapping[str, Thumbnail],
    findings: list[Finding],
) -> None:
    """Check that the image holds the spots and is as large as the small pictures imply.

    Parameters
    ----------
    name
        Of the slide, for the messages.
    centers_S2
        Spot centers as x, y in pixels of the image.
    findings
        Gets what was checked.

    Raises
    ------
    SlideFormatError
        If more than a few spots lie outside.
    ImageError
        If the image cannot be decoded where the last spot lies.
    """
    findings.extend(Finding(kind="warning", text=text) for text in image.remarks)
    width, height = image.size
    expected = _expected_size(thumbnails)
    if (centers_S2 > image.size).any():
        _judge_outside(name, image, centers_S2, expected, findings)
    elif expected is not None and any(
        abs(side / other - 1) > _SIZES_DIFFER
        for side, other in zip(image.size, expected, strict=True)
    ):
        text = (
            f"{image.path.name} has {width} x {height} px, but the small pictures and their scale "
            f"factors imply {expected[0]:.0f} x {expected[1]:.0f} px: check that it is the image "
            "Space Ranger was given"
        )
        findings.append(Finding(kind="warning", text=text))
    else:
        text = f"all spots lie inside {image.path.name} of {width} x {height} px"
        findings.append(Finding(kind="check", text=text))
    # a file that was cut short opens, and has lost its last rows
    x, y = centers_S2[centers_S2[:, 1].argmax()]
    image.read_square((float(x), float(y)), side_px=_LOOKED_AT_PX, out_px=_LOOKED_AT_PX)


def _expected_size(thumbnails: Mapping[str, Thumbnail]) -> tuple[float, float] | None:
    for thumbnail in thumbnails.values():
        height, width = thumbnail.pixels.shape[:2]
        return width / thumbnail.scale, height / thumbnail.scale
    return None


def _judge_outside(
    name: str,
    image: SlideImage,
    centers_S2: NDArray[np.float64],
    expected: tuple[float, float] | None,
    findings: list[Finding],
) -> None:
    is_outside_S = (centers_S2 > image.size).any(axis=1)
    largest_2 = centers_S2.max(axis=0)
    text = (
        f"{is_outside_S.sum()} of {len(centers_S2)} spots lie outside {image.path.name} of "
        f"{image.size[0]} x {image.size[1]} px; the largest coordinates are {largest_2[0]:.0f}, "
        f"{largest_2[1]:.0f}"
    )
    if is_outside_S.mean() <= _TOLERATED_OUTSIDE:
        findings.append(Finding(kind="warning", text=text))
        return
    if expected is None:
        hint = (
            f"a copy at {min(image.size / largest_2):.3f} of its size at most; nothing tells by "
            "how much for --rescale-image: no small picture with its scale factor, no pixel size "
            "in its tags"
        )
    else:
        hint = (
            f"another one, since the small pictures imply {expected[0]:.0f} x {expected[1]:.0f} px"
        )
    raise SlideFormatError(
        f"{name}: {text}; expected the image that Space Ranger was given, this looks like {hint}; "
        "give the right one with --image"
    )
