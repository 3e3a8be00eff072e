"""Resident memory of the process that asks, by which the benchmarks tell memory."""

import resource
import sys
from pathlib import Path


def peak_gib() -> float:
    """Give the peak since this program was started.

    Where Linux tells it: `getrusage` also counts what the starting process held before.
    """
    return _status_gib("VmHWM")


def held_gib() -> float:
    """Give what this process holds now; its peak where the system does not tell."""
    return _status_gib("VmRSS")


def _status_gib(key: str) -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
