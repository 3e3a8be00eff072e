"""Cut the square of tissue around each spot, at a stated width in µm."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import ImageError
from spahgc.ingest.slide_image import SlideImage, SquareSize
from spahgc.ingest.stain import StainMap

MAX_PADDED: Final = 0.75
"""A patch with a larger share outside the image has its center there, or is wider than the image;
such a patch shows next to nothing of its spot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchConfig:
    """How wide a patch is on the tissue and in the encoder's eye."""

    side_um: float
    """Width and height on the tissue, in µm."""

    side_px: int
    """Width and height after resampling, in the encoder's input pixels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchBatch:
    """Some patches of one width, in spot order. Letters: B patches, H height, W width."""

    pixels_BHWC: NDArray[np.uint8]
    """(B, H, W, 3) RGB."""

    width: int
    """Which of the widths asked for, by position."""

    flat_B: NDArray[np.bool_]
    """Whether all pixels of a patch have one colour, as glass, a gap or a lost tile has."""


def cut_patches(
    image: SlideImage,
    centers_S2: NDArray[np.float64],
    *,
    microns_per_pixel: float,
    configs: Sequence[PatchConfig],
    batch_size: int,
    ahead_bytes: int = 0,
    threads: int = 1,
    stain: StainMap | None = None,
) -> Iterator[PatchBatch]:
    """Cut patches of every width around each spot: a batch of spots at a time, width after width.

    Parameters
    ----------
    image
        The slide, open.
    centers_S2
        (S, 2) float64 spot centers as x, y in full-resolution pixels.
    microns_per_pixel
        Of full-resolution pixels, in µm.
    configs
        Widths in µm and in pixels.
    batch_size
        Patches per batch; the last one may be smaller.
    ahead_bytes
        Pixels that may be cut before the first of them are given, in bytes; a batch of each width
        at least.
    threads
        That cut at once.
    stain
        To which colours they are brought.

    Raises
    ------
    ImageError
        If more than `MAX_PADDED` of a patch lies outside the image, or pixels cannot be read.
    """
    sizes = [SquareSize(config.side_um / microns_per_pixel, config.side_px) for config in configs]
    for size in sizes:
        refuse_outside(image.path, centers_S2, size=image.size, side_px=size.side_px)
    batch_bytes = batch_size * sum(config.side_px**2 * 3 for config in configs)
    cut_at_once = batch_size * max(1, ahead_bytes // batch_bytes)
    for start in range(0, len(centers_S2), cut_at_once):
        centers_C2 = centers_S2[start : start + cut_at_once]
        cut = image.read_squares(centers_C2, sizes, threads=threads)
        for first in range(0, len(centers_C2), batch_size):
            for width, pixels_CHWC in enumerate(cut):
                pixels_BHWC = pixels_CHWC[first : first + batch_size]
                if stain is not None:
                    pixels_BHWC = stain.apply(pixels_BHWC)
                flat_B = _is_flat(pixels_BHWC)
                yield PatchBatch(pixels_BHWC=pixels_BHWC, width=width, flat_B=flat_B)
        del cut, pixels_CHWC  # before as much again is cut


def padded_share(
    centers_S2: NDArray[np.float64], *, size: tuple[int, int], side_px: float
) -> NDArray[np.float64]:
    """Tell which share of each spot's patch lies outside the image and is white: (S,), 0 to 1.

    Parameters
    ----------
    centers_S2
        (S, 2) float64 spot centers as x, y in full-resolution pixels.
    size
        Width and height of the image, in full-resolution pixels.
    side_px
        Side of a patch, in full-resolution pixels.
    """
    low_S2 = np.maximum(centers_S2 - side_px / 2, 0)
    high_S2 = np.minimum(centers_S2 + side_px / 2, np.array(size))
    inside_S = np.clip((high_S2 - low_S2) / side_px, 0, 1).prod(axis=1)
    # float rounding must not make a patch inside the image a padded one
    return np.where(inside_S > 1 - 1e-9, 0.0, 1 - inside_S)


def refuse_outside(
    path: Path, centers_S2: NDArray[np.float64], *, size: tuple[int, int], side_px: float
) -> None:
    """Refuse centers of which `padded_share` says that there is hardly anything to see.

    Raises
    ------
    ImageError
        If a share is above `MAX_PADDED`; ``path`` is for the message.
    """
    share_S = padded_share(centers_S2, size=size, side_px=side_px)
    if not (share_S > MAX_PADDED).any():
        return
    row = int((share_S > MAX_PADDED).argmax())
    x, y = centers_S2[row]
    raise ImageError(
        f"{path}: {share_S[row]:.0%} of the patch at x {x:.0f}, y {y:.0f} px, {side_px:.0f} px "
        f"wide, lies outside the image of {size[0]} × {size[1]} px, expected at most "
        f"{MAX_PADDED:.0%}: is it another slide's?"
    )


def _is_flat(pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.bool_]:
    first_B11C = pixels_BHWC[:, :1, :1]
    corners_B = (pixels_BHWC[:, -1:, -1:] == first_B11C).all(axis=(1, 2, 3))
    is_flat_B = np.zeros(len(pixels_BHWC), dtype=np.bool_)
    # most patches are told from flat ones by two corners, which costs nothing
    is_flat_B[corners_B] = (pixels_BHWC[corners_B] == first_B11C[corners_B]).all(axis=(1, 2, 3))
    return is_flat_B
