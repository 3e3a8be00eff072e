import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from spahgc.cli import cli
from spahgc.ingest.contact import show_patches
from spahgc.ingest.fields import EmbeddingConfig, Field
from spahgc.store.cohort import open_cohort
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide

CONFIG = EmbeddingConfig(fields=(Field(), Field(side_um=300)))


@pytest.fixture
def store(tmp_path, pictured_slide):
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, pictured_slide)
    return store


def test_what_leaves_the_image_most_is_shown_first_with_all_its_fields(store):
    slide = open_cohort(store.path)["A1"]
    shown = show_patches(slide, CONFIG, n_spots=4)
    assert [patch.side_um for patch in shown] == [112, 300] * 4
    assert shown[0].spot == "0x0"
    assert shown[1].padded_share == pytest.approx(1 - (200.5 / 300) ** 2)
    assert (shown[1].pixels_HW3[0] == 255).all()
    worst = [patch.padded_share for patch in shown[1:4:2]]
    assert worst == sorted(worst, reverse=True)
    assert len({patch.spot for patch in shown}) == 4


def test_a_sample_is_the_same_each_time_and_never_larger_than_the_slide(store):
    slide = open_cohort(store.path)["A1"]
    one, two = (show_patches(slide, CONFIG, n_spots=6) for _ in range(2))
    assert [patch.spot for patch in one] == [patch.spot for patch in two]
    assert len(show_patches(slide, EmbeddingConfig(), n_spots=50)) == 9


def test_the_command_draws_them(store, tmp_path):
    place = ["--store", str(store.path), "--save-patches", str(tmp_path / "sheet.png")]
    result = CliRunner().invoke(cli, ["embed", *place, "--patch-um", "60"])
    assert result.exit_code == 0, result.output
    assert "sheet.png" in result.stderr
    assert np.asarray(Image.open(tmp_path / "sheet.png").convert("L")).std() > 10


def test_a_picture_without_a_suffix_is_png_and_is_named_as_it_lies_there(store, tmp_path):
    place = ["--store", str(store.path), "--save-patches", str(tmp_path / "new" / "sheet")]
    result = CliRunner().invoke(cli, ["embed", *place, "--patch-um", "60"])
    assert result.exit_code == 0, result.output
    assert f"drawn in {tmp_path / 'new' / 'sheet.png'}" in result.stderr
    assert (tmp_path / "new" / "sheet.png").is_file()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sheet.xyz", "is no format of pictures, expected .png, .jpg, "),
        ("sheet.pgf", "is no format of pictures, expected .png, .jpg, "),
        ("sheet/", "names no file"),
        ("..", "names no file"),
        ("taken", "is a directory"),
    ],
)
def test_a_picture_that_cannot_be_is_told_before_anything_is_embedded(
    store, tmp_path, name, reason
):
    (tmp_path / "taken.png").mkdir()
    place = ["--store", str(store.path), "--save-patches", f"{tmp_path}/{name}"]
    result = CliRunner().invoke(cli, ["embed", *place, "--patch-um", "60"])
    assert result.exit_code == 2
    assert reason in result.stderr
    assert open_cohort(store.path)["A1"].entry.encoders == {}
