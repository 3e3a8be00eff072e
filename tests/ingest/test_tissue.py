from dataclasses import replace

import numpy as np
import pytest

from spahgc.ingest.tissue import with_tissue_fraction
from spahgc.schema import Thumbnail
from tests.conftest import build_slide


def half_covered(scale=0.5):
    """A slide of 3 spots over an image of 400 x 300 px whose left half is tissue."""
    pixels = np.full((150, 200, 3), 245, np.uint8)
    pixels[:, :100] = (180, 60, 140)
    return replace(
        build_slide(n_spots=3),
        centers=np.array([[100.0, 150.0], [200.0, 150.0], [300.0, 150.0]]),
        microns_per_pixel=1.0,
        spot_diameter_um=60.0,
        thumbnails={"hires": Thumbnail(pixels=pixels, scale=scale)},
    )


def test_the_share_of_tissue_under_each_spot_is_measured():
    slide = with_tissue_fraction(half_covered())
    assert slide.spots["tissue_fraction"].to_numpy() == pytest.approx([1, 0.5, 0], abs=0.05)
    assert slide.findings[-1].text == "1 of 3 spots have less than 10% tissue under them"


def test_the_vendors_flag_stays_beside_it():
    slide = half_covered()
    assert with_tissue_fraction(slide).spots["in_tissue"].equals(slide.spots["in_tissue"])


@pytest.mark.parametrize(
    "change",
    [
        {"thumbnails": {}},
        {"microns_per_pixel": None},
        {"spot_diameter_um": None},
        {"centers": np.full((3, 2), np.nan)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_cannot_be_measured_is_left_out(change):
    slide = replace(half_covered(), **change)
    assert with_tissue_fraction(slide) is slide
