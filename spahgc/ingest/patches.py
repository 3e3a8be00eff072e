"""Cut the square of tissue around each spot, at a stated width in µm."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import ImageError
from spahgc.ingest.images import SlideImage


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchConfig:
    """How wide a patch is on the tissue and in the encoder's eye."""

    side_um: float = 112.0
    """Width and height on the tissue, in µm; 112 is 224 px at 0.5 µm/px."""

    side_px: int = 224
    """Width and height after resampling, in the encoder's input pixels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchBatch:
    """Some patches, in spot order. Letters: B patches, H height, W width."""

    pixels_BHWC: NDArray[np.uint8]
    """(B, H, W, 3) RGB."""

    padded_B: NDArray[np.float32]
    """Share of each patch that lies outside the image and was filled white, 0 to 1."""


def cut_patches(
    image: SlideImage,
    centers_S2: NDArray[np.float64],
    *,
    microns_per_pixel: float,
    config: PatchConfig,
    batch_size: int,
) -> Iterator[PatchBatch]:
    """Cut one patch per spot, in batches.

    Parameters
    ----------
    image
        The slide, open.
    centers_S2
        (S, 2) float64 spot centers as x, y in full-resolution pixels.
    microns_per_pixel
        Of full-resolution pixels, in µm.
    config
        Width in µm and in pixels.
    batch_size
        Patches per batch; the last one may be smaller.

    Raises
    ------
    ImageError
        If a patch lies wholly outside the image.
    """
    side_px = config.side_um / microns_per_pixel
    for start in range(0, len(centers_S2), batch_size):
        squares = [
            image.read_square((float(x), float(y)), side_px=side_px, out_px=config.side_px)
            for x, y in centers_S2[start : start + batch_size]
        ]
        padded_B = np.array([square.padded_fraction for square in squares], dtype=np.float32)
        if (padded_B >= 1).any():
            row = start + int(np.flatnonzero(padded_B >= 1)[0])
            x, y = centers_S2[row]
            raise ImageError(
                f"{image.path}: the patch of spot number {row} at x {x:.0f}, y {y:.0f} px lies "
                f"outside the image of {image.size[0]} × {image.size[1]} px: is it another slide's?"
            )
        yield PatchBatch(
            pixels_BHWC=np.stack([square.pixels for square in squares]), padded_B=padded_B
        )


def count_padded(centers_S2: NDArray[np.float64], *, size: tuple[int, int], side_px: float) -> int:
    """Count the spots whose patch reaches over the border of the image.

    Parameters
    ----------
    centers_S2
        (S, 2) float64 spot centers as x, y in full-resolution pixels.
    size
        Width and height of the image, in full-resolution pixels.
    side_px
        Side of a patch, in full-resolution pixels.
    """
    low_S2, high_S2 = centers_S2 - side_px / 2, centers_S2 + side_px / 2
    inside_S = (low_S2 >= 0).all(axis=1) & (high_S2 <= np.array(size)).all(axis=1)
    return int((~inside_S).sum())
