import weakref
from dataclasses import replace
from itertools import combinations
from threading import Lock

import anndata
import numpy as np
import pytest
import torch

from spahgc.errors import EncoderError, ImageError, MismatchError, MissingError
from spahgc.ingest import embedding, plain_images, shards
from spahgc.ingest.embedding import embed_image_slide, embed_slides
from spahgc.ingest.fields import EmbeddingConfig, Field, config_like
from spahgc.ingest.networks import timm_networks
from spahgc.store import drafts
from spahgc.store.care import verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.copying import copy_store
from spahgc.store.editing import set_facts
from spahgc.store.opening import create_store, open_store
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


def fields(*asked):
    return EmbeddingConfig(fields=asked)


def test_slides_with_an_image_are_embedded_and_the_others_said(store):
    done = []
    report = embed_slides(store.path, config=LITE0, advance=done.append)
    assert report.embedded == {"A1": 9}
    assert report.left_out == {"B1": "no full-resolution image"}
    assert report.readers == {"A1": "pillow"}
    assert report.padded == {"A1": {"lite0": 5}}
    assert sum(done) == 9
    assert read(store).shape == (9, 1280)
    assert verify_store(store.path, deep=True) == []


@pytest.mark.parametrize("n_together", [1, 2, 3])
def test_slides_whose_images_are_decoded_together_keep_their_own(tmp_path, monkeypatch, n_together):
    monkeypatch.setattr(shards, "CUTTERS", n_together)
    store, alone = (create_store(tmp_path / f"{name}.zarr") for name in ("all", "alone"))
    names = ["A1", "B1", "C1", "D1"]
    for seed, name in enumerate(names):
        path = write_noise(tmp_path / f"{name}.jpg", seed=seed)
        slide = with_image(build_slide(name, n_spots=9), path, size=(700, 600))
        add_slide(store, slide)
        add_slide(alone, slide)

    decode, counting, alive, most = plain_images.decode, Lock(), [], []

    def counted(path, decoder):
        pixels = decode(path, decoder)
        with counting:
            alive.append(weakref.ref(pixels))
            most.append(sum(one() is not None for one in alive))
        return pixels

    monkeypatch.setattr(plain_images, "decode", counted)
    report = embed_slides(store.path, config=LITE0)
    assert set(report.readers.values()) == {"libjpeg-turbo"}
    assert max(most) <= n_together
    for name in names:
        embed_slides(alone.path, config=LITE0, slides=[name])
    for name in names:
        assert np.allclose(read(store, name), read(alone, name), atol=1e-5)
    assert all(
        not np.allclose(read(store, one), read(store, other), atol=1e-2)
        for one, other in combinations(names, 2)
    )


def test_an_image_that_broke_leaves_the_slides_before_it_embedded(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "CUTTERS", 2)
    store = create_store(tmp_path / "data.zarr")
    for name in ("A1", "B1"):
        path = write_noise(tmp_path / f"{name}.jpg")
        add_slide(store, with_image(build_slide(name, n_spots=9), path, size=(700, 600)))
    content = path.read_bytes()
    path.write_bytes(content[:3000] + bytes(len(content) - 3000))  # as long as it was
    with pytest.raises(ImageError, match=r"B1\.jpg"):
        embed_slides(store.path, config=LITE0)
    assert list(open_cohort(store.path)["A1"].entry.encoders) == ["lite0"]
    assert not open_cohort(store.path)["B1"].entry.encoders


def test_embedding_again_keeps_what_is_there(store):
    embed_slides(store.path, config=LITE0)
    commit = store.head.number
    assert embed_slides(store.path, config=LITE0).kept == ("A1",)
    assert store.head.number == commit


def test_recomputing_makes_it_again_in_whatever_way(store, tmp_path):
    embed_slides(store.path, config=LITE0)
    embed_slides(store.path, config=fields(Field(side_um=60)))
    before = read(store)
    report = embed_slides(store.path, config=LITE0, recompute=True)
    assert report.embedded == {"A1": 9}
    assert np.allclose(read(store), before, atol=1e-5)
    assert set(open_cohort(store.path)["A1"].entry.encoders) == {"lite0", "lite0-60um"}
    otherwise = EmbeddingConfig(fields=(Field(side_um=60), Field()), precision="bfloat16")
    with pytest.raises(MismatchError, match="--recompute"):
        embed_slides(store.path, config=otherwise)
    embed_slides(store.path, config=otherwise, recompute=True)
    assert not np.allclose(read(store), before, atol=1e-5)
    assert verify_store(store.path, deep=True) == []


