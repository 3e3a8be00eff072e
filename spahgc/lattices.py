"""The lattice that spots were printed on: which one, how it lies in the image, what is near on it.

Dimension letters in this file:

S spots, O steps of the array, E pairs of spots, Q near spots
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import atan2, degrees, hypot, sqrt
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import binom

from spahgc.schema import Lattice

STEP_RATIO: Final[dict[Lattice, float]] = {
    "square": 1.0,
    "staggered": 1.113,
    "hexagonal": sqrt(3),
}
"""How much farther apart rows lie than columns. On the hexagonal lattice neighbours in a row are
two columns apart; on the staggered one, of the 2k array, neighbours are diagonal, and 1.113 is what
is measured."""

FIRST_ARRAY: Final = (33, 35)
"""Columns and rows of the 1k array, its frame included."""

_SAME_PARITY: Final = 0.9  # of the spots at least: a few may be stray
_MOST_CHANCE: Final = 1e-4  # that as many spots of a square lattice would be of one parity
_FEWEST: Final = 6  # spots whose parity says anything, where the steps agree with it

_RING_GAP: Final = 1.25  # lengths that differ by less are of one ring
_FARTHEST: Final = 3  # array steps in which the two first rings are looked for
_OF_DEGREE: Final[dict[int, Lattice]] = {4: "square", 6: "hexagonal"}
_REACH: Final = {("square", 1): 1.25, ("square", 2): 1.7, ("hexagonal", 1): 1.35}
"""Pitches that hold so many rings and no more, were spots printed a little off."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatticeFit:
    """Least-squares map from array coordinates to pixels: pixel = matrix (column, row) + offset."""

    matrix: NDArray[np.float64]
    """(2, 2) pixels per array step; column 0 is one step of ``array_col``, column 1 of
    ``array_row``."""

    offset: NDArray[np.float64]
    """(2,) x, y in pixels of array column 0, row 0."""

    rms_residual_px: float
    """Root mean square distance of the spots from the fitted lattice, in pixels."""

    largest_residual_px: float
    """The farthest spot's distance from the fitted lattice, in pixels."""

    @property
    def column_step_px(self) -> float:
        """Pixels from one array column to the next."""
        return hypot(*self.matrix[:, 0])

    @property
    def row_step_px(self) -> float:
        """Pixels from one array row to the next."""
        return hypot(*self.matrix[:, 1])

    @property
    def step_ratio(self) -> float:
        """How much farther apart rows lie than columns; inf where columns lie on each other."""
        return self.row_step_px / self.column_step_px if self.column_step_px else float("inf")

    @property
    def diagonal_px(self) -> float:
        """Pixels to the array's next column and row at once, mean over both diagonals."""
        column_2, row_2 = self.matrix.T
        return (hypot(*(column_2 + row_2)) + hypot(*(column_2 - row_2))) / 2

    @property
    def rotation_degrees(self) -> float:
        """Angle from the image's x axis to rising array columns, -180 to 180, clockwise on screen.

        Clockwise because y points down in an image.
        """
        return degrees(atan2(self.matrix[1, 0], self.matrix[0, 0]))

    @property
    def is_mirrored(self) -> bool:
        """Whether the lattice has to be flipped, not only turned, to lie on the image."""
        return bool(np.linalg.det(self.matrix) < 0)


def fit_lattice(
    array_S2: NDArray[np.float64], centers_S2: NDArray[np.float64]
) -> LatticeFit | None:
    """Fit where array columns and rows lie in the image.

    Parameters
    ----------
    array_S2
        ``array_col``, ``array_row`` of each spot.
    centers_S2
        Spot centers as x, y in pixels; spots with a NaN are left out.

    Returns
    -------
    LatticeFit | None
        None where it cannot be told: fewer than three spots, or all of them on one line of
        the array.
    """
    is_known_S = np.isfinite(array_S2).all(1) & np.isfinite(centers_S2).all(1)
    array_S2, centers_S2 = array_S2[is_known_S], centers_S2[is_known_S]
    if len(array_S2) < 3:
        return None
    array_mean_2, center_mean_2 = array_S2.mean(0), centers_S2.mean(0)
    solution_22, _, rank, _ = np.linalg.lstsq(
        array_S2 - array_mean_2, centers_S2 - center_mean_2, rcond=1e-9
    )
    if rank < 2:
        return None
    offset_2 = center_mean_2 - array_mean_2 @ solution_22
    distance_S = np.linalg.norm(centers_S2 - array_S2 @ solution_22 - offset_2, axis=1)
    return LatticeFit(
        matrix=solution_22.T,
        offset=offset_2,
        rms_residual_px=float(np.sqrt(np.mean(distance_S**2))),
        largest_residual_px=float(distance_S.max()),
    )


