import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spahgc.errors import SlideFormatError
from spahgc.ingest.readers.st import StFiles, find_sections, read_st
from spahgc.store.cohort import open_cohort
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide

STEP = (21.66, 24.05)  # px on a real 2k array
WHOLE = [(x, y) for x in range(2, 66) for y in range(2, 63) if (x + y) % 2 == 0]
DISC = [(x, y) for x, y in WHOLE if (x - 33) ** 2 + (y - 30) ** 2 < 10**2]
"""Tissue."""


def write_section(
    folder, counted=WHOLE, selected=DISC, *, name="M1", step=STEP, turn=0, mirrored=False, ids=str
):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{ids(x)}x{ids(y)}\t{1 + n % 7}\t0" for n, (x, y) in enumerate(counted)]
    (folder / f"{name}.tsv").write_text("\n".join(["\tG1\tG2", *rows]) + "\n")
    angle = np.deg2rad(turn)
    turn_22 = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flip_22 = np.diag([1, -1]) if mirrored else np.eye(2)
    pixels = np.array(selected) @ (turn_22 @ flip_22 @ np.diag(step)).T
    pixels += 40 - pixels.min(axis=0)
    lines = [f"{x}\t{y}\t{px}\t{py}" for (x, y), (px, py) in zip(selected, pixels, strict=True)]
    (folder / f"{name}_selection.tsv").write_text("\n".join(["x\ty\tpixel_x\tpixel_y", *lines]))
    width, height = (int(side) + 80 for side in np.ptp(pixels, axis=0))
    Image.new("RGB", (width, height), (230, 200, 220)).save(folder / f"{name}.png")
    (files,) = find_sections(folder)
    return files


def texts(slide, kind):
    return [finding.text for finding in slide.findings if finding.kind == kind]


@pytest.mark.parametrize("turn", [0, 90, 180, -3], ids=lambda turn: f"{turn}°")
@pytest.mark.parametrize("mirrored", [False, True], ids=["plain", "mirrored"])
def test_a_2k_array_has_the_pixel_size_that_its_diagonal_neighbours_tell(tmp_path, turn, mirrored):
    slide = read_st(write_section(tmp_path, turn=turn, mirrored=mirrored))
    assert slide.lattice == "staggered"
    assert (slide.pitch_um, slide.spot_diameter_um) == (150, 110)
    assert slide.microns_per_pixel == pytest.approx(150 / np.hypot(*STEP), rel=1e-3)
    assert slide.microns_per_pixel_sources["array size"] == pytest.approx(4.41, abs=0.02)
    told = texts(slide, "inferred")
    assert any(
        f"x + y is even for {len(WHOLE)} of {len(WHOLE)} spots: a 2k array" in t for t in told
    )
    assert any("sure to ±5 % only: 4.63" in t and "4.41" in t for t in told), told
    assert not any("column steps apart" in text for text in texts(slide, "warning"))


def test_the_ids_of_spots_outside_the_tissue_tell_a_small_section(tmp_path):
    few = [(30, 30), (31, 31), (32, 30)]
    assert read_st(write_section(tmp_path, selected=few)).lattice == "staggered"


def test_stray_odd_and_decimal_ids_do_not_hide_a_2k_array(tmp_path):
    stray = [(x + (n < 9), y) for n, (x, y) in enumerate(DISC)]
    slide = read_st(write_section(tmp_path / "stray", DISC, stray))
    assert slide.lattice == "staggered"
    decimal = write_section(tmp_path / "decimal", ids=lambda at: f"{at + 0.04:.2f}")
    assert read_st(decimal).lattice == "staggered"


def test_a_pitch_that_is_stated_is_between_diagonal_neighbours(tmp_path):
    slide = read_st(write_section(tmp_path), pitch_um=147)
    assert slide.microns_per_pixel == pytest.approx(147 / np.hypot(*STEP), rel=1e-3)
    assert (slide.lattice, slide.pitch_um) == ("staggered", 147)
    assert "array size" not in slide.microns_per_pixel_sources


