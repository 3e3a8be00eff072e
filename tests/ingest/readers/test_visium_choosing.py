"""Of the images in a Visium folder the one that Space Ranger was given is taken, or none."""

import re
import shlex
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw, ImageFilter

from spahgc.cli import cli
from spahgc.demo.visium import VisiumSlide, write_pyramid, write_visium
from spahgc.errors import ImageError
from spahgc.ingest.readers.visium import read_visium

MICRONS_PER_PIXEL = 1.0
SIZE = (1530, 1270)


def draw_section(*, seed=0):
    """Draw blots of ink on glass, which no turning brings back onto themselves."""
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", SIZE, (240, 238, 242))
    pen = ImageDraw.Draw(image)
    for x, y, radius in generator.uniform((0, 0, 30), (*SIZE, 160), (25, 3)):
        ink = tuple(int(n) for n in generator.integers(60, 220, 3))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(3)))


SECTION = draw_section()


def write_slide(folder):
    array = np.array([(row, column) for row in range(14) for column in range(row % 2, 28, 2)])
    truth = VisiumSlide(
        barcodes=tuple(f"{'ACGT'[n % 4]}{n:03d}-1" for n in range(len(array))),
        array=array,
        centers=70.0 + array[:, ::-1] * np.array([50, 86.6]),
        in_tissue=np.ones(len(array), bool),
        counts=np.ones((len(array), 3), np.uint32),
        gene_ids=("ENSG001", "ENSG002", "ENSG003"),
        gene_symbols=("A", "B", "C"),
        microns_per_pixel=MICRONS_PER_PIXEL,
        image=SECTION,
    )
    write_visium(folder, truth)
    (folder / "image.tif").unlink()
    return folder


@pytest.fixture
def folder(tmp_path):
    """A slide with its small pictures; the full-resolution image is put where a test says."""
    return write_slide(tmp_path / "study" / "P1")


def put(path, pixels=SECTION, *, scale=1.0):
    """Put an image there, of the format its name asks for."""
    if path.suffix in {".tif", ".svs"} and scale == 1:
        write_pyramid(path, pixels, MICRONS_PER_PIXEL)
        return path
    width, height = (round(side * scale) for side in (pixels.shape[1], pixels.shape[0]))
    Image.fromarray(pixels).resize((width, height)).save(path)
    return path


def told(slide):
    return [finding.text for finding in slide.findings if "full-resolution image" in finding.text]


def taken(folder, **how):
    slide = read_visium(folder, **how)
    return None if slide.image is None else slide.image.path.name


@pytest.mark.parametrize(
    "place",
    [
        *("HE.jpg", "outs/P1_HE.jpeg", "outs/spatial/scan 7.png"),
        *("outs/spatial/a.tif", "b.svs", "outs/H.JPG"),
    ],
)
def test_an_image_of_any_name_that_fits_is_taken_and_told(folder, place):
    put(folder / place)
    slide = read_visium(folder)
    assert slide.image.path == folder / place
    told_of = "of 1530 x 1270 px as the hires picture and its scale factor imply, and alike"
    assert told(slide) == [f"full-resolution image: {place}, {told_of}"]
    assert read_visium(folder / "outs").image.path.samefile(folder / place)


def test_the_one_that_fits_is_taken_among_others(folder):
    for name, scale in {"half.png": 0.5, "most.png": 0.97, "double.png": 2}.items():
        put(folder / name, scale=scale)
    put(folder / "mirrored.png", SECTION[:, ::-1])
    put(folder / "turned.png", SECTION[::-1, ::-1])
    put(folder / "mask.png", np.where(SECTION > 200, 0, 255).astype(np.uint8))
    put(folder / "other.png", draw_section(seed=1))
    (folder / "broken.jpg").write_bytes(b"no picture")
    put(folder / "scan.jpg")
    slide = read_visium(folder)
    assert slide.image.path.name == "scan.jpg"
    (text,) = told(slide)
    assert "left aside: broken.jpg, double.png, half.png, mask.png" in text


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("half.png", 0.5, r"of 765 x 635 px does not hold the spots"),
        ("most.png", 0.98, r"of 1499 x 1245 px, a copy at 0\.980 of its size|, expected 1530 x 12"),
        ("double.png", 2, r"of 3060 x 2540 px, expected 1530 x 1270 by the hires picture"),
        ("mirrored.png", SECTION[:, ::-1], "does not look like the hires picture"),
        ("other.png", draw_section(seed=1), "does not look like the hires picture"),
        ("grey.png", np.full_like(SECTION, 9), "does not look like the hires picture"),
        ("empty.png", None, "cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value[-4:] else "",
)
def test_one_that_does_not_fit_is_not_taken_but_named_with_what_to_type(folder, name, change, why):
    path = folder / name
    if change is None:
        path.touch()
    elif isinstance(change, float | int):
        put(path, scale=change)
    else:
        put(path, change)
    slide = read_visium(folder)
    assert slide.image is None
    (text,) = told(slide)
    assert text.startswith(
        f"no full-resolution image (none lies here that is sure to be it: {name}"
    )
    assert text.endswith(f"to take one, give `--image {path}`")
    assert re.search(why, text)


