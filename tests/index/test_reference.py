import shutil
from dataclasses import replace
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spahgc.errors import DamagedStoreError, MismatchError, MissingError, ProtocolError
from spahgc.index import (
    METRICS,
    ReferenceIndex,
    merge_neighbors,
    reference,
    remove_index,
    remove_slides,
)
from spahgc.store import layout
from spahgc.store.care import collect_garbage
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.opening import create_store
from spahgc.store.splits import UNKNOWN
from spahgc.store.staging import add_slide
from tests.conftest import build_slide

SIZES = {"A1": 6, "B1": 4, "C1": 1}


def index_over(vectors, metric="cosine", patients=None):
    return ReferenceIndex.of_vectors(vectors, metric=metric, patients=patients)


def put(store, name, *, seed=0, n_spots=None, vectors=None, weights=1):
    slide = build_slide(name, n_spots=n_spots or SIZES.get(name, 5), seed=seed)
    add_slide(store, slide, replace_existing=True)
    if vectors is None:
        vectors = np.random.default_rng(seed).normal(size=(len(slide.spots), 4))
    stored = open_cohort(store.path)[name]
    draft = EmbeddingDraft(stored, "lite0", fingerprint={"w": weights}, size=vectors.shape[1])
    for rows in draft.missing():
        draft.write(rows, vectors.astype(np.float32)[rows.start : rows.stop])
    draft.commit()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    store = create_store(tmp_path_factory.mktemp("template") / "data.zarr")
    for name in SIZES:
        put(store, name)
    return store.path


@pytest.fixture
def store(template, tmp_path):
    shutil.copytree(template, tmp_path / "data.zarr")
    return open_cohort(tmp_path / "data.zarr").store


@pytest.fixture
def built(store):
    return ReferenceIndex.build(open_cohort(store.path), embedding="lite0")


def distance(first_SD, second_SD, metric="cosine"):
    first_SD, second_SD = first_SD.astype(np.float64), second_SD.astype(np.float64)
    if metric == "cosine":
        first_SD /= np.linalg.norm(first_SD, axis=1, keepdims=True)
        return 1 - first_SD @ (second_SD / np.linalg.norm(second_SD, axis=1, keepdims=True)).T
    return np.linalg.norm(
        first_SD[:, None] - second_SD[None], axis=2, ord=2 if metric == "l2" else 1
    )


def brute_force(query_SD, vectors, *, among, k, metric="cosine"):
    """Rank every pair in float64; ties go to the slide, then the spot, that comes first."""
    names = sorted(among)
    places = [(s, spot) for s, name in enumerate(names) for spot in range(len(vectors[name]))]
    # rounded: equal vectors differ in the last digit by where they stand in the product
    distance_SA = np.hstack([distance(query_SD, vectors[name], metric) for name in names]).round(9)
    order_SA = np.argsort(distance_SA, axis=1, kind="stable")[:, :k]
    return places, distance_SA, order_SA


CLOSE = {
    "cosine": {"rtol": 0, "atol": 1e-6},
    "l2": {
        "rtol": 1e-5,
        "atol": 1e-2,
    },  # faiss sums squares of float32: near 0 their root is coarse
    "l1": {"rtol": 1e-5, "atol": 1e-6},
}
"""What float32 can tell."""

numbers = st.floats(-4, 4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)


