"""Bringing a slide's stains to those of a reference."""

import sys

import numpy as np
import pytest
from PIL import Image

from spahgc.errors import ImageError, InstallationError, MismatchError
from spahgc.ingest.embedding import embed_image_slide, embed_slides
from spahgc.ingest.fields import EmbeddingConfig, config_like
from spahgc.ingest.images import open_image
from spahgc.ingest.stain import find_stain
from spahgc.store.cohort import open_cohort
from spahgc.store.embedding_names import options_of
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide
from tests.ingest.conftest import with_image

# density of red, green and blue of haematoxylin and eosin (Ruifrok and Johnston, 2001)
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
SIZE = (700, 600)


def paint(path, *, haematoxylin=1.0, eosin=1.0, seed=0):
    """Paint tissue of two stains, a third of the image glass."""
    generator = np.random.default_rng(seed)
    amounts_HW2 = generator.gamma(2.0, 0.35, (60, 70, 2)).repeat(10, 0).repeat(10, 1)
    amounts_HW2[:, :230] = 0
    stains_23 = np.stack([HAEMATOXYLIN * haematoxylin, EOSIN * eosin])
    light = 240 * np.exp(-amounts_HW2 @ stains_23)
    Image.fromarray(np.clip(light, 0, 255).astype(np.uint8)).save(path)
    return path


def recoloured(path):
    with open_image(path) as image:
        pixels_HWC = image.thumbnail(max(SIZE)).pixels
        return find_stain(image, "macenko").apply(pixels_HWC[None])[0].astype(int)


def test_the_same_tissue_stained_otherwise_becomes_alike(tmp_path):
    pale = paint(tmp_path / "pale.png", haematoxylin=0.6, eosin=0.7)
    strong = paint(tmp_path / "strong.png", haematoxylin=1.3, eosin=0.9)
    before = np.abs(np.asarray(Image.open(pale), int) - np.asarray(Image.open(strong), int)).mean()
    after = np.abs(recoloured(pale) - recoloured(strong)).mean()
    assert after < before / 4


def test_glass_stays_glass(tmp_path):
    assert recoloured(paint(tmp_path / "a.png"))[:, :200].min() >= 235


def test_it_is_what_the_library_does_to_the_tissue_itself(tmp_path):
    from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

    path = paint(tmp_path / "a.png")
    tissue_HWC = np.asarray(Image.open(path))[:, 230:]
    stained = (tissue_HWC < 206).all(axis=-1)
    theirs, *_ = NumpyMacenkoNormalizer().normalize(tissue_HWC[stained][None], stains=False)
    ours = recoloured(path)[:, 230:][stained]
    assert np.abs(ours - theirs[0].astype(int)).max() <= 1


def test_an_image_without_tissue_or_without_two_stains_is_refused(tmp_path):
    for name, pixels in {
        "glass.png": np.full((200, 200, 3), 240, np.uint8),
        "grey.png": np.random.default_rng(0)
        .integers(20, 200, (200, 200, 1), dtype=np.uint8)
        .repeat(3, axis=2),
    }.items():
        Image.fromarray(pixels).save(tmp_path / name)
        with (
            open_image(tmp_path / name) as image,
            pytest.raises(ImageError, match="embed it without `--stain`"),
        ):
            find_stain(image, "macenko")


def test_without_the_library_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchstain.numpy.normalizers", None)
    with (
        open_image(paint(tmp_path / "a.png")) as image,
        pytest.raises(InstallationError, match=r"pip install 'spahgc\[stain\]'"),
    ):
        find_stain(image, "macenko")


@pytest.fixture
def slide(tmp_path):
    return with_image(build_slide(n_spots=9), paint(tmp_path / "slide.png"), size=SIZE)


@pytest.fixture
def store(tmp_path, slide):
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, slide)
    return store


def test_it_has_its_own_name_and_fingerprint_and_can_be_made_again_from_them(store, slide):
    plain = EmbeddingConfig()
    stained = EmbeddingConfig(stain="macenko")
    for config in (plain, stained):
        embed_slides(store.path, config=config)
    stored = open_cohort(store.path)["A1"]
    assert set(stored.entry.encoders) == {"lite0", "lite0-macenko"}
    assert not np.allclose(stored.read_embedding("lite0"), stored.read_embedding("lite0-macenko"))
    fingerprint = stored.embedding_record("lite0-macenko")["fingerprint"]
    assert fingerprint["stain"] == "macenko"
    assert "stain" not in stored.embedding_record("lite0")["fingerprint"]
    (again,) = embed_image_slide(slide, config_like([fingerprint]))
    assert np.allclose(again, stored.read_embedding("lite0-macenko"), atol=1e-5)
    with pytest.raises(MismatchError, match="stain macenko"):
        config_like([fingerprint, stored.embedding_record("lite0")["fingerprint"]])


def test_the_command_that_makes_it_is_known_from_its_name():
    assert options_of(["lite0-macenko-154um"]) == [
        "--encoder lite0",
        "--stain macenko",
        "--patch-um 154",
    ]
