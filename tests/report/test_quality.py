from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from spahgc.report.quality import plot_spots
from tests.conftest import build_slide


@pytest.mark.parametrize("thumbnails", [True, False], ids=["over a thumbnail", "alone"])
def test_spots_are_drawn_where_they_lie(tmp_path, thumbnails):
    slide = build_slide(n_spots=25)
    slide = slide if thumbnails else replace(slide, thumbnails={})
    assert plot_spots(tmp_path / "A1.png", slide)
    pixels = np.asarray(Image.open(tmp_path / "A1.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_a_slide_without_coordinates_has_no_picture(tmp_path):
    slide = replace(build_slide(), centers=np.full((5, 2), np.nan))
    assert not plot_spots(tmp_path / "A1.png", slide)
    assert list(tmp_path.iterdir()) == []
