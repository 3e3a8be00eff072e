"""Names of embeddings: which is meant where none is named, and the command that makes one."""

import re
from collections.abc import Iterable
from typing import Final

PREFERRED: Final = ("lite0-154um", "lite0")
"""Of what a spot alone looks like: those first where none is named."""

_FIELD = re.compile(
    r"(?P<encoder>.+?)(-(?P<stain>macenko))?(-(?P<width>[0-9.]+)um)?(-[0-9]+px)?(-(?P<views>[0-9]+)views)?"
)


def options_of(embeddings: Iterable[str]) -> list[str]:
    """Spell the options of `spahgc embed` that make embeddings of these names.

    A name is an encoder's, or ``ENCODER-154um``, ``ENCODER-macenko-154um-8views``; names of the
    user's own making are taken for encoders.
    """
    parts = [_FIELD.fullmatch(name) for name in embeddings]
    found = [part for part in parts if part is not None]
    encoders = sorted({part["encoder"] for part in found})
    stains = sorted({part["stain"] for part in found if part["stain"]})
    views = sorted({part["views"] for part in found if part["views"]})
    widths = dict.fromkeys(part["width"] for part in found if part["width"])
    return [
        *(f"--encoder {encoder}" for encoder in encoders),
        *(f"--stain {stain}" for stain in stains),
        *(f"--patch-um {width}" for width in widths),
        *(f"--views {n}" for n in views),
    ]
