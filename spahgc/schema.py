"""Words two rooms must agree on: what a slide is, and the names of nodes and edges."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

Platform: TypeAlias = Literal["st", "visium", "image", "h5ad", "hest"]
Lattice: TypeAlias = Literal["square", "hexagonal", "staggered"]
"""How spots are laid: in rows and columns; each amid six; or each amid four diagonal ones, as on
the 2k array of legacy Spatial Transcriptomics, rows a little farther apart than columns."""

TARGET: Final = "target"
REFERENCE: Final = "reference"
NEAR: Final = (TARGET, "near", TARGET)
REFER: Final = (REFERENCE, "refer", TARGET)
CLOSE: Final = (REFERENCE, "close", REFERENCE)


SPATIAL: Final = "spatial"
"""Key in an AnnData's ``obsm``: spot centers as x, y in full-resolution pixels; and in its
``uns``: pictures and scale factors, where scanpy and squidpy look for them."""
UNS: Final = "spahgc"
"""Key in a prediction's ``uns``: where it comes from, and what to know before believing it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing a reader found out about a slide, kept with the slide for ever."""

    kind: Literal["file", "inferred", "check", "warning"]
    """``file``: which file was taken for what; ``warning``: something a person should look at."""

    text: str
    """One line for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideImageFile:
    """The full-resolution image that a slide's centers refer to."""

    path: Path
    """Where it was read from; never written to."""

    size: tuple[int, int]
    """Width and height in level-0 pixels."""

    reader: str
    """Which library opened it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Thumbnail:
    """A small picture of the whole slide, for plots."""

    pixels: NDArray[np.uint8]
    """(height, width, 3) RGB."""

    scale: float
    """Thumbnail pixels per full-resolution pixel."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slide:
    """One slide as read from disk, nothing computed yet.

    Letters: S spots, G genes. Rows of ``spots``, ``centers`` and ``counts`` belong together.
    """

    name: str
    """Unique in the store."""

    platform: Platform
    """Which family of files it came from."""

    spots: pd.DataFrame
    """S rows, indexed by unique barcode or spot id (str); ``array_row`` and ``array_col``
    (integers) where the platform has a lattice, ``in_tissue`` (bool) where the vendor says so,
    ``tissue_fraction`` (0 to 1) where it was measured, then any labels."""

    centers: NDArray[np.float64]
    """(S, 2) spot centers as x, y in full-resolution pixels; NaN where the files have none."""

    counts: csr_matrix
    """(S, G) raw counts, unsigned integers; G = 0 where nothing was measured."""

    genes: pd.DataFrame
    """G rows, indexed by unique gene id (str), with the column ``symbol``."""

    microns_per_pixel: float | None
    """Of full-resolution pixels, in µm; None where nothing tells."""

    microns_per_pixel_sources: dict[str, float] = field(default_factory=dict)
    """Every estimate that was at hand, in µm per pixel, by where it came from."""

    spot_diameter_um: float | None = None
    """Width of a spot, in µm."""

    pitch_um: float | None = None
    """Distance between neighbouring spot centers, in µm: diagonal ones on a staggered lattice."""

    lattice: Lattice | None = None
    """How the spots are laid; None where nothing tells."""

    patient: str | None = None
    """None means unknown; two unknown patients are never assumed to differ."""

    section: str | None = None
    """Which section of the patient's block."""

    tissue: str | None = None
    """Organ or diagnosis, as the study gives it."""

    image: SlideImageFile | None = None
    """The full-resolution image; without one a slide cannot be embedded."""

    thumbnails: dict[str, Thumbnail] = field(default_factory=dict)
    """``hires`` and ``lowres`` pictures of the slide, by scanpy's names for them."""

    findings: tuple[Finding, ...] = ()
    """What the reader did, inferred, checked and warns of, in order."""
