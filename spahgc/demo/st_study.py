"""Write sections in the layout of her2st: legacy Spatial Transcriptomics.

Dimension letters in this file:

S spots, M measured spots, G genes, H rows and W columns of the image
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

PITCH_UM: Final = 200.0
SPOT_DIAMETER_UM: Final = 100.0
LATTICE: Final = (33, 35)
"""Columns and rows of the array."""

_GZIP: Final = {"method": "gzip", "compresslevel": 6, "mtime": 0}  # the same bytes every time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StSection:
    """One section as a study would publish it.

    Letters: S spots, M measured spots, G genes, H rows and W columns of the image.
    """

    name: str
    """The patient's letter, then the section: ``A1``."""

    array: NDArray[np.int64]
    """(S, 2) x = column and y = row on the lattice."""

    offsets: NDArray[np.float64]
    """(S, 2) how far each spot sits from its lattice point, in steps of the lattice."""

    centers: NDArray[np.float64]
    """(S, 2) spot centers as x, y in pixels."""

    is_measured: NDArray[np.bool_]
    """(S,) False where only the selection file knows the spot."""

    counts: NDArray[np.uint32]
    """(M, G) counts of the measured spots, in their order."""

    genes: tuple[str, ...]
    """G gene symbols."""

    labels: tuple[str, ...] | None = None
    """S labels by a pathologist; None writes no label file."""

    image: NDArray[np.uint8] | None = None
    """(H, W, 3) RGB; None writes no image."""

    @property
    def patient(self) -> str:
        """Return the letter that the name starts with."""
        return self.name[0]

    @property
    def spot_ids(self) -> NDArray[np.str_]:
        """Return (S,) ids such as ``10x13``."""
        return np.array([f"{x}x{y}" for x, y in self.array], dtype=np.str_)


def write_st_study(folder: Path, *sections: StSection) -> None:
    """Write sections side by side, as her2st is laid out."""
    for section in sections:
        _write_counts(folder / "ST-cnts", section)
        _write_selection(folder / "ST-spotfiles", section)
        if section.labels is not None:
            _write_labels(folder / "ST-pat" / "lbl", section.labels, section)
        if section.image is not None:
            images = folder / "ST-imgs" / section.patient / section.name
            write_jpeg(images / f"{section.name}.jpg", section.image)


def write_jpeg(path: Path, image_HW3: NDArray[np.uint8]) -> None:
    """Write an RGB image as a plain JPEG; it says nothing about its pixel size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image_HW3).save(path, quality=85)


def _write_counts(folder: Path, section: StSection) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    spot_ids = section.spot_ids[section.is_measured]
    counts = pd.DataFrame(section.counts, index=spot_ids, columns=list(section.genes))
    counts.to_csv(folder / f"{section.name}.tsv.gz", sep="\t", compression=_GZIP)


def _write_selection(folder: Path, section: StSection) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    moved_S2 = section.array + section.offsets
    table = pd.DataFrame(
        {
            "x": section.array[:, 0],
            "y": section.array[:, 1],
            "new_x": moved_S2[:, 0].round(3),
            "new_y": moved_S2[:, 1].round(3),
            "pixel_x": section.centers[:, 0].round(2),
            "pixel_y": section.centers[:, 1].round(2),
            "selected": 1,
        }
    )
    table.to_csv(folder / f"{section.name}_selection.tsv", sep="\t", index=False)


def _write_labels(folder: Path, labels: tuple[str, ...], section: StSection) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    moved_S2 = section.array + section.offsets
    table = pd.DataFrame(
        {
            "Row.names": [f"{x:.0f}x{y:.0f}" for x, y in section.centers],
            "x": moved_S2[:, 0].round(3),
            "y": moved_S2[:, 1].round(3),
            "pixel_x": section.centers[:, 0].round(2),
            "pixel_y": section.centers[:, 1].round(2),
            "label": labels,
        }
    )
    table.to_csv(folder / f"{section.name}_labeled_coordinates.tsv", sep="\t", index=False)
