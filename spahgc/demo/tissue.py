"""Grow a hidden map of tissue types, and measure spots laid over it.

Dimension letters in this file:

R rows and C columns of the map, N points, S spots, K tissue types, G genes, T tissue genes
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates
from scipy.special import expit, softmax

TYPES: Final = ("tumor", "stroma", "immune", "fat", "necrosis")
MAP_UM: Final = 10.0
"""Side of one cell of the map, in µm."""

_GENE_SEED: Final = 20_240_101  # one gene list for every patient and every run
_PREVALENCE_K: Final = np.array([0.45, 0.6, -0.05, -0.35, -0.45])
_RNA_K: Final = np.array([1.5, 0.8, 1.1, 0.3, 0.35])  # fat and necrosis hold little RNA
_EXPECTED_DEPTH: Final = 3_000.0
_NOISE_MASS: Final = 0.2  # of a spot's molecules, whatever the tissue
_OVERDISPERSION: Final = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What all sections of one patient have in common.

    Letters: K tissue types.
    """

    seed: int
    """Names the patient; also seeds the shift of single genes."""

    prevalence_K: NDArray[np.float64]
    """(K,) added to how likely each tissue type is."""

    strength_K: NDArray[np.float64]
    """(K,) factor on the genes of each tissue type, about 0.6 to 1.6."""

    stain_2: NDArray[np.float64]
    """(2,) factors on the strength of haematoxylin and of eosin."""

    hue_3: NDArray[np.float64]
    """(3,) factors on the absorbance of red, green and blue."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tissue:
    """One section: what is where, before anybody looks at it or measures it.

    Letters: R rows and C columns of the map, K tissue types.
    """

    seed: int
    """Names the section within the patient."""

    size_um: tuple[float, float]
    """Width and height, in µm."""

    patient: Patient
    """Whose tissue it is."""

    cover_RC: NDArray[np.float32]
    """(R, C) how much of a map cell is tissue and not glass, 0 to 1."""

    shares_RCK: NDArray[np.float32]
    """(R, C, K) shares of `TYPES`, 0 to 1, summing to 1."""

    def cover_at(self, points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
        """Look up how much is tissue at (N, 2) points (x, y in µm): (N,), 0 to 1."""
        return _sample(self.cover_RC, points_N2)

    def shares_at(self, points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
        """Look up the shares of the tissue types at (N, 2) points (x, y in µm): (N, K)."""
        planes = (self.shares_RCK[..., k] for k in range(len(TYPES)))
        return np.stack([_sample(plane_RC, points_N2) for plane_RC in planes], axis=1)

    def rng(self, purpose: int) -> np.random.Generator:
        """Return a generator that depends on patient, section and purpose only."""
        return np.random.default_rng([self.patient.seed, self.seed, purpose])


class Measurement(NamedTuple):
    """What a sequencer would report. Letters: S spots, G genes."""

    counts: NDArray[np.uint32]
    """(S, G) molecules."""

    genes: tuple[str, ...]
    """G gene names, the tissue type in the name; ``NOISE…`` follows no tissue."""


def grow_tissue(seed: int, *, size_um: tuple[float, float], patient_seed: int) -> Tissue:
    """Grow one section of one patient's tissue.

    Parameters
    ----------
    seed
        The section; two seeds give two sections of the same patient.
    size_um
        Width and height, in µm.
    patient_seed
        The patient: stain, strength of the gene programmes, mix of tissue types.
    """
    patient = _draw_patient(patient_seed)
    rng = np.random.default_rng([patient_seed, seed])
    shape = (int(np.ceil(size_um[1] / MAP_UM)), int(np.ceil(size_um[0] / MAP_UM)))
    return Tissue(
        seed=seed,
        size_um=size_um,
        patient=patient,
        cover_RC=_grow_outline(rng, shape),
        shares_RCK=_grow_types(rng, shape, patient.prevalence_K),
    )


def measure(
    tissue: Tissue,
    centers_S2: NDArray[np.float64],
    *,
    n_genes: int,
    noise_share: float,
    rng: np.random.Generator,
    spot_diameter_um: float = 100.0,
) -> Measurement:
    """Count molecules in round spots laid over the tissue.

    Counts are negative binomial. A spot's depth varies by chance and with how much RNA its
    tissue holds, so raw counts of noise genes still follow depth; their share of a spot's
    molecules does not follow anything.

    Parameters
    ----------
    centers_S2
        (S, 2) spot centers as x, y in µm.
    n_genes
        Length of the gene list, the same list for every patient.
    noise_share
        Which part of the genes follows no tissue, 0 to 1.
    rng
        Draws the counts.
    spot_diameter_um
        Tissue within this circle is mixed.
    """
    genes, programmes_GK, noise_G = _gene_programmes(n_genes, noise_share)
    shares_SK = _mean_shares(tissue, centers_S2, spot_diameter_um)
    mix_SG = _mix(shares_SK, programmes_GK * _patient_shift(tissue.patient, genes), noise_G)
    depth_S = _EXPECTED_DEPTH * (shares_SK @ _RNA_K) * rng.lognormal(0.0, 0.35, len(centers_S2))
    rate_SG = mix_SG * depth_S[:, None]
    rate_SG *= rng.gamma(1 / _OVERDISPERSION, _OVERDISPERSION, rate_SG.shape)
    return Measurement(rng.poisson(rate_SG).astype(np.uint32), genes)


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], feature: float
) -> NDArray[np.float32]:
    """Draw a smooth random field of mean 0 and standard deviation near 1.

    Parameters
    ----------
    shape
        Rows and columns of the field.
    feature
        Typical size of a bump, in cells of the field; at least 1.

    Returns
    -------
    NDArray[np.float32]
        (rows, columns).
    """
    coarse = [int(np.ceil(side / feature)) + 4 for side in shape]
    knots = rng.standard_normal(coarse).astype(np.float32)
    box = (1.5, 1.5, 1.5 + shape[1] / feature, 1.5 + shape[0] / feature)
    grown = Image.fromarray(knots).resize(shape[::-1], Image.Resampling.BICUBIC, box)
    return (np.asarray(grown) / 0.75).astype(np.float32)


def _sample(plane_RC: NDArray[np.float32], points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    cells_2N = points_N2[:, ::-1].T / MAP_UM - 0.5  # a cell's value sits at its middle
    return map_coordinates(plane_RC, cells_2N, output=np.float64, order=1, mode="nearest")


def _draw_patient(seed: int) -> Patient:
    rng = np.random.default_rng([seed, 7])
    return Patient(
        seed=seed,
        prevalence_K=rng.normal(0.0, 0.2, len(TYPES)),
        strength_K=rng.lognormal(0.0, 0.25, len(TYPES)),
        stain_2=rng.uniform(0.85, 1.15, 2),
        hue_3=rng.uniform(0.93, 1.07, 3),
    )


def _grow_outline(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    rows_R1 = np.linspace(-1, 1, shape[0])[:, None]
    columns_1C = np.linspace(-1, 1, shape[1])[None, :]
    radius_RC = (np.abs(rows_R1) ** 2.6 + np.abs(columns_1C) ** 2.6) ** (1 / 2.6)
    ragged_RC = 0.06 * smooth_noise(rng, shape, min(shape) / 4)
    ragged_RC += 0.008 * smooth_noise(rng, shape, 4)
    return expit((0.90 - radius_RC + ragged_RC) / 0.006).astype(np.float32)


def _grow_types(
    rng: np.random.Generator, shape: tuple[int, int], prevalence_K: NDArray[np.float64]
) -> NDArray[np.float32]:
    wide = [smooth_noise(rng, shape, 450 / MAP_UM) for _ in TYPES]
    fine = [smooth_noise(rng, shape, 70 / MAP_UM) for _ in TYPES]
    logits_KRC = np.stack([0.9 * far + 0.4 * close for far, close in zip(wide, fine, strict=True)])
    logits_KRC += (_PREVALENCE_K + prevalence_K)[:, None, None]
    tumor, stroma = logits_KRC[0], logits_KRC[1]
    logits_KRC[2] += 0.7 * np.exp(-((tumor - stroma) ** 2))  # lymphocytes gather at the border
    logits_KRC[4] += 0.9 * np.minimum(tumor - 0.8, 0.7)  # necrosis lies deep in the tumour
    shares_KRC = softmax(5.0 * logits_KRC, axis=0)
    return np.ascontiguousarray(np.moveaxis(shares_KRC, 0, -1), dtype=np.float32)


def _gene_programmes(
    n_genes: int, noise_share: float
) -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Return G names, (G, K) rates by tissue type (0 for noise), (G,) rates of noise genes."""
    rng = np.random.default_rng(_GENE_SEED)
    n_noise = round(n_genes * noise_share)
    kind_G = [k % len(TYPES) for k in range(n_genes - n_noise)]
    names = [f"{TYPES[k].upper()}{i // len(TYPES) + 1:03d}" for i, k in enumerate(kind_G)]
    names += [f"NOISE{i + 1:03d}" for i in range(n_noise)]
    base_G = rng.lognormal(0.0, 1.0, n_genes)
    contrast_G = rng.uniform(0.3, 3.0, n_genes)  # from hardly to twenty times
    programmes_GK = base_G[:, None] * rng.lognormal(0.0, 0.15, (n_genes, len(TYPES)))
    programmes_GK[np.arange(len(kind_G)), kind_G] *= np.exp(contrast_G[: len(kind_G)])
    programmes_GK[len(kind_G) :] = 0.0
    noise_G = np.where(np.arange(n_genes) >= len(kind_G), base_G, 0.0)
    return tuple(names), programmes_GK, noise_G


