"""Images too large to decode at once: copied, once, into tiles and levels in a cache folder."""

import shutil
import threading
import weakref
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spahgc.cache import CACHE_VARIABLE, cache_folder
from spahgc.errors import ImageError
from spahgc.ingest.boxes import Box, Size
from spahgc.ingest.pyramids import PyramidImage
from spahgc.ingest.slide_image import Level, SlideImage

MODES: Final = ("RGB", "RGBA", "L")
"""Of images that are copied, as Pillow names them."""

_TILE_PX: Final = 512


class TiledCopyImage(SlideImage):
    """A plain image that is read through a tiled copy, made when its first pixel is asked for.

    Where no cache is kept, the copy lies in a temporary folder until the image is closed.
    """

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
            reader=f"openslide, through {'a temporary' if place is None else 'the'} tiled copy"
            + ("" if place is None else f" {place}"),
            microns_per_pixel=microns_per_pixel,
            remarks=remarks,
        )
        self._place = place
        self._copy: PyramidImage | None = None
        self._forget: Callable[[], object] | None = None
        self._copying = threading.Lock()

    def level_for(self, wanted: float) -> Level:
        """Choose the coarsest level that is no coarser than ``wanted`` level-0 pixels."""
        return self._opened().level_for(wanted)

    def close(self) -> None:
        """Let go of the copy; it stays in the cache folder, where there is one."""
        if self._copy is not None:
            self._copy.close()
            self._copy = None
        if self._forget is not None:
            self._forget()
            self._forget = None

    def _resampled(self, box: Box, size: Size) -> NDArray[np.uint8]:
        return self._opened()._resampled(box, size)  # noqa: SLF001  one image in two guises

    def _shrunk(self, size: Size) -> NDArray[np.uint8]:
        return self._opened()._shrunk(size)  # noqa: SLF001

    def _opened(self) -> PyramidImage:
        with self._copying:
            if self._copy is None:
                place = self._place or self._temporary_place()
                if not place.exists():
                    write_tiled_copy(self.path, place)
                self._copy = PyramidImage(place)
            return self._copy

    def _temporary_place(self) -> Path:
        try:
            folder = mkdtemp(prefix="spahgc-tiled-")
        except OSError as error:
            raise ImageError(
                f"{self.path} is too large to decode at once, and no temporary folder can be made "
                f"for its tiled copy ({error.strerror}); {CACHE_VARIABLE} names a folder for it"
            ) from error
        self._forget = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder) / "copy.tif"


def copy_place(path: Path) -> Path | None:
    """Tell where an image's copy lies; another size or time of writing is another image.

    None where no cache is kept.
    """
    folder = cache_folder()
    if folder is None:
        return None
    found = path.stat()
    key = f"{path.resolve()} {found.st_size} {found.st_mtime_ns}"
    return folder / "tiled" / f"{sha256(key.encode()).hexdigest()[:24]}.tif"


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
