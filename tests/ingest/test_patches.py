import numpy as np
import pytest

from spahgc.errors import ImageError
from spahgc.ingest.images import open_image
from spahgc.ingest.patches import PatchConfig, cut_patches, padded_share


def cut(path, centers, *, microns_per_pixel=1.0, side_um=64.0, side_px=64, batch_size=4):
    with open_image(path) as image:
        config = PatchConfig(side_um=side_um, side_px=side_px)
        return list(
            cut_patches(
                image,
                np.asarray(centers, dtype=float),
                microns_per_pixel=microns_per_pixel,
                configs=[config],
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
    centers = np.array([[0, 200], [200, 200], [0, 0], [32, 368]])
    (batch,) = cut(ramp(tmp_path / "ramp.png"), centers)
    share = padded_share(centers, size=(400, 400), side_px=64)
    assert share.tolist() == [0.5, 0.0, 0.75, 0.0]
    is_white = (batch.pixels_BHWC == 255).all(axis=-1)
    assert is_white.mean(axis=(1, 2)) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(
    ("center", "share"), [((900, 200), "100%"), ((-1, -1), "77%")], ids=["far", "corner"]
)
def test_a_patch_that_hardly_shows_the_image_is_refused(tmp_path, center, share):
    path = ramp(tmp_path / "ramp.png")
    with pytest.raises(ImageError, match=rf"ramp\.png: {share} .* 400 × 400 px, .* at most 75%"):
        cut(path, [[200, 200], center])


def test_patches_of_one_colour_are_told(tmp_path):
    from PIL import Image

    pixels = np.full((100, 300, 3), 240, np.uint8)
    pixels[:, 100:200] = 0
    pixels[50, 250] = 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (batch,) = cut(tmp_path / "a.png", [[50, 50], [150, 50], [250, 50]])
    assert batch.flat_B.tolist() == [True, True, False]


def test_every_width_of_a_spot_is_cut_before_the_next_batch_of_spots(tmp_path):
    with open_image(ramp(tmp_path / "ramp.png")) as image:
        batches = list(
            cut_patches(
                image,
                np.array([[100.0, 100], [200, 200], [300, 300]]),
                microns_per_pixel=0.5,
                configs=[
                    PatchConfig(side_um=32, side_px=32),
                    PatchConfig(side_um=64, side_px=64),
                ],
                batch_size=2,
            )
        )
    assert [(batch.width, len(batch.pixels_BHWC)) for batch in batches] == [
        (0, 2),
        (1, 2),
        (0, 1),
        (1, 1),
    ]
    middle = batches[1].pixels_BHWC[1, 31:33, 31:33, 0].mean()
    assert middle == pytest.approx(100, abs=1)
    left = [float(batch.pixels_BHWC[-1, 5, 0, 0]) * 2 for batch in batches[2:]]
    assert left == pytest.approx([300 - 32, 300 - 64], abs=3)  # 0.5 µm/px


@pytest.mark.parametrize("ahead_bytes", [0, 2 * 3 * 64**2, 7 * 3 * 64**2, 10**9])
def test_patches_cut_ahead_are_the_same_in_the_same_order(tmp_path, ahead_bytes):
    centers_S2 = np.array([[100.0 + 17 * n, 90 + 3 * n] for n in range(9)])
    configs = [PatchConfig(side_um=um, side_px=64) for um in (20, 30, 50)]
    how = {"microns_per_pixel": 0.5, "configs": configs, "batch_size": 2}
    with open_image(ramp(tmp_path / "ramp.png")) as image:
        expected = list(cut_patches(image, centers_S2, **how))
        found = list(cut_patches(image, centers_S2, **how, ahead_bytes=ahead_bytes, threads=2))
    assert [batch.width for batch in found] == [0, 1, 2] * 5
    for one, other in zip(found, expected, strict=True):
        assert one.width == other.width
        assert np.array_equal(one.pixels_BHWC, other.pixels_BHWC)


def test_batches_come_in_spot_order_and_the_last_may_be_smaller(tmp_path):
    centers = [[100 + 20 * n, 100] for n in range(5)]
    batches = cut(ramp(tmp_path / "ramp.png"), centers, batch_size=2)
    assert [len(batch.pixels_BHWC) for batch in batches] == [2, 2, 1]
    middle = np.concatenate([batch.pixels_BHWC for batch in batches])[:, 32, 32, 0]
    assert (np.diff(middle.astype(int)) == 10).all()
