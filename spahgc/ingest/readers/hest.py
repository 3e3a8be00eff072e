"""HEST-1k: one h5ad, one TIFF and one metadata file per slide.

The names of folders, files and metadata are those of the collection's release.

References
----------
Jaume et al., HEST-1k: a dataset for spatial transcriptomics and histology image analysis, 2024,
arXiv 2406.16192
"""

import json
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from textwrap import shorten
from typing import Any, Final, NamedTuple

from spahgc.errors import SlideFormatError
from spahgc.ingest.images import open_image
from spahgc.ingest.readers.genes import DuplicateRule
from spahgc.ingest.readers.h5ad_table import SpotTable, read_spot_table
from spahgc.ingest.readers.overlay import check_overlay, thumbnails
from spahgc.ingest.readers.scales import (
    STAGGERED_PITCH_UM,
    agreed_scales,
    lattice_of,
    lattice_scale,
)
from spahgc.ingest.readers.unpacking import MIB, check_folder, read_bytes
from spahgc.ingest.slide_image import SlideImage
from spahgc.schema import Finding, Slide

_IMAGE_SUFFIXES: Final = (".tif", ".tiff", ".svs")
_MOST_METADATA_BYTES: Final = MIB
_PITCH: Final = "inter_spot_dist"
_EMBEDDED: Final = "metadata_embedded"
_SPOT_SCALE: Final = "spot_diameter"


class _Technology(NamedTuple):
    pitch_um: float
    spot_diameter_um: float


