"""Pillow, which does the same in seven times the time, is the judge."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spahgc.ingest.boxes import moved, region_around
from spahgc.ingest.resampling import NEARLY, resample

NOISE = np.random.default_rng(0).integers(0, 256, (600, 650, 3), dtype=np.uint8)
"""Black beside white: whatever is weighed, rounded or cut off otherwise is seen at once."""


def by_pillow(pixels_HW3, size, box):
    image = Image.fromarray(pixels_HW3)
    block = int(min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]) * NEARLY)
    if block > 1:
        image, box = image.reduce(block), tuple(edge / block for edge in box)
    # across first, then down: what a single call does first differs between versions of Pillow
    left, top, right, bottom = box
    across = (size[0], image.height)
    image = image.resize(across, Image.Resampling.BICUBIC, box=(left, 0, right, image.height))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=(0, top, size[0], bottom)))


@settings(max_examples=200, deadline=None)
@given(
    left=st.floats(0, 640),
    top=st.floats(0, 590),
    sides=st.one_of(
        st.floats(1, 600).map(lambda side: (side, side)),
        st.tuples(st.floats(1, 600), st.floats(1, 600)),
    ),
    size=st.one_of(
        st.integers(3, 260).map(lambda side: (side, side)),
        st.tuples(st.integers(3, 260), st.integers(3, 260)),
    ),
)
def test_a_box_is_to_the_last_bit_what_pillow_makes_of_it(left, top, sides, size):
    box = (left, top, min(left + sides[0], 650), min(top + sides[1], 600))
    whole = resample(NOISE, size, box)
    assert whole.shape == (size[1], size[0], 3)
    assert whole.dtype == np.uint8
    assert np.array_equal(whole, by_pillow(NOISE, size, box))

    region = region_around(box, size, (650, 600), (650, 600))
    seen_HW3 = NOISE[region[1] : region[3], region[0] : region[2]]
    part = resample(NOISE, size, moved(box, region), region=region)
    assert np.array_equal(part, by_pillow(seen_HW3, size, moved(box, region)))


@settings(max_examples=200, deadline=None)
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_images_of_a_few_pixels_are_no_exception(width, height, size):
    few_HW3 = np.ascontiguousarray(NOISE[:height, :width])
    box = (0.0, 0.0, float(width), float(height))
    assert np.array_equal(resample(few_HW3, size, box), by_pillow(few_HW3, size, box))


@pytest.mark.parametrize(("side_px", "block"), [(126, 1), (127.8, 2), (250, 3), (255.2, 4)])
def test_whole_blocks_are_averaged_before_less_than_two_pixels_become_one(side_px, block):
    box = (1.5, 2.25, 1.5 + side_px, 2.25 + side_px)
    averaged = tuple(edge / block for edge in box)
    mean_HW3 = np.array(Image.fromarray(NOISE).reduce(block))
    expected = resample(mean_HW3, (64, 64), averaged)
    assert np.array_equal(resample(NOISE, (64, 64), box), expected)


def test_a_box_of_another_shape_keeps_what_it_shows():
    x_W, y_H = np.arange(300) + 0.5, np.arange(400) + 0.5
    ramp_HW3 = np.zeros((400, 300, 3), np.uint8)
    ramp_HW3[..., 0], ramp_HW3[..., 1] = x_W / 300 * 250, y_H[:, None] / 400 * 250
    small = resample(ramp_HW3, (50, 20), (30.0, 40.0, 230.0, 360.0)).astype(float)
    assert small.shape == (20, 50, 3)
    red_O = (30 + (np.arange(50) + 0.5) * 4) / 300 * 250
    green_O = (40 + (np.arange(20) + 0.5) * 16) / 400 * 250
    assert np.abs(small[..., 0] - red_O).max() < 1.5
    assert np.abs(small[..., 1] - green_O[:, None]).max() < 1.5
    assert (small[..., 2] == 0).all()


@pytest.mark.parametrize("grey", [0, 1, 127, 255])
@pytest.mark.parametrize("side_px", [0.8, 64, 300, 480, 510, 9000])
def test_one_colour_stays_that_colour(grey, side_px):
    plain_HW3 = np.full((9000, 9000, 3), grey, np.uint8) if side_px == 9000 else NOISE * 0 + grey
    box = (0.0, 0.0, side_px, side_px)
    assert (resample(plain_HW3.astype(np.uint8), (30, 30), box) == grey).all()


def test_pixels_that_may_not_be_written_are_read_and_left_as_they_are():
    locked_HW3 = NOISE.copy()
    locked_HW3.flags.writeable = False
    box = (3.0, 4.0, 303.0, 304.0)
    assert np.array_equal(resample(locked_HW3, (64, 64), box), resample(NOISE, (64, 64), box))
    unlocked_HW3 = NOISE.copy()
    resample(unlocked_HW3, (64, 64), box)
    assert unlocked_HW3.flags.writeable
    assert np.array_equal(unlocked_HW3, NOISE)
