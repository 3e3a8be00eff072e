"""Counts and positions of one slide → spots, joined by barcode.

Dimension letters in this file:

S spots, G genes
"""

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.visium_counts import VisiumCounts
from spahgc.ingest.readers.visium_files import VisiumFiles
from spahgc.schema import Finding


def join_spots(
    name: str,
    files: VisiumFiles,
    counts: VisiumCounts,
    positions: pd.DataFrame,
    findings: list[Finding],
) -> tuple[pd.DataFrame, csr_matrix]:
    """Join counts and positions by barcode.

    Filtered counts keep all their spots; of any others those under tissue are kept.

    Parameters
    ----------
    name
        Of the slide, for the messages.
    positions
        Rows of the whole array, indexed by barcode.
    findings
        Gets what only one side has, and what was left out.

    Returns
    -------
    tuple[pd.DataFrame, csr_matrix]
        S rows of ``positions``, and (S, G) counts.

    Raises
    ------
    SlideFormatError
        If nothing is left, or a spot that is left has no place in the image.
    """
    spots, matrix = _joined(name, files, counts, positions, findings)
    _refuse_unplaced(name, spots)
    return spots, matrix


def _joined(
    name: str,
    files: VisiumFiles,
    counts: VisiumCounts,
    positions: pd.DataFrame,
    findings: list[Finding],
) -> tuple[pd.DataFrame, csr_matrix]:
    barcodes = counts.barcodes
    is_placed_S = np.asarray(barcodes.isin(positions.index))
    if not is_placed_S.any():
        raise _strangers(name, files, barcodes, positions.index)
    n_lost = int((~is_placed_S).sum())
    text = (
        f"{is_placed_S.sum()} spots in both {files.counts.name} and {files.positions.name}; only "
        f"in the first: {n_lost}, only in the second: {len(positions) - is_placed_S.sum()}"
    )
    findings.append(Finding(kind="warning" if n_lost else "check", text=text))
    spots = positions.loc[barcodes[is_placed_S]]
    matrix = csr_matrix(counts.matrix[is_placed_S]) if n_lost else counts.matrix
    kept_S = spots["in_tissue"].to_numpy()
    n_on_glass = int((~kept_S).sum())
    if files.is_filtered:
        if n_on_glass:
            text = f"{n_on_glass} of {len(spots)} filtered spots are not under tissue; kept"
            findings.append(Finding(kind="warning", text=text))
        return spots, matrix
    if not kept_S.any():
        raise SlideFormatError(
            f"{name}: none of {len(spots)} spots is under tissue in "
            f"{files.positions}, expected some with in_tissue 1"
        )
    if n_on_glass:
        text = f"{n_on_glass} of {len(spots)} spots are not under tissue and were left out"
        findings.append(Finding(kind="check", text=text))
    return spots[kept_S], csr_matrix(matrix[kept_S])


def _strangers(
    name: str, files: VisiumFiles, barcodes: pd.Index, placed: pd.Index
) -> SlideFormatError:
    text = (
        f"{name}: none of the {len(barcodes)} barcodes of {files.counts} (first {barcodes[0]}) is "
        f"among the {len(placed)} of {files.positions} (first {placed[0]}), expected the same slide"
    )
    stems, placed_stems = ({str(code).partition("-")[0] for code in c} for c in (barcodes, placed))
    if stems & placed_stems:
        text += "; they differ only in what follows the dash: write it alike in both files"
    return SlideFormatError(text)


def _refuse_unplaced(name: str, spots: pd.DataFrame) -> None:
    for what, is_bad in (
        ("no pixel coordinates", spots[["x", "y"]].isna().any(axis=1)),
        ("negative pixel coordinates", (spots[["x", "y"]] < 0).any(axis=1)),
    ):
        if is_bad.any():
            first = spots[is_bad].iloc[0]
            raise SlideFormatError(
                f"{name}: {int(is_bad.sum())} of {len(spots)} spots have {what}, for example "
                f"{first.name} with x {first['x']:g}, y {first['y']:g}; expected a place inside "
                "the image for each"
            )
