"""Legacy Spatial Transcriptomics: counts, spots, image and labels, one file each.

Letters: S spots, G genes.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spahgc.errors import SpahgcError
from spahgc.ingest.images import open_image
from spahgc.ingest.readers.genes import (
    DuplicateRule,
    ResolvedGenes,
    resolve_duplicates,
    strip_versions,
)
from spahgc.ingest.readers.lattice import LatticeFit, fit_lattice
from spahgc.ingest.readers.overlay import check_overlay, thumbnails
from spahgc.ingest.readers.problems import attempt, raise_together
from spahgc.ingest.readers.scales import agreed_scales
from spahgc.ingest.readers.st_arrays import PRESETS, Preset, StArray, array_scales, find_array
from spahgc.ingest.readers.st_joining import add_labels, join, place_on_lattice
from spahgc.ingest.readers.st_layouts import StFiles, find_sections
from spahgc.ingest.readers.st_tables import PIXELS, StCounts, read_counts, read_labels, read_spots
from spahgc.ingest.slide_image import SlideImage
from spahgc.schema import Finding, Slide

__all__ = ["PRESETS", "Preset", "StArray", "StFiles", "find_sections", "read_st"]

_T = TypeVar("_T")


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
        Distance between neighbouring spots, diagonal ones on a 2k array, in µm; tells the pixel
        size. None takes the preset's, or that of the array: 200 µm on 1k, 150 µm on 2k arrays.
    preset
        Measures of the array; ``her2st`` for 1k arrays, ``cscc`` for the 2k array of GSE144240.
        None tells them apart by the spots' ids.
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
        the image, or the array is not the one stated. Several problems come in one line.
    ImageError
        If the image cannot be read.
    """
    patient = patient or files.patient
    findings = _file_findings(files)
    parts = _read_parts(files)
    with parts.image or nullcontext():
        spots, counts = join(
            files, parts.counts, parts.spots, findings, keep_background=keep_background
        )
        resolved = _resolved(counts, parts.counts.genes, duplicate_genes, findings)
        spots = add_labels(spots, parts.labels, findings)
        fit = _fit(spots)
        array = find_array(
            files, _known_ids(parts), fit, findings, pitch_um=pitch_um, preset=preset
        )
        spots = place_on_lattice(files.name, spots, fit, array.lattice, findings)
        centers_S2 = spots[PIXELS].to_numpy(np.float64)
        scales = array_scales(array, fit, findings)
        sources = {"stated": microns_per_pixel, **scales, "image": None}
        if parts.image is not None:
            check_overlay(files.name, centers_S2, parts.image, findings)
            sources["image"] = parts.image.microns_per_pixel
        known = agreed_scales(files.name, sources, findings)
        return Slide(
            name=files.name,
            platform="st",
            spots=spots.drop(columns=PIXELS),
            centers=centers_S2,
            counts=resolved.counts,
            genes=resolved.genes,
            microns_per_pixel=next(iter(known.values()), None),
            microns_per_pixel_sources=known,
            spot_diameter_um=array.measures.spot_diameter_um,
            pitch_um=array.measures.pitch_um,
            lattice=array.lattice,
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


def _fit(spots: pd.DataFrame) -> LatticeFit | None:
    array_S2 = spots[["array_col", "array_row"]].to_numpy(np.float64)
    return fit_lattice(array_S2, spots[PIXELS].to_numpy(np.float64))


def _known_ids(parts: _Parts) -> pd.Index:
    counted = parts.counts.written.index
    return counted if parts.spots is None else counted.append(parts.spots.index)


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
