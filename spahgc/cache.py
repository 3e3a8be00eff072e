"""Where files are kept that can be made again, and whether any are."""

import os
from pathlib import Path
from typing import Final

CACHE_VARIABLE: Final = "SPAHGC_CACHE"
"""Environment variable that names the cache folder; ``off``, ``none`` or nothing keeps no file."""

_NONE_KEPT: Final = ("", "off", "none")


def cache_folder() -> Path | None:
    """Give the folder that `CACHE_VARIABLE` names, None where none is to be kept.

    Without the variable it is ``spahgc`` in the user's cache folder, ``$XDG_CACHE_HOME`` or
    ``~/.cache``.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen is None:
        users = os.environ.get("XDG_CACHE_HOME")
        return (Path(users) if users else Path.home() / ".cache") / "spahgc"
    return None if chosen.strip().lower() in _NONE_KEPT else Path(chosen)