class Parity(NamedTuple):
    """How the spots of an array divide by whether column and row add up to an even number."""

    n_even: int
    """Spots whose column and row add up to an even number."""

    n_spots: int
    """All."""

    @property
    def n_same(self) -> int:
        """Spots of the more frequent kind."""
        return max(self.n_even, self.n_spots - self.n_even)

    @property
    def is_one(self) -> bool:
        """Whether all are of one kind, up to a few stray ones."""
        return self.n_spots > 0 and self.n_same >= _SAME_PARITY * self.n_spots

    @property
    def is_sure(self) -> bool:
        """Whether a lattice with a spot at every place would hardly ever look like this."""
        chance = 2 * binom.sf(self.n_same - 1, self.n_spots, 0.5)
        return self.is_one and bool(chance < _MOST_CHANCE)


def parity_of(array_S2: NDArray[np.float64]) -> Parity:
    """Count the spots whose ``array_col`` and ``array_row`` add up to an even or an odd number."""
    known_S2 = array_S2[np.isfinite(array_S2).all(axis=1)]
    return Parity(int((np.rint(known_S2).sum(axis=1) % 2 == 0).sum()), len(known_S2))


def recognise_lattice(array_S2: NDArray[np.float64], fit: LatticeFit | None) -> Lattice:
    """Tell the lattice from which places of the array have spots and how its steps lie in pixels.

    On a hexagonal and on a staggered lattice the spots' column and row add up to even numbers
    alone. Rows lie 1.73 column steps apart on the first and 1.11 on the second. Where they are 1.00
    apart, every other spot of a square lattice was left out, unless the array is larger than such
    a one is.

    Parameters
    ----------
    array_S2
        ``array_col``, ``array_row`` of every place known to have a spot: more than are in tissue,
        where the files tell.
    fit
        How the array lies in the image; None where nothing tells.
    """
    parity = parity_of(array_S2)
    if not parity.is_one:
        return "square"
    if fit is None:
        return "staggered" if parity.is_sure else "square"
    ratio = fit.step_ratio
    if ratio > sqrt(STEP_RATIO["staggered"] * STEP_RATIO["hexagonal"]):
        return "hexagonal"
    uneven = max(ratio, 1 / ratio) if ratio else np.inf  # rows and columns may be swapped
    is_stretched = sqrt(STEP_RATIO["staggered"]) < uneven < STEP_RATIO["staggered"] ** 3
    is_larger = bool((np.nanmax(array_S2, axis=0) > np.add(FIRST_ARRAY, 1)).any())
    n_evidence = is_stretched + is_larger
    if n_evidence and (parity.is_sure or (parity.n_spots >= _FEWEST and is_stretched)):
        return "staggered"
    return "square"


class Ring(NamedTuple):
    """What is near a spot of a slide, in the middle of the tissue."""

    lattice: Lattice | None
    """None where the spots lie on none that is known."""

    n_near: int
    """Spots."""

    radius_px: float
    """How far the farthest of them lies; NaN where there is none."""


def find_rings(
    array_S2: NDArray[np.int64] | None,
    centers_S2: NDArray[np.float64],
    *,
    lattice: Lattice | None,
    n_rings: Mapping[Lattice, int],
) -> tuple[NDArray[np.int64], Ring] | None:
    """Find the whole first rings of spots around each spot.

    Where array coordinates are known they tell who is a neighbour, so that spots printed a little
    off change nothing; else distances do.

    Parameters
    ----------
    array_S2
        ``array_col``, ``array_row``; None where they are not known.
    centers_S2
        (S, 2) x, y in pixels.
    lattice
        As it was recorded; None recognises it.
    n_rings
        1 or 2 for each lattice.

    Returns
    -------
    tuple[NDArray[np.int64], Ring] | None
        (S, Q) rows, the first ring before the second, -1 where the lattice has a gap or an edge;
        None where the spots lie on no lattice.
    """
    if array_S2 is None or not _can_be_searched(array_S2):
        return _rings_by_distance(centers_S2, n_rings)
    fit = fit_lattice(array_S2.astype(np.float64), centers_S2)
    if fit is None or np.linalg.matrix_rank(fit.matrix) < 2:
        return _rings_by_distance(centers_S2, n_rings)
    lattice = lattice or recognise_lattice(array_S2.astype(np.float64), fit)
    steps_O2, lengths_O = _steps_of_rings(fit, lattice, n_rings[lattice])
    table_SQ = _missing_last(_spots_at(array_S2, steps_O2))
    return table_SQ, Ring(lattice, len(steps_O2), float(lengths_O.max()))


