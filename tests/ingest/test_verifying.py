import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.torch import save_file

from spahgc.cli import cli
from spahgc.errors import ImageError, MissingError
from spahgc.ingest.embedding import embed_slides
from spahgc.ingest.encoders import Encoder, timm_networks
from spahgc.ingest.fields import EmbeddingConfig, Field
from spahgc.ingest.verifying import sample_rows, verify_embeddings
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide
from tests.ingest.conftest import with_image

timm = timm_networks.timm
LITE0 = EmbeddingConfig()
prepare = Encoder.prepare


@pytest.fixture
def store(tmp_path, pictured_slide):
    store = create_store(tmp_path / "data.zarr")
    add_slide(store, pictured_slide)
    embed_slides(store.path, config=LITE0)
    add_slide(store, build_slide("B1", seed=1))
    return store


def verify(store, *arguments):
    place = ["--store", str(store.path)]
    return CliRunner().invoke(cli, ["embed", "--verify", *arguments, *place])


def test_an_embedding_is_the_same_when_made_again(store):
    (found,) = verify_embeddings(store.path, config=LITE0)
    assert (found.slide, found.embedding, found.n_spots) == ("A1", "lite0", 9)
    assert found.is_same
    assert found.min_cosine > 1 - 1e-6
    assert found.max_difference < 1e-4


def test_a_sample_is_spread_over_all_spots():
    assert sample_rows(3).tolist() == [0, 1, 2]
    rows = sample_rows(5000)
    assert (len(rows), rows[0], rows[-1]) == (32, 0, 4999)
    assert np.diff(rows).max() < 170


def test_vectors_of_another_normalisation_are_found_out(store, tmp_path, monkeypatch):
    other = with_image(build_slide("C1", n_spots=9), tmp_path / "slide.png", size=(700, 600))
    add_slide(store, other)
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "prepare", lambda encoder, pixels: prepare(encoder, pixels) * 0.9)
        embed_slides(store.path, config=LITE0, slides=["C1"])
    found = {found.slide: found for found in verify_embeddings(store.path, config=LITE0)}
    assert found["A1"].is_same
    assert not found["C1"].is_same
    assert not found["C1"].differs
    result = verify(store, "--patch-um", "112")
    assert result.exit_code == 1
    assert "A1: lite0: 9 spots embedded again are the same" in result.output
    assert "are NOT the same: smallest cosine 0.9" in result.output
    assert f"(spot {found['C1'].worst_spot})" in result.output
    assert "1 of 2 are not the same" in result.stderr


def test_other_weights_are_named_and_nothing_is_compared(store, tmp_path):
    state = timm.create_model("tf_efficientnet_lite0", num_classes=0).state_dict()
    save_file(state, tmp_path / "mine.safetensors")
    mine = replace(LITE0, weights=tmp_path / "mine.safetensors")
    (found,) = verify_embeddings(store.path, config=mine)
    assert list(found.differs) == ["weights_sha256"]
    assert (found.is_same, found.n_spots) == (False, 0)
    result = verify(store, "--patch-um", "112", "--weights", str(tmp_path / "mine.safetensors"))
    assert result.exit_code == 1
    assert "A1: lite0 was made in another way: weights_sha256 " in result.output


def test_several_fields_are_verified_each_by_itself(store):
    two = replace(LITE0, fields=(Field(), Field(side_um=154, views=4)))
    embed_slides(store.path, config=two)
    found = {found.embedding: found for found in verify_embeddings(store.path, config=two)}
    assert list(found) == ["lite0", "lite0-154um-4views"]
    assert all(one.is_same and one.n_spots == 9 for one in found.values())


def test_a_slide_without_the_embedding_says_how_to_make_it(store):
    with pytest.raises(MissingError, match="B1 has no embedding 'lite0'"):
        list(verify_embeddings(store.path, config=LITE0, slides=["B1"]))


def test_a_changed_image_is_named(store, tmp_path):
    (tmp_path / "slide.png").write_bytes(b"other")
    with pytest.raises(ImageError, match="not the image that slide A1 was ingested with"):
        list(verify_embeddings(store.path, config=LITE0))


def test_the_command_says_it_in_one_line_and_for_machines(store):
    result = verify(store, "A1", "--patch-um", "112")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("A1: lite0: 9 spots embedded again are the same: smallest cos")
    (row,) = json.loads(verify(store, "A1", "--patch-um", "112", "--json").stdout)
    assert row["is_same"]
    assert verify(store, "--patch-um", "56").exit_code == 1
