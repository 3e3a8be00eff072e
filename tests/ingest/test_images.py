"""Images whose colours tell where each pixel lies, so that a wrong square shows its own shift."""

import gc
import tempfile
import threading

import numpy as np
import pytest
import tifffile
from PIL import Image

from spahgc.errors import ImageError
from spahgc.ingest import images, pyramids, tiled_copies
from spahgc.ingest.images import open_image
from spahgc.ingest.slide_image import SquareSize

WIDTH, HEIGHT = 1001, 777


def ramp(width=WIDTH, height=HEIGHT, *, step=1):
    """Red rises with x, green with y, both as seen at pixel centers; blue stays 99."""
    x_W = (np.arange(width) + 0.5) * step / WIDTH * 250
    y_H = (np.arange(height) + 0.5) * step / HEIGHT * 250
    red_HW, green_HW = np.meshgrid(x_W, y_H)
    return np.stack([red_HW, green_HW, np.full_like(red_HW, 99)], axis=-1).round().astype(np.uint8)


def expected_square(center, *, side_px, out_px):
    offset_O = (np.arange(out_px) + 0.5) / out_px * side_px - side_px / 2
    red_O = (center[0] + offset_O) / WIDTH * 250
    green_O = (center[1] + offset_O) / HEIGHT * 250
    red_OO, green_OO = np.meshgrid(red_O, green_O)
    return np.stack([red_OO, green_OO, np.full_like(red_OO, 99)], axis=-1)


def tolerance(image):
    """Grey levels by which a decoded colour may be off; JPEG rounds colours on its own."""
    return 5 if image.reader == "libjpeg-turbo" else 3


