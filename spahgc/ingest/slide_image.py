"""What every open slide image can do, whichever library reads it.

Coordinates are x, y in level-0 pixels; pixel i covers [i, i + 1), so the center of the first
pixel is 0.5 and an image of width w ends at w.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from spahgc.errors import ImageError
from spahgc.ingest.boxes import Box, Size, share_outside
from spahgc.schema import SlideImageFile, Thumbnail

MAX_DECODED_PIXELS: Final = 300_000_000
"""Largest plain image that is decoded whole, in pixels; decoding needs up to 7 bytes for each."""

WHITE: Final = (255, 255, 255)
"""What lies outside an image."""


class Square(NamedTuple):
    """A square piece of a slide image."""

    pixels: NDArray[np.uint8]
    """(out_px, out_px, 3) RGB."""

    padded_fraction: float
    """Share of the square's area that lies outside the image and is white, 0 to 1."""


class SquareSize(NamedTuple):
    """How wide a square is."""

    side_px: float
    """In level-0 pixels; need not be whole."""

    out_px: int
    """In its own pixels, once it is resampled."""


class Level(NamedTuple):
    """One of the resolutions at which a file holds its picture."""

    number: int
    """0 is the finest."""

    downsample: float
    """Width of one of its pixels, in level-0 pixels."""


class SlideImage(ABC):
    """An open slide image; use it in a ``with`` block.

    Several threads may read one image. Only the header is read before the first square or
    thumbnail. Transparent parts are shown over white. Pixels lie as the file stores them;
    ``remarks`` has a line for a person where the file asks for something else.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: Size,
        reader: str,
        microns_per_pixel: float | None,
        remarks: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.size = size
        self.reader = reader
        self.microns_per_pixel = microns_per_pixel
        self.remarks = remarks

    @property
    def file(self) -> SlideImageFile:
        """What a `Slide` records of this image."""
        return SlideImageFile(path=self.path, size=self.size, reader=self.reader)

    def read_square(self, center_xy: tuple[float, float], *, side_px: float, out_px: int) -> Square:
        """Read a square around a point, resampled (see `spahgc.ingest.resampling`).

        Parameters
        ----------
        center_xy
            Center of the square, in level-0 pixels; need not be whole.
        side_px
            Side of the square, in level-0 pixels; need not be whole.
        out_px
            Side of the returned square, in its own pixels.

        Raises
        ------
        ImageError
            If the center is not a number or the pixels cannot be decoded.
        """
        x, y = float(center_xy[0]), float(center_xy[1])
        self._refuse_odd(np.array([[x, y]]), side_px=side_px, out_px=out_px)
        half = side_px / 2
        box = (x - half, y - half, x + half, y + half)
        with as_image_errors(self.path):
            pixels = self._resampled(box, (out_px, out_px))
        return Square(pixels, share_outside(box, self.size))

    def read_squares(
        self, centers_B2: NDArray[np.float64], sizes: Sequence[SquareSize], *, threads: int = 1
    ) -> list[NDArray[np.uint8]]:
        """Read the pixels of squares of each size around each point.

        Parameters
        ----------
        centers_B2
            (B, 2) float64 x, y in level-0 pixels.
        sizes
            Of the squares around every point.
        threads
            That read at once.

        Returns
        -------
        list[NDArray[np.uint8]]
            Of each size (B, out_px, out_px, 3).

        Raises
        ------
        ImageError
            If a center is not a number or the pixels cannot be decoded.
        """
        squares = []
        for size in sizes:
            self._refuse_odd(centers_B2, side_px=size.side_px, out_px=size.out_px)
            squares.append(np.empty((len(centers_B2), size.out_px, size.out_px, 3), np.uint8))

        def fill(row: int) -> None:
            x, y = centers_B2[row].tolist()
            for size, pixels_BHW3 in zip(sizes, squares, strict=True):
                square = self.read_square((x, y), side_px=size.side_px, out_px=size.out_px)
                pixels_BHW3[row] = square.pixels

        self.decode()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, range(len(centers_B2))))  # the list raises what a thread raised
        return squares

    def _refuse_odd(self, centers_B2: NDArray[np.float64], *, side_px: float, out_px: int) -> None:
        is_odd_B = ~np.isfinite(centers_B2).all(axis=1)
        if is_odd_B.any() or not (isfinite(side_px) and side_px > 0 and out_px > 0):
            x, y = centers_B2[is_odd_B.argmax()].tolist()
            raise ImageError(
                f"{self.path}: cannot cut {side_px} px around ({x}, {y}) into {out_px} px, "
                "expected finite coordinates and positive sides"
            )

    def thumbnail(self, longest_px: int) -> Thumbnail:
        """Shrink the whole image until its longer side has at most ``longest_px`` pixels."""
        scale = min(1.0, longest_px / max(self.size))
        width, height = (max(1, round(side * scale)) for side in self.size)
        with as_image_errors(self.path):
            pixels = self._shrunk((width, height))
        return Thumbnail(pixels=pixels, scale=scale)

    def decode(self) -> None:  # noqa: B027  an image read piece by piece has nothing to do
        """Decode now what the first square would decode.

        Raises
        ------
        ImageError
            If it cannot be decoded.
        """

    def level_for(self, wanted: float) -> Level:  # noqa: ARG002  a plain image has but one
        """Choose the coarsest level that is no coarser than ``wanted`` level-0 pixels."""
        return Level(0, 1.0)

    @abstractmethod
    def close(self) -> None:
        """Let go of the file and of decoded pixels."""

    @abstractmethod
    def _resampled(self, box: Box, size: Size) -> NDArray[np.uint8]: ...

    @abstractmethod
    def _shrunk(self, size: Size) -> NDArray[np.uint8]: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextmanager
def as_image_errors(path: Path) -> Iterator[None]:
    """Turn what the libraries raise into an `ImageError` of one line."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        found = "is empty" if path.stat().st_size == 0 else "is no image"
        raise ImageError(
            f"{path} {found}, expected JPEG, PNG, TIFF or a format that OpenSlide reads"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, openslide.OpenSlideError) as error:
        reason = " ".join(str(error).split())
        raise ImageError(f"{path} cannot be read as an image: {reason}") from error
