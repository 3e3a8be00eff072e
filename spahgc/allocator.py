"""Let the C library keep the memory that a network frees, for its next layer.

By default glibc gives every large block back to the system at once, and gets it again, page by page
and zeroed, for the next layer: half of a CPU's time in a convolutional network.
"""

import ctypes
import os
import sys
from functools import cache
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

KEPT_BLOCK: Final = 64 * 2**20
"""Largest block that is kept, in bytes; larger ones, decoded images say, go back at once."""

KEPT_IN_ALL: Final = 2**30
"""Free memory that is kept at most, in bytes."""


@cache
def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory, for the rest of this process; say whether it does.

    Other C libraries are left alone, and so are users who set ``MALLOC_…`` themselves.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    is_kept = mallopt(_M_MMAP_THRESHOLD, KEPT_BLOCK) and mallopt(_M_TRIM_THRESHOLD, KEPT_IN_ALL)
    return bool(is_kept)
