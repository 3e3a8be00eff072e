"""Write synthetic slides in the true formats: a small study of three patients on two platforms.

Dimension letters in this file:

A array spots, S spots
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spahgc.demo import st_study, visium
from spahgc.demo.painting import paint
from spahgc.demo.st_study import StSection, write_jpeg, write_st_study
from spahgc.demo.tissue import TYPES, Tissue, grow_tissue, measure
from spahgc.demo.visium import VisiumSlide, write_visium

__all__ = [
    "DemoFolders",
    "StSection",
    "VisiumSlide",
    "write_demo_slides",
    "write_st_study",
    "write_visium",
]

N_GENES: Final = 200
NOISE_SHARE: Final = 0.3

_MARGIN_UM: Final = 150.0
_ST_SIDE: Final = (15, 14)  # columns and rows of the lattice that the section covers
_ST_SMALLEST: Final = 0.5  # of that side, so that a tiny section still has some spots
_VISIUM_SIDE: Final = (38, 20)  # array columns and rows
_VISIUM_SMALLEST: Final = 0.35
_ST_MICRONS_PER_PIXEL: Final = {"A": 1.1, "B": 1.0}  # a study rarely has one for all patients
_VISIUM_MICRONS_PER_PIXEL: Final = 0.9
_LETTERS: Final = np.array(list("ACGT"))

_README: Final = """\
Synthetic slides, made by spahgc for trying its commands and for its tests.

Nothing here was measured: tissue, pictures, patients and counts come from a random number
generator (seed {seed}). Do not draw conclusions about biology from them.

st/            Spatial Transcriptomics study in her2st's layout: patients A and B, 2 sections each
visium/C1, C2  Visium slides of patient C as Space Ranger writes them, with their image
image/A3.jpg   one more section of patient A, image only, {microns_per_pixel} um per pixel

Genes are named after the tissue type that they follow; genes named NOISE follow none.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFolders:
    """Where the demo's slides were written."""

    root: Path
    """Holds everything, and a README.txt that says the slides are synthetic."""

    st_study: Path
    """The study of patients A and B."""

    st_slides: tuple[str, ...]
    """Names of its sections."""

    visium_slides: tuple[Path, ...]
    """One folder for each slide of patient C, holding ``outs`` and ``image.tif``."""

    image: Path
    """A section of patient A without any expression."""

    image_microns_per_pixel: float
    """Pixel size of that image, which the file itself does not tell."""


class _Place(NamedTuple):
    """Where a section belongs."""

    patient: str
    section: int
    seed: int

    def grow(self, size_um: tuple[float, float]) -> Tissue:
        patient_seed = 1_000 * self.seed + ord(self.patient)
        return grow_tissue(self.section, size_um=size_um, patient_seed=patient_seed)