def write_pyramid(path, *, levels=(1, 2, 4), tile=64):
    with tifffile.TiffWriter(path) as tiff:
        for step in levels:
            pixels = ramp(WIDTH // step, HEIGHT // step, step=step)
            tiff.write(
                pixels,
                tile=(tile, tile),
                photometric="rgb",
                subfiletype=int(step > 1),
                metadata=None,
            )
    return path


def write_plain(path):
    Image.fromarray(ramp()).save(path)
    return path


@pytest.fixture(
    scope="module", params=["plain", "jpeg", "pyramid", "pyramid without levels", "tiled copy"]
)
def ramp_image(request, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("ramp")
    if request.param == "plain":
        path = write_plain(folder / "ramp.png")
    elif request.param == "jpeg":
        path = folder / "ramp.jpg"
        Image.fromarray(ramp()).save(path, quality=100, subsampling=0)
    elif request.param == "tiled copy":
        path = write_plain(folder / "large.png")
        patch.setattr(images, "MAX_DECODED_PIXELS", 1000)
        patch.setenv(tiled_copies.CACHE_VARIABLE, str(folder / "cache"))
    elif request.param == "pyramid":
        path = write_pyramid(folder / "ramp.tif")
    else:
        path = write_pyramid(folder / "ramp.tif", levels=(1,))
    with open_image(path) as image:
        patch.undo()
        yield image


def test_plain_and_whole_slide_files_are_told_apart(tmp_path):
    with open_image(write_plain(tmp_path / "a.png")) as plain:
        assert (plain.reader, plain.size) == ("pillow", (WIDTH, HEIGHT))
    with open_image(write_pyramid(tmp_path / "a.tif")) as pyramid:
        assert (pyramid.reader, pyramid.size) == ("openslide", (WIDTH, HEIGHT))
        assert pyramid._downsamples == [(1, 1), (2, 2), (4, 4)]
        assert pyramid.file.path == tmp_path / "a.tif"


@pytest.mark.parametrize("side_px", [33, 64.5, 130, 257.3, 512], ids=lambda side: f"{side}px")
@pytest.mark.parametrize("center", [(500.25, 400.75), (740.1, 520.2)], ids=str)
@pytest.mark.parametrize("out_px", [64, 63], ids=["even", "odd"])
def test_square_shows_the_right_part_of_the_image(ramp_image, center, side_px, out_px):
    square = ramp_image.read_square(center, side_px=side_px, out_px=out_px)
    expected = expected_square(center, side_px=side_px, out_px=out_px)
    assert square.pixels.shape == (out_px, out_px, 3)
    assert square.pixels.dtype == np.uint8
    assert square.padded_fraction == 0
    assert np.abs(square.pixels - expected).max() < tolerance(ramp_image)


@pytest.fixture(scope="module", params=["plain", "jpeg", "pyramid", "tiled copy"])
def blob_image(request, tmp_path_factory):
    folder, patch = tmp_path_factory.mktemp("blob"), pytest.MonkeyPatch()
    if request.param == "plain":
        path = folder / "blob.png"
        Image.fromarray(blob(1)).save(path)
    elif request.param == "jpeg":
        path = folder / "blob.jpg"
        Image.fromarray(blob(1)).save(path, quality=100, subsampling=0)
    elif request.param == "tiled copy":
        path = folder / "blob.png"
        Image.fromarray(blob(1)).save(path)
        patch.setattr(images, "MAX_DECODED_PIXELS", 1000)
        patch.setenv(tiled_copies.CACHE_VARIABLE, str(folder / "cache"))
    else:
        path = folder / "blob.tif"
        with tifffile.TiffWriter(path) as tiff:
            for step in (1, 2, 4):
                tiff.write(blob(step), tile=(64, 64), photometric="rgb", subfiletype=int(step > 1))
    with open_image(path) as image:
        patch.undo()
        yield image


BLOB = (701.3, 498.8)


def blob(step):
    """A soft dark spot on white, seen at one pixel in ``step``."""
    x_W = (np.arange(WIDTH // step) + 0.5) * step - BLOB[0]
    y_H = (np.arange(HEIGHT // step) + 0.5) * step - BLOB[1]
    dark_HW = np.exp(-(y_H[:, None] ** 2 + x_W[None] ** 2) / (2 * 14**2))
    return np.repeat((255 - 250 * dark_HW).round().astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("side_px", [150, 160.7, 256, 300, 512], ids=lambda side: f"{side}px")
@pytest.mark.parametrize("shift", [(0, 0), (0.3, -0.4), (11.7, 5.1), (-20, 13.25)], ids=str)
def test_square_lies_exactly_around_its_center(blob_image, side_px, shift):
    center = (BLOB[0] + shift[0], BLOB[1] + shift[1])
    square = blob_image.read_square(center, side_px=side_px, out_px=75)
    darkness = 255 - square.pixels[..., 0].astype(float)
    at_O = (np.arange(75) + 0.5) / 75 * side_px
    found = [at_O @ darkness.sum(axis) / darkness.sum() - side_px / 2 for axis in (0, 1)]
    assert found == pytest.approx([-shift[0], -shift[1]], abs=0.2)


def test_shift_by_a_tenth_of_a_pixel_changes_the_square(tmp_path):
    step = np.zeros((64, 64, 3), np.uint8)
    step[:, 32:] = 200
    Image.fromarray(step).save(tmp_path / "step.png")
    with open_image(tmp_path / "step.png") as image:
        brightness = [
            image.read_square((32 + shift, 32), side_px=20, out_px=20).pixels.mean()
            for shift in (-0.5, -0.1, 0, 0.1, 0.5)
        ]
    assert np.all(np.diff(brightness) > 0)
    assert brightness[2] == pytest.approx(100, abs=0.5)


def test_both_readers_give_the_same_square(tmp_path):
    noise = np.random.default_rng(3).integers(0, 256, (200, 301, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    tifffile.imwrite(tmp_path / "noise.tif", noise, tile=(64, 64), photometric="rgb")
    with open_image(tmp_path / "noise.png") as plain, open_image(tmp_path / "noise.tif") as tiled:
        assert tiled.reader == "openslide"
        for center in [(100, 100), (3.3, 199.9), (297.2, 60.6), (150, -20)]:
            for side_px in (20.5, 64, 190):
                one = plain.read_square(center, side_px=side_px, out_px=48)
                two = tiled.read_square(center, side_px=side_px, out_px=48)
                assert one.padded_fraction == two.padded_fraction
                assert np.abs(one.pixels.astype(int) - two.pixels).max() <= 1


def test_coarsest_level_that_is_fine_enough_is_read(tmp_path):
    with tifffile.TiffWriter(tmp_path / "levels.tif") as tiff:
        for step, grey in [(1, 10), (2, 20), (4, 40)]:
            level = np.full((512 // step, 512 // step, 3), grey, np.uint8)
            tiff.write(level, tile=(64, 64), photometric="rgb", subfiletype=int(step > 1))
    with open_image(tmp_path / "levels.tif") as image:
        greys = {
            wanted: int(image.read_square((256, 256), side_px=32 * wanted, out_px=32).pixels.mean())
            for wanted in (0.5, 1, 1.9, 2, 3.9, 4, 8)
        }
    assert greys == {0.5: 10, 1: 10, 1.9: 10, 2: 20, 3.9: 20, 4: 40, 8: 40}


@pytest.mark.parametrize(
    ("center", "share"),
    [
        ((0, 400), 0.5),
        ((WIDTH, 400), 0.5),
        ((0, 0), 0.75),
        ((WIDTH, HEIGHT), 0.75),
        ((-500, 400), 1.0),
        ((5000, 5000), 1.0),
        ((50, 50), 0.0),
    ],
    ids=str,
)
def test_what_lies_outside_is_white_and_counted(ramp_image, center, share):
    square = ramp_image.read_square(center, side_px=100, out_px=50)
    assert square.padded_fraction == pytest.approx(share)
    is_white = (square.pixels == 255).all(-1)
    assert is_white.mean() == pytest.approx(share, abs=0.05)


def test_square_that_touches_the_border_from_inside_picks_up_no_white(ramp_image):
    corners = [(32, 32), (WIDTH - 32, 32), (32, HEIGHT - 32), (WIDTH - 32, HEIGHT - 32)]
    for center in corners:
        square = ramp_image.read_square(center, side_px=64, out_px=64)
        assert square.padded_fraction == 0
        expected = expected_square(center, side_px=64, out_px=64)
        assert np.abs(square.pixels - expected).max() < tolerance(ramp_image)


def test_square_larger_than_the_image_is_padded_on_all_sides(ramp_image):
    square = ramp_image.read_square((WIDTH / 2, HEIGHT / 2), side_px=2000, out_px=100)
    assert square.padded_fraction == pytest.approx(1 - WIDTH * HEIGHT / 2000**2)
    assert (square.pixels[0] == 255).all()
    assert abs(square.pixels[50, 50, 0].astype(int) - 126) <= 2


def test_thumbnail_shows_the_whole_image_and_its_scale(ramp_image):
    thumbnail = ramp_image.thumbnail(100)
    assert thumbnail.pixels.shape == (78, 100, 3)
    assert thumbnail.scale == pytest.approx(100 / WIDTH)
    inner = thumbnail.pixels[2:-2, 2:-2, 0].astype(float)
    expected_W = (np.arange(100) + 0.5)[2:-2] * 2.5
    # a JPEG decoded to an eighth of its size rounds once more
    assert np.abs(inner - expected_W).max() < (2 if tolerance(ramp_image) > 3 else 1.6)


def test_thumbnail_is_never_larger_than_the_image(ramp_image):
    thumbnail = ramp_image.thumbnail(5000)
    assert thumbnail.scale == 1
    assert np.abs(thumbnail.pixels.astype(int) - ramp()).max() < tolerance(ramp_image)


def test_thumbnail_in_many_bands_equals_one_band(tmp_path, monkeypatch):
    path = write_pyramid(tmp_path / "ramp.tif", levels=(1,))
    with open_image(path) as image:
        whole = image.thumbnail(150)
        monkeypatch.setattr(pyramids, "_BAND_PIXELS", 20_000)
        banded = image.thumbnail(150)
    assert np.abs(whole.pixels.astype(int) - banded.pixels).max() <= 1


def test_jpeg_thumbnail_needs_no_full_decoding(tmp_path):
    Image.fromarray(ramp()).save(tmp_path / "ramp.jpg", quality=95)
    with open_image(tmp_path / "ramp.jpg") as image:
        draft = image.thumbnail(90).pixels
        assert image._pixels_HW3 is None
        image.decode()
        assert np.array_equal(image.thumbnail(90).pixels, draft)  # and so are stains found on it
    Image.fromarray(ramp()).save(tmp_path / "ramp.png")
    with open_image(tmp_path / "ramp.png") as image:
        whole = image.thumbnail(90).pixels.astype(int)
    assert np.abs(whole - draft)[2:-2, 2:-2].max() <= 3


def test_only_the_header_is_read_before_the_first_pixel(tmp_path):
    Image.fromarray(ramp()).save(tmp_path / "ramp.jpg")
    whole = (tmp_path / "ramp.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with open_image(tmp_path / "cut.jpg") as image:
        assert image.size == (WIDTH, HEIGHT)
        with pytest.raises(ImageError, match=r"cut\.jpg cannot be read as an image.*truncated"):
            image.read_square((500, 700), side_px=10, out_px=10)
        with pytest.raises(ImageError, match=r"cut\.jpg"):
            image.thumbnail(100)


@pytest.mark.parametrize("content", [b"", b"not an image\n" * 50], ids=["empty", "text"])
def test_file_that_is_no_image_is_named(tmp_path, content):
    (tmp_path / "odd.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"odd\.jpg is .*expected JPEG") as caught:
        open_image(tmp_path / "odd.jpg")
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg does not exist"):
        open_image(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        open_image(tmp_path)


def test_broken_whole_slide_file_is_an_image_error(tmp_path):
    path = write_pyramid(tmp_path / "ramp.tif")
    path.write_bytes(path.read_bytes()[:60_000])

    def read():
        with open_image(path) as image:
            image.read_square((900, 700), side_px=100, out_px=10)

    with pytest.raises(ImageError, match=r"ramp\.tif"):
        read()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Let every image count as too large to decode, and keep the copies here."""
    monkeypatch.setattr(images, "MAX_DECODED_PIXELS", 1000)
    monkeypatch.setenv(tiled_copies.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_large_image_is_copied_once_and_never_beside_itself(tmp_path, cache):
    (tmp_path / "in").mkdir()
    path = write_plain(tmp_path / "in" / "large.png")
    with open_image(path) as image:
        assert not cache.exists()  # the header is enough as yet
        assert image.reader.startswith("openslide, through the tiled copy")
        image.read_square((100, 100), side_px=20, out_px=10)
    (copy,) = [file for file in cache.rglob("*") if file.is_file()]
    written = copy.stat().st_mtime_ns
    with open_image(path) as image:
        image.thumbnail(100)
    assert copy.stat().st_mtime_ns == written
    assert [file.name for file in (tmp_path / "in").iterdir()] == ["large.png"]
    Image.new("RGB", (200, 100), (1, 2, 3)).save(path)
    with open_image(path) as image:
        square = image.read_square((100, 50), side_px=20, out_px=10)
    assert (square.pixels == (1, 2, 3)).all()


@pytest.mark.parametrize("value", ["off", "none", ""])
def test_without_a_cache_a_large_image_is_copied_for_as_long_as_it_is_open(
    tmp_path, cache, monkeypatch, value
):
    (here := tmp_path / "here").mkdir()
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    path = write_plain(tmp_path / "large.png")
    with open_image(path) as image:
        kept = image.read_square((100, 100), side_px=20, out_px=10)
    monkeypatch.setenv(tiled_copies.CACHE_VARIABLE, value)
    with open_image(path) as image:
        assert image.reader == "openslide, through a temporary tiled copy"
        assert not list(temporary.iterdir())
        square = image.read_square((100, 100), side_px=20, out_px=10)
        assert len(list(temporary.rglob("*.tif"))) == 1
    assert np.array_equal(square.pixels, kept.pixels)
    assert not list(temporary.iterdir())
    unclosed = open_image(path)
    unclosed.thumbnail(10)
    assert len(list(temporary.rglob("*.tif"))) == 1
    del unclosed
    gc.collect()
    assert not list(temporary.iterdir())
    assert not list(here.iterdir())
    assert not (tmp_path / "users").exists()


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "tiled.tif"])
def test_a_large_image_cut_short_is_an_error_and_leaves_no_copy(tmp_path, cache, ending):
    path = tmp_path / f"cut.{ending}"
    noise = Image.effect_noise((400, 300), 50).convert("RGB")
    if ending == "tiled.tif":
        tifffile.imwrite(path, np.asarray(noise), tile=(64, 64), photometric="rgb")
    else:
        noise.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=rf"cut\.{ending}"), open_image(path) as image:
        image.read_square((390, 290), side_px=20, out_px=10)
    assert not [file for file in cache.rglob("*") if file.is_file()]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_large_image_shows_the_same_colours_as_a_small_one(tmp_path, cache, monkeypatch, mode):
    colour = {"RGB": (10, 20, 30), "RGBA": (10, 20, 30, 51), "L": 80}[mode]
    Image.new(mode, (60, 50), colour).save(tmp_path / "a.png")
    with open_image(tmp_path / "a.png") as image:
        large = image.read_square((30, 25), side_px=20, out_px=20).pixels
    monkeypatch.setattr(images, "MAX_DECODED_PIXELS", 10_000)
    with open_image(tmp_path / "a.png") as image:
        small = image.read_square((30, 25), side_px=20, out_px=20).pixels
    assert np.abs(large.astype(int) - small).max() <= 1


def test_a_large_image_of_ink_is_refused(tmp_path, cache):
    Image.new("CMYK", (60, 50)).save(tmp_path / "ink.tif")
    with pytest.raises(ImageError, match=r"ink\.tif: 60 x 50 px of mode CMYK.*convert it to RGB"):
        open_image(tmp_path / "ink.tif")


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path, cache):
    cache.write_text("a file")
    with (
        pytest.raises(ImageError, match="SPAHGC_CACHE names another folder"),
        open_image(write_plain(tmp_path / "large.png")) as image,
    ):
        image.thumbnail(10)


def test_a_jpeg_decodes_to_what_pillow_sees(tmp_path):
    path = tmp_path / "noise.jpg"
    Image.effect_noise((300, 200), 60).convert("RGB").save(path, quality=90)
    for mode in ("RGB", "L", "CMYK"):
        Image.open(path).convert(mode).save(tmp_path / f"{mode}.jpg")
        with open_image(tmp_path / f"{mode}.jpg") as image:
            assert image.reader == ("pillow" if mode == "CMYK" else "libjpeg-turbo")
            square = image.read_square((150, 100), side_px=200, out_px=200)
        seen = np.asarray(Image.open(tmp_path / f"{mode}.jpg").convert("RGB"))[:, 50:250]
        assert np.abs(square.pixels.astype(int) - seen).max() <= 1


def test_several_pictures_in_one_file_are_told(tmp_path):
    page = Image.new("RGB", (60, 50), (9, 9, 9))
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page.copy(), page.copy()])
    with open_image(tmp_path / "stack.tif") as image:
        assert image.remarks == ("stack.tif holds 3 pictures of one size; only the first is read",)


def test_a_thumbnail_before_its_slide_is_refused(tmp_path):
    label, slide = Image.new("RGB", (60, 50)), Image.new("RGB", (600, 500))
    label.save(tmp_path / "odd.tif", save_all=True, append_images=[slide])
    with pytest.raises(ImageError, match="first picture has 60 x 50 px and a later one 600 x 500"):
        open_image(tmp_path / "odd.tif")


def test_levels_are_not_taken_for_further_pictures(tmp_path):
    with open_image(write_pyramid(tmp_path / "a.tif")) as image:
        assert image.remarks == ()


def test_pillows_own_limit_is_lifted_only_while_opening(tmp_path, monkeypatch):
    path = write_plain(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    with open_image(path) as image:
        assert image.read_square((50, 50), side_px=20, out_px=20).padded_fraction == 0
    assert Image.MAX_IMAGE_PIXELS == 5000
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)


COLOURS = {
    "L": (80, (80, 80, 80)),
    "LA": ((80, 0), (255, 255, 255)),
    "RGBA": ((10, 20, 30, 51), (206, 208, 210)),
    "CMYK": ((255, 0, 0, 0), (0, 255, 255)),
    "1": (0, (0, 0, 0)),
}


@pytest.mark.parametrize("mode", COLOURS)
def test_eight_bit_modes_become_rgb_over_white(tmp_path, mode):
    colour, expected = COLOURS[mode]
    Image.new(mode, (40, 30), colour).save(tmp_path / "plain.tif")
    with open_image(tmp_path / "plain.tif") as image:
        square = image.read_square((20, 15), side_px=8, out_px=8)
        assert np.abs(square.pixels.astype(int) - expected).max() <= 1
        assert np.abs(image.thumbnail(20).pixels.astype(int) - expected).max() <= 1


def test_transparent_palette_colour_is_white(tmp_path):
    palette = Image.new("P", (40, 30), 1)
    palette.putpalette([0, 0, 0, 200, 10, 10])
    palette.save(tmp_path / "p.png", transparency=1)
    with open_image(tmp_path / "p.png") as image:
        assert (image.read_square((20, 15), side_px=8, out_px=8).pixels == 255).all()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((30, 40), np.uint16),
        np.zeros((30, 40, 3), np.uint16),
        np.zeros((30, 40), np.float32),
        np.zeros((30, 40), np.int32),
    ],
    ids=["grey 16 bit", "RGB 16 bit", "float", "int32"],
)
def test_more_than_eight_bits_is_refused(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "deep.tif", pixels)
    with pytest.raises(ImageError, match=r"deep\.tif: pixels are .*expected 8 bits"):
        open_image(tmp_path / "deep.tif")


@pytest.mark.parametrize("layout", ["tiled", "striped"])
@pytest.mark.parametrize("top", [4095, 65535], ids=["12 of 16 bits", "16 bits"])
def test_sixteen_bits_are_refused_however_they_are_laid_out(tmp_path, layout, top):
    pixels = (ramp().astype(np.uint16) * (top // 255)).astype(np.uint16)
    how = {"tile": (64, 64)} if layout == "tiled" else {"rowsperstrip": 64}
    tifffile.imwrite(tmp_path / "deep.tif", pixels, photometric="rgb", **how)
    with pytest.raises(ImageError, match=r"deep\.tif: pixels are .*16 bits.*expected 8 bits"):
        open_image(tmp_path / "deep.tif")


TIFFS = {
    "striped": {"rowsperstrip": 64},
    "striped BigTIFF": {"rowsperstrip": 64, "bigtiff": True},
    "tiled BigTIFF": {"tile": (64, 64), "bigtiff": True},
    "striped deflate": {"rowsperstrip": 64, "compression": "zlib"},
    "tiled deflate": {"tile": (64, 64), "compression": "zlib"},
    "striped planes": {"planarconfig": "separate"},
    "tiled planes": {"tile": (64, 64), "planarconfig": "separate"},
    "striped OME": {"rowsperstrip": 64, "ome": True, "metadata": {"axes": "YXS"}},
    "tiled OME": {"tile": (64, 64), "ome": True, "metadata": {"axes": "YXS"}},
    "big-endian": {"rowsperstrip": 64, "byteorder": ">"},
    "several pages": {"rowsperstrip": 64},
}


@pytest.mark.parametrize("kind", TIFFS)
def test_every_layout_of_a_tiff_shows_the_same_pixels(tmp_path, kind):
    pixels = np.moveaxis(ramp(), -1, 0) if kind.endswith("planes") else ramp()
    pixels = np.stack([pixels, 255 - pixels]) if kind == "several pages" else pixels
    path = tmp_path / ("a.ome.tif" if kind.endswith("OME") else "a.tif")
    tifffile.imwrite(path, pixels, photometric="rgb", **TIFFS[kind])
    with open_image(path) as image:
        assert image.size == (WIDTH, HEIGHT)
        square = image.read_square((500, 400), side_px=64, out_px=64)
        expected = expected_square((500, 400), side_px=64, out_px=64)
        assert np.abs(square.pixels - expected).max() < 3


def test_levels_in_sub_ifds_of_an_ome_tiff_do_no_harm(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", bigtiff=True) as tiff:
        tiff.write(ramp(), tile=(64, 64), photometric="rgb", subifds=1, metadata={"axes": "YXS"})
        tiff.write(ramp()[::2, ::2], tile=(64, 64), photometric="rgb", subfiletype=1)
    with open_image(tmp_path / "a.ome.tif") as image:
        assert image.size == (WIDTH, HEIGHT)
        assert image.read_square((500, 400), side_px=64, out_px=64).padded_fraction == 0


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}, 0.25),
        ({"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25}, 0.25),
        ({"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}, None),
        ({"PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "pixel", "PhysicalSizeY": 1.0}, None),
        ({"PhysicalSizeX": 0.25}, None),
        ({}, None),
    ],
    ids=["µm", "nm", "not square", "other unit", "one side", "none"],
)
def test_ome_xml_states_the_pixel_size(tmp_path, sizes, expected):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, ramp(), photometric="rgb", ome=True, metadata={"axes": "YXS", **sizes})
    with open_image(path) as image:
        assert image.microns_per_pixel == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    "how", [{"tile": (64, 64)}, {"rowsperstrip": 64}], ids=["tiled", "striped"]
)
def test_channels_in_pictures_of_their_own_are_refused(tmp_path, how):
    tifffile.imwrite(
        tmp_path / "channels.ome.tif",
        np.moveaxis(ramp(), -1, 0),
        photometric="minisblack",
        ome=True,
        metadata={"axes": "CYX"},
        **how,
    )
    with pytest.raises(ImageError, match=r"its 3 channels are separate grey pictures.*bfconvert"):
        open_image(tmp_path / "channels.ome.tif")


@pytest.mark.parametrize("tag", [3, 6])
@pytest.mark.parametrize(
    "how", [{"tile": (64, 64)}, {"rowsperstrip": 64}], ids=["tiled", "striped"]
)
def test_tiff_that_asks_to_be_turned_is_refused(tmp_path, how, tag):
    tifffile.imwrite(
        tmp_path / "a.tif", ramp(), photometric="rgb", extratags=[(274, 3, 1, tag, True)], **how
    )
    with pytest.raises(ImageError, match=rf"orientation tag is {tag}, .*vips autorot"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_jpeg_and_png_are_taken_as_stored_whatever_exif_asks(tmp_path, ending):
    picture = Image.fromarray(ramp())
    exif = picture.getexif()
    for tag, n_remarks in ((1, 0), (6, 1)):
        exif[274] = tag
        picture.save(tmp_path / f"a.{ending}", exif=exif)
        with open_image(tmp_path / f"a.{ending}") as image:
            assert image.size == (WIDTH, HEIGHT)
            assert len(image.remarks) == n_remarks
            assert all(f"a.{ending} asks to be shown turned" in text for text in image.remarks)
            square = image.read_square((700, 300), side_px=64, out_px=64)
            assert abs(int(square.pixels[32, 32, 0]) - 700 / WIDTH * 250) < 5


@pytest.mark.parametrize("length", [4, 9, 30, 200], ids=str)
def test_tiff_cut_short_in_its_header_is_an_image_error(tmp_path, length):
    path = write_pyramid(tmp_path / "ramp.tif")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ImageError, match=r"ramp\.tif"):
        open_image(path)


@pytest.mark.parametrize(
    ("pixels_per_cm", "expected"),
    [((20_000, 20_000), 0.5), ((10, 10), None), ((20_000, 10_000), None)],
    ids=["scanner", "default of a program", "not square"],
)
def test_stated_pixel_size_is_taken_only_where_it_is_plausible(tmp_path, pixels_per_cm, expected):
    tifffile.imwrite(
        tmp_path / "stated.tif",
        ramp(),
        tile=(64, 64),
        photometric="rgb",
        resolution=pixels_per_cm,
        resolutionunit="CENTIMETER",
    )
    with open_image(tmp_path / "stated.tif") as image:
        assert image.reader == "openslide"
        assert image.microns_per_pixel == (expected and pytest.approx(expected))


def test_jpeg_dpi_says_nothing_about_pixel_size(tmp_path):
    Image.fromarray(ramp()).save(tmp_path / "dpi.jpg", dpi=(300, 300))
    with open_image(tmp_path / "dpi.jpg") as image:
        assert image.microns_per_pixel is None


@pytest.mark.parametrize(
    ("center", "side_px"),
    [((float("nan"), 5), 10), ((5, 5), 0), ((5, 5), float("inf"))],
    ids=["NaN center", "no side", "endless side"],
)
def test_square_without_place_or_size_is_refused(ramp_image, center, side_px):
    with pytest.raises(ImageError, match="expected finite coordinates"):
        ramp_image.read_square(center, side_px=side_px, out_px=10)


def test_square_of_a_gigapixel_of_padding_is_refused(ramp_image):
    with pytest.raises(ImageError, match="px at once"):
        ramp_image.read_square((0, 0), side_px=1_000_000, out_px=10)


@pytest.mark.parametrize("threads", [1, 3])
def test_many_squares_are_what_each_of_them_is(ramp_image, threads):
    sizes = [SquareSize(40.5, 30), SquareSize(300, 30), SquareSize(75, 20)]
    centers_B2 = np.array(
        [[20.0 + 90 * n, 5.25 + 75 * n] for n in range(11)]  # the first and last leave the image
        + [[WIDTH / 2, HEIGHT / 2], [-3.0, 400.0], [5000.0, 5000.0]]
    )
    many = ramp_image.read_squares(centers_B2, sizes, threads=threads)
    for pixels_BHW3, (side_px, out_px) in zip(many, sizes, strict=True):
        each = [ramp_image.read_square(c, side_px=side_px, out_px=out_px) for c in centers_B2]
        assert np.array_equal(pixels_BHW3, [square.pixels for square in each])
    (none,) = ramp_image.read_squares(centers_B2[:0], [SquareSize(9, 30)])
    assert none.shape == (0, 30, 30, 3)
    centers_B2[4, 1] = np.nan
    with pytest.raises(ImageError, match=r"around \(380.0, nan\).*expected finite coordinates"):
        ramp_image.read_squares(centers_B2, sizes, threads=threads)


def test_threads_that_share_an_image_read_the_same_pixels(ramp_image):
    centers = [(100 + 8 * i, 100 + 5 * i) for i in range(60)]
    alone = [ramp_image.read_square(c, side_px=50, out_px=50).pixels for c in centers]
    found: dict[int, np.ndarray] = {}

    def read(part):
        for i in range(part, len(centers), 4):
            found[i] = ramp_image.read_square(centers[i], side_px=50, out_px=50).pixels

    threads = [threading.Thread(target=read, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[i], alone[i]) for i in range(len(centers)))