def test_what_cannot_be_made_again_is_not_forgotten(store, pictured_slide):
    embed_slides(store.path, config=LITE0)
    commit = store.head.number
    pictured_slide.image.path.unlink()
    with pytest.raises(MissingError, match="no longer at"):
        embed_slides(store.path, config=LITE0, recompute=True)
    assert store.head.number == commit


def test_a_row_is_the_embedding_of_its_own_spot(store, pictured_slide):
    embed_slides(store.path, config=LITE0)
    backwards = replace(
        pictured_slide,
        spots=pictured_slide.spots.iloc[::-1],
        centers=pictured_slide.centers[::-1],
        counts=pictured_slide.counts[::-1],
    )
    (vectors,) = embed_image_slide(backwards, LITE0)
    assert np.allclose(vectors[::-1], read(store), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_does_not_change_an_embedding(store, pictured_slide, batch_size):
    embed_slides(store.path, config=LITE0)
    (again,) = embed_image_slide(pictured_slide, replace(LITE0, batch_size=batch_size))
    assert np.allclose(again, read(store), atol=1e-5)


def test_all_shards_of_a_slide_share_what_is_read_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(drafts, "SHARD_ROWS", 256)
    path = write_noise(tmp_path / "slide.png", size=(2200, 2200))
    store = create_store(tmp_path / "data.zarr")
    for name in ("A1", "B1"):
        slide = with_image(build_slide(name, n_spots=300), path, size=(2200, 2200))
        add_slide(store, slide)
    opened = []
    for module in (embedding, shards):
        monkeypatch.setattr(
            module, "open_cohort", lambda place: opened.append(place) or open_cohort(place)
        )
    report = embed_slides(store.path, config=LITE0)
    assert report.embedded == {"A1": 300, "B1": 300}  # two shards each
    assert len(opened) == 1


def test_a_killed_embedding_goes_on_with_the_next_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(drafts, "SHARD_ROWS", 256)
    path = write_noise(tmp_path / "slide.png", size=(2200, 2200))
    slide = with_image(build_slide(n_spots=300), path, size=(2200, 2200))
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, slide)

    whole = embedding.embed_shards

    def die_after_one(tasks, advance, **how):
        yield next(whole(tasks, advance, **how))
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


def _image_of(slide):
    from pathlib import Path

    return Path(slide.entry.image)


def test_each_field_of_view_is_an_embedding_of_its_own(store, pictured_slide):
    asked = (Field(), Field(side_um=154), Field(side_um=154, views=8), Field(side_px=160))
    report = embed_slides(store.path, config=fields(*asked))
    assert report.embeddings == ("lite0", "lite0-154um", "lite0-154um-8views", "lite0-112um-160px")
    together = [read(store, embedding=name) for name in report.embeddings]
    for field, vectors in zip(asked, together, strict=True):
        (alone,) = embed_image_slide(pictured_slide, fields(field))
        assert np.allclose(alone, vectors, atol=1e-5)
    assert all(np.abs(a - b).max() > 1e-2 for a, b in combinations(together, 2))
    slide = open_cohort(store.path)["A1"]
    assert len({slide.entry.encoders[name] for name in report.embeddings}) == 4


def test_all_fields_are_cut_from_one_decoding(store, monkeypatch):
    n_decoded = []
    decode = plain_images.decode
    monkeypatch.setattr(plain_images, "decode", lambda *a: n_decoded.append(1) or decode(*a))
    embed_slides(store.path, config=fields(Field(), Field(side_um=154), Field(side_um=60, views=4)))
    assert len(n_decoded) == 1


def test_a_record_says_how_the_patches_came_from_the_image(store):
    embed_slides(store.path, config=fields(Field(side_um=448, views=4)))
    record = open_cohort(store.path)["A1"].embedding_record("lite0-448um-4views")
    fingerprint, notes = record["fingerprint"], record["notes"]
    assert (fingerprint["patch_um"], fingerprint["patch_px"], fingerprint["views"]) == (448, 224, 4)
    assert (notes["image_um_per_px"], notes["patch_um_per_px"], notes["level"]) == (1, 2, 0)
    assert notes["padded_rows"] == list(range(8))  # the ninth lies 250 px from the corner
    assert notes["padded_share"][0] == pytest.approx(1 - (274.5 / 448) ** 2, abs=1e-4)