def _can_be_searched(array_S2: NDArray[np.int64]) -> bool:
    """Whether the places of the array can be numbered."""
    if not len(array_S2):
        return False
    sides = [int(a.max()) - int(a.min()) + 4 * _FARTHEST for a in array_S2.T]
    return sides[0] * sides[1] < 2**62


def _steps_of_rings(
    fit: LatticeFit, lattice: Lattice, n_rings: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give the array steps to the spots of the first rings, shortest first, and their lengths."""
    axis = np.arange(-_FARTHEST, _FARTHEST + 1)
    steps_O2 = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    is_step_O = steps_O2.any(axis=1)
    if lattice != "square":
        is_step_O &= steps_O2.sum(axis=1) % 2 == 0
    steps_O2 = steps_O2[is_step_O]
    lengths_O = np.linalg.norm(steps_O2 @ fit.matrix.T, axis=1)
    order_O = np.argsort(lengths_O, kind="stable")
    steps_O2, lengths_O = steps_O2[order_O], lengths_O[order_O]
    ends = np.flatnonzero(lengths_O[1:] > _RING_GAP * lengths_O[:-1]) + 1
    n_steps = int([*ends, len(lengths_O)][:n_rings][-1])
    return steps_O2[:n_steps], lengths_O[:n_steps]


def _spots_at(array_S2: NDArray[np.int64], steps_O2: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the (S, O) rows of the spots so many steps away from each spot, -1 where none is."""
    array_S2 = array_S2 - array_S2.min(axis=0) + _FARTHEST
    width = int(array_S2[:, 1].max()) + _FARTHEST + 1  # no step leads into another column
    key_S = array_S2[:, 0] * width + array_S2[:, 1]
    order_S = np.argsort(key_S, kind="stable")
    table_SO = np.empty((len(key_S), len(steps_O2)), np.int64)
    for number, (columns, rows) in enumerate(steps_O2.tolist()):
        wanted_S = key_S + columns * width + rows
        place_S = np.searchsorted(key_S, wanted_S, sorter=order_S)
        row_S = order_S[np.minimum(place_S, len(key_S) - 1)]
        table_SO[:, number] = np.where(key_S[row_S] == wanted_S, row_S, -1)
    return table_SO


def _missing_last(table_SQ: NDArray[np.int64]) -> NDArray[np.int64]:
    """Move missing spots behind those that are there, which keep their order."""
    order_SQ = np.argsort(table_SQ < 0, axis=1, kind="stable")
    return np.take_along_axis(table_SQ, order_SQ, axis=1)


def _rings_by_distance(
    centers_S2: NDArray[np.float64], n_rings: Mapping[Lattice, int]
) -> tuple[NDArray[np.int64], Ring] | None:
    """Find the rings of spots whose places on the array are not known; None on no lattice."""
    if len(centers_S2) < 2:
        return None
    tree = cKDTree(centers_S2)
    pitch = float(np.median(np.asarray(tree.query(centers_S2, k=[2])[0])))
    n_first_S = tree.query_ball_point(centers_S2, _RING_GAP * pitch, return_length=True) - 1
    lattice = _OF_DEGREE.get(int(np.quantile(n_first_S, 0.75)))  # fewer at the edge
    if lattice is None or not pitch:
        return None
    reach = _REACH[lattice, n_rings[lattice]] * pitch
    one_E, other_E = tree.query_pairs(reach, output_type="ndarray").T
    sender_E, receiver_E = np.concatenate([one_E, other_E]), np.concatenate([other_E, one_E])
    length_E = np.linalg.norm(centers_S2[sender_E] - centers_S2[receiver_E], axis=1)
    order_E = np.lexsort((sender_E, length_E, receiver_E))
    sender_E, receiver_E = sender_E[order_E], receiver_E[order_E]
    place_E = np.arange(len(receiver_E)) - np.searchsorted(receiver_E, receiver_E)
    shape = (len(centers_S2), int(place_E.max()) + 1)
    table_SQ, length_SQ = np.full(shape, -1, dtype=np.int64), np.zeros(shape)
    table_SQ[receiver_E, place_E], length_SQ[receiver_E, place_E] = sender_E, length_E
    n_near_S = (table_SQ >= 0).sum(axis=1)
    n_near = int(np.quantile(n_near_S, 0.75))
    radius_px = float(np.median(length_SQ.max(axis=1)[n_near_S == n_near]))
    return table_SQ, Ring(lattice, n_near, radius_px)
