"""Paint a tissue map as a pathologist would see it: stained with haematoxylin and eosin.

Dimension letters in this file:

H rows and W columns of the picture, N nuclei, P pixels of a stamp, K tissue types
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from spahgc.demo.tissue import TYPES, Tissue, smooth_noise

FloatPlane = NDArray[np.float32]

# Absorbance of red, green and blue by each stain (Ruifrok and Johnston, 2001).
_HAEMATOXYLIN: Final = np.array([0.65, 0.70, 0.29])
_EOSIN: Final = np.array([0.09, 0.95, 0.28])

# By tissue type, in the order of TYPES.
_EOSIN_K: Final = (0.42, 0.50, 0.26, 0.10, 0.62)
_BLUE_K: Final = (0.24, 0.03, 0.20, 0.01, 0.05)  # haematoxylin outside nuclei
_NUCLEI_PER_MM2_K: Final = np.array([5_200.0, 1_500.0, 11_000.0, 120.0, 900.0])
_LENGTH_UM_K: Final = np.array([6.0, 6.5, 3.3, 3.5, 2.6])  # half of the long axis
_ROUNDNESS_K: Final = np.array([0.74, 0.28, 0.93, 0.4, 0.8])  # short axis by long axis
_DARKNESS_K: Final = np.array([0.95, 1.05, 1.55, 1.1, 1.3])
_NUCLEUS_SPACING_UM: Final = 8.0
_STAMPS_AT_ONCE: Final = 512  # fit into the cache


class _Nuclei(NamedTuple):
    """Letters: N nuclei."""

    centers: NDArray[np.float32]
    """(N, 2) x, y in µm."""

    axes: NDArray[np.float32]
    """(N, 2) half of the long and of the short axis, in µm."""

    angle: NDArray[np.float32]
    """(N,) of the long axis, in radians."""

    darkness: NDArray[np.float32]
    """(N,) absorbance at the centre."""


def paint(tissue: Tissue, microns_per_pixel: float) -> NDArray[np.uint8]:
    """Paint the section as an H&E image.

    Nuclei, fibres and fat cells sit at the same place in µm at every pixel size.

    Parameters
    ----------
    microns_per_pixel
        Pixel size of the picture.

    Returns
    -------
    NDArray[np.uint8]
        (H, W, 3) RGB; white where there is no tissue.

    Raises
    ------
    ValueError
        If ``microns_per_pixel`` is not positive.
    """
    if not microns_per_pixel > 0:
        raise ValueError(f"microns_per_pixel must be positive, got {microns_per_pixel}")
    shape = (
        round(tissue.size_um[1] / microns_per_pixel),
        round(tissue.size_um[0] / microns_per_pixel),
    )
    cover_HW = _enlarge(tissue.cover_RC, shape)
    cover_HW *= _fat_walls(tissue, shape)
    eosin_HW = _eosin(tissue, shape) * cover_HW
    blue_HW = np.maximum(_nuclei(tissue, shape, microns_per_pixel), _blue(tissue, shape))
    blue_HW *= cover_HW
    return _develop(eosin_HW, blue_HW, tissue)


def _enlarge(plane_RC: FloatPlane, shape: tuple[int, int]) -> FloatPlane:
    grown = Image.fromarray(plane_RC).resize(shape[::-1], Image.Resampling.BILINEAR)
    return np.array(grown)


def _weighted(tissue: Tissue, weights_K: tuple[float, ...]) -> FloatPlane:
    return tissue.shares_RCK @ np.array(weights_K, dtype=np.float32)


def _fine_shape(tissue: Tissue, cell_um: float) -> tuple[int, int]:
    return int(np.ceil(tissue.size_um[1] / cell_um)), int(np.ceil(tissue.size_um[0] / cell_um))


def _eosin(tissue: Tissue, shape: tuple[int, int]) -> FloatPlane:
    eosin_HW = _enlarge(_weighted(tissue, _EOSIN_K), shape)
    eosin_HW *= _enlarge(_fibres(tissue), shape)
    return eosin_HW


def _blue(tissue: Tissue, shape: tuple[int, int]) -> FloatPlane:
    mottle_RC = smooth_noise(tissue.rng(2), tissue.cover_RC.shape, 2.0)
    return _enlarge(_weighted(tissue, _BLUE_K) * (1 + 0.25 * mottle_RC), shape)


def _fibres(tissue: Tissue) -> FloatPlane:
    """Return a texture around 1: wavy strands in stroma, cells elsewhere, in 2.5 µm cells."""
    rng, cell_um = tissue.rng(3), 2.5
    shape = _fine_shape(tissue, cell_um)
    phase = _fibre_phase(tissue, shape, cell_um)
    strands = np.sin(phase) * (0.6 + 0.4 * smooth_noise(rng, shape, 12))
    strands += 0.45 * np.sin(2.3 * phase + 2 * smooth_noise(rng, shape, 9))
    stroma = _enlarge(np.ascontiguousarray(tissue.shares_RCK[..., 1]), shape)
    grain = smooth_noise(rng, shape, 1.6)
    clefts = np.clip(strands - 1.05, 0, 0.6) * stroma  # strands torn apart in cutting
    texture = 1 + (0.26 * stroma) * strands + 0.13 * grain - 1.6 * clefts
    return np.clip(texture, 0.04, None).astype(np.float32)


def _fibre_phase(tissue: Tissue, shape: tuple[int, int], cell_um: float) -> FloatPlane:
    """Return an angle whose contour lines run like collagen: 17 µm apart, bending slowly."""
    bend = smooth_noise(tissue.rng(4), shape, 420 / cell_um)
    ripple = smooth_noise(tissue.rng(5), shape, 55 / cell_um)
    rows = np.arange(shape[0], dtype=np.float32)[:, None] * cell_um
    columns = np.arange(shape[1], dtype=np.float32)[None, :] * cell_um
    distance_um = 0.5 * rows + 0.35 * columns + 190 * bend + 9 * ripple
    return (distance_um * np.float32(2 * np.pi / 17)).astype(np.float32)


def _fat_walls(tissue: Tissue, shape: tuple[int, int]) -> FloatPlane:
    """Return 1 outside fat; inside, thin walls between empty round cells."""
    cell_um = 3.0
    fine = _fine_shape(tissue, cell_um)
    fat = _enlarge(np.ascontiguousarray(tissue.shares_RCK[..., 3]), fine)
    rows_N, columns_N = np.nonzero(fat > 0.3)
    walls = np.ones(fine, dtype=np.float32)
    if len(rows_N):
        points_N2 = np.stack([columns_N, rows_N], axis=1) * cell_um
        seeds = _jittered_grid(tissue.rng(6), tissue.size_um, 62.0, jitter=0.75)
        near_N2 = np.asarray(cKDTree(seeds).query(points_N2, k=2)[0])
        depth_N = (near_N2[:, 1] - near_N2[:, 0]) / 2  # distance to the wall between two cells
        hole_N = np.clip((depth_N - 2.0) / 2.5, 0, 1) * np.clip(
            (fat[rows_N, columns_N] - 0.3) * 8, 0, 1
        )
        walls[rows_N, columns_N] = 1 - 0.97 * hole_N
    return _enlarge(walls, shape)


def _jittered_grid(
    rng: np.random.Generator, size_um: tuple[float, float], spacing_um: float, *, jitter: float
) -> NDArray[np.float32]:
    columns, rows = (np.arange(-1, side / spacing_um + 1) for side in size_um)
    grid_N2 = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2).astype(np.float32)
    grid_N2[:, 0] += 0.5 * (grid_N2[:, 1] % 2)
    grid_N2 += (jitter * (rng.random(grid_N2.shape, dtype=np.float32) - 0.5)).astype(np.float32)
    return grid_N2 * np.float32(spacing_um)


def _nuclei(tissue: Tissue, shape: tuple[int, int], microns_per_pixel: float) -> FloatPlane:
    """Return the absorbance by haematoxylin in nuclei."""
    nuclei = _place_nuclei(tissue)
    blue_HW = np.zeros(shape, dtype=np.float32)
    order = np.argsort(nuclei.axes[:, 0], kind="stable")  # stamps of one batch share their width
    for start in range(0, len(order), _STAMPS_AT_ONCE):
        batch = order[start : start + _STAMPS_AT_ONCE]
        _stamp(blue_HW, _Nuclei(*(part[batch] for part in nuclei)), microns_per_pixel)
    return blue_HW


def _place_nuclei(tissue: Tissue) -> _Nuclei:
    rng = tissue.rng(8)
    centers_N2 = _jittered_grid(rng, tissue.size_um, _NUCLEUS_SPACING_UM, jitter=0.9)
    shares_NK = tissue.shares_at(centers_N2.astype(np.float64))
    kept_N = rng.random(len(centers_N2)) * 1e6 / _NUCLEUS_SPACING_UM**2 < (
        shares_NK @ _NUCLEI_PER_MM2_K
    )
    centers_N2, weight_NK = centers_N2[kept_N], (shares_NK * _NUCLEI_PER_MM2_K)[kept_N]
    cumulative_NK = np.cumsum(weight_NK, axis=1)
    chosen_N1 = rng.random((len(centers_N2), 1)) * cumulative_NK[:, -1:]
    type_N = np.minimum((cumulative_NK < chosen_N1).sum(axis=1), len(TYPES) - 1)
    vary_N3 = rng.lognormal(0.0, (0.17, 0.12, 0.16), (len(centers_N2), 3))
    length_N = _LENGTH_UM_K[type_N] * vary_N3[:, 0]
    short_N = length_N * np.minimum(_ROUNDNESS_K[type_N] * vary_N3[:, 1], 1.0)
    angle_N = np.where(
        type_N == 1, _fibre_angle(tissue, centers_N2), rng.uniform(0, np.pi, len(type_N))
    )
    darkness_N = _DARKNESS_K[type_N] * vary_N3[:, 2]
    axes_N2 = np.stack([length_N, short_N], axis=1).astype(np.float32)
    return _Nuclei(centers_N2, axes_N2, angle_N.astype(np.float32), darkness_N.astype(np.float32))


def _fibre_angle(tissue: Tissue, centers_N2: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the direction of the strands, so that nuclei of stroma lie along them."""
    cell_um = 2.5
    shape = _fine_shape(tissue, cell_um)
    phase = _fibre_phase(tissue, shape, cell_um)
    slope_y, slope_x = np.gradient(phase, axis=0), np.gradient(phase, axis=1)
    column_N = np.clip(centers_N2[:, 0] / cell_um, 0, shape[1] - 1).astype(int)
    row_N = np.clip(centers_N2[:, 1] / cell_um, 0, shape[0] - 1).astype(int)
    return np.arctan2(slope_y[row_N, column_N], slope_x[row_N, column_N]) + np.pi / 2


