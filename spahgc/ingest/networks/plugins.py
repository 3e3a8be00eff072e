"""Encoders that other packages add, by the entry point group ``spahgc.encoders``."""

from importlib.metadata import EntryPoint, entry_points
from typing import Final

from spahgc.errors import EncoderError

GROUP: Final = "spahgc.encoders"


def list_plugins() -> dict[str, EntryPoint]:
    """Find the encoders that installed packages add, by name; none of their code is run.

    Raises
    ------
    EncoderError
        If two packages add one of the same name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        other = found.setdefault(entry.name, entry)
        if other != entry:
            raise EncoderError(
                f"{package_of(other)} and {package_of(entry)} both add an encoder {entry.name!r}; "
                "uninstall one of them"
            )
    return found


def package_of(entry: EntryPoint) -> str:
    """Name and version of the package that brings an entry point."""
    return "an unnamed package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
