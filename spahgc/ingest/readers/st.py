"""Legacy Spatial Transcriptomics: counts, spots, image and labels, one file each.

Letters: S spots, G genes.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spahgc.errors import SlideFormatError, SpahgcError
from spahgc.ingest.images import open_image
from spahgc.ingest.readers.genes import (
    DuplicateRule,
    ResolvedGenes,
    resolve_duplicates,
    strip_versions,
)
from spahgc.ingest.readers.lattice import square_microns_per_pixel
from spahgc.ingest.readers.overlay import check_overlay, thumbnails
from spahgc.ingest.readers.problems import attempt, raise_together
from spahgc.ingest.readers.scales import agreed_scales
from spahgc.ingest.readers.st_joining import add_labels, join, place_on_lattice
from spahgc.ingest.readers.st_layouts import StFiles, find_sections
from spahgc.ingest.readers.st_tables import PIXELS, StCounts, read_counts, read_labels, read_spots
from spahgc.ingest.slide_image import SlideImage
from spahgc.schema import Finding, Slide

__all__ = ["PRESETS", "Preset", "StArray", "StFiles", "find_sections", "read_st"]

Preset: TypeAlias = Literal["her2st", "cscc"]
_T = TypeVar("_T")


class StArray(NamedTuple):
    """Measures of a printed array."""

    pitch_um: float
    """Distance between neighbouring spots, in µm."""

    spot_diameter_um: float | None
    """Width of a spot, in µm; None means unknown."""


PRESETS: Final[dict[Preset, StArray]] = {
    "her2st": StArray(200.0, 100.0),
    "cscc": StArray(150.0, 110.0),  # as its users take it; nothing in GSE144240 confirms it
}


class _Parts(NamedTuple):
    counts: StCounts
    spots: pd.DataFrame | None
    labels: "pd.Series[str] | None"
    image: SlideImage | None


def read_st(
    files: StFiles,
    *,
    pitch_um: float | None = None,
    preset: Preset | None = None,
    patient: str | None = None,
    microns_per_pixel: float | None = None,
    keep_background: bool = False,
    duplicate_genes: DuplicateRule = "sum",
) -> Slide:
    """Read one section: the spots that both counts and spots file know.

    Parameters
    ----------
    pitch_um
        Distance between neighbouring spots, in µm; tells the pixel size. None takes the
        preset's, or that of the layout where it is known: 200 µm.
    preset
        Measures of the array; ``her2st`` for 1k arrays, ``cscc`` for GSE144240.
    patient
        Goes before the one in ``files``.
    microns_per_pixel
        Goes before every estimate.
    keep_background
        Keep counted spots that the spots file lacks or does not select, with ``in_tissue``
        False and, where the file has no pixels for them, placed by the fitted lattice.
    duplicate_genes
        What becomes of genes that have several columns.

    Raises
    ------
    SlideFormatError
        If a table is not what it should be, the tables share no spot, the spots do not fit
        the image, or the pitch is not known. Several problems come in one line.
    ImageError
        If the image cannot be read.
    """
    patient = patient or files.patient
    findings = _file_findings(files)
    array = _array(files, pitch_um, preset, findings)
    parts = _read_parts(files)
    with parts.image or nullcontext():
        spots, counts = join(
            files, parts.counts, parts.spots, findings, keep_background=keep_background
        )
        resolved = _resolved(counts, parts.counts.genes, duplicate_genes, findings)
        spots = add_labels(spots, parts.labels, findings)
        spots, fit = place_on_lattice(files.name, spots, findings)
        centers_S2 = spots[PIXELS].to_numpy(np.float64)
        sources = {"stated": microns_per_pixel, "pitch": None, "image": None}
        if fit is not None:
            sources["pitch"] = square_microns_per_pixel(fit, array.pitch_um)
        if parts.image is not None:
            check_overlay(files.name, centers_S2, parts.image, findings)
            sources["image"] = parts.image.microns_per_pixel
        scales = agreed_scales(files.name, sources, findings)
        return Slide(
            name=files.name,
            platform="st",
            spots=spots.drop(columns=PIXELS),
            centers=centers_S2,
            counts=resolved.counts,
            genes=resolved.genes,
            microns_per_pixel=next(iter(scales.values()), None),
            microns_per_pixel_sources=scales,
            spot_diameter_um=array.spot_diameter_um,
            pitch_um=array.pitch_um,
            patient=patient,
            section=_section(files.name, patient),
            image=None if parts.image is None else parts.image.file,
            thumbnails=thumbnails(parts.image),
            findings=tuple(findings),
        )


def _file_findings(files: StFiles) -> list[Finding]:
    parts = {part: getattr(files, part) for part in ("counts", "spots", "image", "labels")}
    found = [
        Finding(kind="file", text=f"{part}: {path.name}") for part, path in parts.items() if path
    ]
    found.extend(Finding(kind="warning", text=text) for text in files.remarks)
    if files.spots is None:
        found.append(Finding(kind="warning", text="no spots file: the spots have no place"))
    if files.image is None:
        found.append(Finding(kind="warning", text="no image: the slide cannot be embedded"))
    return found


def _array(
    files: StFiles, pitch_um: float | None, preset: Preset | None, findings: list[Finding]
) -> StArray:
    is_confirmed = files.layout != "cscc"
    if preset is None and pitch_um is None and not is_confirmed:
        raise SlideFormatError(
            f"{files.name}: how far apart the spots of the cSCC study (GSE144240) lie is not "
            "confirmed, expected to be told: give --pitch-um, or --preset cscc for "
            f"{PRESETS['cscc'].pitch_um:g} µm"
        )
    if preset is None and pitch_um is not None:
        return StArray(pitch_um, PRESETS["her2st"].spot_diameter_um if is_confirmed else None)
    array = PRESETS[preset or "her2st"]
    if pitch_um is not None:
        return array._replace(pitch_um=pitch_um)
    source = f"taken from the preset {preset}" if preset else "as on 1k arrays"
    text = f"spots {array.pitch_um:g} µm apart, {source}"
    findings.append(Finding(kind="inferred", text=text))
    return array


def _read_parts(files: StFiles) -> _Parts:
    problems: list[SpahgcError] = []
    counts = attempt(partial(read_counts, files.counts), problems)
    spots = _attempt(read_spots, files.spots, problems)
    labels = _attempt(read_labels, files.labels, problems)
    image = _attempt(open_image, files.image, problems)
    if image is not None and problems:
        image.close()
    raise_together(problems)
    return _Parts(cast("StCounts", counts), spots, labels, image)


def _attempt(
    read: Callable[[Path], _T], path: Path | None, problems: list[SpahgcError]
) -> _T | None:
    return None if path is None else attempt(partial(read, path), problems)


def _resolved(
    counts: csr_matrix, names: pd.Index, rule: DuplicateRule, findings: list[Finding]
) -> ResolvedGenes:
    genes, stripped = strip_versions(pd.DataFrame({"symbol": names}, index=names))
    resolved = resolve_duplicates(counts, genes, rule=rule)
    findings.extend([*stripped, *resolved.findings])
    return resolved


def _section(name: str, patient: str | None) -> str | None:
    if not patient or not name.startswith(patient):
        return None
    return name[len(patient) :].lstrip("_-. ") or None
