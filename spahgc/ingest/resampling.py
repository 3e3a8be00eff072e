"""Resample a box of pixels, to the last bit as Pillow does, in compiled loops.

Pillow takes seven times as long (``benchmarks/resampling.py``), which a small encoder's forward
pass lets one feel: it copies what it is given and what it gives, and keeps four bytes of a pixel
that has three. Which side it resamples first depends on its version.

Dimension letters in this file:

B boxes, 4 the edges of a box, H, W a picture's height and width, 3 its colours, C channels of a row
(3 W), O pixels of a resampled side, T weights of one such pixel
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spahgc.compiled import compiled, compiled_in_order, move_four
from spahgc.ingest.boxes import Box, Region, Size

NEARLY: Final = 1.01
"""Widths in µm are seldom whole pixels: what falls short of a whole block by so little is one."""

_REACH: Final = 2.0  # of the bicubic filter, in pixels of the coarser side
_SLOPE: Final = -0.5  # of the bicubic filter where it meets its neighbours
_BITS: Final = 22  # of a weight, behind the point: the sum of weighed bytes has 32
_HALF: Final = 1 << (_BITS - 1)
_AT_ONCE: Final = 4  # rows that `_weigh` spells out
_MEAN_BITS: Final = 24  # of one over the number of a block's pixels
_LARGEST_BLOCK: Final = 256  # so many bytes are summed in 16 bits
_SMALL_BLOCK: Final = 16  # whose bytes, 16 times 16, are
_TURNED: Final = 32  # rows that are made columns at once
# Unsigned: Numba need not ask whether a place is counted from the end, which takes half as long.
_ONE, _TWO, _THREE = np.uintp(1), np.uintp(2), np.uintp(3)

Filter: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]
"""Of each pixel of a resampled side the first pixel it is made of (O,), their number (O,), and
their weights (O, T) as whole numbers."""


def resample(
    pixels_HW3: NDArray[np.uint8], size: Size, box: Box, *, region: Region | None = None
) -> NDArray[np.uint8]:
    """Resample a box of an image: bicubic, antialiased.

    Where two pixels or more become one, blocks of two or more are averaged first, as the levels of
    a pyramid are, until less than two are left for one: it looks the same and takes two thirds of
    the time in blocks of two, a third in blocks of four.

    Parameters
    ----------
    pixels_HW3
        (H, W, 3) uint8, contiguous.
    size
        Width and height to resample to.
    box
        What to resample, within the region, in pixels from its corner.
    region
        What to look at, as though there were nothing else; all of ``pixels_HW3`` by default.

    Returns
    -------
    NDArray[np.uint8]
        (height, width, 3), equal to what `PIL.Image.Image.reduce` and then `resize` give, across
        first and then down.
    """
    height, width, _ = pixels_HW3.shape
    box_14, region_14 = np.array([box]), np.array([region or (0, 0, width, height)])
    out_1HW3 = np.empty((1, size[1], size[0], 3), np.uint8)
    resampling(pixels_HW3, box_14, region_B4=region_14, out_BHW3=out_1HW3)(0, 1)
    return out_1HW3[0]


def resampling(
    pixels_HW3: NDArray[np.uint8],
    box_B4: NDArray[np.float64],
    *,
    region_B4: NDArray[np.int64],
    out_BHW3: NDArray[np.uint8],
) -> Callable[[int, int], None]:
    """Give what fills in that which `resample` makes of boxes ``start`` to ``stop`` (not included).

    Several threads may call it.

    Parameters
    ----------
    pixels_HW3
        (H, W, 3) uint8, contiguous.
    box_B4, region_B4
        (B, 4) left, top, right and bottom of each.
    out_BHW3
        (B, height, width, 3) uint8, contiguous.
    """
    _, height, width, _ = out_BHW3.shape
    side_B2 = box_B4[:, 2:] - box_B4[:, :2]
    wanted_B = (side_B2 / (width, height)).min(axis=1)
    block_B = np.clip((wanted_B * NEARLY).astype(np.int64), 1, _LARGEST_BLOCK)
    # Pillow takes edges in single precision
    edge_B4 = (box_B4 / block_B[:, None]).astype(np.float32)
    pixels_HW3 = pixels_HW3.view()
    pixels_HW3.flags.writeable = False  # what may be written is compiled by itself

    def fill(start: int, stop: int) -> None:
        rows = slice(start, stop)
        _resample_each(pixels_HW3, region_B4[rows], block_B[rows], edge_B4[rows], out_BHW3[rows])

    return fill


@compiled
def _resample_each(
    pixels_HW3: NDArray[np.uint8],
    region_B4: NDArray[np.int64],
    block_B: NDArray[np.int64],
    edge_B4: NDArray[np.float32],
    out_BHW3: NDArray[np.uint8],
) -> None:
    n_out, height, width, _ = out_BHW3.shape
    for out in range(n_out):
        left, top, right, bottom = region_B4[out]
        block, edge_4 = block_B[out], edge_B4[out]
        across = _filter(-(-(right - left) // block), edge_4[0], edge_4[2], width)
        down = _filter(-(-(bottom - top) // block), edge_4[1], edge_4[3], height)
        # only the rows that count
        first, last = down[0][0], down[0][-1] + down[1][-1]
        top, bottom = top + first * block, min(bottom, top + last * block)
        region = left, top, right, bottom
        if block == 1:
            column_WC = _turned(pixels_HW3, region)
        elif block <= _SMALL_BLOCK:
            column_WC = _all_turned(_averaged(pixels_HW3, region, block, np.empty(0, np.uint16)))
        else:
            column_WC = _all_turned(_averaged(pixels_HW3, region, block, np.empty(0, np.uint32)))
        column_OC = np.empty((width, (last - first) * 3), np.uint8)
        _weigh(column_WC, across[0], across[1], across[2], column_OC)
        row_HC = _all_turned(column_OC.reshape((width, last - first, 3)))
        row_OC = out_BHW3[out].reshape((height, width * 3))
        _weigh(row_HC, down[0] - first, down[1], down[2], row_OC)


@compiled_in_order
def _filter(length: int, start: np.float32, stop: np.float32, n_out: int) -> Filter:
    """Weigh the pixels of a side of ``length`` for each of ``n_out`` between start and stop."""
    scale = np.float64(stop - start) / n_out
    shrinks = max(scale, 1.0)
    reach = _REACH * shrinks
    first_O = np.zeros(n_out, np.int64)
    count_O = np.zeros(n_out, np.int64)
    n_weights = int(np.ceil(reach)) * 2 + 1
    weight_OT = np.zeros((n_out, n_weights + -n_weights % _AT_ONCE), np.int32)
    exact_T = np.empty(weight_OT.shape[1])
    for pixel in range(n_out):
        center = start + (pixel + 0.5) * scale
        first = max(int(center - reach + 0.5), 0)
        count = min(int(center + reach + 0.5), length) - first
        total = 0.0
        for t in range(count):
            exact_T[t] = _bicubic((t + first - center + 0.5) * (1.0 / shrinks))
            total += exact_T[t]
        for t in range(count):
            weight = exact_T[t] / total * (1 << _BITS)
            weight_OT[pixel, t] = int(weight - 0.5) if weight < 0 else int(weight + 0.5)
        first_O[pixel], count_O[pixel] = first, count
    return first_O, count_O, weight_OT


@compiled_in_order
def _bicubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return ((_SLOPE + 2) * x - (_SLOPE + 3)) * x * x + 1
    if x < _REACH:
        return (((x - 5) * x + 8) * x - 4) * _SLOPE
    return 0.0


@compiled
def _averaged(
    pixels_HW3: NDArray[np.uint8],
    region: Region,
    block: int,
    like_0: NDArray[np.unsignedinteger],
) -> NDArray[np.uint8]:
    """Average the blocks of a region; those at its ends may be smaller.

    A block's sum must fit the numbers that ``like_0`` would hold: the shorter, the more at once.
    """
    left, top, right, bottom = region
    row_HC = pixels_HW3.reshape((pixels_HW3.shape[0], pixels_HW3.shape[1] * 3))
    n_rows, n_columns = -(-(bottom - top) // block), -(-(right - left) // block)
    mean_HC = np.empty((n_rows, n_columns * 3), np.uint8)
    high_C = np.zeros(n_columns * block * 3, np.uint16)  # beyond the region's end nothing is added
    wide_C = np.zeros(len(high_C), like_0.dtype)
    whole, rest = (right - left) // block * 3, (right - left) % block
    for row in range(n_rows):
        start, stop = top + row * block, min(top + (row + 1) * block, bottom)
        first_C = row_HC[start, left * 3 : right * 3]
        if stop - start == 1:
            _copy(first_C, high_C)
        else:
            _add_up(first_C, row_HC[start + 1, left * 3 : right * 3], high_C)
        for y in range(start + 2, stop):
            _add(row_HC[y, left * 3 : right * 3], high_C)
        # of all neighbours, also those of two blocks: many in one step, and few are kept
        _add_up(high_C[:-3], high_C[3:], wide_C)
        for x in range(2, block):
            _add(high_C[3 * x :], wide_C)
        for column in range(np.uintp(n_columns)):
            move_four(wide_C, _THREE * column, wide_C, _THREE * column * np.uintp(block))
        _divide(wide_C, block * (stop - start), mean_HC[row, :whole])
        if rest:
            _divide(wide_C[whole:], rest * (stop - start), mean_HC[row, whole:])
    return mean_HC.reshape((n_rows, n_columns, 3))


@compiled
def _add_up(
    row_C: NDArray[np.unsignedinteger],
    other_C: NDArray[np.unsignedinteger],
    sum_C: NDArray[np.unsignedinteger],
) -> None:
    for c in range(len(row_C)):
        sum_C[c] = np.uint32(row_C[c]) + np.uint32(other_C[c])


@compiled
def _add(row_C: NDArray[np.unsignedinteger], sum_C: NDArray[np.unsignedinteger]) -> None:
    for c in range(len(row_C)):
        sum_C[c] += row_C[c]


@compiled
def _divide(sum_C: NDArray[np.unsignedinteger], n_pixels: int, mean_C: NDArray[np.uint8]) -> None:
    share, half = np.uint32((1 << _MEAN_BITS) // n_pixels), np.uint32(n_pixels // 2)
    for c in range(len(mean_C)):
        mean_C[c] = (sum_C[c] + half) * share >> np.uint32(_MEAN_BITS)


@compiled
def _all_turned(pixels_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return _turned(pixels_HW3, (0, 0, pixels_HW3.shape[1], pixels_HW3.shape[0]))


@compiled
def _turned(pixels_HW3: NDArray[np.uint8], region: Region) -> NDArray[np.uint8]:
    """Make a region's columns rows: (W, 3 H)."""
    left, top, right, bottom = region
    row_HC = pixels_HW3.reshape((pixels_HW3.shape[0], pixels_HW3.shape[1] * 3))
    width, height = right - left, bottom - top
    turned_WC = np.empty((width, height * 3), np.uint8)
    turned_N = turned_WC.reshape(-1)
    width_C, height_C = np.uintp(width * 3), np.uintp(height * 3)
    part_N = np.empty(_TURNED * width * 3, np.uint8)
    for start in range(0, height, _TURNED):
        n_rows = min(_TURNED, height - start)
        for y in range(n_rows):  # in the order in which memory is read ahead
            _copy(row_HC[top + start + y, left * 3 : right * 3], part_N[y * width * 3 :])
        for x in range(np.uintp(width)):
            to, at = x * height_C + np.uintp(start * 3), x * _THREE
            for _ in range(n_rows - 1):
                move_four(turned_N, to, part_N, at)  # the fourth is overwritten by the next pixel
                to += _THREE
                at += width_C
            turned_N[to] = part_N[at]  # where a fourth would be another column's
            turned_N[to + _ONE] = part_N[at + _ONE]
            turned_N[to + _TWO] = part_N[at + _TWO]
    return turned_WC