@st.composite
def slides_of_vectors(draw):
    size = draw(st.integers(1, 5))
    shape = st.tuples(st.integers(1, 6), st.just(size))
    pool = draw(arrays(np.float32, shape, elements=numbers))
    pool = np.where(np.any(pool != 0, axis=1, keepdims=True), pool, np.float32(1))
    rows = st.lists(st.integers(0, len(pool) - 1), min_size=1, max_size=8)  # so with duplicates
    return {name: pool[draw(rows)] for name in ("A1", "B1", "C1")}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    vectors=slides_of_vectors(),
    k=st.integers(1, 20),
    metric=st.sampled_from(METRICS),
    data=st.data(),
)
def test_neighbours_are_those_of_brute_force_up_to_ties(vectors, k, metric, data):
    asked_by = data.draw(st.sampled_from(["A1", "B1", None]))
    among = data.draw(st.lists(st.sampled_from(list(vectors)), min_size=1, unique=True))
    left_out = data.draw(st.lists(st.sampled_from(list(vectors)), max_size=2))
    query_SD = vectors["A1"]
    found = index_over(vectors, metric).search(
        query_SD, k=k, only_slides=among, exclude_slides=left_out, asked_by=asked_by
    )
    may_answer = set(among) - {asked_by, *left_out}
    n_candidates = sum(len(vectors[name]) for name in may_answer)
    n_found = min(k, n_candidates)
    assert found.slides == tuple(sorted(may_answer))
    assert found.slide_SK.shape == found.spot_SK.shape == (len(query_SD), k)
    assert found.exists_SK[:, :n_found].all()
    assert (found.slide_SK[:, n_found:] == -1).all()
    assert (found.spot_SK[:, n_found:] == -1).all()
    assert np.isnan(found.distance_SK[:, n_found:]).all()
    if n_found == 0:
        return
    _, distance_SA, order_SA = brute_force(query_SD, vectors, among=may_answer, k=k, metric=metric)
    expected_SK = np.take_along_axis(distance_SA, order_SA, axis=1)
    np.testing.assert_allclose(found.distance_SK[:, :n_found], expected_SK, **CLOSE[metric])
    for row in range(len(query_SD)):
        pairs = list(zip(found.slide_SK[row], found.spot_SK[row], strict=True))[:n_found]
        assert len(set(pairs)) == n_found
        for (slide, spot), claimed in zip(pairs, found.distance_SK[row], strict=False):
            own = vectors[found.slides[slide]][[spot]]
            true = distance(query_SD[[row]], own, metric)[0, 0]
            np.testing.assert_allclose(claimed, true, **CLOSE[metric])


@pytest.mark.parametrize("n_queries", [1, 20, 300])
def test_equal_vectors_are_listed_slide_by_slide_and_spot_by_spot(n_queries):
    vectors = {name: np.ones((7, 16), np.float32) for name in ("A1", "B1", "C1")}
    query_SD = np.ones((n_queries, 16), np.float32)
    found = index_over(vectors).search(query_SD, k=30, only_slides=vectors, asked_by=None)
    assert (found.slide_SK[:, :21] == np.repeat([0, 1, 2], 7)).all()
    assert (found.spot_SK[:, :21] == np.tile(np.arange(7), 3)).all()
    assert not found.exists_SK[:, 21:].any()


def test_the_same_query_has_the_same_neighbours_alone_and_among_others():
    generator = np.random.default_rng(1)
    vectors = {name: generator.normal(size=(50, 64)).astype(np.float32) for name in "AB"}
    index = index_over(vectors)
    query_SD = generator.normal(size=(40, 64)).astype(np.float32)
    together = index.search(query_SD, k=5, only_slides="AB", asked_by=None)
    alone = [index.search(query_SD[[n]], k=5, only_slides="AB", asked_by=None) for n in range(40)]
    assert np.array_equal(together.spot_SK, np.vstack([found.spot_SK for found in alone]))
    alone_SK = np.vstack([found.distance_SK for found in alone])
    np.testing.assert_allclose(together.distance_SK, alone_SK, atol=1e-6)


def test_the_length_of_a_vector_says_nothing():
    generator = np.random.default_rng(2)
    vectors = {name: generator.normal(size=(20, 8)).astype(np.float32) for name in "AB"}
    longer = {
        name: v * generator.uniform(0.1, 9, (20, 1)).astype("f4") for name, v in vectors.items()
    }
    plain, stretched = (
        index_over(some).search(vectors["A"], k=3, only_slides="AB", asked_by="A")
        for some in (vectors, longer)
    )
    assert np.array_equal(plain.spot_SK, stretched.spot_SK)


def test_a_slide_never_answers_itself(store, built):
    cohort = open_cohort(store.path)
    found = built.search(
        cohort["A1"].read_embedding("lite0"), k=99, only_slides=["A1", "B1"], asked_by="A1"
    )
    assert found.slides == ("B1",)
    assert (found.slide_SK <= 0).all()
    assert (np.sort(found.spot_SK[:, :4]) == np.arange(4)).all()


def test_a_search_without_a_rule_is_refused(built):
    with pytest.raises(ProtocolError, match="must say who may not answer"):
        built.search(np.ones((3, 4), np.float32), k=2, asked_by="A1")


