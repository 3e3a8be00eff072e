import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

from spahgc.errors import ImageError
from spahgc.ingest.readers.image import read_image_slide
from spahgc.ingest.readers.lattice import fit_lattice, hexagonal_microns_per_pixel
from spahgc.ingest.tissue import find_tissue

GLASS, TISSUE = (243, 241, 244), (190, 110, 170)


def painted(size=(1200, 900), tissue=((300, 200, 800, 600),), background=GLASS):
    image = Image.new("RGB", size, background)
    for box in tissue:
        left, top, right, bottom = box
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=TISSUE)
    return image


@pytest.fixture
def slide_file(tmp_path):
    path = tmp_path / "biopsy.png"
    painted().save(path)
    return path


def test_spots_lie_on_a_square_grid_over_the_tissue_only(slide_file):
    slide = read_image_slide(slide_file, microns_per_pixel=2.0, pitch_um=100)
    assert (slide.name, slide.platform, slide.pitch_um) == ("biopsy", "image", 100)
    x_S, y_S = slide.centers.T
    # 1200 x 900 px hold 24 x 18 squares of 50 px; tissue covers columns 6-15, rows 4-11.
    assert set(x_S) == {50 * column + 25 for column in range(6, 16)}
    assert set(y_S) == {50 * row + 25 for row in range(4, 12)}
    assert len(slide.spots) == 80
    assert slide.spots["tissue_fraction"].min() > 0.9


def test_spot_names_columns_and_centers_agree(slide_file):
    slide = read_image_slide(slide_file, microns_per_pixel=2.0)
    spot = slide.spots.loc["7x5"]
    assert (spot["array_col"], spot["array_row"]) == (7, 5)
    at = slide.spots.index.get_loc("7x5")
    assert slide.centers[at].tolist() == [375, 275]
    assert slide.spots.index.is_unique
    assert slide.spots["array_row"].dtype.kind == "i"


def test_slide_has_no_counts_and_no_genes(slide_file):
    slide = read_image_slide(slide_file, microns_per_pixel=2.0, name="B7", patient="P3")
    assert (slide.name, slide.patient) == ("B7", "P3")
    assert slide.counts.shape == (len(slide.spots), 0)
    assert slide.counts.dtype == np.uint32
    assert slide.genes.shape == (0, 1)
    assert list(slide.genes.columns) == ["symbol"]
    assert slide.thumbnails["hires"].pixels.shape == (900, 1200, 3)
    assert slide.thumbnails["lowres"].pixels.shape == (450, 600, 3)
    assert slide.image.size == (1200, 900)


def test_grid_is_centered_where_the_pitch_does_not_divide_the_image(slide_file):
    slide = read_image_slide(slide_file, microns_per_pixel=2.0, pitch_um=110)
    x_S, y_S = slide.centers.T
    assert ((x_S - 600) / 55 % 1).tolist() == [0] * len(x_S)  # 21 columns: one in the middle
    assert ((y_S - 450) / 55 % 1).tolist() == [0.5] * len(y_S)  # 16 rows


def test_hexagonal_grid_is_laid_like_visium(slide_file):
    slide = read_image_slide(
        slide_file, microns_per_pixel=2.0, pitch_um=100, lattice="hex", min_tissue_fraction=0.5
    )
    row, column = slide.spots["array_row"].to_numpy(), slide.spots["array_col"].to_numpy()
    assert ((row + column) % 2 == 0).all()
    fit = fit_lattice(np.stack([column, row], axis=1).astype(float), slide.centers)
    assert hexagonal_microns_per_pixel(fit, 100) == pytest.approx(2.0)
    assert fit.largest_residual_px < 1e-6
    assert fit.row_step_px == pytest.approx(50 * np.sqrt(3) / 2)
    distance, _ = cKDTree(slide.centers).query(slide.centers, k=7)
    assert distance[:, 1].max() == pytest.approx(50)
    has_six = np.isclose(distance[:, 6], 50)
    assert has_six.mean() > 0.5
    # The tissue of 500 x 400 px holds one spot per 50 x 43.3 px; a rim may be in or out.
    assert len(slide.spots) == pytest.approx(500 * 400 / (50 * 43.3), rel=0.12)
    assert slide.spots["tissue_fraction"].max() == pytest.approx(1)


@pytest.mark.parametrize("lattice", ["square", "hex"])
def test_every_cell_of_a_grid_lies_inside_the_image(tmp_path, lattice):
    painted((333, 257), [(0, 0, 333, 257)]).save(tmp_path / "full.png")
    slide = read_image_slide(
        tmp_path / "full.png", microns_per_pixel=2.0, pitch_um=74, lattice=lattice
    )
    low, high = slide.centers.min(axis=0), slide.centers.max(axis=0)
    height = 37 * (np.sqrt(3) / 2 if lattice == "hex" else 1)
    half = np.array([37, height]) / 2
    assert (low - half >= 0).all()
    assert (high + half <= [333, 257]).all()
    assert low + high == pytest.approx([333, 257])  # in the middle
    assert slide.spots["tissue_fraction"].min() > 0.95


