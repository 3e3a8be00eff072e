"""What gc removes, and what it leaves: a writer goes on after it, a reader is spared by it."""

import os
import time
from datetime import timedelta

import numpy as np
import pytest

from spahgc.errors import DamagedStoreError
from spahgc.store.care import collect_garbage, verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.editing import remove_slide
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide
from tests.store.test_names import be_killed_adding, check_whole

NOW = timedelta(seconds=-5)
TWO_DAYS = 2 * 86_400


@pytest.fixture
def store(tmp_path):
    return create_store(tmp_path / "data.zarr")


def grow_old(folder):
    """Let every file have been written two days ago; commits say that they were made now."""
    then = time.time() - TWO_DAYS
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def add(store, name, *, seed=0):
    add_slide(store, build_slide(name, seed=seed), replace_existing=True)


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_after_gc_the_leftover_of_a_killed_writer_is_in_nobodys_way(where, tmp_path, request):
    place = request.getfixturevalue("s3_place") if where == "s3" else tmp_path / "data.zarr"
    create_store(place)
    add(open_store(place), "A1", seed=0)
    remove_slide(open_store(place), "A1")
    collect_garbage(place, older_than=NOW)
    be_killed_adding(place, "A1", seed=1)
    assert add_slide(open_store(place), build_slide("A1", seed=2)) == "added"
    held = {("A1", 2): open_cohort(place)["A1"]}
    assert held["A1", 2].entry.group == "tables/A1.v2"
    collect_garbage(place, older_than=NOW)
    check_whole(held)
    assert {
        found.key.split("/")[1] for found in open_store(place).location.list_files("tables")
    } == {
        "zarr.json",
        "A1.v2",
    }
    be_killed_adding(place, "B1", seed=3)
    collect_garbage(place, older_than=NOW)
    add(open_store(place), "B1", seed=4)
    assert open_cohort(place)["B1"].entry.group == "tables/B1"
    assert verify_store(place, deep=True) == []


def test_a_version_that_a_reader_may_have_open_is_spared_beside_a_damaged_slide(store):
    """All that a damaged commit of late named was taken for leftovers."""
    add(store, "D1")
    add(store, "A1")
    before = open_cohort(store.path)
    (store.path / f"manifests/{before['D1'].entry.manifest}.json").write_text("{")
    for name in ("A1", "D1"):
        add(store, name, seed=1)
    grow_old(store.path)
    assert collect_garbage(store.path) == []
    check_whole({("A1", 0): before["A1"], ("A1", 1): open_cohort(store.path)["A1"]})
    assert (store.path / before["D1"].entry.group / "X/data/c/0").exists()
    assert verify_store(store.path) == []


def test_nothing_is_removed_where_a_commit_of_late_is_missing(store):
    add(store, "A1")
    before = open_cohort(store.path)["A1"]
    add(store, "A1", seed=1)
    add(store, "B1")
    (store.path / "commits/00000002.json").unlink()
    grow_old(store.path)
    with pytest.raises(DamagedStoreError, match=r"commits/00000002\.json is missing"):
        collect_garbage(store.path)
    check_whole({("A1", 0): before})


def test_nothing_is_removed_where_a_page_of_late_is_damaged(store):
    add(store, "A1")
    before = open_cohort(store.path)["A1"]
    (page,) = before.store.head.catalogue.pages.values()
    add(store, "A1", seed=1)
    (store.path / f"pages/{page.sha256}.json").write_text("{")
    grow_old(store.path)
    with pytest.raises(DamagedStoreError, match=f"pages/{page.sha256}.json is damaged"):
        collect_garbage(store.path)
    check_whole({("A1", 0): before})


def test_gc_again_passes_over_what_it_removed_before(store):
    add(store, "A1")
    add(store, "A1", seed=1)
    add(store, "B1")
    remove_slide(store, "B1")
    assert {"tables/A1", "tables/B1"} <= set(collect_garbage(store.path, older_than=NOW))
    grow_old(store.path)
    (store.path / "tables/left").mkdir()
    (store.path / "tables/left/zarr.json").write_text("{}")
    grow_old(store.path / "tables/left")
    assert collect_garbage(store.path) == ["tables/left"]
    assert verify_store(store.path, deep=True) == []


def test_an_embedding_that_is_about_to_be_committed_is_spared_however_old_its_shards(store):
    add(store, "A1")
    draft = EmbeddingDraft(open_cohort(store.path)["A1"], "lite0", fingerprint={"w": 1}, size=4)
    (shard,) = draft.missing()
    draft.write(shard, np.ones((shard.stop, 4), np.float32))
    grow_old(store.path / "staging")
    draft.place()
    assert collect_garbage(store.path) == []
    draft.commit()
    assert open_cohort(store.path)["A1"].read_embedding("lite0").sum() == 4 * shard.stop
    assert verify_store(store.path, deep=True) == []
