"""Pictures as files: whole, or not there."""

from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from spahgc.errors import StoreError
from spahgc.store.durable import replacing

DOTS_PER_INCH: Final = 150


def save_picture(figure: Figure, path: Path, *, dots_per_inch: int = DOTS_PER_INCH) -> None:
    """Write a picture; its suffix says in which format.

    Raises
    ------
    StoreError
        If it cannot be written; what was there before stays.
    """
    with replacing(path) as unfinished:
        try:
            figure.savefig(unfinished, format=path.suffix.removeprefix("."), dpi=dots_per_inch)
        except (RuntimeError, ValueError) as error:  # larger than its format allows, for one
            raise StoreError(f"{path} cannot be written: {error}") from error
