"""Give patches the colours that a reference slide's stains would have given them.

The two stains of a slide are found once, on its overview (Macenko et al., ISBI 2009, by
torchstain): a patch of its own may hold too little of one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from spahgc.errors import ImageError, InstallationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spahgc.ingest.slide_image import SlideImage

Stain: TypeAlias = Literal["macenko"]
"""Ways to normalise it."""

OVERVIEW_PX: Final = 2048
"""Longer side of the overview on which a slide's stains are found, in pixels."""

_LIGHT: Final = 240.0
"""What a pixel without tissue is taken for, 0 to 255."""

_FAINTEST: Final = 206
"""A pixel with a brighter channel is glass: an optical density below 0.15."""

_FEWEST_PIXELS: Final = 1000
_LARGEST_CONDITION: Final = 25.0
"""Of the two stains' colours; above it they are one colour and cannot be told apart."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StainMap:
    """From the colours of one slide to those of the reference, in optical density."""

    density_33: NDArray[np.float32]
    """(3, 3): the reference's density of red, green and blue from the slide's."""

    def apply(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Recolour (B, H, W, 3) RGB pixels."""
        density = -np.log((np.arange(256, dtype=np.float32) + 1) / _LIGHT)
        mapped = density[pixels_BHWC] @ self.density_33.T
        np.negative(mapped, out=mapped)
        light = _LIGHT * np.exp(mapped, out=mapped)
        return np.clip(light, 0, 255, out=light).astype(np.uint8)


def find_stain(image: SlideImage, stain: Stain) -> StainMap:
    """Find the stains of a slide on its overview.

    Raises
    ------
    ImageError
        If it has next to no tissue, or not two stains.
    InstallationError
        If torchstain is missing.
    """
    if stain != "macenko":
        raise ValueError(f"stain {stain!r}, expected 'macenko'")
    pixels_HWC = image.thumbnail(OVERVIEW_PX).pixels
    stained_P3 = pixels_HWC[(pixels_HWC < _FAINTEST).all(axis=-1)]
    if len(stained_P3) < _FEWEST_PIXELS:
        raise ImageError(
            f"{image.path}: {len(stained_P3)} stained pixels on the overview, expected "
            f"{_FEWEST_PIXELS} to tell its stains; embed it without `--stain`"
        )
    reference, slide = _normaliser(), _normaliser()
    slide.fit(stained_P3, Io=_LIGHT)
    colours_32 = np.asarray(slide.HERef, dtype=np.float64)
    if not np.isfinite(colours_32).all() or np.linalg.cond(colours_32) > _LARGEST_CONDITION:
        raise ImageError(
            f"{image.path} has not the two colours of haematoxylin and eosin; embed it without "
            "`--stain`"
        )
    strength_2 = np.asarray(reference.maxCRef) / np.asarray(slide.maxCRef)
    density_33 = np.asarray(reference.HERef) @ np.diag(strength_2) @ np.linalg.pinv(colours_32)
    return StainMap(density_33=density_33.astype(np.float32))


def _normaliser() -> Any:  # noqa: ANN401  torchstain has no types
    try:
        from torchstain.numpy.normalizers import NumpyMacenkoNormalizer
    except ImportError as error:
        raise InstallationError(
            "stain normalisation needs torchstain: `pip install 'spahgc[stain]'`"
        ) from error
    return NumpyMacenkoNormalizer()
