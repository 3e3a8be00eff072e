import shutil
from dataclasses import replace
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spahgc.errors import DamagedStoreError, MismatchError, MissingError
from spahgc.store import layout
from spahgc.store.care import collect_garbage
from spahgc.store.cohort import open_cohort
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.index import IndexRecord, ReferenceIndex, build_index, open_index
from spahgc.store.opening import create_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide

SIZES = {"A1": 6, "B1": 4, "C1": 1}


class HeldSlide:
    """A slide whose embedding is at hand."""

    def __init__(self, embedding_SD):
        self.embedding_SD = embedding_SD

    def read_embedding(self, _):
        return self.embedding_SD


class HeldCohort(dict):
    path = "data.zarr"


def index_over(vectors):
    """Give an index over vectors in memory: the search alone is looked at."""
    record = IndexRecord(embedding="lite0", fingerprint="f", slides=dict.fromkeys(vectors, "1"))
    return ReferenceIndex(HeldCohort({n: HeldSlide(v) for n, v in vectors.items()}), record)


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
    return build_index(open_cohort(store.path), embedding="lite0")


def cosine(first_SD, second_SD):
    first_SD, second_SD = first_SD.astype(np.float64), second_SD.astype(np.float64)
    first_SD /= np.linalg.norm(first_SD, axis=1, keepdims=True)
    return first_SD @ (second_SD / np.linalg.norm(second_SD, axis=1, keepdims=True)).T


def brute_force(query_SD, vectors, *, among, k):
    """Rank every pair in float64; ties go to the slide, then the spot, that comes first."""
    names = sorted(among)
    places = [(s, spot) for s, name in enumerate(names) for spot in range(len(vectors[name]))]
    # rounded: equal vectors differ in the last digit by where they stand in the product
    similarity_SA = np.hstack([cosine(query_SD, vectors[name]) for name in names]).round(9)
    order_SA = np.argsort(-similarity_SA, axis=1, kind="stable")[:, :k]
    return places, similarity_SA, order_SA


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
@given(vectors=slides_of_vectors(), k=st.integers(1, 20), data=st.data())
def test_neighbours_are_those_of_brute_force_up_to_ties(vectors, k, data):
    asked_by = data.draw(st.sampled_from(["A1", "B1", None]))
    among = data.draw(st.lists(st.sampled_from(list(vectors)), min_size=1, unique=True))
    query_SD = vectors["A1"]
    found = index_over(vectors).search(query_SD, k=k, among=among, asked_by=asked_by)
    may_answer = set(among) - {asked_by}
    n_candidates = sum(len(vectors[name]) for name in may_answer)
    n_found = min(k, n_candidates)
    assert found.slides == tuple(sorted(may_answer))
    assert found.slide_SK.shape == found.spot_SK.shape == (len(query_SD), k)
    assert (found.slide_SK[:, n_found:] == -1).all()
    assert (found.spot_SK[:, n_found:] == -1).all()
    assert np.isnan(found.similarity_SK[:, n_found:]).all()
    if n_found == 0:
        return
    _, similarity_SA, order_SA = brute_force(query_SD, vectors, among=may_answer, k=k)
    expected_SK = np.take_along_axis(similarity_SA, order_SA, axis=1)
    np.testing.assert_allclose(found.similarity_SK[:, :n_found], expected_SK, atol=2e-6)
    for row in range(len(query_SD)):
        pairs = list(zip(found.slide_SK[row], found.spot_SK[row], strict=True))[:n_found]
        assert len(set(pairs)) == n_found
        for (slide, spot), similarity in zip(pairs, found.similarity_SK[row], strict=False):
            own = vectors[found.slides[slide]][[spot]]
            assert cosine(query_SD[[row]], own)[0, 0] == pytest.approx(similarity, abs=2e-6)


