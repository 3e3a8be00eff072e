"""Several stores into one: all of them, or nothing at all."""

import numpy as np
import pytest

from spahgc.errors import SlideExistsError
from spahgc.store.care import verify_store
from spahgc.store.cohort import open_cohort
from spahgc.store.copying import merge_stores, open_source
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.editing import set_facts
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide, embed_slide


def embed_otherwise(place, name):
    slide = open_cohort(place)[name]
    draft = EmbeddingDraft(slide, "lite0", fingerprint={"weights": "other"}, size=4)
    for rows in draft.missing():
        draft.write(rows, np.ones((rows.stop - rows.start, 4), np.float32))
    draft.commit()


def files(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.fixture
def source(tmp_path):
    place = tmp_path / "source.zarr"
    for name in ("A1", "B1"):
        add_slide(create_store(place), build_slide(name))
    embed_slide(place, "A1")
    return place


@pytest.fixture
def target(tmp_path):
    return tmp_path / "target.zarr"


def test_stores_are_merged_and_a_slide_of_both_comes_once(source, target, tmp_path):
    other = tmp_path / "other.zarr"
    for name in ("B1", "C1"):
        add_slide(create_store(other), build_slide(name))
    embed_slide(other, "B1", seed=5)
    set_facts(open_store(other), "B1", {"lite0.licence": "research only"})
    reports = merge_stores([open_source(source), open_source(other)], target)
    assert [report.outcomes for report in reports] == [
        {"A1": "copied", "B1": "copied"},
        {"B1": "grown", "C1": "copied"},
    ]
    assert reports[1].licences == {"lite0": "research only"}
    merged = open_cohort(target)
    assert set(merged.slides) == {"A1", "B1", "C1"}
    assert set(merged["B1"].entry.encoders) == {"lite0"}
    assert verify_store(target, deep=True) == []


@pytest.mark.parametrize("name", ["B1", "b1"])
def test_different_slides_of_one_name_are_not_merged_at_all(source, target, tmp_path, name):
    other = tmp_path / "other.zarr"
    add_slide(create_store(other), build_slide(name, seed=9 if name == "B1" else 0))
    with pytest.raises(SlideExistsError, match=r"source.zarr and .*other.zarr have different"):
        merge_stores([open_source(source), open_source(other)], target)
    assert not target.exists()


def test_different_embeddings_of_one_name_are_not_merged_at_all(source, target, tmp_path):
    other = tmp_path / "other.zarr"
    add_slide(create_store(other), build_slide("A1"))
    embed_otherwise(other, "A1")
    with pytest.raises(SlideExistsError, match=r"A1: .* different embeddings of the name 'lite0'"):
        merge_stores([open_source(source), open_source(other)], target)
    assert not target.exists()


def test_a_merge_that_the_last_source_would_break_brings_nothing(source, target, tmp_path):
    other = tmp_path / "other.zarr"
    add_slide(create_store(other), build_slide("C1"))
    add_slide(create_store(target), build_slide("C1", seed=9))
    before = files(target)
    with pytest.raises(SlideExistsError, match="the target has a slide 'C1'"):
        merge_stores([open_source(source), open_source(other)], target)
    assert files(target) == before
