"""Wait for what another process does, and never forever."""

import time
from collections.abc import Callable


def wait_until(is_so: Callable[[], object], *, told: str, seconds: float = 60.0) -> None:
    """Wait until something is so; after so many seconds say what was waited for in vain."""
    until = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError(f"{told} within {seconds:.0f} s")
        time.sleep(0.01)