def test_the_preset_of_another_array_is_refused(tmp_path):
    files = write_section(tmp_path)
    with pytest.raises(SlideFormatError, match=r"M1: x \+ y is even for .*--preset her2st is of"):
        read_st(files, preset="her2st")
    assert read_st(files, preset="cscc").lattice == "staggered"


def test_a_2k_array_without_pixels_is_recognised_by_its_ids(tmp_path):
    files = write_section(tmp_path)
    slide = read_st(StFiles(name="M1", counts=files.counts))
    assert (slide.lattice, slide.pitch_um, slide.microns_per_pixel) == ("staggered", 150, None)


def test_a_cscc_section_needs_no_preset(tmp_path):
    write_section(tmp_path / "plain")
    (tmp_path / "P2_rep1_stdata.tsv").write_bytes((tmp_path / "plain/M1.tsv").read_bytes())
    spots = tmp_path / "spot_data-selection-P2_rep1.tsv"
    spots.write_bytes((tmp_path / "plain/M1_selection.tsv").read_bytes())
    (files,) = find_sections(tmp_path)
    assert files.layout == "cscc"
    slide = read_st(files)
    assert (slide.lattice, slide.pitch_um, slide.spot_diameter_um) == ("staggered", 150, 110)


def test_a_1k_array_stays_one(tmp_path):
    square = [(x, y) for x in range(2, 33) for y in range(2, 35)]
    slide = read_st(write_section(tmp_path, square, square[300:600], step=(73, 73)))
    assert (slide.lattice, slide.pitch_um, slide.spot_diameter_um) == ("square", 200, 100)
    assert slide.microns_per_pixel == pytest.approx(200 / 73)
    assert not any("x + y" in finding.text for finding in slide.findings)


def test_every_other_spot_of_a_1k_array_is_a_warning_and_keeps_its_scale(tmp_path):
    thinned = [(x, y) for x in range(2, 33) for y in range(2, 35) if (x + y) % 2 == 0]
    slide = read_st(write_section(tmp_path, thinned, thinned, step=(73, 73)))
    assert slide.lattice == "square"
    assert slide.microns_per_pixel == pytest.approx(200 / 73)
    assert any("every other spot was left out" in text for text in texts(slide, "warning"))


def test_the_preset_of_the_2k_array_on_a_1k_array_is_a_warning(tmp_path):
    square = [(x, y) for x in range(2, 20) for y in range(2, 20)]
    slide = read_st(write_section(tmp_path, square, square), preset="cscc")
    assert any("expected all as on the 2k array" in text for text in texts(slide, "warning"))


def test_the_lattice_is_kept_in_the_store_and_recognised_where_it_was_not(tmp_path):
    slide = read_st(write_section(tmp_path / "st"))
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, slide)
    stored = open_cohort(store.path)["M1"]
    assert stored.record["lattice"] == stored.lattice == "staggered"
    assert not stored.is_scaled_wrong
    del stored.record["lattice"]  # as older versions wrote it
    del stored.__dict__["lattice"]
    assert stored.lattice == "staggered"
    assert stored.is_scaled_wrong


@pytest.mark.real
@pytest.mark.skipif("SPAHGC_TEST_DATA" not in os.environ, reason="SPAHGC_TEST_DATA is not set")
def test_real_2k_slides_have_about_4_5_micrometres_a_pixel_and_1k_slides_what_they_had():
    data = Path(os.environ["SPAHGC_TEST_DATA"])
    second = [read_st(files) for files in find_sections(data / "st2k_mob")]
    assert [slide.name for slide in second] == ["MOB1", "MOB2", "MOB3"]
    for slide in second:
        assert slide.lattice == "staggered"
        assert 4.4 < slide.microns_per_pixel < 4.7
        assert not any("column steps apart" in text for text in texts(slide, "warning"))
    for files in [*find_sections(data / "st_mob"), *find_sections(data / "her2st")]:
        slide = read_st(files)
        assert (slide.lattice, slide.pitch_um) == ("square", 200)
