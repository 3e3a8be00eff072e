"""An image that was exported smaller is refused, or the coordinates are scaled to it."""

import numpy as np
import pytest
from PIL import Image

from spahgc.demo.visium import VisiumSlide, write_pyramid, write_visium
from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.visium import read_visium

MICRONS_PER_PIXEL = 5.0


def build_truth(size=(900, 1200), corner=60.0):
    """Build a slide whose small pictures are smaller than its image."""
    array = np.array([(row, column) for row in range(8) for column in range(row % 2, 10, 2)])
    generator = np.random.default_rng(2)
    coarse = generator.integers(0, 255, (size[1] // 50, size[0] // 50, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    return VisiumSlide(
        barcodes=tuple(f"{n:08b}-1" for n in range(len(array))),
        array=array,
        centers=corner + array[:, ::-1] * np.array([50, 50 * 3**0.5]) / MICRONS_PER_PIXEL * 6,
        in_tissue=np.ones(len(array), np.bool_),
        counts=generator.integers(1, 9, (len(array), 2), dtype=np.uint32),
        gene_ids=("A", "B"),
        gene_symbols=("a", "b"),
        microns_per_pixel=MICRONS_PER_PIXEL / 6,
        image=image,
    )


TRUTH = build_truth()


@pytest.fixture
def folder(tmp_path):
    write_visium(tmp_path / "P1", TRUTH)
    return tmp_path / "P1"


def write_copy(folder, factor, *, name="small.png"):
    path = folder.parent / name
    height, width = TRUTH.image.shape[:2]
    size = (round(width * factor), round(height * factor))
    Image.fromarray(TRUTH.image).resize(size).save(path)
    return path


def texts(slide, kind):
    return [finding.text for finding in slide.findings if finding.kind == kind]


@pytest.mark.parametrize("factor", [1 / 2, 1 / 4, 0.37, 0.8], ids=str)
def test_a_smaller_image_is_taken_when_asked_for_and_centers_follow(folder, factor):
    path = write_copy(folder, factor)
    with pytest.raises(SlideFormatError, match=rf"at about {factor:.2f}\d .*--rescale-image"):
        read_visium(folder, image=path)
    slide = read_visium(folder, image=path, rescale_image=True)
    exactly = 1e-12 if factor in (1 / 2, 1 / 4) else 2e-3
    assert slide.centers == pytest.approx(TRUTH.centers * factor, rel=exactly)
    scale = TRUTH.microns_per_pixel / factor
    for source in ("pitch", "spot_diameter_65um"):
        assert slide.microns_per_pixel_sources[source] == pytest.approx(scale, rel=exactly)
    for thumbnail in slide.thumbnails.values():
        width = slide.image.size[0] * thumbnail.scale
        assert width == pytest.approx(thumbnail.pixels.shape[1], rel=2e-3)
    assert any("coordinates are scaled to it" in text for text in texts(slide, "inferred"))


def test_a_smaller_image_that_holds_all_spots_is_refused_all_the_same(tmp_path):
    truth = build_truth(size=(2400, 3200))
    write_visium(tmp_path / "P1", truth)
    Image.fromarray(truth.image).resize((1200, 1600)).save(tmp_path / "small.png")
    assert (truth.centers < (1200, 1600)).all()
    with pytest.raises(SlideFormatError, match=r"1200 x 1600 px .* at about 0\.500 "):
        read_visium(tmp_path / "P1", image=tmp_path / "small.png")


def test_the_right_image_is_never_rescaled(folder):
    plain, asked = read_visium(folder), read_visium(folder, rescale_image=True)
    assert np.array_equal(plain.centers, TRUTH.centers)
    assert np.array_equal(asked.centers, TRUTH.centers)


def test_without_small_pictures_the_tags_tell_the_size_of_a_copy(folder):
    for path in (folder / "outs" / "spatial").glob("*.png"):
        path.unlink()
    small = np.asarray(Image.fromarray(TRUTH.image).reduce(3))
    write_pyramid(folder.parent / "small.tif", small, TRUTH.microns_per_pixel * 3)
    with pytest.raises(SlideFormatError, match=r"at about 0\.333 .*--rescale-image"):
        read_visium(folder, image=folder.parent / "small.tif")
    slide = read_visium(folder, image=folder.parent / "small.tif", rescale_image=True)
    assert slide.centers == pytest.approx(TRUTH.centers / 3, rel=1e-12)
    sources = slide.microns_per_pixel_sources
    assert sources["image"] == pytest.approx(sources["pitch"], rel=1e-3)


def test_a_copy_of_unknown_size_is_refused_even_when_asked_for(folder):
    for path in (folder / "outs" / "spatial").glob("*.png"):
        path.unlink()
    path = write_copy(folder, 0.25)
    with pytest.raises(SlideFormatError, match="nothing tells by how much for --rescale-image"):
        read_visium(folder, image=path, rescale_image=True)


def test_another_shape_is_no_copy_and_is_not_rescaled(folder):
    path = folder.parent / "other.png"
    Image.fromarray(TRUTH.image).crop((0, 0, 400, 900)).save(path)
    with pytest.raises(SlideFormatError, match=r"the small pictures imply 900 x 1200 px; give the"):
        read_visium(folder, image=path, rescale_image=True)


def test_an_image_whose_tags_contradict_the_pitch_is_refused_unless_the_scale_is_stated(folder):
    path = folder.parent / "tagged.tif"
    write_pyramid(path, TRUTH.image, TRUTH.microns_per_pixel * 1.5)
    with pytest.raises(SlideFormatError, match=r"differ by 50%.*--mpp"):
        read_visium(folder, image=path)
    stated = read_visium(folder, image=path, microns_per_pixel=TRUTH.microns_per_pixel)
    assert stated.microns_per_pixel == TRUTH.microns_per_pixel