def _patient_shift(patient: Patient, genes: tuple[str, ...]) -> NDArray[np.float64]:
    rng = np.random.default_rng([patient.seed, 11])
    own_G1 = rng.lognormal(0.0, 0.3, (len(genes), 1))
    return own_G1 * patient.strength_K


def _mean_shares(
    tissue: Tissue, centers_S2: NDArray[np.float64], diameter_um: float
) -> NDArray[np.float64]:
    turns = np.arange(6) * np.pi / 3
    ring_62 = np.stack([np.cos(turns), np.sin(turns)], axis=1) * diameter_um / 2
    offsets_2 = np.concatenate([np.zeros((1, 2)), 0.45 * ring_62, 0.85 * ring_62])
    return np.mean([tissue.shares_at(centers_S2 + offset) for offset in offsets_2], axis=0)


def _mix(
    shares_SK: NDArray[np.float64], programmes_GK: NDArray[np.float64], noise_G: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (S, G) each gene's share of a spot's molecules; rows sum to 1."""
    tissue_SG = shares_SK @ programmes_GK.T
    tissue_mass = 1.0 - _NOISE_MASS * bool(noise_G.any())
    totals_S1 = np.maximum(tissue_SG.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    noise_total = noise_G.sum() or 1.0
    return tissue_mass * tissue_SG / totals_S1 + (1 - tissue_mass) * noise_G / noise_total
