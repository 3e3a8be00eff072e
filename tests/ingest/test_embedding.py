from dataclasses import replace

import anndata
import numpy as np
import pytest

from spahgc.errors import ImageError, MismatchError, MissingError
from spahgc.ingest import embedding, shards
from spahgc.ingest.embedding import embed_image_slide, embed_slides
from spahgc.ingest.shards import EmbeddingConfig
from spahgc.store import drafts
from spahgc.store.care import verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide
from tests.ingest.conftest import with_image, write_noise

LITE0 = EmbeddingConfig()


@pytest.fixture
def store(tmp_path, pictured_slide):
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, pictured_slide)
    add_slide(store, replace(build_slide("B1", seed=1)))
    return store


def read(store, name="A1", embedding="lite0"):
    return open_cohort(store.path)[name].read_embedding(embedding)


def test_slides_with_an_image_are_embedded_and_the_others_said(store):
    done = []
    report = embed_slides(store.path, config=LITE0, advance=done.append)
    assert report.embedded == {"A1": 9}
    assert report.left_out == {"B1": "no full-resolution image"}
    assert report.padded == {"A1": 5}
    assert sum(done) == 9
    assert read(store).shape == (9, 1280)
    assert verify_store(store.path, deep=True) == []


def test_embedding_again_keeps_what_is_there(store):
    embed_slides(store.path, config=LITE0)
    commit = store.head.number
    assert embed_slides(store.path, config=LITE0).kept == ("A1",)
    assert store.head.number == commit


def test_a_row_is_the_embedding_of_its_own_spot(store, pictured_slide):
    embed_slides(store.path, config=LITE0)
    backwards = replace(
        pictured_slide,
        spots=pictured_slide.spots.iloc[::-1],
        centers=pictured_slide.centers[::-1],
        counts=pictured_slide.counts[::-1],
    )
    assert np.allclose(embed_image_slide(backwards, LITE0)[::-1], read(store), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_does_not_change_an_embedding(store, pictured_slide, batch_size):
    embed_slides(store.path, config=LITE0)
    again = embed_image_slide(pictured_slide, replace(LITE0, batch_size=batch_size))
    assert np.allclose(again, read(store), atol=1e-5)


def test_a_killed_embedding_goes_on_with_the_next_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(drafts, "SHARD_ROWS", 256)
    path = write_noise(tmp_path / "slide.png", size=(2200, 2200))
    slide = with_image(build_slide(n_spots=300), path, size=(2200, 2200))
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, slide)

    whole = embedding.embed_shards

    def die_after_one(tasks, advance):
        yield next(whole(tasks, advance))
        raise KeyboardInterrupt

    monkeypatch.setattr(embedding, "embed_shards", die_after_one)
    with pytest.raises(KeyboardInterrupt):
        embed_slides(store.path, config=LITE0)
    monkeypatch.setattr(embedding, "embed_shards", whole)
    assert open_cohort(store.path)["A1"].entry.encoders == {}
    assert "lite0" not in anndata.read_zarr(str(store.path / "tables/A1")).obsm

    n_cut = []
    cut = shards.cut_patches
    monkeypatch.setattr(
        shards, "cut_patches", lambda *a, **k: n_cut.append(len(a[1])) or cut(*a, **k)
    )
    embed_slides(store.path, config=LITE0)
    assert n_cut == [44]
    assert np.isfinite(read(store)).all()
    assert verify_store(store.path, deep=True) == []


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_numbers(store):
    report = embed_slides(store.path, config=LITE0, workers=2)
    assert report.embedded == {"A1": 9}
    slide = open_cohort(store.path)["A1"]
    pictured = with_image(
        build_slide(n_spots=9), path=_image_of(slide), size=tuple(slide.record["image"]["size"])
    )
    assert np.allclose(embed_image_slide(pictured, LITE0), read(store), atol=1e-5)


def _image_of(slide):
    from pathlib import Path

    return Path(slide.entry.image)


def test_another_patch_width_is_another_embedding(store):
    embed_slides(store.path, config=LITE0)
    report = embed_slides(store.path, config=replace(LITE0, side_um=154))
    assert report.embedding == "lite0-154um"
    assert not np.allclose(read(store), read(store, embedding="lite0-154um"), atol=1e-2)


def test_an_image_that_moved_is_named(store):
    _image_of(open_cohort(store.path)["A1"]).rename(store.path.parent / "elsewhere.png")
    with pytest.raises(MissingError, match=r"slide A1 is no longer at .*slide\.png"):
        embed_slides(store.path, config=LITE0)


def test_an_image_that_changed_is_refused(store, tmp_path):
    write_noise(tmp_path / "slide.png", size=(640, 600))
    with pytest.raises(ImageError, match="not the image that slide A1 was ingested with"):
        embed_slides(store.path, config=LITE0)


def test_a_slide_without_scale_or_coordinates_cannot_be_embedded(tmp_path, pictured_slide):
    store = create_store(tmp_path / "other.zarr")
    add_slide(store, replace(pictured_slide, microns_per_pixel=None))
    with pytest.raises(MissingError, match="no µm per pixel"):
        embed_slides(store.path, config=LITE0)
    nowhere = np.full((9, 2), np.nan)
    add_slide(store, replace(pictured_slide, centers=nowhere), replace_existing=True)
    with pytest.raises(MissingError, match="without pixel coordinates"):
        embed_slides(store.path, config=LITE0)


def test_an_image_is_embedded_as_the_run_was_or_not_at_all(pictured_slide):
    with pytest.raises(MismatchError, match="not the one the run was trained with"):
        embed_image_slide(pictured_slide, LITE0, fingerprint_digest="0" * 64)


def test_an_error_while_cutting_reaches_the_caller(store, tmp_path):
    image = tmp_path / "slide.png"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    with pytest.raises(ImageError, match=r"slide\.png"):
        embed_slides(store.path, config=LITE0)
    assert open_cohort(store.path)["A1"].entry.encoders == {}
