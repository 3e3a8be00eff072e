"""Slides that ask each other find what each finds by itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spahgc.errors import MismatchError
from spahgc.store.index import METRICS, ReferenceIndex, joined

TABLES = ("slide_SK", "spot_SK", "distance_SK")
numbers = st.floats(-4, 4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)


@st.composite
def slides_that_ask(draw):
    shape = st.tuples(st.integers(1, 9), st.just(draw(st.integers(1, 5))))
    pool = draw(arrays(np.float32, shape, elements=numbers))
    pool = np.where(np.any(pool != 0, axis=1, keepdims=True), pool, np.float32(1))
    rows = st.lists(st.integers(0, len(pool) - 1), min_size=1, max_size=12)  # so with duplicates
    vectors = {name: pool[draw(rows)] for name in ("A1", "B1", "C1", "D1")}
    some = st.lists(st.sampled_from(list(vectors)), unique=True)
    return vectors, draw(st.dictionaries(st.sampled_from(list(vectors)), some, min_size=1))


def assert_same_as_one_by_one(index, may_answer, *, k):
    together = index.search_slides(may_answer, k=k)
    assert list(together) == list(may_answer)
    for name, others in may_answer.items():
        alone = index.search_slide(name, k=k, only_slides=others)
        assert together[name].slides == alone.slides
        for table in TABLES:
            found, expected = (getattr(one, table) for one in (together[name], alone))
            assert np.array_equal(found, expected, equal_nan=True), (name, table)


@settings(max_examples=150, deadline=None)
@given(asked=slides_that_ask(), k=st.integers(1, 15), metric=st.sampled_from(METRICS))
def test_together_each_slide_finds_what_it_finds_alone(asked, k, metric):
    vectors, may_answer = asked
    assert_same_as_one_by_one(ReferenceIndex.of_vectors(vectors, metric=metric), may_answer, k=k)


@pytest.mark.parametrize("tile", [1, 700, joined.TILE_NUMBERS])
@pytest.mark.parametrize("k", [1, 30, 200])
def test_rooms_that_overflow_keep_the_nearest(monkeypatch, tile, k):
    monkeypatch.setattr(joined, "TILE_NUMBERS", tile)
    monkeypatch.setattr(joined, "BLOCK_CANDIDATES", 20 * tile)
    generator = np.random.default_rng(k)
    vectors = {
        name: generator.normal(size=(size, 6)).astype(np.float32)
        for name, size in [("A", 310), ("B", 1), ("C", 470)]
    }
    index = ReferenceIndex.of_vectors(vectors)
    assert_same_as_one_by_one(index, {name: list(vectors) for name in vectors}, k=k)


def test_vectors_closer_than_a_product_can_tell_are_searched_for_again(monkeypatch):
    generator = np.random.default_rng(6)
    one_D = generator.normal(size=64)
    vectors = {
        name: (one_D + generator.normal(size=(300, 64)) * 3e-7).astype(np.float32)
        for name in ("A1", "B1")
    }
    searched = []

    def search(query_SD, pieces, *, k):
        searched.append(len(query_SD))
        return exactly(query_SD, pieces, k=k)

    exactly = joined.search_exactly
    monkeypatch.setattr(joined, "search_exactly", search)
    index = ReferenceIndex.of_vectors(vectors)
    assert_same_as_one_by_one(index, {"A1": ["B1"], "B1": ["A1"]}, k=5)
    assert searched == [300, 300]


def test_only_slides_that_may_answer_do():
    vectors = {name: np.eye(4, dtype=np.float32) for name in "ABC"}
    index = ReferenceIndex.of_vectors(vectors)
    found = index.search_slides({"A": ["B"], "B": ["B", "C"]}, k=2)
    assert found["A"].slides == ("B",)
    assert found["B"].slides == ("C",)
    assert list(found) == ["A", "B"]


def test_a_slide_that_the_index_lacks_cannot_answer():
    index = ReferenceIndex.of_vectors({"A": np.eye(4, dtype=np.float32)})
    with pytest.raises(MismatchError, match="lacks Z"):
        index.search_slides({"A": ["Z"]}, k=2)


def test_nobody_who_may_answer_gives_nothing():
    index = ReferenceIndex.of_vectors({"A": np.eye(4, dtype=np.float32)})
    found = index.search_slides({"A": ["A"]}, k=2)["A"]
    assert found.slides == ()
    assert not found.exists_SK.any()
    assert found.slide_SK.shape == (4, 2)
