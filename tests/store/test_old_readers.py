"""Promise 6: who opened a store keeps reading what was there, until it is opened again."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from spahgc.errors import DamagedStoreError
from spahgc.store.care import collect_garbage, verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.editing import remove_slide, set_facts
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide, embed_slide
from tests.store.crashes import NOTHING_IS_SPARED


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path):
    if request.param == "s3":
        place = request.getfixturevalue("s3_place")
    else:
        place = str(tmp_path / "data.zarr")
    add_slide(create_store(place), build_slide("A1"))
    embed_slide(place, "A1", seed=1)
    return place


def read(slide):
    return slide.read_counts().toarray(), slide.read_embedding("lite0"), slide.patient


def same(found, expected):
    return all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_reader_keeps_its_version_through_every_kind_of_commit(place):
    expected = read(open_cohort(place)["A1"])
    opened = open_cohort(place)  # nothing of it is read yet
    store = open_store(place)
    add_slide(store, build_slide("A1", seed=9), replace_existing=True)
    set_facts(store, "A1", {"patient": "someone else"})
    add_slide(store, build_slide("B1"))
    remove_slide(store, "A1")
    assert collect_garbage(place) == []
    assert list(opened.slides) == ["A1"]
    assert same(read(opened["A1"]), expected)
    assert list(open_cohort(place).slides) == ["B1"]


def test_gc_spares_what_a_commit_of_the_last_day_named(place):
    opened = open_cohort(place)
    expected = read(opened["A1"])
    add_slide(open_store(place), build_slide("A1", seed=9), replace_existing=True)
    collect_garbage(place, older_than=timedelta(days=1))
    fresh = open_cohort(place)
    assert same(read(opened["A1"]), expected)
    assert not np.array_equal(fresh["A1"].read_counts().toarray(), expected[0])


def test_gc_spares_what_was_replaced_lately_however_old_it_is(place, monkeypatch):
    """A version is as young as the commit that left it out, not as its own files."""
    long_ago = datetime.now(UTC) - timedelta(days=9)
    store = open_store(place)
    aged = replace(store.head, made_at=long_ago.isoformat(timespec="seconds"))
    location = store.location
    location.put(f"commits/{aged.number:08d}.json", aged.serialise(aged.catalogue.pages))
    opened = open_cohort(place)
    expected = read(opened["A1"])
    add_slide(open_store(place), build_slide("A1", seed=9), replace_existing=True)
    collect_garbage(place, older_than=timedelta(days=1))
    assert same(read(opened["A1"]), expected)


def test_after_gc_an_old_reader_gets_an_error_and_never_other_numbers(place):
    opened = open_cohort(place)
    add_slide(open_store(place), build_slide("A1", seed=9), replace_existing=True)
    assert collect_garbage(place, older_than=NOTHING_IS_SPARED) != []
    with pytest.raises(DamagedStoreError, match="is missing"):
        read(opened["A1"])
    assert verify_store(place, deep=True) == []
    assert collect_garbage(place, older_than=NOTHING_IS_SPARED) == []


def test_a_name_used_again_after_gc_does_not_deceive_an_old_reader(place):
    opened = open_cohort(place)
    remove_slide(open_store(place), "A1")
    collect_garbage(place, older_than=NOTHING_IS_SPARED)
    add_slide(open_store(place), build_slide("A1", seed=9))
    with pytest.raises(DamagedStoreError):
        read(opened["A1"])
