"""Images too large to decode at once: copied, once, into tiles and levels in a cache folder."""

import os
import threading
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spahgc.errors import ImageError
from spahgc.ingest.boxes import Box, Size
from spahgc.ingest.pyramids import PyramidImage
from spahgc.ingest.slide_image import Level, SlideImage

CACHE_VARIABLE: Final = "SPAHGC_CACHE"
"""Environment variable that names the cache folder; by default ``spahgc`` in the user's cache."""

MODES: Final = ("RGB", "RGBA", "L")
"""Of images that are copied, as Pillow names them."""

_TILE_PX: Final = 512


class TiledCopyImage(SlideImage):
    """A plain image that is read through a tiled copy, made when its first pixel is asked for."""

    def __init__(
        self,
        path: Path,
        *,
        size: Size,
        mode: str,
        microns_per_pixel: float | None,
        remarks: tuple[str, ...],
    ) -> None:
        """Take what the header says.

        Raises
        ------
        ImageError
            If ``mode`` is none of `MODES`.
        """
        if mode not in MODES:
            raise ImageError(
                f"{path}: {size[0]} x {size[1]} px of mode {mode} are too many to decode at once, "
                f"expected one of {', '.join(MODES)}; convert it to RGB first"
            )
        place = copy_place(path)
        super().__init__(
            path,
            size=size,
            reader=f"openslide, through the tiled copy {place}",
            microns_per_pixel=microns_per_pixel,
            remarks=remarks,
        )
        self._place = place
        self._copy: PyramidImage | None = None
        self._copying = threading.Lock()

    def level_for(self, wanted: float) -> Level:
        """Choose the coarsest level that is no coarser than ``wanted`` level-0 pixels."""
        return self._opened().level_for(wanted)

    def close(self) -> None:
        """Let go of the copy; it stays in the cache folder."""
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def _resampled(self, box: Box, size: Size) -> NDArray[np.uint8]:
        return self._opened()._resampled(box, size)  # noqa: SLF001  one image in two guises

    def _shrunk(self, size: Size) -> NDArray[np.uint8]:
        return self._opened()._shrunk(size)  # noqa: SLF001

    def _opened(self) -> PyramidImage:
        with self._copying:
            if self._copy is None:
                if not self._place.exists():
                    write_tiled_copy(self.path, self._place)
                self._copy = PyramidImage(self._place)
            return self._copy


def copy_place(path: Path) -> Path:
    """Tell where an image's copy lies; another size or time of writing is another image."""
    found = path.stat()
    key = f"{path.resolve()} {found.st_size} {found.st_mtime_ns}"
    return cache_folder() / "tiled" / f"{sha256(key.encode()).hexdigest()[:24]}.tif"


def cache_folder() -> Path:
    """Tell where copies are kept: `CACHE_VARIABLE`, or the user's cache folder."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(CACHE_VARIABLE) or users / "spahgc")


def write_tiled_copy(path: Path, place: Path) -> None:
    """Copy an image without loss into tiles and levels, never holding more than some rows of it.

    Raises
    ------
    ImageError
        If it cannot be decoded to its end, or the cache folder cannot be written.
    """
    import pyvips

    pyvips.cache_set_max(0)  # or it keeps the rows of the last images
    unfinished = _unfinished(path, place)
    try:
        # what cannot be read must raise: libvips makes it black, a lost tile even with "error"
        image = pyvips.Image.new_from_file(str(path), access="sequential", fail_on="warning")
        if image.hasalpha():
            image = image.flatten(background=[255, 255, 255])
        image.colourspace("srgb").tiffsave(
            str(unfinished),
            tile=True,
            tile_width=_TILE_PX,
            tile_height=_TILE_PX,
            pyramid=True,
            bigtiff=True,
            compression="lzw",
            predictor="horizontal",
        )
        unfinished.replace(place)
    except (pyvips.Error, OSError) as error:
        reason = " ".join(str(error).split())
        raise ImageError(
            f"{path} cannot be copied into tiles at {place}: {reason}; {CACHE_VARIABLE} names "
            "another folder for the copy"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _unfinished(path: Path, place: Path) -> Path:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=place.parent, suffix=".unfinished", delete=False) as file:
            return Path(file.name)
    except OSError as error:
        raise ImageError(
            f"{path} is too large to decode at once, and its tiled copy cannot be put into "
            f"{place.parent} ({error.strerror}); {CACHE_VARIABLE} names another folder"
        ) from error
