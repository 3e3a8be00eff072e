"""What ``index search`` shows: the neighbours of one spot, cut from the images they lie on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import pandas as pd

from spahgc.errors import MissingError, ProtocolError
from spahgc.ingest.fields import BARE_UM
from spahgc.ingest.images import open_image
from spahgc.ingest.patches import PatchConfig, cut_patches
from spahgc.report.neighbours import FoundSpot, plot_neighbours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from spahgc.index import ReferenceIndex
    from spahgc.store.cohort import Cohort
    from spahgc.store.slide import StoredSlide

PATCH_PX = 224
"""Width of a patch in the picture."""


def find_spot(
    cohort: Cohort,
    index: ReferenceIndex,
    *,
    slide: str,
    spot: str,
    k: int,
    only_slide: Sequence[str],
    exclude_slide: Sequence[str],
    exclude_patient: Sequence[str],
    other_patients: bool,
) -> tuple[list[FoundSpot], str]:
    """Find the neighbours of one stored spot, and say in words who might answer."""
    stored = cohort[slide]
    patients = {*exclude_patient, *([stored.patient] if other_patients else [])}
    found = index.search_slide(
        slide,
        rows=np.array([_row_of(stored, spot)]),
        k=k,
        exclude_slides=exclude_slide,
        exclude_patients=patients,
        only_slides=only_slide or None,
    )
    if not found.slides:
        raise ProtocolError(
            f"no slide is left to answer for {slide}: the index has "
            f"{', '.join(index.record.slides)}; exclude fewer, or index more slides"
        )
    neighbours = []
    for position, row, distance in zip(
        found.slide_SK[0], found.spot_SK[0], found.distance_SK[0], strict=True
    ):
        if position >= 0:
            other = cohort[found.slides[position]]
            name = str(other.spots.index[row])
            neighbours.append(FoundSpot(other.name, other.patient, name, float(distance)))
    return neighbours, f"{index.record.kind}, among {', '.join(found.slides)}"


def draw_found(
    cohort: Cohort,
    embedding: str,
    asked: tuple[str, str],
    found: Sequence[FoundSpot],
    *,
    path: Path,
    title: str,
) -> None:
    """Draw the patches of a spot and of its neighbours, or say why there is no picture."""
    spots = [asked, *((neighbour.slide, neighbour.spot) for neighbour in found)]
    patches: dict[tuple[str, str], NDArray[np.uint8]] = {}
    for slide in sorted({slide for slide, _ in spots}):
        names = [spot for own, spot in dict.fromkeys(spots) if own == slide]
        reason = _why_no_patch(cohort[slide])
        if reason is None:
            cut = _cut(cohort[slide], embedding, names)
            patches |= {(slide, name): pixels for name, pixels in zip(names, cut, strict=True)}
        else:
            click.echo(f"no patches of {slide}: {reason}", err=True)
    if not patches:
        return
    captions = ["asked", *(f"{n.distance:.3g}" for n in found)]
    cells = [
        (f"{slide} {spot}\n{caption}", patches.get((slide, spot)))
        for (slide, spot), caption in zip(spots, captions, strict=True)
    ]
    plot_neighbours(path, cells[0], cells[1:], title=title)
    click.echo(f"drawn in {path}")


def _row_of(slide: StoredSlide, spot: str) -> int:
    row = slide.spots.index.get_indexer(pd.Index([spot]))[0]
    if row < 0:
        some = ", ".join(map(str, slide.spots.index[:3]))
        raise MissingError(
            f"slide {slide.name} has no spot {spot!r}; it has {slide.n_spots}, as {some}"
        )
    return int(row)


def _why_no_patch(slide: StoredSlide) -> str | None:
    recorded = slide.record["image"]
    if slide.entry.image is None or recorded is None:
        return "it was ingested without an image"
    path = slide.image_path
    if path is None:
        return f"where its image {slide.entry.image} lies is not known here"
    if not path.is_file():
        return f"its image is no longer at {path}"
    if path.stat().st_size != recorded["bytes"]:
        return f"{path} is not the image it was ingested with"
    return None if slide.entry.microns_per_pixel else "its scale in µm per pixel is not known"


def _cut(slide: StoredSlide, embedding: str, spots: list[str]) -> list[NDArray[np.uint8]]:
    rows = slide.spots.index.get_indexer(pd.Index(spots))
    made = slide.embedding_record(embedding)["fingerprint"]
    side_um = float(made.get("patch_um", BARE_UM))
    with open_image(Path(slide.entry.image or "")) as image:
        batches = cut_patches(
            image,
            slide.centers[rows],
            microns_per_pixel=slide.entry.microns_per_pixel or 1.0,
            configs=[PatchConfig(side_um=side_um, side_px=PATCH_PX)],
            batch_size=len(rows),
        )
        return [pixels for batch in batches for pixels in batch.pixels_BHWC]