def test_slides_and_patients_are_left_out_together():
    vectors = {name: np.eye(4, dtype=np.float32) for name in ("A1", "A2", "B1", "C1", "D1")}
    patients = {"A1": "A", "A2": "A", "B1": "B", "C1": None, "D1": None}
    index = index_over(vectors, patients=patients)
    asked = {"asked_by": "A1"}
    assert index.may_answer(exclude_slides=(), **asked) == ("A2", "B1", "C1", "D1")
    assert index.may_answer(exclude_patients=["A"], **asked) == ("B1", "C1", "D1")
    assert index.may_answer(exclude_patients=["A"], exclude_slides=["B1"]) == ("C1", "D1")
    assert index.may_answer(only_slides=["A1", "A2"], exclude_patients=["B"], **asked) == ("A2",)


@pytest.mark.parametrize("spelt", [None, UNKNOWN], ids=str)
def test_unknown_patients_are_never_assumed_to_differ(spelt):
    vectors = {name: np.eye(4, dtype=np.float32) for name in ("A1", "C1", "D1")}
    index = index_over(vectors, patients={"A1": "A"})
    assert index.may_answer(exclude_patients=[spelt], asked_by="C1") == ("A1",)


@pytest.mark.parametrize("rule", [{"exclude_slides": ["B9"]}, {"exclude_patients": ["b"]}], ids=str)
def test_a_misspelt_exclusion_is_refused_because_it_would_leak(built, rule):
    with pytest.raises(ProtocolError, match="to exclude; there are"):
        built.search(np.ones((3, 4), np.float32), k=2, **rule)


def test_a_stored_slide_is_searched_for_by_its_name(store, built):
    found = built.search_slide("A1", k=99, exclude_slides=())
    assert found.slides == ("B1", "C1")
    first = built.search_slide("A1", k=99, exclude_slides=(), rows=np.array([2]))
    assert np.array_equal(first.spot_SK[0], found.spot_SK[2])


def test_what_was_found_on_parts_of_the_slides_merges_to_what_is_found_on_all():
    generator = np.random.default_rng(4)
    pool_UD = generator.normal(size=(6, 8)).astype(np.float32)
    vectors = {name: pool_UD[generator.integers(0, 6, 9)] for name in ("A1", "B1", "C1", "D1")}
    index = index_over(vectors)
    whole = index.search_slide("B1", k=30, exclude_slides=())
    parts = [index.search_slide("B1", k=30, only_slides=some) for some in (["D1", "A1"], ["C1"])]
    merged = merge_neighbors(parts, k=30)
    assert merged.slides == whole.slides
    for table in ("slide_SK", "spot_SK", "distance_SK"):
        assert np.array_equal(getattr(merged, table), getattr(whole, table), equal_nan=True)


def test_a_large_slide_is_searched_for_in_parts_and_finds_the_same(monkeypatch):
    generator = np.random.default_rng(5)
    vectors = {n: generator.normal(size=(11, 8)).astype(np.float32) for n in ("A1", "B1", "C1")}
    index = index_over(vectors)
    whole = index.search_slide("B1", k=30, exclude_slides=())
    monkeypatch.setattr(reference, "QUERIES_AT_ONCE", 4)
    parts = index.search_slide("B1", k=30, exclude_slides=())
    for table in ("slide_SK", "spot_SK", "distance_SK"):
        assert np.array_equal(getattr(parts, table), getattr(whole, table), equal_nan=True)
    vectors["B1"][9] = 0
    with pytest.raises(MismatchError, match="spot number 9 is zero"):
        index.search_slide("B1", k=3, exclude_slides=())


def test_slides_that_search_together_find_what_each_finds_alone():
    generator = np.random.default_rng(8)
    vectors = {n: generator.normal(size=(9, 8)).astype(np.float32) for n in ("A1", "B1", "C1")}
    index = index_over(vectors, "l2")
    eligible = {"A1": ["B1"], "B1": ["B1", "C1"], "C1": ["C1"]}
    together = index.search_slides(eligible, k=5)
    assert list(together) == list(eligible)
    for name, others in eligible.items():
        alone = index.search_slide(name, k=5, only_slides=others)
        assert together[name].slides == alone.slides
        for table in ("slide_SK", "spot_SK", "distance_SK"):
            ours, expected = getattr(together[name], table), getattr(alone, table)
            assert np.array_equal(ours, expected, equal_nan=True)
    with pytest.raises(MismatchError, match="lacks Z"):
        index.search_slides({"A1": ["Z"]}, k=2)


