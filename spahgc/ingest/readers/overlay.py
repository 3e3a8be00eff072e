"""Spots laid over an image: do they lie in it, and small pictures of it.

Letters: S spots, N spots that have a place.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import SlideFormatError
from spahgc.ingest.slide_image import SlideImage
from spahgc.schema import Finding, Thumbnail

_THUMBNAIL_PX: Final = {"hires": 2000, "lowres": 600}


def check_overlay(
    name: str, centers_S2: NDArray[np.float64], image: SlideImage, findings: list[Finding]
) -> None:
    """Check that an image is the one that coordinates were measured on.

    Parameters
    ----------
    name
        Of the slide, for the messages.
    centers_S2
        Spot centers as x, y in pixels; NaN where there is none.
    findings
        Gets what a person should look at.

    Raises
    ------
    SlideFormatError
        If most spots lie outside the image.
    """
    findings.extend(Finding(kind="warning", text=text) for text in image.remarks)
    known_N2 = centers_S2[np.isfinite(centers_S2).all(axis=1)]
    n_outside = int(((known_N2 < 0) | (known_N2 > image.size)).any(axis=1).sum())
    if not n_outside:
        return
    width, height = image.size
    text = (
        f"{n_outside} of {len(known_N2)} spots lie outside {image.path.name} of {width} x {height} "
        f"px; the largest coordinates are {known_N2[:, 0].max():.0f}, {known_N2[:, 1].max():.0f}"
    )
    if n_outside > len(known_N2) / 2:
        raise SlideFormatError(
            f"{name}: {text}; expected the image that the coordinates were measured on, not "
            "another slide's or a smaller copy"
        )
    findings.append(Finding(kind="warning", text=text))


def thumbnails(image: SlideImage | None) -> dict[str, Thumbnail]:
    """Return small pictures of an image by scanpy's names; none without an image."""
    if image is None:
        return {}
    return {name: image.thumbnail(longest) for name, longest in _THUMBNAIL_PX.items()}
