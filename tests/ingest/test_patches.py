import numpy as np
import pytest

from spahgc.errors import ImageError
from spahgc.ingest.images import open_image
from spahgc.ingest.patches import PatchConfig, cut_patches


def cut(path, centers, *, microns_per_pixel=1.0, side_um=64.0, side_px=64, batch_size=4):
    with open_image(path) as image:
        config = PatchConfig(side_um=side_um, side_px=side_px)
        return list(
            cut_patches(
                image,
                np.asarray(centers, dtype=float),
                microns_per_pixel=microns_per_pixel,
                config=config,
                batch_size=batch_size,
            )
        )


def ramp(path, size=400):
    from PIL import Image

    y, x = np.mgrid[:size, :size]
    pixels = np.stack([x // 2, y // 2, np.zeros_like(x)], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_patch_lies_around_its_center_not_below_its_corner(tmp_path):
    (batch,) = cut(ramp(tmp_path / "ramp.png"), [[150, 250]])
    red, green = batch.pixels_BHWC[0, 31:33, 31:33, :2].reshape(-1, 2).mean(axis=0)
    assert red == pytest.approx(150 / 2, abs=1)
    assert green == pytest.approx(250 / 2, abs=1)


@pytest.mark.parametrize("microns_per_pixel", [0.25, 0.687, 1.0, 2.0], ids=str)
def test_a_patch_is_as_wide_on_the_tissue_as_asked(tmp_path, microns_per_pixel):
    (batch,) = cut(
        ramp(tmp_path / "ramp.png"), [[200, 200]], microns_per_pixel=microns_per_pixel, side_um=60
    )
    row = batch.pixels_BHWC[0, 32, :, 0].astype(float) * 2  # x in source pixels
    width_px = (row[-8] - row[7]) / (64 - 15) * 64
    assert width_px * microns_per_pixel == pytest.approx(60, rel=0.08)


def test_what_lies_outside_the_image_is_white_and_counted(tmp_path):
    (batch,) = cut(ramp(tmp_path / "ramp.png"), [[0, 200], [200, 200]])
    assert batch.padded_B.tolist() == [0.5, 0.0]
    assert (batch.pixels_BHWC[0, :, :20] == 255).all()


def test_a_patch_wholly_outside_names_the_spot_and_the_image(tmp_path):
    with pytest.raises(ImageError, match=r"ramp\.png: the patch of spot number 1 .* 400 × 400 px"):
        cut(ramp(tmp_path / "ramp.png"), [[200, 200], [900, 200]])


def test_batches_come_in_spot_order_and_the_last_may_be_smaller(tmp_path):
    centers = [[100 + 20 * n, 100] for n in range(5)]
    batches = cut(ramp(tmp_path / "ramp.png"), centers, batch_size=2)
    assert [len(batch.pixels_BHWC) for batch in batches] == [2, 2, 1]
    middle = np.concatenate([batch.pixels_BHWC for batch in batches])[:, 32, 32, 0]
    assert (np.diff(middle.astype(int)) == 10).all()