@pytest.mark.parametrize("n_queries", [1, 20, 300])
@pytest.mark.parametrize("k", [1, 7, 130])
def test_equal_vectors_are_taken_slide_by_slide_and_spot_by_spot(n_queries, k):
    for seed in range(40):  # in one of twenty the place of a vector decides how it is rounded
        generator = np.random.default_rng(seed)
        pool_UD = generator.normal(size=(4, 16)).astype(np.float32)
        vectors = {
            name: pool_UD[generator.integers(0, len(pool_UD), generator.integers(5, 20))]
            for name in ("A1", "B1", "C1")
        }
        query_SD = generator.normal(size=(n_queries, 16)).astype(np.float32)
        found = index_over(vectors).search(query_SD, k=k, among=vectors, asked_by=None)
        places, _, order_SA = brute_force(query_SD, vectors, among=vectors, k=k)
        n_found = order_SA.shape[1]  # the fewer of k and all
        got = np.stack([found.slide_SK, found.spot_SK], axis=-1)[:, :n_found]
        assert np.array_equal(got, np.array(places)[order_SA]), f"seed {seed}"


def test_the_same_query_has_the_same_neighbours_alone_and_among_others():
    generator = np.random.default_rng(1)
    vectors = {name: generator.normal(size=(50, 64)).astype(np.float32) for name in "AB"}
    index = index_over(vectors)
    query_SD = generator.normal(size=(40, 64)).astype(np.float32)
    together = index.search(query_SD, k=5, among="AB", asked_by=None)
    alone = [index.search(query_SD[[n]], k=5, among="AB", asked_by=None) for n in range(40)]
    assert np.array_equal(together.spot_SK, np.vstack([found.spot_SK for found in alone]))
    assert np.array_equal(
        together.similarity_SK, np.vstack([found.similarity_SK for found in alone])
    )


def test_the_length_of_a_vector_says_nothing():
    generator = np.random.default_rng(2)
    vectors = {name: generator.normal(size=(20, 8)).astype(np.float32) for name in "AB"}
    longer = {
        name: v * generator.uniform(0.1, 9, (20, 1)).astype("f4") for name, v in vectors.items()
    }
    plain, stretched = (
        index_over(some).search(vectors["A"], k=3, among="AB", asked_by="A")
        for some in (vectors, longer)
    )
    assert np.array_equal(plain.spot_SK, stretched.spot_SK)


def test_a_slide_never_answers_itself(store, built):
    cohort = open_cohort(store.path)
    found = built.search(
        cohort["A1"].read_embedding("lite0"), k=99, among=["A1", "B1"], asked_by="A1"
    )
    assert found.slides == ("B1",)
    assert (found.slide_SK <= 0).all()
    assert (np.sort(found.spot_SK[:, :4]) == np.arange(4)).all()


def test_nobody_left_to_ask_gives_no_neighbour(built):
    found = built.search(np.ones((3, 4), np.float32), k=2, among=["A1"], asked_by="A1")
    assert found.slides == ()
    assert (found.slide_SK == -1).all()
    assert np.isnan(found.similarity_SK).all()


@pytest.mark.parametrize("value", [0, np.nan, np.inf], ids=str)
def test_a_query_like_nothing_is_refused_with_its_spot(built, value):
    query_SD = np.ones((3, 4), np.float32)
    query_SD[2] = value
    with pytest.raises(MismatchError, match=r"the query: .*spot number 2 is zero or not a number"):
        built.search(query_SD, k=2, among=["A1"], asked_by=None)


def test_a_query_of_another_encoder_is_refused(built):
    with pytest.raises(MismatchError, match="vectors of 5 numbers, slide A1 of 4"):
        built.search(np.ones((3, 5), np.float32), k=2, among=["A1"], asked_by=None)


def test_a_zero_vector_is_refused_when_the_index_is_built(store):
    vectors = np.ones((5, 4))
    vectors[3] = 0
    put(store, "D1", vectors=vectors)
    with pytest.raises(MismatchError, match="slide D1: the embedding of spot number 3 is zero"):
        build_index(open_cohort(store.path), embedding="lite0")
    assert store.head.indexes == {}


