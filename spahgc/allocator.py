"""Keep memory that is freed for what needs as much of it next: a layer, a decoded image.

By default large blocks go back to the system at once, and come again page by page and zeroed: half
of a CPU's time in a convolutional network and more, and as long as decoding an image takes.
"""

import ctypes
import gc
import os
import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_OLD_LIMIT: Final = 32 * 2**20  # older versions of glibc keep no larger blocks

KEPT_IN_ALL: Final = 2**30
"""Free memory that is kept at most, in bytes, and the largest block of it."""

KEPT_BY_A_CHILD: Final[Mapping[str, str]] = MappingProxyType(
    {
        "MALLOC_ARENA_MAX": "1",  # what other threads have to themselves holds no large blocks
        "MALLOC_MMAP_THRESHOLD_": str(KEPT_IN_ALL),
        "MALLOC_TRIM_THRESHOLD_": str(KEPT_IN_ALL),
    }
)
"""What the environment of a process must hold from its start, if it is to keep freed memory in all
of its threads; `keep_freed_memory` is for the main one."""


@cache
def keep_freed_memory() -> bool:
    """Ask glibc to keep what the main thread frees, as long as it runs; say whether it does.

    Other C libraries are left alone, and so are users who set ``MALLOC_…`` themselves.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    for largest in (KEPT_IN_ALL, _OLD_LIMIT):
        if mallopt(_M_MMAP_THRESHOLD, largest):
            return bool(mallopt(_M_TRIM_THRESHOLD, KEPT_IN_ALL))
    return False


@contextmanager
def objects_left_alone() -> Iterator[None]:
    """Spare Python's garbage collector, for a while, to look through what there is already.

    torch and what else is loaded are half a million objects: .3 s each time.
    """
    if gc.get_freeze_count():  # somebody does so already
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Lent:
    """What an array and all views of it hold, and nothing else does."""

    def __init__(self, block: NDArray[np.uint8]) -> None:
        self.__array_interface__ = block.__array_interface__


class KeptBlocks:
    """Large blocks of memory, of which each is used again when nobody holds it any more."""

    def __init__(self, *, at_most: int, granule: int = 64 * 2**20) -> None:
        """Keep up to ``at_most`` free bytes; sizes are rounded up to a multiple of ``granule``."""
        self._at_most = at_most
        self._granule = granule
        self._free: dict[int, NDArray[np.uint8]] = {}

    def take(self, n_bytes: int) -> NDArray[np.uint8]:
        """Give ``n_bytes`` of memory, whatever is in them: (n_bytes,) uint8.

        It is free again when this array and all views of it are gone.
        """
        block = self._find(n_bytes)
        if block is None:
            block = np.empty(-(-n_bytes // self._granule) * self._granule, np.uint8)
        lent = _Lent(block)
        weakref.finalize(lent, self._give_back, block).atexit = False
        return np.asarray(lent)[:n_bytes]

    def _find(self, n_bytes: int) -> NDArray[np.uint8] | None:
        large = [(len(block), key) for key, block in self._free.copy().items()]
        for _, key in sorted(found for found in large if found[0] >= n_bytes):
            block = self._free.pop(key, None)  # another thread may have been faster
            if block is not None:
                return block
        self._free.clear()  # too small for what is asked for now
        return None

    def _give_back(self, block: NDArray[np.uint8]) -> None:
        if sum(map(len, self._free.copy().values())) + len(block) <= self._at_most:
            self._free[id(block)] = block