_TECHNOLOGIES: Final = {
    "visium": _Technology(100.0, 55.0),
    "spatial transcriptomics": _Technology(200.0, 100.0),
}
_SECOND_ARRAY: Final = _Technology(STAGGERED_PITCH_UM, 110.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HestFiles:
    """Which files one slide consists of."""

    name: str
    """The collection's id, such as ``TENX99``; becomes the slide's."""

    table: Path
    """``st/ID.h5ad``."""

    image: Path | None = None
    """``wsis/ID.tif``."""

    metadata: Path | None = None
    """``metadata/ID.json``."""


def find_hest(folder: Path) -> list[HestFiles]:
    """Find the slides of a HEST-1k folder, by what lies in its ``st``.

    Returns
    -------
    list[HestFiles]
        Sorted by name; images and metadata only where they were downloaded too.

    Raises
    ------
    SlideFormatError
        If there is no slide.
    """
    check_folder(folder, expected="one that holds HEST-1k's st, wsis and metadata")
    tables = sorted(path for path in (folder / "st").glob("*.h5ad") if path.name[0] != ".")
    if not tables:
        raise SlideFormatError(
            f"{folder}: no slide found, expected st/ID.h5ad beside wsis/ID.tif and "
            "metadata/ID.json as HEST-1k has them"
        )
    return [
        HestFiles(
            name=table.stem,
            table=table,
            image=_first(folder / "wsis" / f"{table.stem}{end}" for end in _IMAGE_SUFFIXES),
            metadata=_first([folder / "metadata" / f"{table.stem}.json"]),
        )
        for table in tables
    ]


def read_hest(
    files: HestFiles,
    *,
    patient: str | None = None,
    microns_per_pixel: float | None = None,
    pitch_um: float | None = None,
    counts_layer: str | None = None,
    duplicate_genes: DuplicateRule = "sum",
) -> Slide:
    """Read one slide of HEST-1k.

    Parameters
    ----------
    patient
        Goes before the one in the metadata.
    microns_per_pixel
        Goes before every estimate.
    pitch_um
        Distance between neighbouring spots, in µm; goes before the one in the metadata.
    counts_layer
        Name of the layer that holds raw counts; None looks for it.
    duplicate_genes
        What becomes of genes that have several columns.

    Raises
    ------
    SlideFormatError
        If a file is damaged, or the spots do not fit their lattice or the image.
    ImageError
        If the image cannot be read.
    """
    facts = _read_metadata(files.metadata)
    if pitch_um is not None:
        facts[_PITCH] = pitch_um
    table = read_spot_table(files.table, counts_layer=counts_layer, duplicate_genes=duplicate_genes)
    findings = [*table.findings, *_file_findings(files, table, facts)]
    with nullcontext() if files.image is None else open_image(files.image) as image:
        array = _checked_array(files, table, image, facts, findings)
        sources = {"stated": microns_per_pixel, **_estimates(table, image, array, facts)}
        scales = agreed_scales(files.name, sources, findings, doubtful={_EMBEDDED, _SPOT_SCALE})
        tissue = ", ".join(filter(None, (_text(facts, "organ"), _text(facts, "disease_state"))))
        return Slide(
            name=files.name,
            platform="hest",
            spots=table.spots,
            centers=table.centers,
            counts=table.counts,
            genes=table.genes,
            microns_per_pixel=next(iter(scales.values()), None),
            microns_per_pixel_sources=scales,
            spot_diameter_um=array.spot_diameter_um,
            pitch_um=array.pitch_um,
            lattice=lattice_of(table.spots, table.centers),
            patient=patient or _text(facts, "patient"),
            tissue=tissue or None,
            image=None if image is None else image.file,
            thumbnails=thumbnails(image) or table.thumbnails,
            findings=tuple(findings),
        )


class _Array(NamedTuple):
    pitch_um: float | None
    spot_diameter_um: float | None
    microns_per_pixel: float | None
    """From the lattice that the spots lie on."""


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _read_metadata(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        facts = json.loads(read_bytes(path, most=_MOST_METADATA_BYTES).decode("utf-8-sig"))
    except SlideFormatError:
        raise
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise SlideFormatError(f"{path}: found {reason}, expected metadata in JSON") from error
    if not isinstance(facts, dict):
        raise SlideFormatError(f"{path}: found a {type(facts).__name__}, expected a JSON object")
    return facts


def _text(facts: dict[str, Any], key: str) -> str | None:
    value = facts.get(key)
    if isinstance(value, float) and isfinite(value) and value.is_integer():
        value = int(value)
    is_text = isinstance(value, (str, int)) and not isinstance(value, bool)
    return str(value).strip() or None if is_text else None


def _number(facts: dict[str, Any], key: str) -> float | None:
    value = facts.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if isfinite(value) and value > 0 else None


def _file_findings(files: HestFiles, table: SpotTable, facts: dict[str, Any]) -> list[Finding]:
    found = [
        Finding(kind="file", text=f"{part}: {path.name}")
        for part, path in (("image", files.image), ("metadata", files.metadata))
        if path is not None
    ]
    if files.image is None:
        found.append(Finding(kind="warning", text="no image: the slide cannot be embedded"))
    if files.metadata is None:
        text = "no metadata: patient and measures of the array are unknown"
        found.append(Finding(kind="warning", text=text))
    if "in_tissue" in table.spots:
        text = "in_tissue is kept as HEST-1k has it, where it does not tell tissue from glass"
        found.append(Finding(kind="check", text=text))
    patient, study = _text(facts, "patient"), _text(facts, "dataset_title")
    if patient is not None:
        text = f"patient {patient}, as the metadata names them" + (f" in {study}" if study else "")
        found.append(Finding(kind="inferred", text=shorten(text, 160)))
    return found


def _checked_array(
    files: HestFiles,
    table: SpotTable,
    image: SlideImage | None,
    facts: dict[str, Any],
    findings: list[Finding],
) -> _Array:
    known = _TECHNOLOGIES.get((_text(facts, "st_technology") or "").lower())
    if known is not None and lattice_of(table.spots, table.centers) == "staggered":
        known = _SECOND_ARRAY
    pitch_um = _number(facts, _PITCH) or (known and known.pitch_um)
    diameter_um = _number(facts, "spot_diameter") or (known and known.spot_diameter_um)
    scale, pitch_um = lattice_scale(files.name, table.spots, table.centers, pitch_um, findings)
    if image is not None:
        check_overlay(files.name, table.centers, image, findings)
        stated = (_number(facts, "fullres_px_width"), _number(facts, "fullres_px_height"))
        if None not in stated and stated != image.size:
            text = (
                f"the metadata state {stated[0]:.0f} x {stated[1]:.0f} px, the image has "
                f"{image.size[0]} x {image.size[1]} px"
            )
            findings.append(Finding(kind="warning", text=text))
    return _Array(pitch_um, diameter_um, scale)


def _estimates(
    table: SpotTable, image: SlideImage | None, array: _Array, facts: dict[str, Any]
) -> dict[str, float | None]:
    # Of the true spot, 55 µm on Visium, and not of the 65 µm that Space Ranger writes.
    diameter_px = table.scale_factors.get("spot_diameter_fullres")
    diameter_um = array.spot_diameter_um
    spot_scale = diameter_um / diameter_px if diameter_um and diameter_px else None
    return {
        "pitch": array.microns_per_pixel,
        "metadata_estimated": _number(facts, "pixel_size_um_estimated"),
        "image": None if image is None else image.microns_per_pixel,
        _EMBEDDED: _number(facts, "pixel_size_um_embedded"),
        _SPOT_SCALE: spot_scale,
    }