def write_demo_slides(folder: Path, *, seed: int = 0, scale: float = 1.0) -> DemoFolders:
    """Write a small study: three patients, two platforms, one image without expression.

    Parameters
    ----------
    folder
        Made if need be.
    seed
        The same seed writes the same slides.
    scale
        Side of the sections relative to the full demo, which has some 150 to 300 spots a slide;
        from 0.35 down they stay at about 30 to 50.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections = [_Place(patient, n, seed) for patient in ("A", "B") for n in (1, 2)]
    for place in sections:
        write_st_study(folder / "st", _draw_st_section(place, scale))
    slides = tuple(folder / "visium" / name for name in ("C1", "C2"))
    for number, slide in enumerate(slides, start=1):
        write_visium(slide, _draw_visium_slide(_Place("C", number, seed), scale))
    microns_per_pixel = _ST_MICRONS_PER_PIXEL["A"]
    tissue = _Place("A", 3, seed).grow(_st_extent(scale)[1])
    write_jpeg(folder / "image" / "A3.jpg", paint(tissue, microns_per_pixel))
    readme = _README.format(seed=seed, microns_per_pixel=microns_per_pixel)
    (folder / "README.txt").write_text(readme, encoding="utf-8")
    return DemoFolders(
        root=folder,
        st_study=folder / "st",
        st_slides=tuple(f"{place.patient}{place.section}" for place in sections),
        visium_slides=slides,
        image=folder / "image" / "A3.jpg",
        image_microns_per_pixel=microns_per_pixel,
    )


def _draw_st_section(place: _Place, scale: float) -> StSection:
    lattice_S2, size_um = _st_extent(scale)
    tissue = place.grow(size_um)
    rng = tissue.rng(21)
    jitter_S2 = rng.normal(0.0, 4.0, lattice_S2.shape)  # µm: printed spots sit slightly off
    centers_S2 = _MARGIN_UM + (lattice_S2 + 0.5) * st_study.PITCH_UM + jitter_S2
    kept_S = _under_tissue(tissue, centers_S2, st_study.SPOT_DIAMETER_UM)
    lattice_S2, jitter_S2, centers_S2 = lattice_S2[kept_S], jitter_S2[kept_S], centers_S2[kept_S]
    is_measured_S = np.ones(len(centers_S2), dtype=np.bool_)
    is_measured_S[rng.choice(len(centers_S2), place.section + 1, replace=False)] = False
    measured = measure(
        tissue, centers_S2[is_measured_S], n_genes=N_GENES, noise_share=NOISE_SHARE, rng=rng
    )
    main_S = tissue.shares_at(centers_S2).argmax(axis=1)
    microns_per_pixel = _ST_MICRONS_PER_PIXEL[place.patient]
    return StSection(
        name=f"{place.patient}{place.section}",
        array=lattice_S2 + (np.array(st_study.LATTICE) - _st_side(scale)) // 2,
        offsets=jitter_S2 / st_study.PITCH_UM,
        centers=centers_S2 / microns_per_pixel,
        is_measured=is_measured_S,
        counts=measured.counts,
        genes=measured.genes,
        labels=tuple(TYPES[k] for k in main_S) if place.section == 1 else None,
        image=paint(tissue, microns_per_pixel),
    )


def _draw_visium_slide(place: _Place, scale: float) -> VisiumSlide:
    array_A2, centers_A2, size_um = _visium_array(scale)
    tissue = place.grow(size_um)
    rng = tissue.rng(22)
    in_tissue_A = _under_tissue(tissue, centers_A2, visium.SPOT_DIAMETER_UM)
    measured = measure(
        tissue,
        centers_A2[in_tissue_A],
        n_genes=N_GENES,
        noise_share=NOISE_SHARE,
        rng=rng,
        spot_diameter_um=visium.SPOT_DIAMETER_UM,
    )
    return VisiumSlide(
        barcodes=_draw_barcodes(len(array_A2)),
        array=array_A2,
        centers=centers_A2 / _VISIUM_MICRONS_PER_PIXEL,
        in_tissue=in_tissue_A,
        counts=measured.counts,
        gene_ids=measured.genes,  # ids are the symbols, so that both platforms share genes
        gene_symbols=measured.genes,
        microns_per_pixel=_VISIUM_MICRONS_PER_PIXEL,
        image=paint(tissue, _VISIUM_MICRONS_PER_PIXEL),
    )


def _st_side(scale: float) -> NDArray[np.int64]:
    side_2 = np.round(np.array(_ST_SIDE) * max(scale, _ST_SMALLEST)).astype(np.int64)
    return np.minimum(side_2, st_study.LATTICE)


def _st_extent(scale: float) -> tuple[NDArray[np.int64], tuple[float, float]]:
    """Return (S, 2) lattice points from 0, 0 and the size in µm of an image around them."""
    columns, rows = _st_side(scale)
    grid_S2 = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    width, height = (float(side * st_study.PITCH_UM + 2 * _MARGIN_UM) for side in (columns, rows))
    return grid_S2, (width, height)


def _visium_array(
    scale: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64], tuple[float, float]]:
    """Return (A, 2) array row and column, (A, 2) centers in µm and the size of an image in µm."""
    sides = np.array(_VISIUM_SIDE) * max(scale, _VISIUM_SMALLEST)
    columns, rows = np.round(sides).astype(np.int64)
    row_A, column_A = np.nonzero(np.add.outer(np.arange(rows), np.arange(columns)) % 2 == 0)
    step_2 = np.array([visium.COLUMN_STEP_UM, visium.ROW_STEP_UM])
    centers_A2 = _MARGIN_UM + np.stack([column_A, row_A], axis=1) * step_2
    width, height = centers_A2.max(axis=0) + _MARGIN_UM
    return np.stack([row_A, column_A], axis=1), centers_A2, (float(width), float(height))


def _under_tissue(
    tissue: Tissue, centers_S2: NDArray[np.float64], diameter_um: float
) -> NDArray[np.bool_]:
    corners = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]]) * diameter_um / 2
    cover_S = np.mean([tissue.cover_at(centers_S2 + corner) for corner in corners], axis=0)
    return np.asarray(cover_S > 0.7)


def _draw_barcodes(n_spots: int) -> tuple[str, ...]:
    """Return n different barcodes, the same on every slide, as a chip's layout is."""
    rng = np.random.default_rng(16)
    drawn: dict[str, None] = {}
    while len(drawn) < n_spots:
        drawn["".join(rng.choice(_LETTERS, 16)) + "-1"] = None
    return tuple(drawn)
