"""The pixel size that an image file states, where it can be believed."""

from typing import Final

PLAUSIBLE_MICRONS_PER_PIXEL: Final = (0.05, 20.0)
"""A file that states less or more states a printer's dpi or a program's default."""

_SIDES_DIFFER: Final = 0.02


def plausible_microns_per_pixel(sides: tuple[float, float] | None) -> float | None:
    """Return one µm per pixel for a pixel's width and height in µm; None if not believable."""
    if sides is None:
        return None
    across, down = sides
    smallest, largest = PLAUSIBLE_MICRONS_PER_PIXEL
    is_square = abs(across - down) <= _SIDES_DIFFER * abs(across)
    is_plausible = smallest <= across <= largest
    return (across + down) / 2 if is_square and is_plausible else None
