"""Any AnnData file with raw counts and the places of its spots."""

from contextlib import nullcontext
from pathlib import Path
from typing import Final

from spahgc.ingest.images import open_image
from spahgc.ingest.readers.genes import DuplicateRule
from spahgc.ingest.readers.h5ad_table import SpotTable, read_spot_table
from spahgc.ingest.readers.overlay import check_overlay, thumbnails
from spahgc.ingest.readers.scales import agreed_scales, lattice_of, lattice_scale
from spahgc.schema import Finding, Slide

_SCALED_SPOT_UM: Final = 65.0  # what spot_diameter_fullres is documented to measure
_SPOT_SCALE: Final = "spot_diameter_65um"


def read_h5ad_slide(
    path: Path,
    *,
    image: Path | None = None,
    name: str | None = None,
    patient: str | None = None,
    microns_per_pixel: float | None = None,
    counts_layer: str | None = None,
    pitch_um: float | None = None,
    spot_diameter_um: float | None = None,
    duplicate_genes: DuplicateRule = "sum",
) -> Slide:
    """Read one slide from an h5ad file; one that spahgc exported tells its scale and patient.

    Parameters
    ----------
    path
        With ``obsm['spatial']``: x, y of each spot's center in full-resolution pixels.
    image
        The image that these pixels refer to.
    name
        None takes the file's name without its ending.
    patient
        None takes an export's, if any.
    microns_per_pixel
        Goes before every estimate.
    counts_layer
        Name of the layer that holds raw counts, ``X`` or ``raw``; None takes ``counts``, ``raw``
        or ``X``, the first that holds whole numbers.
    pitch_um
        Distance between neighbouring spots, in µm; None takes an export's, or else 100 on a
        hexagonal lattice.
    spot_diameter_um
        Width of a spot, in µm; None takes an export's, if any.
    duplicate_genes
        What becomes of genes that have several columns.

    Raises
    ------
    SlideFormatError
        If the file is damaged, holds no raw counts, no places or several slides, or the spots
        do not fit their lattice or the image.
    ImageError
        If the image cannot be read.
    """
    name = name or path.stem
    table = read_spot_table(path, counts_layer=counts_layer, duplicate_genes=duplicate_genes)
    findings, said = list(table.findings), table.exported
    pitch_um = pitch_um or said.pitch_um
    with nullcontext() if image is None else open_image(image) as opened:
        pitch, pitch_um = lattice_scale(name, table.spots, table.centers, pitch_um, findings)
        sources = {
            "stated": microns_per_pixel,
            "export": said.microns_per_pixel,
            "pitch": pitch,
            "image": None if opened is None else opened.microns_per_pixel,
            _SPOT_SCALE: _spot_scale(table),
        }
        if opened is None:
            findings.append(Finding(kind="warning", text="no image: the slide cannot be embedded"))
        else:
            findings.append(Finding(kind="file", text=f"image: {opened.path.name}"))
            check_overlay(name, table.centers, opened, findings)
        scales = agreed_scales(name, sources, findings, doubtful={_SPOT_SCALE})
        return Slide(
            name=name,
            platform="h5ad",
            spots=table.spots,
            centers=table.centers,
            counts=table.counts,
            genes=table.genes,
            microns_per_pixel=next(iter(scales.values()), None),
            microns_per_pixel_sources=scales,
            spot_diameter_um=spot_diameter_um or said.spot_diameter_um,
            pitch_um=pitch_um,
            lattice=lattice_of(table.spots, table.centers),
            patient=patient or said.patient,
            section=said.section,
            tissue=said.tissue,
            image=None if opened is None else opened.file,
            thumbnails=thumbnails(opened) or table.thumbnails,
            findings=tuple(findings),
        )


def _spot_scale(table: SpotTable) -> float | None:
    """Estimate µm per pixel as Space Ranger's spots tell it; an export's are wide as drawn."""
    diameter_px = table.scale_factors.get("spot_diameter_fullres")
    if diameter_px is None or table.exported.is_export:
        return None
    return _SCALED_SPOT_UM / diameter_px