def test_two_that_fit_are_left_to_the_person(folder):
    put(folder / "first scan.png")
    put(folder / "second.jpg")
    slide = read_visium(folder)
    assert slide.image is None
    (text,) = told(slide)
    assert "(first scan.png, second.jpg could all be it)" in text
    options = [option for option in text.split("`") if option.startswith("--image")]
    assert [shlex.split(option)[1] for option in options] == [
        str(folder / "first scan.png"),
        str(folder / "second.jpg"),
    ]


def test_of_two_that_fit_the_one_of_an_obvious_name_is_taken(folder):
    put(folder / "second.jpg")
    put(folder / "P1_fullres.png")
    slide = read_visium(folder)
    assert slide.image.path.name == "P1_fullres.png"
    assert "left aside: second.jpg" in told(slide)[0]


def test_one_that_fits_goes_before_a_smaller_one_of_an_obvious_name(folder):
    put(folder / "image.png", scale=0.5)
    put(folder / "scan.png")
    assert taken(folder) == "scan.png"


def test_a_link_to_the_same_image_is_no_second_one(folder):
    put(folder / "scan.png")
    (folder / "outs" / "image.png").symlink_to(folder / "scan.png")
    assert taken(folder) is not None


@pytest.mark.parametrize(
    "place",
    [
        *("cytassist_image.tif", "outs/spatial/P1_cytassist_image.tif", "tissue_hires_image.tif"),
        *("outs/spatial/aligned_fiducials.jpg", "detected_tissue_image.jpg", "P1_hires.png"),
        *("outs/aligned_tissue_image.jpg", "lowres.png", "outs/P1.tissue_lowres_image.jpeg"),
    ],
)
def test_what_space_ranger_makes_itself_is_never_taken_whatever_its_size(folder, place):
    put(folder / place)
    slide = read_visium(folder)
    assert slide.image is None
    assert "none lies here)" in told(slide)[0]


def test_beside_the_folder_only_an_image_named_after_the_slide_is_taken(folder):
    write_slide(folder.with_name("P1_b"))
    for name in ("P10_HE.png", "P1_b.png", "P1_b_HE.png", "HE.png"):
        put(folder.with_name(name))
    assert taken(folder) is None
    assert taken(folder / "outs") is None
    put(folder.with_name("P1_HE.png"))
    assert taken(folder) == "P1_HE.png"
    assert taken(folder / "outs") == "P1_HE.png"


def without_small_pictures(folder):
    for path in (folder / "outs" / "spatial").glob("*.png"):
        path.unlink()
    return folder


def test_without_small_pictures_the_pixel_size_in_the_tags_decides(folder):
    without_small_pictures(folder)
    put(folder / "scan.png")
    slide = read_visium(folder)
    assert slide.image is None
    assert "no small picture and no pixel size in its tags confirm it" in told(slide)[0]
    put(folder / "scan.tif")
    slide = read_visium(folder)
    assert slide.image.path.name == "scan.tif"
    assert "of 1.0000 µm, as the spots' pitch implies" in told(slide)[0]


def test_without_small_pictures_an_export_of_another_size_is_not_taken(folder):
    without_small_pictures(folder)
    twice = np.asarray(Image.fromarray(SECTION).resize((2 * SIZE[0], 2 * SIZE[1])))
    write_pyramid(folder / "twice.tif", twice, MICRONS_PER_PIXEL / 2)
    slide = read_visium(folder)
    assert slide.image is None
    assert "has 0.5000 µm per pixel, but the spots' pitch 1.0000" in told(slide)[0]


def test_the_only_one_of_an_obvious_name_that_cannot_be_read_is_an_error(folder):
    (folder / "image.tif").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"image\.tif is no image"):
        read_visium(folder)


def test_no_image_is_taken_where_the_person_wants_none(folder):
    put(folder / "scan.png")
    slide = read_visium(folder, find_image=False)
    assert slide.image is None
    assert told(slide) == ["no full-resolution image, as asked for: the slide cannot be embedded"]


def test_the_command_takes_the_image_or_none_or_the_one_it_is_given(folder, tmp_path):
    put(folder / "scan.png")
    other = put(folder / "other.png")

    def run(*options):
        where = ["--dry-run", "--store", str(tmp_path / "data.zarr")]
        return CliRunner().invoke(cli, ["ingest", "visium", str(folder), *where, *options])

    assert f"--image {other}" in run().output
    assert "as asked for" in run("--no-image").output
    assert f"full-resolution image: {other} (as stated)" in run("--image", str(other)).output
    both = run("--image", str(other), "--no-image")
    assert both.exit_code == 2
    assert "not both" in both.output
    other.unlink()
    assert "scan.png, of 1530 x 1270 px" in run().output


def test_the_image_beside_real_counts_is_found(real_slides, tmp_path):
    colon = real_slides / "visium" / "colon_d0"
    for folder in (colon, colon / "outs"):
        assert taken(folder) == "colon_d0_HE.jpg"
    mine = tmp_path / "colon"
    shutil.copytree(colon / "outs", mine / "outs")
    with Image.open(colon / "colon_d0_HE.jpg") as image:
        image.draft("RGB", (image.width // 2, image.height // 2))
        image.convert("RGB").save(mine / "colon_HE.jpg")
    slide = read_visium(mine)
    assert slide.image is None
    assert "does not hold the spots" in told(slide)[0]
