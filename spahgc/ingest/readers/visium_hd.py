"""Visium HD: which bin size to read, and larger bins made of smaller ones.

Dimension letters in this file:

S bins with counts, B pooled bins, A array positions, G genes
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.visium_folders import existing_roots, listing
from spahgc.schema import Finding

_BIN_FOLDER: Final = re.compile(r"(?:.*[_.-])?square_(\d{3})um")
_BIN_NAME: Final = re.compile(r"s_(\d{3})um_(\d{5})_(\d{5})(-\d+)?")
_PREFERRED_UM: Final = (16, 8)
_MOST_COLUMNS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BinFolder:
    """The folder of one bin size of a slide."""

    folder: Path
    """That holds the counts and positions of the bins."""

    home: Path
    """The slide's own folder, above all bin sizes."""

    findings: tuple[Finding, ...]
    """Which bins there are and which were taken."""


def choose_bins(folder: Path, *, bin_um: int | None, pool_um: int | None) -> BinFolder | None:
    """Choose a bin size of a Visium HD folder; None where the folder has no folders of bins.

    Parameters
    ----------
    bin_um
        Width of the bins to read, in µm; None takes 16, or 8, or the largest there is.
    pool_um
        Width of the bins to make, in µm; None takes, where ``bin_um`` is None too, the largest
        of which it is a multiple.

    Raises
    ------
    SlideFormatError
        If there is no such bin size.
    """
    home, folders = _bin_folders(folder)
    if not folders:
        return None
    there = ", ".join(map(str, sorted(folders)))
    chosen = _chosen_size(folder, sorted(folders), bin_um, pool_um)
    text = f"Visium HD with bins of {there} µm: those of {chosen} µm are read"
    finding = Finding(kind="file", text=text)
    return BinFolder(folder=folders[chosen], home=home, findings=(finding,))


def told_bin_um(name: str, barcode: str, *, bin_um: int | None, pool_um: int | None) -> int | None:
    """Tell the width of bins, in µm, from the barcode of one; None for Visium's spots.

    Parameters
    ----------
    name
        Of the slide, for the messages.
    bin_um, pool_um
        What was asked for.

    Raises
    ------
    SlideFormatError
        If what was asked for cannot be had of it.
    """
    named = _BIN_NAME.fullmatch(barcode)
    if named is None:
        if bin_um is None and pool_um is None:
            return None
        raise SlideFormatError(
            f"{name}: found no bins but spots (first {barcode}), expected Visium HD; leave out "
            "--bin-um and --pool-um"
        )
    found_um = int(named[1])
    if found_um < 1 or bin_um not in (None, found_um):
        raise SlideFormatError(
            f"{name}: found bins of {found_um} µm, expected {bin_um} µm; leave out --bin-um"
        )
    if pool_um is not None and (pool_um < 1 or pool_um % found_um):
        raise SlideFormatError(_no_multiple(name, str(found_um), pool_um))
    return found_um


def check_bins(
    name: str, spots: pd.DataFrame, bin_um: int, scale_factors: dict[str, float]
) -> None:
    """Check that bins are of the size and at the place that their barcodes state.

    Raises
    ------
    SlideFormatError
        If one is not, or the scale factors are of another size.
    """
    stated_um = scale_factors.get("bin_size_um", bin_um)
    if stated_um != bin_um:
        raise SlideFormatError(
            f"{name}: the scale factors state bins of {stated_um:g} µm, expected {bin_um} µm as "
            "the folder says"
        )
    places = zip(spots["array_row"], spots["array_col"], strict=True)
    expected = [_bin_name(bin_um, row, column) for row, column in places]
    for barcode, stem in zip(spots.index, expected, strict=True):
        if barcode != stem and barcode.rpartition("-")[0] != stem:
            raise SlideFormatError(
                f"{name}: found the bin {barcode} where the array row and column say {stem}; the "
                "positions are not of these bins"
            )