@compiled
def _copy(row_C: NDArray[np.unsignedinteger], copy_C: NDArray[np.unsignedinteger]) -> None:
    for c in range(len(row_C)):  # many in one step, as a slice is not
        copy_C[c] = row_C[c]


@compiled
def _weigh(
    row_HC: NDArray[np.uint8],
    first_O: NDArray[np.int64],
    count_O: NDArray[np.int64],
    weight_OT: NDArray[np.int32],
    new_OC: NDArray[np.uint8],
) -> None:
    """Make each new row of the rows it is made of, four of them (`_AT_ONCE`) in one step.

    The loop is not a function of its own: a call takes half as long as a row.
    """
    sum_C = np.empty(row_HC.shape[1], np.int32)
    last = len(row_HC) - 1
    for new in range(len(first_O)):
        sum_C[:] = _HALF
        for t in range(0, count_O[new], _AT_ONCE):
            row = first_O[new] + t  # beyond what counts, weights are zero
            one_C, two_C = row_HC[min(row, last)], row_HC[min(row + 1, last)]
            three_C, four_C = row_HC[min(row + 2, last)], row_HC[min(row + 3, last)]
            one, two = weight_OT[new, t], weight_OT[new, t + 1]
            three, four = weight_OT[new, t + 2], weight_OT[new, t + 3]
            for c in range(len(sum_C)):
                sum_C[c] += (
                    one * np.int32(one_C[c])
                    + two * np.int32(two_C[c])
                    + three * np.int32(three_C[c])
                    + four * np.int32(four_C[c])
                )
        for c in range(len(sum_C)):
            new_OC[new, c] = min(max(sum_C[c] >> _BITS, 0), 255)