def test_views_do_not_depend_on_how_a_patch_lies():
    forward = shards.forward_once(LITE0)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 224, 224, 3), dtype=np.uint8)
    for views, others in [
        (4, [np.rot90(pixels, axes=(1, 2))]),
        (8, [np.rot90(pixels, axes=(1, 2)), pixels[:, ::-1], pixels.transpose(0, 2, 1, 3)]),
    ]:
        vectors = forward.embed_views(pixels, views=views)
        for other in others:
            again = forward.embed_views(np.ascontiguousarray(other), views=views)
            assert np.allclose(vectors, again, atol=1e-5)
    mirrored = forward.embed_views(np.ascontiguousarray(pixels[:, ::-1]), views=4)
    assert not np.allclose(forward.embed_views(pixels, views=4), mirrored, atol=1e-3)


def test_a_field_that_is_there_is_not_embedded_again(store, monkeypatch):
    embed_slides(store.path, config=fields(Field(side_um=154)))
    n_cut = []
    cut = shards.cut_patches
    monkeypatch.setattr(
        shards,
        "cut_patches",
        lambda *a, **k: n_cut.append([c.side_um for c in k["configs"]]) or cut(*a, **k),
    )
    report = embed_slides(store.path, config=fields(Field(side_um=154), Field(side_um=77)))
    assert n_cut == [[77]]
    assert report.embedded == {"A1": 9}
    assert embed_slides(store.path, config=fields(Field(side_um=77))).kept == ("A1",)


def test_an_encoder_that_takes_one_size_only_says_so(store, tmp_path):
    vit = timm_networks.timm.create_model("vit_tiny_patch16_224", num_classes=0)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    config = EmbeddingConfig(
        encoder="timm:vit_tiny_patch16_224",
        weights=tmp_path / "vit.pth",
        fields=(Field(side_px=96),),
    )
    with pytest.raises(EncoderError, match="takes no patches of 96 px, expected 224 px"):
        embed_slides(store.path, config=config)


def test_embeddings_on_record_are_made_again_the_same_way(store, pictured_slide):
    asked = (Field(side_um=154, views=4), Field(side_px=160))
    names = embed_slides(store.path, config=fields(*asked)).embeddings
    slide = open_cohort(store.path)["A1"]
    config = config_like([slide.embedding_record(name)["fingerprint"] for name in names])
    assert [(f.side_um, f.side_px, f.views) for f in config.fields] == [
        (154, 224, 4),
        (112, 160, 1),
    ]
    digests = [slide.entry.encoders[name] for name in names]
    again = embed_image_slide(pictured_slide, config, fingerprint_digests=digests)
    for name, vectors in zip(names, again, strict=True):
        assert np.allclose(vectors, read(store, embedding=name), atol=1e-5)


def test_embeddings_of_two_encoders_are_not_made_in_one_pass():
    fingerprints = [{"encoder": name, "patch_um": 112.0} for name in ("lite0", "timm:test_vit")]
    with pytest.raises(MismatchError, match="2 encoders"):
        config_like(fingerprints)


@pytest.mark.parametrize("side_um", [0.2, 1e6], ids=str)
def test_a_width_that_cannot_be_meant_is_refused(side_um):
    with pytest.raises(MismatchError, match="cannot be meant"):
        Field(side_um=side_um)


def test_a_slide_that_was_handed_on_is_embedded_once_its_image_is_told(store, tmp_path):
    image = _image_of(open_cohort(store.path)["A1"])
    copy = tmp_path / "copy.zarr"
    copy_store(open_cohort(store.path), copy)
    told = r"lies is not known here: .* alone, slide\.png; tell it: `spahgc store set A1 image=FILE"
    with pytest.raises(MissingError, match=told):
        embed_slides(copy, config=LITE0)
    set_facts(open_store(copy), "A1", {"image": str(image)})
    assert embed_slides(copy, config=LITE0).embedded == {"A1": 9}
    embed_slides(store.path, config=LITE0)
    assert (read(open_store(copy)) == read(store)).all()


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
        embed_image_slide(pictured_slide, LITE0, fingerprint_digests=["0" * 64])


def test_an_error_while_cutting_reaches_the_caller(store, tmp_path):
    image = tmp_path / "slide.png"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    with pytest.raises(ImageError, match=r"slide\.png"):
        embed_slides(store.path, config=LITE0)
    assert open_cohort(store.path)["A1"].entry.encoders == {}