def test_an_opened_index_answers_like_the_one_that_was_built(store, built):
    query_SD = np.random.default_rng(5).normal(size=(4, 4)).astype(np.float32)
    opened = open_index(open_cohort(store.path), embedding="lite0")
    assert opened.record == built.record
    first, second = (
        index.search(query_SD, k=4, among=SIZES, asked_by=None) for index in (built, opened)
    )
    assert np.array_equal(first.spot_SK, second.spot_SK)
    assert np.array_equal(first.slide_SK, second.slide_SK)
    assert np.array_equal(first.similarity_SK, second.similarity_SK)


def test_an_index_never_built_names_the_command(store):
    with pytest.raises(MissingError, match=r"no index over 'lite0'; run `spahgc index build"):
        open_index(open_cohort(store.path), embedding="lite0")


def test_an_embedding_nobody_has_names_the_command(store):
    with pytest.raises(MissingError, match=r"no slide .* 'uni'; run `spahgc embed .*--encoder uni"):
        build_index(open_cohort(store.path), embedding="uni")


def test_slides_embedded_in_two_ways_are_never_indexed_together(store):
    put(store, "D1", weights=2)
    with pytest.raises(MismatchError, match="made in different ways"):
        build_index(open_cohort(store.path), embedding="lite0")


def test_building_again_commits_nothing_new(store, built):
    number = store.head.number
    build_index(open_cohort(store.path), embedding="lite0")
    assert store.head.number == number
    assert list(store.head.indexes) == ["lite0"]


def test_an_index_of_a_slide_that_was_replaced_is_stale(store, built):
    put(store, "B1", seed=9)
    with pytest.raises(MismatchError, match=r"stale: slide B1 changed.*spahgc index build"):
        open_index(open_cohort(store.path), embedding="lite0")


def test_an_index_is_stale_though_the_new_slide_lies_where_the_old_one_did(store, built):
    put(store, "B1", seed=9)
    collect_garbage(store.path, older_than=timedelta(seconds=-5))
    put(store, "B1", seed=10)
    assert store.head.slides["B1"].group == "tables/B1"
    with pytest.raises(MismatchError, match=r"stale: slide B1 changed.*spahgc index build"):
        open_index(open_cohort(store.path), embedding="lite0")


def test_an_index_of_a_slide_that_lost_its_embedding_is_stale(store, built):
    add_slide(store, build_slide("B1", n_spots=4, seed=9), replace_existing=True)
    with pytest.raises(MismatchError, match=r"stale: slide B1 changed.*spahgc index build"):
        open_index(open_cohort(store.path), embedding="lite0")


def test_an_index_of_a_slide_that_is_gone_is_stale(store, built):
    store.commit(
        lambda head: replace(head, slides={n: e for n, e in head.slides.items() if n != "B1"}),
        message="drop B1",
    )
    with pytest.raises(MismatchError, match=r"stale: slide B1 changed.*spahgc index build"):
        open_index(open_cohort(store.path), embedding="lite0")


def test_the_same_slide_ingested_again_leaves_the_index_fresh(store, built):
    put(store, "B1")
    assert open_index(open_cohort(store.path), embedding="lite0").record == built.record


def test_a_record_of_another_form_names_the_command(store, built):
    digest = store.put_document(partial(layout.index_key, "lite0"), {"embedding": "lite0"})
    store.commit(lambda head: replace(head, indexes={"lite0": digest}), message="strange")
    with pytest.raises(DamagedStoreError, match=r"cannot be read.*spahgc index build"):
        open_index(open_cohort(store.path), embedding="lite0")


def test_slides_newer_than_the_index_may_ask_but_not_answer(store, built):
    put(store, "D1")
    cohort = open_cohort(store.path)
    index = open_index(cohort, embedding="lite0")
    asking_SD = cohort["D1"].read_embedding("lite0")
    assert index.search(asking_SD, k=1, among=["A1"], asked_by="D1").slides == ("A1",)
    with pytest.raises(MismatchError, match="lacks D1; run `spahgc index build"):
        index.search(asking_SD, k=1, among=["A1", "D1"], asked_by=None)
