"""The images that a process has open: opened and decoded once, whoever asks for them."""

from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Final

from spahgc.ingest.images import open_image
from spahgc.ingest.slide_image import SlideImage
from spahgc.ingest.stain import Stain, StainMap, find_stain

_open: Final[dict[Path, SlideImage]] = {}


def open_once(path: Path) -> SlideImage:
    """Open an image; who asks for it again gets the same one, decoded as it may be.

    Who asks for one that is not open lets go of all that are.
    """
    if path not in _open:
        image = open_image(path)
        _open.clear()
        _open[path] = image
    return _open[path]


def open_together(paths: Collection[Path]) -> Mapping[Path, "Future[SlideImage]"]:
    """Open and decode images, each by a thread of its own, and let go of all others.

    Returns
    -------
    Mapping[Path, Future[SlideImage]]
        By path, the image, or what is wrong with it.
    """
    for gone in _open.keys() - set(paths):
        del _open[gone]
    with ThreadPoolExecutor(len(paths)) as pool:
        return {path: pool.submit(_decoded, path) for path in paths}


def _decoded(path: Path) -> SlideImage:
    image = _open.get(path) or open_image(path)
    image.decode()
    _open[path] = image
    return image


@lru_cache(maxsize=64)
def stain_once(path: Path, stain: Stain | None) -> StainMap | None:
    """Find the stains of a slide, where they are wanted; who asks again gets the same ones."""
    return None if stain is None else find_stain(open_once(path), stain)


def let_go() -> None:
    """Forget the images that are open, and what was found on images."""
    _open.clear()
    stain_once.cache_clear()