def test_several_indexes_lie_in_one_store(store, built):
    ReferenceIndex.build(open_cohort(store.path), embedding="lite0", name="plain", metric="l1")
    cohort = open_cohort(store.path)
    assert ReferenceIndex.open(cohort, name="plain").record.metric == "l1"
    assert ReferenceIndex.open(cohort, embedding="lite0").record.metric == "cosine"
    with pytest.raises(MissingError, match="has indexes lite0, plain; say which is meant"):
        ReferenceIndex.open(cohort)
    with pytest.raises(MismatchError, match="is over 'lite0', not 'uni'"):
        ReferenceIndex.open(cohort, name="plain", embedding="uni")


def test_a_slide_is_taken_out_of_an_index_and_the_others_stay(store, built):
    record = remove_slides(open_cohort(store.path), "lite0", ["B1"])
    assert list(record.slides) == ["A1", "C1"]
    opened = ReferenceIndex.open(open_cohort(store.path), embedding="lite0")
    assert opened.record.slides == record.slides
    with pytest.raises(MissingError, match="has no slide B1; it has A1, C1"):
        remove_slides(open_cohort(store.path), "lite0", ["B1"])
    with pytest.raises(MismatchError, match="left without a slide"):
        remove_slides(open_cohort(store.path), "lite0", ["A1", "C1"])


def test_a_removed_index_is_gone_and_the_embeddings_stay(store, built):
    remove_index(open_cohort(store.path), "lite0")
    cohort = open_cohort(store.path)
    assert cohort.commit.indexes == {}
    assert len(cohort["A1"].read_embedding("lite0")) == SIZES["A1"]
    with pytest.raises(MissingError, match="no index 'lite0'"):
        remove_index(cohort, "lite0")


def test_only_the_slides_asked_for_are_indexed(store):
    index = ReferenceIndex.build(open_cohort(store.path), embedding="lite0", slides=["C1", "A1"])
    assert list(index.record.slides) == ["A1", "C1"]


def test_nobody_left_to_ask_gives_no_neighbour(built):
    found = built.search(np.ones((3, 4), np.float32), k=2, only_slides=["A1"], asked_by="A1")
    assert found.slides == ()
    assert (found.slide_SK == -1).all()
    assert np.isnan(found.distance_SK).all()


@pytest.mark.parametrize("value", [0, np.nan, np.inf], ids=str)
def test_a_query_like_nothing_is_refused_with_its_spot(built, value):
    query_SD = np.ones((3, 4), np.float32)
    query_SD[2] = value
    with pytest.raises(MismatchError, match=r"the query: .*spot number 2 is zero or not a number"):
        built.search(query_SD, k=2, only_slides=["A1"], asked_by=None)


def test_a_query_of_another_encoder_is_refused(built):
    with pytest.raises(MismatchError, match="vectors of 5 numbers, slide A1 of 4"):
        built.search(np.ones((3, 5), np.float32), k=2, only_slides=["A1"], asked_by=None)


def test_one_vector_where_a_table_is_expected_is_refused(built):
    with pytest.raises(MismatchError, match=r"the query: embeddings of shape \(4,\), expected one"):
        built.search(np.ones(4, np.float32), k=2, only_slides=["A1"])


def test_a_search_for_no_neighbour_is_refused(built):
    with pytest.raises(ValueError, match="0 neighbours, expected 1 or more"):
        built.search(np.ones((1, 4), np.float32), k=0, only_slides=["A1"])
    with pytest.raises(ValueError, match="0 neighbours, expected 1 or more"):
        built.search_slides({"A1": ["B1"]}, k=0)


def test_a_zero_vector_is_refused_when_the_index_is_built(store):
    vectors = np.ones((5, 4))
    vectors[3] = 0
    put(store, "D1", vectors=vectors)
    with pytest.raises(MismatchError, match="slide D1: the embedding of spot number 3 is zero"):
        ReferenceIndex.build(open_cohort(store.path), embedding="lite0")
    assert store.head.indexes == {}


def test_an_opened_index_answers_like_the_one_that_was_built(store, built):
    query_SD = np.random.default_rng(5).normal(size=(4, 4)).astype(np.float32)
    opened = ReferenceIndex.open(open_cohort(store.path), embedding="lite0")
    assert opened.record == built.record
    first, second = (
        index.search(query_SD, k=4, only_slides=SIZES, asked_by=None) for index in (built, opened)
    )
    assert np.array_equal(first.spot_SK, second.spot_SK)
    assert np.array_equal(first.slide_SK, second.slide_SK)
    assert np.array_equal(first.distance_SK, second.distance_SK)