def _stamp(blue_HW: FloatPlane, nuclei: _Nuclei, microns_per_pixel: float) -> None:
    """Draw ellipses with soft edges into ``blue_HW``; the darker one wins."""
    height, width = blue_HW.shape
    reach = int(np.ceil(nuclei.axes.max() * 1.15 / microns_per_pixel)) + 1
    steps = np.arange(-reach, reach + 1)
    center_N2 = nuclei.centers / microns_per_pixel
    corner_N2 = np.floor(center_N2).astype(int)
    column_NP = corner_N2[:, 0, None] + np.tile(steps, len(steps))
    row_NP = corner_N2[:, 1, None] + np.repeat(steps, len(steps))
    x_NP = (column_NP + 0.5 - center_N2[:, 0, None]).astype(np.float32)
    y_NP = (row_NP + 0.5 - center_N2[:, 1, None]).astype(np.float32)
    cosine_N1, sine_N1 = np.cos(nuclei.angle)[:, None], np.sin(nuclei.angle)[:, None]
    axes_N2 = nuclei.axes / microns_per_pixel
    along_NP = (x_NP * cosine_N1 + y_NP * sine_N1) / axes_N2[:, :1]
    across_NP = (y_NP * cosine_N1 - x_NP * sine_N1) / axes_N2[:, 1:]
    radius_NP = np.sqrt(along_NP**2 + across_NP**2)
    edge_N1 = np.minimum(axes_N2[:, 1:], 3.0)  # edges about a pixel wide
    inside_NP = np.clip((1 - radius_NP) * edge_N1 + 0.5, 0, 1)
    ink_NP = inside_NP * (0.72 + 0.28 * np.minimum(radius_NP, 1) ** 2) * nuclei.darkness[:, None]
    keep = (ink_NP > 0) & (column_NP >= 0) & (column_NP < width) & (row_NP >= 0) & (row_NP < height)
    np.maximum.at(blue_HW, (row_NP[keep], column_NP[keep]), ink_NP[keep])


def _develop(eosin_HW: FloatPlane, blue_HW: FloatPlane, tissue: Tissue) -> NDArray[np.uint8]:
    """Turn amounts of stain into light (Lambert and Beer), with a little sensor noise."""
    rng = tissue.rng(9)
    grain_HW = rng.standard_normal(eosin_HW.shape, dtype=np.float32)
    grain_HW *= 2.0
    picture_HW3 = np.empty((*eosin_HW.shape, 3), dtype=np.uint8)
    blue_strength, eosin_strength = tissue.patient.stain_2
    for channel, hue in enumerate(tissue.patient.hue_3):
        light_HW = eosin_HW * np.float32(-hue * eosin_strength * _EOSIN[channel])
        light_HW -= blue_HW * np.float32(hue * blue_strength * _HAEMATOXYLIN[channel])
        np.exp(light_HW, out=light_HW)
        light_HW *= 243
        light_HW += grain_HW
        np.clip(light_HW, 0, 255, out=light_HW)
        picture_HW3[..., channel] = light_HW
    return picture_HW3
