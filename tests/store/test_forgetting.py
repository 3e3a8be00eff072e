"""Taking embeddings from a slide so that they can be made again."""

from dataclasses import replace

import pytest

from spahgc.errors import CommitConflictError
from spahgc.store.care import collect_garbage, verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.editing import set_facts
from spahgc.store.forgetting import forget_embeddings
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide, embed_slide
from tests.store.crashes import NOTHING_IS_SPARED


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path):
    place = tmp_path / "data.zarr"
    if request.param == "bucket":
        place = request.getfixturevalue("s3_place")
    add_slide(create_store(place), build_slide("A1"))
    embed_slide(place, "A1")
    return place


def test_a_forgotten_embedding_can_be_made_anew_and_old_readers_keep_theirs(place):
    before = open_cohort(place)["A1"]
    vectors = before.read_embedding("lite0")
    slide = forget_embeddings(before, ["lite0", "unknown"])
    assert slide.entry.encoders == {}
    assert open_cohort(place)["A1"].entry == slide.entry
    embed_slide(place, "A1", seed=1)
    after = open_cohort(place)["A1"]
    assert (after.read_embedding("lite0") != vectors).any()
    assert (before.read_embedding("lite0") == vectors).all()
    assert (after.read_counts() != before.read_counts()).nnz == 0
    assert verify_store(place, deep=True) == []
    collect_garbage(place, older_than=NOTHING_IS_SPARED)
    assert verify_store(place, deep=True) == []
    assert (open_cohort(place)["A1"].read_embedding("lite0") != vectors).any()


def test_other_embeddings_and_facts_stay(place):
    slide = open_cohort(place)["A1"]
    set_facts(open_store(place), "A1", {"tissue": "breast"})
    slide = open_cohort(place)["A1"]
    assert forget_embeddings(slide, ["unknown"]) is slide
    forget_embeddings(slide, ["lite0"])
    assert open_cohort(place)["A1"].record["tissue"] == "breast"


def test_what_another_writer_changed_meanwhile_is_not_lost(place):
    slide = open_cohort(place)["A1"]
    set_facts(open_store(place), "A1", {"patient": "P7"})
    with pytest.raises(CommitConflictError, match="was changed by another writer"):
        forget_embeddings(slide, ["lite0"])
    found = open_cohort(place)["A1"]
    assert found.entry == replace(slide.entry, patient="P7")
    assert verify_store(place, deep=True) == []