def test_tissue_fraction_is_the_share_of_the_square(tmp_path):
    painted((800, 800), [(200, 200, 437, 600)]).save(tmp_path / "a.png")
    slide = read_image_slide(
        tmp_path / "a.png", microns_per_pixel=1.0, min_tissue_fraction=0.05, pitch_um=100
    )
    assert slide.spots.loc["3x4", "tissue_fraction"] == pytest.approx(1, abs=0.01)
    # 37 of 100 px, told on a thumbnail of 8 µm per pixel
    assert slide.spots.loc["4x4", "tissue_fraction"] == pytest.approx(0.37, abs=0.08)


@pytest.mark.parametrize(("least", "n_columns"), [(0.2, 3), (0.6, 2)], ids=["20 %", "60 %"])
def test_squares_below_the_least_tissue_are_left_out(tmp_path, least, n_columns):
    painted((800, 800), [(200, 200, 440, 600)]).save(tmp_path / "a.png")
    slide = read_image_slide(tmp_path / "a.png", microns_per_pixel=1.0, min_tissue_fraction=least)
    assert slide.spots["array_col"].nunique() == n_columns


def test_missing_pixel_size_names_the_option(slide_file):
    with pytest.raises(ImageError, match=r"biopsy\.png does not state its pixel size.*--mpp"):
        read_image_slide(slide_file)


def write_tiled(path, pixels_per_cm):
    tifffile.imwrite(
        path,
        np.asarray(painted()),
        tile=(256, 256),
        photometric="rgb",
        resolution=(pixels_per_cm, pixels_per_cm),
        resolutionunit="CENTIMETER",
    )


def test_pixel_size_comes_from_the_file_where_none_is_stated(tmp_path):
    write_tiled(tmp_path / "a.tif", 5000)
    slide = read_image_slide(tmp_path / "a.tif")
    assert slide.microns_per_pixel == pytest.approx(2.0)
    assert slide.microns_per_pixel_sources == {"image": pytest.approx(2.0)}
    assert len(slide.spots) == 80


def test_stated_pixel_size_wins_and_a_contradiction_is_a_warning(tmp_path):
    write_tiled(tmp_path / "a.tif", 5000)
    slide = read_image_slide(tmp_path / "a.tif", microns_per_pixel=2.5)
    assert slide.microns_per_pixel == 2.5
    assert slide.microns_per_pixel_sources == {"stated": 2.5, "image": pytest.approx(2.0)}
    (warning,) = [finding.text for finding in slide.findings if finding.kind == "warning"]
    assert "the image states 2.0000 µm per pixel, 20% off" in warning


@pytest.mark.parametrize("scale", [-1.0, 0.0], ids=str)
def test_pixel_size_must_be_positive(slide_file, scale):
    with pytest.raises(ImageError, match="expected positive numbers"):
        read_image_slide(slide_file, microns_per_pixel=scale)


@pytest.mark.parametrize(
    "background", [GLASS, (255, 255, 255), (0, 0, 0)], ids=["glass", "white", "black"]
)
def test_image_without_tissue_is_refused(tmp_path, background):
    pixels = np.asarray(painted(tissue=(), background=background)).astype(int)
    noise = np.random.default_rng(0).integers(-3, 4, pixels.shape)
    noisy = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(tmp_path / "empty.png")
    with pytest.raises(ImageError, match=r"empty\.png: no tissue found.*expected at least 20%"):
        read_image_slide(tmp_path / "empty.png", microns_per_pixel=2.0)


def test_pitch_wider_than_the_image_is_refused(slide_file):
    with pytest.raises(ImageError, match=r"2000 px does not fit into 1200 x 900 px; check --mpp"):
        read_image_slide(slide_file, microns_per_pixel=0.05)


def test_dust_and_a_black_frame_are_no_tissue():
    image = painted((200, 150), [(60, 40, 140, 110)])
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 8, 149), fill=(14, 4, 9))
    draw.point([(20, 20), (180, 30), (170, 130)], fill=TISSUE)
    is_tissue = find_tissue(np.asarray(image)).is_tissue
    expected = np.zeros((150, 200), bool)
    expected[40:110, 60:140] = True
    assert (is_tissue != expected).sum() < 20


def test_slide_full_of_tissue_is_not_split_by_its_own_contrast():
    pixels = np.full((100, 100, 3), (225, 160, 200), np.uint8)
    pixels[:, 50:] = (120, 50, 130)
    assert find_tissue(pixels).is_tissue.mean() > 0.98


@pytest.mark.real
@pytest.mark.skipif("SPAHGC_TEST_DATA" not in os.environ, reason="SPAHGC_TEST_DATA is not set")
def test_real_biopsy_is_covered_and_its_glass_is_not():
    path = Path(os.environ["SPAHGC_TEST_DATA"]) / "wsi" / "cmu-1-small-region.svs"
    slide = read_image_slide(path)
    assert slide.microns_per_pixel == pytest.approx(0.499)
    assert slide.image.reader == "openslide"
    # The lower middle is dermis and epidermis, the left third glass but for one thin strand.
    assert slide.spots.loc["5x11", "tissue_fraction"] > 0.6
    assert (slide.spots["array_col"] <= 2).sum() <= 4
    assert 50 <= len(slide.spots) <= 80
