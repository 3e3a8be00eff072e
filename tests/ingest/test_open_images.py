"""Images are opened and decoded once, some of them at the same time."""

import weakref

import numpy as np
import pytest
from PIL import Image

from spahgc.errors import ImageError
from spahgc.ingest import open_images
from spahgc.ingest.open_images import let_go, open_once, open_together


@pytest.fixture(autouse=True)
def nothing_open():
    let_go()
    yield
    let_go()


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / f"{name}.jpg" for name in "abc"]
    for number, path in enumerate(paths):
        Image.new("RGB", (90, 80), (10 * number, 0, 0)).save(path, quality=100)
    return paths


def test_who_asks_again_gets_the_same_image(paths):
    first = open_once(paths[0])
    assert open_once(paths[0]) is first
    gone = weakref.ref(first)
    del first
    open_once(paths[1])
    assert gone() is None


def test_images_opened_together_are_decoded_and_found_again(paths):
    kept = open_once(paths[0])
    images = open_together(paths[:2])
    assert images[paths[0]].result() is kept
    for path in paths[:2]:
        image = images[path].result()
        assert open_once(path) is image
        assert image._pixels_HW3 is not None
    red = images[paths[1]].result().read_square((40, 40), side_px=8, out_px=8).pixels[..., 0]
    assert np.abs(red.astype(int) - 10).max() <= 1
    open_together(paths[2:])
    assert list(open_images._open) == paths[2:]


def test_what_is_wrong_with_one_image_is_told_in_its_turn(paths):
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[: len(whole) // 2])
    paths[2].unlink()
    images = open_together(paths)
    assert images[paths[0]].result().size == (90, 80)
    with pytest.raises(ImageError, match=r"b\.jpg cannot be read as an image"):
        images[paths[1]].result()
    with pytest.raises(ImageError, match=r"c\.jpg does not exist"):
        images[paths[2]].result()