def pool_bins(
    spots: pd.DataFrame,
    counts_SG: csr_matrix,
    positions: pd.DataFrame,
    *,
    bin_um: int,
    pooled: int,
) -> tuple[pd.DataFrame, csr_matrix]:
    """Add up ``pooled`` × ``pooled`` bins to one; every count is kept.

    Parameters
    ----------
    spots
        S rows with ``array_row`` and ``array_col``, indexed by barcode.
    counts_SG
        (S, G) uint32.
    positions
        A rows, of every bin of the array: a pooled bin's center is the mean of its members',
        and it is under tissue where a member is.

    Returns
    -------
    tuple[pd.DataFrame, csr_matrix]
        B rows in the order of row and column, with the columns of ``spots``, and (B, G) uint32.

    Raises
    ------
    SlideFormatError
        If a sum of counts does not fit into 32 bits.
    """
    place_A, place_S = (
        (table["array_row"] // pooled * _MOST_COLUMNS + table["array_col"] // pooled).to_numpy()
        for table in (positions, spots)
    )
    place_B, group_S = np.unique(place_S, return_inverse=True)
    members = positions[["x", "y", "in_tissue"]].groupby(place_A)
    merged = members.agg({"x": "mean", "y": "mean", "in_tissue": "any"}).loc[place_B]
    row_B, column_B = np.divmod(place_B, _MOST_COLUMNS)
    merged = merged.assign(array_row=row_B, array_col=column_B)
    suffix = _suffix(str(spots.index[0]))
    names = [
        f"{_bin_name(bin_um * pooled, row, column)}{suffix}"
        for row, column in zip(row_B, column_B, strict=True)
    ]
    table = merged.set_axis(pd.Index(names, dtype=object))[list(spots)]
    return table, _summed(counts_SG, group_S)


def _bin_folders(folder: Path) -> tuple[Path, dict[int, Path]]:
    """Return the slide's own folder, and the folders of bins by their size in µm."""
    roots = existing_roots(folder)
    here = folder.absolute()
    if named := _BIN_FOLDER.fullmatch(here.name):
        is_alone = here.parent.name != "binned_outputs"
        return here if is_alone else here.parent.parent, {int(named[1]): folder}
    home = here.parent if here.name == "binned_outputs" else folder
    places = [place for root in roots for place in (root / "binned_outputs", root)]
    for place in places:
        found = {
            int(named[1]): path
            for path in (listing(place) if place.is_dir() else ())
            if path.is_dir() and (named := _BIN_FOLDER.fullmatch(path.name))
        }
        if found:
            return home, found
    return home, {}


def _chosen_size(folder: Path, sizes: list[int], bin_um: int | None, pool_um: int | None) -> int:
    there = ", ".join(map(str, sizes))
    if bin_um is not None and bin_um not in sizes:
        raise SlideFormatError(
            f"{folder}: found bins of {there} µm, expected {bin_um} µm among them; choose another "
            "with --bin-um, or a multiple with --pool-um"
        )
    if pool_um is None:
        return bin_um or next((size for size in _PREFERRED_UM if size in sizes), sizes[-1])
    parts = [size for size in sizes if bin_um in (None, size) and pool_um % size == 0]
    if pool_um < 1 or not parts:
        raise SlideFormatError(_no_multiple(str(folder), there, pool_um))
    return parts[-1]


def _no_multiple(place: str, there: str, pool_um: int) -> str:
    return (
        f"{place}: found bins of {there} µm, of which {pool_um} µm is no multiple; choose another "
        "with --pool-um"
    )


def _bin_name(bin_um: int, row: int, column: int) -> str:
    return f"s_{bin_um:03d}um_{row:05d}_{column:05d}"


def _suffix(barcode: str) -> str:
    named = _BIN_NAME.fullmatch(barcode)
    return (named[4] or "") if named else ""


def _summed(counts_SG: csr_matrix, group_S: NDArray[np.intp]) -> csr_matrix:
    largest = int(counts_SG.data.max(initial=0)) * int(np.bincount(group_S).max())
    kind: Any = np.uint32 if largest <= np.iinfo(np.uint32).max else np.uint64
    joins_BS = csr_matrix(
        (np.ones(len(group_S), kind), (group_S, np.arange(len(group_S)))),
        shape=(int(group_S.max()) + 1, len(group_S)),
    )
    summed_BG = csr_matrix(joins_BS @ counts_SG)
    if summed_BG.data.max(initial=0) > np.iinfo(np.uint32).max:
        raise SlideFormatError("pooled counts are larger than 32 bits can hold; pool less")
    summed_BG.sort_indices()
    return summed_BG.astype(np.uint32, copy=False)
