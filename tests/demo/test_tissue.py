"""The hidden tissue drives picture and expression alike."""

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict

from spahgc.demo.painting import paint
from spahgc.demo.tissue import TYPES, grow_tissue, measure

SIZE_UM = (1600.0, 1400.0)


@pytest.fixture(scope="module")
def tissue():
    return grow_tissue(1, size_um=SIZE_UM, patient_seed=3)


@pytest.fixture(scope="module")
def picture(tissue):
    return paint(tissue, 1.0)


@pytest.fixture(scope="module")
def centers(tissue):
    x, y = np.meshgrid(np.arange(75, 1550, 50.0), np.arange(75, 1350, 50.0))
    points = np.stack([x, y], axis=-1).reshape(-1, 2)
    return points[tissue.cover_at(points) > 0.9]


@pytest.fixture(scope="module")
def measured(tissue, centers):
    rng = np.random.default_rng(0)
    return measure(tissue, centers, n_genes=60, noise_share=0.5, rng=rng)


def normalised(counts):
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def columns(measured, prefix):
    return [i for i, gene in enumerate(measured.genes) if gene.startswith(prefix)]


def correlation(a, b):
    return np.corrcoef(a, b)[0, 1]


def test_same_seed_grows_the_same_tissue_and_another_seed_does_not(tissue):
    again = grow_tissue(1, size_um=SIZE_UM, patient_seed=3)
    other = grow_tissue(2, size_um=SIZE_UM, patient_seed=3)
    assert np.array_equal(again.shares_RCK, tissue.shares_RCK)
    assert not np.allclose(other.shares_RCK, tissue.shares_RCK)


def test_shares_sum_to_one_everywhere(tissue, centers):
    shares = tissue.shares_at(centers)
    assert shares.shape == (len(centers), len(TYPES))
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)


def test_sections_of_a_patient_share_their_stain_and_patients_do_not(tissue):
    sister = grow_tissue(2, size_um=SIZE_UM, patient_seed=3)
    stranger = grow_tissue(1, size_um=SIZE_UM, patient_seed=4)
    assert np.array_equal(sister.patient.stain_2, tissue.patient.stain_2)
    assert not np.allclose(stranger.patient.stain_2, tissue.patient.stain_2)
    assert not np.allclose(stranger.patient.strength_K, tissue.patient.strength_K)


@pytest.mark.parametrize("microns_per_pixel", [0.8, 1.0, 2.5], ids=str)
def test_picture_has_the_size_that_the_pixel_size_asks_for(tissue, microns_per_pixel):
    picture = paint(tissue, microns_per_pixel)
    expected = (round(1400 / microns_per_pixel), round(1600 / microns_per_pixel), 3)
    assert (picture.shape, picture.dtype) == (expected, np.uint8)


@pytest.mark.parametrize("microns_per_pixel", [0.0, -1.0, float("nan")], ids=str)
def test_pixel_size_must_be_positive(tissue, microns_per_pixel):
    with pytest.raises(ValueError, match="must be positive"):
        paint(tissue, microns_per_pixel)


def test_glass_is_white_and_tissue_is_pink_to_purple(tissue, picture):
    red, green, blue = picture[picture.min(axis=2) < 220].mean(axis=0)
    assert picture[:20, :20].min() > 220
    assert green < red - 30
    assert green < blue - 30


def test_tumor_is_darker_than_stroma_because_of_its_nuclei(tissue, picture, centers):
    shares = tissue.shares_at(centers)
    red = np.array([picture[int(y) - 25 : int(y) + 25, int(x) - 25 : int(x) + 25, 0].mean()
                    for x, y in centers])  # fmt: skip
    is_tumor, is_stroma = shares[:, 0] > 0.8, shares[:, 1] > 0.8
    assert min(is_tumor.sum(), is_stroma.sum()) > 10
    assert red[is_tumor].mean() < red[is_stroma].mean() - 20


def test_fat_is_white_holes(tissue, picture):
    fat = Image.fromarray(tissue.shares_RCK[..., 3]).resize(picture.shape[1::-1])
    cover = Image.fromarray(tissue.cover_RC).resize(picture.shape[1::-1])
    is_fat = (np.asarray(fat) > 0.8) & (np.asarray(cover) > 0.99)
    is_other = (np.asarray(fat) < 0.1) & (np.asarray(cover) > 0.99)
    is_white = picture.min(axis=2) > 215
    assert is_fat.sum() > 1000
    assert is_white[is_fat].mean() > 0.6
    assert is_white[is_other].mean() < 0.02