def test_the_only_index_is_meant_where_none_is_named(store, built):
    assert ReferenceIndex.open(open_cohort(store.path)).record == built.record
    remove_index(open_cohort(store.path), "lite0")
    with pytest.raises(MissingError, match=r"has no index; run `spahgc index build"):
        ReferenceIndex.open(open_cohort(store.path))


def test_an_index_never_built_names_the_command(store):
    with pytest.raises(
        MissingError, match=r"no index 'lite0', it has none at all; run `spahgc index build"
    ):
        ReferenceIndex.open(open_cohort(store.path), embedding="lite0")


def test_an_embedding_nobody_has_names_the_command(store):
    with pytest.raises(MissingError, match=r"no slide .* 'uni'; run `spahgc embed .*--encoder uni"):
        ReferenceIndex.build(open_cohort(store.path), embedding="uni")


def test_slides_embedded_in_two_ways_are_never_indexed_together(store):
    put(store, "D1", weights=2)
    with pytest.raises(MismatchError, match="made in different ways"):
        ReferenceIndex.build(open_cohort(store.path), embedding="lite0")


def test_building_again_commits_nothing_new(store, built):
    number = store.head.number
    ReferenceIndex.build(open_cohort(store.path), embedding="lite0")
    assert store.head.number == number
    assert list(store.head.indexes) == ["lite0"]


def test_an_index_of_a_slide_that_was_replaced_is_stale(store, built):
    put(store, "B1", seed=9)
    with pytest.raises(MismatchError, match=r"stale: slide B1 changed.*spahgc index build"):
        ReferenceIndex.open(open_cohort(store.path), embedding="lite0")


def test_an_index_is_stale_though_the_new_slide_lies_where_the_old_one_did(store, built):
    put(store, "B1", seed=9)
    collect_garbage(store.path, older_than=timedelta(seconds=-5))
    put(store, "B1", seed=10)
    assert store.head.slides["B1"].group == "tables/B1"
    with pytest.raises(MismatchError, match=r"stale: slide B1 changed.*spahgc index build"):
        ReferenceIndex.open(open_cohort(store.path), embedding="lite0")


def test_an_index_of_a_slide_that_lost_its_embedding_is_stale(store, built):
    add_slide(store, build_slide("B1", n_spots=4, seed=9), replace_existing=True)
    with pytest.raises(MismatchError, match=r"stale: slide B1 changed.*spahgc index build"):
        ReferenceIndex.open(open_cohort(store.path), embedding="lite0")


def test_an_index_of_a_slide_that_is_gone_is_stale(store, built):
    store.commit(
        lambda head: replace(head, slides={n: e for n, e in head.slides.items() if n != "B1"}),
        message="drop B1",
    )
    with pytest.raises(MismatchError, match=r"stale: slide B1 is gone.*spahgc index build"):
        ReferenceIndex.open(open_cohort(store.path), embedding="lite0")


def test_the_same_slide_ingested_again_leaves_the_index_fresh(store, built):
    put(store, "B1")
    assert ReferenceIndex.open(open_cohort(store.path), embedding="lite0").record == built.record


def test_a_record_of_another_form_names_the_command(store, built):
    digest = store.put_document(partial(layout.index_key, "lite0"), {"embedding": "lite0"})
    store.commit(lambda head: replace(head, indexes={"lite0": digest}), message="strange")
    with pytest.raises(DamagedStoreError, match=r"cannot be read.*spahgc index build"):
        ReferenceIndex.open(open_cohort(store.path), embedding="lite0")


def test_slides_newer_than_the_index_may_ask_but_not_answer(store, built):
    put(store, "D1")
    cohort = open_cohort(store.path)
    index = ReferenceIndex.open(cohort, embedding="lite0")
    asking_SD = cohort["D1"].read_embedding("lite0")
    assert index.search(asking_SD, k=1, only_slides=["A1"], asked_by="D1").slides == ("A1",)
    with pytest.raises(MismatchError, match="lacks D1; run `spahgc index build"):
        index.search(asking_SD, k=1, only_slides=["A1", "D1"], asked_by=None)
