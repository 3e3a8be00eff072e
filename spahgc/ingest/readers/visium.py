"""10x Visium and Visium HD: a Space Ranger folder → `Slide`.

Dimension letters in this file:

S spots
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spahgc.errors import SlideFormatError, SpahgcError
from spahgc.ingest.images import open_image
from spahgc.ingest.readers.genes import DuplicateRule
from spahgc.ingest.readers.problems import attempt, raise_together
from spahgc.ingest.readers.scales import agreed_scales
from spahgc.ingest.readers.visium_array import (
    VISIUM,
    SpotArray,
    check_array,
    pitch_scale,
    square_bins,
)
from spahgc.ingest.readers.visium_choosing import SpotsToHold, choose_image
from spahgc.ingest.readers.visium_counts import VisiumCounts, read_visium_counts
from spahgc.ingest.readers.visium_files import VisiumFiles, find_visium_files
from spahgc.ingest.readers.visium_hd import check_bins, choose_bins, pool_bins, told_bin_um
from spahgc.ingest.readers.visium_image import (
    check_image,
    refuse_copy,
    rescaled_factors,
    rescaled_thumbnails,
    size_of_copy,
)
from spahgc.ingest.readers.visium_joining import join_spots
from spahgc.ingest.readers.visium_pictures import (
    complete_thumbnails,
    read_scale_factors,
    read_thumbnails,
)
from spahgc.ingest.readers.visium_positions import read_visium_positions
from spahgc.ingest.slide_image import SlideImage
from spahgc.schema import Finding, Slide, Thumbnail

_SCALED_SPOT_UM: Final = 65.0  # what spot_diameter_fullres is documented to measure
_DIAMETER: Final = "spot_diameter_65um"


def read_visium(
    folder: Path,
    *,
    image: Path | None = None,
    find_image: bool = True,
    name: str | None = None,
    patient: str | None = None,
    microns_per_pixel: float | None = None,
    genome: str | None = None,
    rescale_image: bool = False,
    sum_probes: bool = False,
    duplicate_genes: DuplicateRule = "sum",
    bin_um: int | None = None,
    pool_um: int | None = None,
) -> Slide:
    """Read one slide from Space Ranger's ``outs``, its parent, or a flat folder.

    Counts and positions are joined by barcode. Filtered counts keep all their spots; of any
    others those under tissue are kept.

    Parameters
    ----------
    image
        The full-resolution image that Space Ranger was given; None takes the one that lies there
        and fits, if there is one: see `spahgc.ingest.readers.visium_choosing.choose_image`.
    find_image
        Whether to look for it.
    name
        None takes the folder's, or that of the folder that ``outs`` lies in.
    patient
        None means unknown.
    microns_per_pixel
        Of the image that is given, or else of full-resolution pixels; goes before the pitch
        of the spots.
    genome
        Which genome to keep; needed only where there are several.
    rescale_image
        Take an image that was made smaller, and scale the centers to it.
    sum_probes
        Take counts of probes, and add up those of each gene.
    duplicate_genes
        What becomes of genes that have several columns.
    bin_um
        Visium HD: width of the bins to read, in µm; None takes 16, or else 8.
    pool_um
        Visium HD: width of larger bins to make, in µm; a multiple of one that is there.

    Raises
    ------
    SlideFormatError
        If a file is missing or damaged, the files share no barcode or contradict each other,
        or the image does not hold the spots. Several problems come in one line.
    ImageError
        If the image cannot be read.
    """
    files = _find_files(
        folder,
        partial(find_visium_files, image=image, find_image=find_image, probes=sum_probes),
        bin_um=bin_um,
        pool_um=pool_um,
    )
    name, findings = name or files.name, list(files.findings)
    read_counts = partial(
        read_visium_counts,
        files.counts,
        genome=genome,
        probes=sum_probes,
        duplicate_genes=duplicate_genes,
    )
    parts = _read_parts(files, read_counts, findings)
    with ExitStack() as opened:
        if parts.image is not None:
            opened.enter_context(parts.image)
        bins = told_bin_um(name, str(parts.counts.barcodes[0]), bin_um=bin_um, pool_um=pool_um)
        array = VISIUM if bins is None else square_bins(bins)
        if image is None and find_image:
            parts = parts._replace(image=_found_image(files, parts, array, findings))
            if parts.image is not None:
                opened.enter_context(parts.image)
        parts = _laid_over_image(name, parts, array, findings, rescale=rescale_image)
        spots, matrix = join_spots(name, files, parts.counts, parts.positions, findings)
        if bins is not None:
            check_bins(name, spots, bins, parts.scale_factors)
        sources = _checked_scales(name, parts, array, microns_per_pixel, findings)
        if bins is not None and pool_um is not None and pool_um != bins:
            spots, matrix = _pooled(name, spots, matrix, parts.positions, (bins, pool_um), findings)
            array = square_bins(pool_um)
        centers_S2 = spots[["x", "y"]].to_numpy(np.float64)
        thumbnails = _checked_pictures(name, parts, centers_S2, findings)
        return Slide(
            name=name,
            platform="visium",
            spots=spots[["array_row", "array_col", "in_tissue"]],
            centers=centers_S2,
            counts=matrix,
            genes=parts.counts.genes,
            microns_per_pixel=next((sources[key] for key in sources if key != _DIAMETER), None),
            microns_per_pixel_sources=sources,
            spot_diameter_um=array.spot_diameter_um,
            pitch_um=array.pitch_um,
            lattice=array.shape,
            patient=patient,
            image=None if parts.image is None else parts.image.file,
            thumbnails=thumbnails,
            findings=tuple(findings),
        )


class _Parts(NamedTuple):
    counts: VisiumCounts
    positions: pd.DataFrame
    scale_factors: dict[str, float]
    thumbnails: dict[str, Thumbnail]
    image: SlideImage | None


def _find_files(
    folder: Path,
    find: Callable[..., VisiumFiles],
    *,
    bin_um: int | None,
    pool_um: int | None,
) -> VisiumFiles:
    bins = choose_bins(folder, bin_um=bin_um, pool_um=pool_um)
    if bins is None:
        return find(folder)
    files = find(bins.folder, home=bins.home)
    return replace(files, findings=(*bins.findings, *files.findings))


def _read_parts(
    files: VisiumFiles, read_counts: Callable[[], VisiumCounts], findings: list[Finding]
) -> _Parts:
    problems: list[SpahgcError] = []
    counts = attempt(read_counts, problems)
    positions = attempt(partial(read_visium_positions, files.positions), problems)
    scale_factors = attempt(partial(read_scale_factors, files.scale_factors), problems)
    image = None if files.image is None else attempt(partial(open_image, files.image), problems)
    if counts is None or positions is None or scale_factors is None or problems:
        if image is not None:
            image.close()
        raise_together(problems)
        raise SlideFormatError(f"{files.name} cannot be read")
    findings.extend(counts.findings)
    thumbnails = read_thumbnails(files.small_images, scale_factors, findings)
    return _Parts(counts, positions, scale_factors, thumbnails, image)


def _found_image(
    files: VisiumFiles, parts: _Parts, array: SpotArray, findings: list[Finding]
) -> SlideImage | None:
    positions = parts.positions
    is_placed = positions["in_tissue"] & positions[["x", "y"]].notna().all(axis=1)
    spots = SpotsToHold(
        positions.loc[is_placed, ["x", "y"]].to_numpy(np.float64),
        parts.scale_factors.get("microns_per_pixel") or pitch_scale(positions, array),
        array.spot_diameter_um,
    )
    return choose_image(files.likely_images, spots, parts.thumbnails, findings)


def _laid_over_image(
    name: str, parts: _Parts, array: SpotArray, findings: list[Finding], *, rescale: bool
) -> _Parts:
    """Make coordinates and scale factors refer to the image, if it was made smaller."""
    if parts.image is None:
        return parts
    factor = size_of_copy(parts.image, parts.thumbnails, pitch_scale(parts.positions, array))
    if factor == 1:
        return parts
    if not rescale:
        refuse_copy(name, parts.image, factor)
    text = (
        f"{parts.image.path.name} is {factor:.4f} times as large as the image Space Ranger was "
        "given: coordinates are scaled to it, as asked for"
    )
    findings.append(Finding(kind="inferred", text=text))
    return parts._replace(
        positions=parts.positions.assign(**(parts.positions[["x", "y"]] * factor)),
        scale_factors=rescaled_factors(parts.scale_factors, factor),
        thumbnails=rescaled_thumbnails(parts.thumbnails, factor),
    )


def _checked_scales(
    name: str, parts: _Parts, array: SpotArray, stated: float | None, findings: list[Finding]
) -> dict[str, float]:
    """Return µm per pixel by source, the most trusted first."""
    if stated is not None and not 0 < stated < float("inf"):
        raise SlideFormatError(f"{name}: --mpp is {stated}, expected a positive number")
    check_array(name, parts.positions, array, findings)
    estimates = {
        "stated": stated,
        "scale_factors": parts.scale_factors.get("microns_per_pixel"),
        "pitch": pitch_scale(parts.positions, array),
        "image": None if parts.image is None else parts.image.microns_per_pixel,
    }
    diameter_px = parts.scale_factors.get("spot_diameter_fullres")
    if array is not VISIUM or diameter_px is None:
        return agreed_scales(name, estimates, findings)
    by_diameter = _SCALED_SPOT_UM / diameter_px
    if any(value is not None for value in estimates.values()):
        estimates[_DIAMETER] = by_diameter
        return agreed_scales(name, estimates, findings, doubtful={_DIAMETER})
    agreed_scales(name, estimates, findings)
    return {_DIAMETER: by_diameter}  # kept, but too often wrong to be taken


def _pooled(
    name: str,
    spots: pd.DataFrame,
    matrix: csr_matrix,
    positions: pd.DataFrame,
    sizes_um: tuple[int, int],
    findings: list[Finding],
) -> tuple[pd.DataFrame, csr_matrix]:
    bin_um, pool_um = sizes_um
    pooled, counts = pool_bins(spots, matrix, positions, bin_um=bin_um, pooled=pool_um // bin_um)
    before, after = int(matrix.sum()), int(counts.sum())
    if before != after:
        raise SlideFormatError(f"{name}: {before} counts became {after} when pooled")
    text = (
        f"{len(spots)} bins of {bin_um} µm pooled to {len(pooled)} of {pool_um} µm, {after} counts "
        "before and after"
    )
    findings.append(Finding(kind="check", text=text))
    return pooled, counts


def _checked_pictures(
    name: str, parts: _Parts, centers_S2: NDArray[np.float64], findings: list[Finding]
) -> dict[str, Thumbnail]:
    thumbnails = dict(parts.thumbnails)
    if parts.image is not None:
        check_image(name, parts.image, centers_S2, thumbnails, findings)
        complete_thumbnails(thumbnails, parts.image, findings)
    return thumbnails