def test_the_same_tissue_is_painted_at_every_pixel_size(tissue, picture):
    coarse = paint(tissue, 2.0).astype(float)
    reduced = np.asarray(Image.fromarray(picture).reduce(2), dtype=float)
    assert correlation(coarse[..., 0].ravel(), reduced[..., 0].ravel()) > 0.95


def test_painting_twice_gives_the_same_pixels(tissue, picture):
    assert np.array_equal(paint(tissue, 1.0), picture)


def test_genes_follow_the_tissue_they_are_named_after(tissue, centers, measured):
    expression = normalised(measured.counts)
    shares = tissue.shares_at(centers)
    for k, name in enumerate(("TUMOR", "STROMA", "IMMUNE")):
        found = [correlation(expression[:, g], shares[:, k]) for g in columns(measured, name)]
        assert np.mean(found) > 0.3
        assert np.max(found) > 0.6


def test_genes_differ_in_how_well_they_follow_it(tissue, centers, measured):
    expression, tumor = normalised(measured.counts), tissue.shares_at(centers)[:, 0]
    found = [correlation(expression[:, g], tumor) for g in columns(measured, "TUMOR")]
    assert np.ptp(found) > 0.2


def test_noise_genes_follow_nothing_once_depth_is_taken_out(tissue, centers, measured):
    expression = normalised(measured.counts)
    shares = tissue.shares_at(centers)
    noise = columns(measured, "NOISE")
    found = [correlation(expression[:, g], shares[:, k]) for g in noise for k in range(3)]
    assert len(noise) == 30
    assert abs(np.mean(found)) < 0.05
    assert np.abs(found).max() < 0.25


def test_depth_varies_and_follows_how_much_rna_the_tissue_holds(tissue, centers, measured):
    depth = np.log(measured.counts.sum(axis=1))
    assert depth.std() > 0.3
    shares = tissue.shares_at(centers)
    is_tumor, is_poor = shares[:, 0] > 0.8, shares[:, 3:].sum(axis=1) > 0.8  # fat and necrosis
    assert min(is_tumor.sum(), is_poor.sum()) > 10
    assert depth[is_tumor].mean() > depth[is_poor].mean() + 0.7


def test_counts_are_overdispersed(tissue, centers):
    rng = np.random.default_rng(0)
    same_spot = np.repeat(centers[:1], 2000, axis=0)
    counts = measure(tissue, same_spot, n_genes=60, noise_share=0.5, rng=rng).counts
    busy = counts[:, counts.mean(axis=0) > 10]
    assert counts.dtype == np.uint32
    assert (busy.var(axis=0) > 1.5 * busy.mean(axis=0)).all()


def test_patients_share_the_gene_list_and_differ_in_strength(centers, tissue, measured):
    rng = np.random.default_rng(0)
    sections = [grow_tissue(1, size_um=SIZE_UM, patient_seed=seed) for seed in (3, 4)]
    # Expected composition of the same tissue in two patients: same shares, other strengths.
    own, other = (
        measure(section, np.full((3000, 2), 800.0), n_genes=60, noise_share=0.5, rng=rng)
        for section in sections
    )
    assert own.genes == other.genes == measured.genes
    own_mean, other_mean = own.counts.mean(axis=0), other.counts.mean(axis=0)
    assert np.abs(np.log(own_mean / other_mean)).max() > 0.5


def test_all_genes_may_follow_tissue(tissue, centers):
    rng = np.random.default_rng(0)
    measured = measure(tissue, centers, n_genes=10, noise_share=0.0, rng=rng)
    assert not columns(measured, "NOISE")
    assert (measured.counts.sum(axis=0) > 0).all()


def test_the_picture_tells_expression_but_not_noise(picture, centers, measured):
    patches = [picture[int(y) - 40 : int(y) + 40, int(x) - 40 : int(x) + 40] for x, y in centers]
    seen = np.array([np.r_[p.mean(axis=(0, 1)), p.std(axis=(0, 1))] for p in patches])
    seen = (seen - seen.mean(axis=0)) / seen.std(axis=0)
    expression = normalised(measured.counts)
    predicted = cross_val_predict(Ridge(1.0), seen, expression, cv=5)
    score = {
        prefix: np.mean(
            [correlation(predicted[:, g], expression[:, g]) for g in columns(measured, prefix)]
        )
        for prefix in ("TUMOR", "STROMA", "NOISE")
    }
    assert score["TUMOR"] > 0.3
    assert score["STROMA"] > 0.3
    assert score["NOISE"] < 0.1
