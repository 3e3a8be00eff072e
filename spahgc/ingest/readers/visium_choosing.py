"""Which of the images that lie in a Visium folder is the one that Space Ranger was given.

Dimension letters in this file:

S spots
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spahgc.errors import ImageError
from spahgc.ingest.images import open_image
from spahgc.ingest.readers.scales import SCALES_DIFFER
from spahgc.ingest.readers.visium_files import LikelyImage
from spahgc.ingest.readers.visium_image import size_of_copy
from spahgc.ingest.slide_image import SlideImage
from spahgc.schema import Finding, Thumbnail

_COMPARED_PX: Final = 64
_ALIKE: Final = 0.95  # the same picture has .9999; turned or mirrored, a section has .7 to .8
_MOST_TOLD: Final = 3


class SpotsToHold(NamedTuple):
    """What an image has to hold."""

    centers: NDArray[np.float64]
    """(S, 2) x, y of spots under tissue, in full-resolution pixels."""

    microns_per_pixel: float | None
    """By the pitch of the spots."""

    spot_diameter_um: float
    """Width of a spot, in µm."""


class _Judged(NamedTuple):
    candidate: LikelyImage
    image: SlideImage | None
    sure: str
    """What confirms it, if anything does."""
    doubt: str
    """What speaks against it, if anything does."""


def choose_image(
    candidates: Sequence[LikelyImage],
    spots: SpotsToHold,
    thumbnails: Mapping[str, Thumbnail],
    findings: list[Finding],
) -> SlideImage | None:
    """Open the one image that fits, and say so, or why none was taken.

    One fits that has the size which a small picture and its scale factor imply, and looks like
    that picture; without small pictures, one that holds all spots and whose tags state the µm per
    pixel that the spots' pitch implies. Where none is confirmed so, the only one of an obvious
    name is opened, for the caller to check.

    Parameters
    ----------
    candidates
        What lies there.
    spots
        Spots under tissue.
    thumbnails
        Small pictures of the folder, by scanpy's names for them.
    findings
        Gets what was taken, or which ones could be meant.

    Raises
    ------
    ImageError
        If the only one of an obvious name cannot be read.
    """
    judged = [_judge(candidate, spots, thumbnails) for candidate in candidates]
    sure = [one for one in judged if one.sure]
    named = [one for one in (sure or judged) if one.candidate.is_named]
    taken = sure[0] if len(sure) == 1 else named[0] if len(named) == 1 else None
    for one in judged:
        if one.image is not None and one is not taken:
            one.image.close()
    if taken is None:
        findings.append(Finding(kind="warning", text=_why_none(judged, sure or named)))
        return None
    text = f"full-resolution image: {taken.candidate.shown}"
    text += f", {taken.sure}" if taken.sure else ""
    if left := ", ".join(one.candidate.shown for one in judged if one is not taken):
        text += f" (left aside: {left})"
    findings.append(Finding(kind="file", text=text))
    return taken.image or open_image(taken.candidate.path)


def _judge(
    candidate: LikelyImage, spots: SpotsToHold, thumbnails: Mapping[str, Thumbnail]
) -> _Judged:
    try:
        image = open_image(candidate.path)
    except ImageError:
        return _Judged(candidate, None, "", "cannot be read")
    try:
        doubt = _misfit(image, spots)
        sure = ""
        if not doubt:
            sure, doubt = _compare(image, spots, thumbnails)
    except ImageError:
        image.close()
        return _Judged(candidate, None, "", "cannot be read")
    return _Judged(candidate, image, sure, doubt)


def _misfit(image: SlideImage, spots: SpotsToHold) -> str:
    radius_px = spots.spot_diameter_um / (spots.microns_per_pixel or np.inf) / 2
    least = spots.centers.max(axis=0, initial=0) + radius_px
    if (least <= image.size).all():
        return ""
    return f"of {_spelt(image.size)} px does not hold the spots, which reach {_spelt(least)}"


def _compare(
    image: SlideImage, spots: SpotsToHold, thumbnails: Mapping[str, Thumbnail]
) -> tuple[str, str]:
    """Tell what confirms that an image is the one, and what speaks against it."""
    found = f"of {_spelt(image.size)} px"
    for name, thumbnail in thumbnails.items():
        height, width = thumbnail.pixels.shape[:2]
        implied = (width / thumbnail.scale, height / thumbnail.scale)
        one_px = 1 + 1 / thumbnail.scale  # of the small picture, whose sides are rounded
        if np.abs(np.subtract(image.size, implied)).max() > one_px:
            factor = size_of_copy(image, thumbnails, spots.microns_per_pixel)
            copy = "" if factor == 1 else f", a copy at {factor:.3f} of its size"
            return "", f"{found}{copy}, expected {_spelt(implied)} by the {name} picture"
        if not _is_alike(image, thumbnail):
            return "", f"{found} does not look like the {name} picture"
        return f"{found} as the {name} picture and its scale factor imply, and alike", ""
    tagged, by_pitch = image.microns_per_pixel, spots.microns_per_pixel
    if tagged is None or by_pitch is None:
        return "", f"{found}: no small picture and no pixel size in its tags confirm it"
    if abs(tagged / by_pitch - 1) > SCALES_DIFFER:
        return "", f"{found} has {tagged:.4f} µm per pixel, but the spots' pitch {by_pitch:.4f}"
    return f"{found} of {tagged:.4f} µm, as the spots' pitch implies", ""


def _is_alike(image: SlideImage, thumbnail: Thumbnail) -> bool:
    pictures = (image.thumbnail(4 * _COMPARED_PX).pixels, thumbnail.pixels)
    sides = (_COMPARED_PX, _COMPARED_PX)
    one, other = (
        np.asarray(Image.fromarray(pixels).resize(sides, Image.Resampling.BOX), float).ravel()
        for pixels in pictures
    )
    if not (one.std() and other.std()):
        return bool(np.array_equal(one, other))
    return bool(np.corrcoef(one, other)[0, 1] >= _ALIKE)


def _why_none(judged: Sequence[_Judged], several: Sequence[_Judged]) -> str:
    """Say which images could be meant, and what to type."""
    if several:
        names = ", ".join(one.candidate.shown for one in several)
        text = f"no full-resolution image ({names} could all be it)"
    elif judged:
        told = "; ".join(f"{one.candidate.shown} {one.doubt}" for one in judged[:_MOST_TOLD])
        more = f"; and {len(judged) - _MOST_TOLD} more" if len(judged) > _MOST_TOLD else ""
        text = f"no full-resolution image (none lies here that is sure to be it: {told}{more})"
    else:
        text = "no full-resolution image (none lies here)"
    text += ": the slide cannot be embedded without --image"
    options = [_option(one.candidate.path) for one in (several or judged)[:_MOST_TOLD]]
    return f"{text}; to take one, give `{'` or `'.join(options)}`" if options else text


def _option(path: Path) -> str:
    return f"--image {shlex.quote(str(path))}"


def _spelt(size: Sequence[float] | NDArray[np.float64]) -> str:
    return f"{size[0]:.0f} x {size[1]:.0f}"
