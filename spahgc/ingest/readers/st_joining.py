"""Bring a section's counts, spots and labels together, by spot id.

Letters: S counted spots, G genes.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.lattice import LatticeFit, check_lattice
from spahgc.ingest.readers.st_layouts import StFiles
from spahgc.ingest.readers.st_tables import PIXELS, StCounts, array_of
from spahgc.schema import Finding, Lattice


def join(
    files: StFiles,
    counts: StCounts,
    placed: pd.DataFrame | None,
    findings: list[Finding],
    *,
    keep_background: bool,
) -> tuple[pd.DataFrame, csr_matrix]:
    """Join counts with the selected spots, or with all of them.

    Parameters
    ----------
    files
        Where the tables came from, for the messages.
    counts
        As `read_counts` gives them.
    placed
        As `read_spots` gives them; None keeps every counted spot, without a place.
    findings
        Gets how many spots each table has alone.
    keep_background
        Keep counted spots that are not selected, told apart by ``in_tissue``.

    Returns
    -------
    tuple[pd.DataFrame, csr_matrix]
        Spots in the order of the counts, with ``array_row``, ``array_col``, ``pixel_x`` and
        ``pixel_y``, and their counts.

    Raises
    ------
    SlideFormatError
        If the tables share no spot, or name one twice.
    """
    written = counts.written
    if placed is None:
        _refuse_repeated(files.counts, written)
        return array_of(written.index).assign(pixel_x=np.nan, pixel_y=np.nan), counts.matrix
    is_tissue_S = _shared(files, placed, written, findings)
    is_kept_S = np.ones_like(is_tissue_S) if keep_background else is_tissue_S
    _refuse_repeated(files.counts, written[is_kept_S])
    ids = written.index[is_kept_S]
    rows = placed if keep_background else placed[placed["is_selected"]]
    rows = rows[rows.index.isin(ids)]
    _refuse_repeated(files.spots or files.counts, rows["written"])
    spots = array_of(ids).join(rows[PIXELS])
    if keep_background:
        spots = spots.assign(in_tissue=is_tissue_S)
    _tell_unselected(placed, is_tissue_S, findings, keep_background=keep_background)
    return spots, counts.matrix[is_kept_S]


def place_on_lattice(
    name: str,
    spots: pd.DataFrame,
    fit: LatticeFit | None,
    lattice: Lattice,
    findings: list[Finding],
) -> pd.DataFrame:
    """Check how the array lies in the image, and place background spots without pixels by it.

    Parameters
    ----------
    name
        Of the slide, for the messages.
    spots
        As `join` returns them.
    fit
        The array in the image; None where it cannot be told.
    lattice
        Which one it must be.
    findings
        Gets how the lattice lies, and how many spots have no place.

    Raises
    ------
    SlideFormatError
        If the spots do not lie on a lattice.
    """
    array_S2 = spots[["array_col", "array_row"]].to_numpy(np.float64)
    pixels_S2 = spots[PIXELS].to_numpy(np.float64)
    is_lost_S = np.isnan(pixels_S2).any(axis=1)
    checks = [] if fit is None else check_lattice(fit, name=name, shape=lattice)
    if fit is not None and "in_tissue" in spots:
        is_inferred_S = is_lost_S & ~spots["in_tissue"].to_numpy(np.bool_)
        pixels_S2[is_inferred_S] = array_S2[is_inferred_S] @ fit.matrix.T + fit.offset
        is_lost_S &= ~is_inferred_S
        spots = spots.assign(**dict(zip(PIXELS, pixels_S2.T, strict=True)))
        text = f"{is_inferred_S.sum()} background spots without pixels placed by the fitted lattice"
        checks.append(Finding(kind="inferred", text=text))
    findings.extend([*_no_place(is_lost_S, fit), *checks])
    return spots


def add_labels(
    spots: pd.DataFrame, labels: "pd.Series[str] | None", findings: list[Finding]
) -> pd.DataFrame:
    """Add the column ``label``, empty where a spot has none."""
    if labels is None:
        return spots
    spots = spots.assign(label=labels.reindex(spots.index).fillna(""))
    n_found = int((spots["label"] != "").sum())
    n_other = int((~labels.index.isin(spots.index)).sum())
    text = f"{n_found} of {len(spots)} spots have a label; labels of no spot here: {n_other}"
    kind: Literal["check", "warning"] = "check" if n_found else "warning"
    findings.append(Finding(kind=kind, text=text))
    return spots


def _shared(
    files: StFiles, placed: pd.DataFrame, written: "pd.Series[str]", findings: list[Finding]
) -> NDArray[np.bool_]:
    selected = placed.index[placed["is_selected"]]
    is_shared_S = np.asarray(written.index.isin(selected))
    if not is_shared_S.any():
        raise SlideFormatError(
            f"{files.name}: none of the {len(written)} spots of {files.counts} is among the "
            f"{len(selected)} of {files.spots}, expected the same section"
        )
    text = (
        f"{is_shared_S.sum()} spots in both {files.counts.name} and "
        f"{files.spots.name if files.spots else 'the spots'}; only in the first: "
        f"{(~is_shared_S).sum()}, only in the second: {(~selected.isin(written.index)).sum()}"
    )
    findings.append(Finding(kind="check", text=text))
    return is_shared_S


def _tell_unselected(
    placed: pd.DataFrame,
    is_tissue_S: NDArray[np.bool_],
    findings: list[Finding],
    *,
    keep_background: bool,
) -> None:
    n_unselected = int((~placed["is_selected"]).sum())
    if keep_background:
        text = f"{(~is_tissue_S).sum()} of {len(is_tissue_S)} spots are background and were kept"
        findings.append(Finding(kind="check", text=text))
    elif n_unselected:
        text = f"{n_unselected} of {len(placed)} spots are not selected and were left out"
        findings.append(Finding(kind="check", text=text))


def _refuse_repeated(path: Path, written: "pd.Series[str]") -> None:
    if not written.index.has_duplicates:
        return
    spot = written.index[written.index.duplicated()][0]
    found = " and ".join(written[[spot]])
    raise SlideFormatError(
        f"{path}: spot {spot} occurs more than once, as {found}, expected each spot once"
    )


def _no_place(is_lost_S: NDArray[np.bool_], fit: LatticeFit | None) -> list[Finding]:
    texts = []
    if is_lost_S.any():
        texts.append(
            f"{is_lost_S.sum()} of {len(is_lost_S)} spots have no pixel coordinates and no place "
            "in the image"
        )
    if fit is None:
        texts.append(
            "fewer than three spots have a place, or all lie in one line: the pitch cannot be told"
        )
    return [Finding(kind="warning", text=text) for text in texts]
