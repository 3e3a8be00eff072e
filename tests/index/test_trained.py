import shutil
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from spahgc.errors import DamagedStoreError, MismatchError
from spahgc.index import ReferenceIndex, building, remove_slides
from spahgc.index import trained as trained_kinds
from spahgc.index.faiss_library import faiss
from spahgc.index.recall import RecallTest
from spahgc.index.trained import Queries, TrainedSearch, fill_lists, lists_for, train_lists
from spahgc.index.vectors import prepare
from spahgc.store import layout
from spahgc.store.cohort import open_cohort
from spahgc.store.copying import copy_store, open_source
from spahgc.store.drafts import EmbeddingDraft
from spahgc.store.opening import create_store
from spahgc.store.slide import StoredSlide
from spahgc.store.staging import add_slide
from tests.conftest import build_slide

SIZES = {"A1": 300, "A2": 1, "B1": 250, "C1": 180, "D1": 90}
KINDS = ("ivf", "ivfpq")


def draw_vectors(name, n_spots, *, seed=0):
    """Draw spots of a few kinds of tissue, as embeddings are."""
    kinds = np.random.default_rng(7).normal(size=(12, 16))
    own = np.random.default_rng([seed, *name.encode()])
    spots_SD = kinds[own.integers(0, 12, n_spots)] + 0.4 * own.normal(size=(n_spots, 16))
    return spots_SD.astype(np.float32)


def put(store, name, *, seed=0):
    add_slide(store, build_slide(name, n_spots=SIZES[name], seed=seed), replace_existing=True)
    vectors = draw_vectors(name, SIZES[name], seed=seed)
    draft = EmbeddingDraft(open_cohort(store.path)[name], "tiny", fingerprint={"w": 1}, size=16)
    for rows in draft.missing():
        draft.write(rows, vectors[rows.start : rows.stop])
    draft.commit()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    store = create_store(tmp_path_factory.mktemp("template") / "data.zarr")
    for name in ("A1", "A2", "B1", "C1"):
        put(store, name)
    return store.path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPAHGC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(template, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "FEWEST_SPOTS", 500)
    shutil.copytree(template, tmp_path / "data.zarr")
    return open_cohort(tmp_path / "data.zarr").store


def build(store, kind, **how):
    return ReferenceIndex.build(open_cohort(store.path), embedding="tiny", kind=kind, **how)


def reopen(store):
    return ReferenceIndex.open(open_cohort(store.path), embedding="tiny")


def train(kind, vectors, read=None, *, metric="l2", n_probes=512):
    sample_SD = np.concatenate(list(vectors.values()))
    lists = train_lists(kind, sample_SD, n_lists=lists_for(len(sample_SD)), metric=metric)
    parts = ((name, fill_lists(lists, own_SD)) for name, own_SD in vectors.items())
    read = read or vectors.__getitem__
    return TrainedSearch(lists, parts, read=read, metric=metric, n_probes=n_probes)


def search_one(trained, query_SD, names, *, k):
    [found] = trained.search([Queries(query_SD, names)], k=k)
    return found


def assert_same(ours, theirs):
    assert ours.slides == theirs.slides
    for table in ("slide_SK", "spot_SK", "distance_SK"):
        assert np.array_equal(getattr(ours, table), getattr(theirs, table), equal_nan=True)


def files_of(cache):
    return {path: path.read_bytes() for path in Path(cache).rglob("*.faiss")}


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_looking_everywhere_finds_what_exact_search_finds(kind, metric):
    raw = {name: draw_vectors(name, n) for name, n in SIZES.items()}
    vectors = {n: prepare(v, metric=metric, owner=n) for n, v in raw.items()}
    trained = train(kind, vectors, metric=metric)
    exact = ReferenceIndex.of_vectors(raw, metric=metric)
    for names in [("A1", "A2", "B1"), ("A2",), ("A1", "C1", "D1"), tuple(SIZES)]:
        true = exact.search(raw["B1"], k=6, only_slides=names)
        found = search_one(trained, vectors["B1"], names, k=6)
        assert found.slides == true.slides
        assert np.array_equal(found.exists_SK, true.exists_SK)
        same = (found.slide_SK == true.slide_SK) & (found.spot_SK == true.spot_SK)
        assert same.mean() > 0.97  # half precision swaps a few
        exact_to = {"rtol": 0, "atol": 2e-3} if kind == "ivf" else {"rtol": 1e-5, "atol": 2e-3}
        np.testing.assert_allclose(found.distance_SK[same], true.distance_SK[same], **exact_to)


@pytest.mark.parametrize("proposed_at_once", [1, 4_000, 2**22])
@pytest.mark.parametrize("kind", KINDS)
def test_several_searches_at_once_find_what_each_finds_alone(kind, proposed_at_once, monkeypatch):
    monkeypatch.setattr(trained_kinds, "PROPOSED_AT_ONCE", proposed_at_once)
    vectors = {name: draw_vectors(name, n) for name, n in SIZES.items()}
    trained = train(kind, vectors, n_probes=16)
    asked = [Queries(vectors[name][:20], tuple(sorted({*SIZES} - {name}))) for name in SIZES]
    asked += [Queries(vectors["A1"][:0], ("B1",)), Queries(vectors["A1"][:3], ())]
    together = list(trained.search(iter(asked), k=6))
    assert len(together) == len(asked)
    for one, found in zip(asked, together, strict=True):
        assert_same(found, search_one(trained, *one, k=6))


@pytest.mark.parametrize("kind", KINDS)
def test_slides_that_search_together_find_what_each_finds_alone(store, kind):
    index = build(store, kind, min_recall=0.5)
    found = index.search_slides({"A1": ["B1", "C1"], "C1": ["A1", "A2", "C1"]}, k=5)
    assert_same(found["A1"], index.search_slide("A1", k=5, only_slides=["B1", "C1"]))
    assert_same(found["C1"], index.search_slide("C1", k=5, only_slides=["A1", "A2"]))


def test_slides_are_read_once_for_all_queries_of_a_group():
    vectors = {name: draw_vectors(name, n) for name, n in SIZES.items()}
    asked = [Queries(vectors[name][:50], tuple(sorted({*SIZES} - {name}))) for name in SIZES]
    counts = Counter()

    def read(name):
        counts[name] += 1
        return vectors[name]

    list(train("ivfpq", vectors, read).search(asked, k=6))
    assert counts == dict.fromkeys(SIZES, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_building_reads_a_slide_once_for_each_effort_tried(store, kind, monkeypatch):
    counts, read_embedding = Counter(), StoredSlide.read_embedding

    def counting_read(slide, name):
        counts[slide.name] += 1
        return read_embedding(slide, name)

    monkeypatch.setattr(StoredSlide, "read_embedding", counting_read)
    tried = []
    recall = RecallTest.recall

    def counting_recall(test, search):
        tried.append(recall(test, search))
        return tried[-1]

    monkeypatch.setattr(RecallTest, "recall", counting_recall)
    with pytest.raises(MismatchError, match="--min-recall"):
        build(store, kind, min_recall=1.01)
    assert len(tried) > 2
    others = 4  # train, sort, draw queries, search exactly
    assert max(counts.values()) <= others + len(tried)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_index_is_opened_as_it_was_built_and_leaves_slides_out(store, kind):
    built = build(store, kind, min_recall=0.8)
    opened = reopen(store)
    assert opened.record == built.record
    assert opened.record.recall["recall"] >= 0.8
    first, second = (i.search_slide("B1", k=5, exclude_slides=["A2"]) for i in (built, opened))
    assert first.slides == ("A1", "C1")
    assert_same(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_slide_touches_its_own_file_alone(store, cache, kind):
    before = build(store, kind, min_recall=0.5).record
    files = files_of(cache)
    put(store, "D1")
    after = build(store, kind, min_recall=0.5).record
    assert after.trained_id == before.trained_id
    assert files.items() <= files_of(cache).items()
    assert len(files_of(cache)) == len(files) + 1
    put(store, "B1", seed=9)
    build(store, kind, min_recall=0.5)
    assert len(files_of(cache)) == len(files) + 1  # the old B1's is gone
    assert len(files_of(cache).items() & files.items()) == len(files) - 1


def test_a_slide_taken_out_is_never_found_again(store):
    build(store, "ivf", min_recall=0.5)
    remove_slides(open_cohort(store.path), "tiny", ["A1"])
    assert reopen(store).search_slide("B1", k=5, exclude_slides=()).slides == ("A2", "C1")


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_of_faiss_lies_in_a_store_or_comes_with_a_copy(store, cache, kind, tmp_path):
    built = build(store, kind, min_recall=0.8)
    assert not list(store.path.rglob("*.faiss"))
    copy_store(open_source(str(store.path)), tmp_path / "copy.zarr")
    files = files_of(cache)
    copied = ReferenceIndex.open(open_cohort(tmp_path / "copy.zarr"), embedding="tiny")
    assert copied.record == built.record
    assert len(files_of(cache)) == 2 * len(files)  # made anew, from the copy's own embeddings
    found, expected = (i.search_slide("B1", k=5, exclude_slides=()) for i in (copied, built))
    assert (found.spot_SK == expected.spot_SK).mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_where_this_machine_has_no_files_they_are_made_again(store, cache, kind, monkeypatch):
    built = build(store, kind, min_recall=0.8)
    expected = built.search_slide("B1", k=5, exclude_slides=())
    shutil.rmtree(cache)
    assert_same(reopen(store).search_slide("B1", k=5, exclude_slides=()), expected)
    assert files_of(cache)
    shutil.rmtree(cache)
    monkeypatch.setenv("SPAHGC_CACHE", "off")
    assert_same(reopen(store).search_slide("B1", k=5, exclude_slides=()), expected)
    assert not files_of(cache)


@pytest.mark.parametrize("spoil", ["cut", "swap"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_that_do_not_fit_are_made_again(store, cache, kind, spoil):
    built = build(store, kind, min_recall=0.8)
    expected = built.search_slide("B1", k=5, exclude_slides=())
    files = files_of(cache)
    contents = list(files.values())
    for number, path in enumerate(files):
        path.write_bytes(contents[number][:50] if spoil == "cut" else contents[number - 1])
    assert_same(reopen(store).search_slide("B1", k=5, exclude_slides=()), expected)


def test_where_no_file_can_be_kept_the_index_is_used_all_the_same(store, cache):
    cache.write_text("no folder")
    built = build(store, "ivf", min_recall=0.8)
    expected = built.search_slide("B1", k=5, exclude_slides=())
    assert_same(reopen(store).search_slide("B1", k=5, exclude_slides=()), expected)
    assert cache.read_text() == "no folder"


def test_too_little_recall_is_refused_with_what_to_change(store):
    with pytest.raises(MismatchError, match=r"finds \d\.\d+ .*--min-recall.*use `--kind ivf`"):
        build(store, "ivfpq", min_recall=1.01)
    assert store.head.indexes == {}


def test_recall_is_measured_again_on_an_open_index(store):
    built = build(store, "ivf", min_recall=0.5)
    measured = built.measure_recall(n_queries=400)
    assert measured.recall == pytest.approx(built.record.recall["recall"], abs=1e-4)
    assert measured.n_queries == built.record.recall["n_queries"]
    exact = ReferenceIndex.build(
        open_cohort(store.path), embedding="tiny", name="exact", kind="flat"
    )
    assert exact.measure_recall(n_queries=50).recall == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_of_another_encoder_is_refused_by_trained_kinds_too(store, kind):
    index = build(store, kind, min_recall=0.5)
    with pytest.raises(MismatchError, match=r"vectors of 5 numbers, .* of 16; embed both"):
        index.search(np.ones((3, 5), np.float32), k=2, exclude_slides=())


def test_too_few_spots_are_refused(store, monkeypatch):
    monkeypatch.setattr(building, "FEWEST_SPOTS", 10_000)
    with pytest.raises(MismatchError, match="too few for `--kind ivf`"):
        build(store, "ivf")


def test_no_approximate_kind_knows_l1(store):
    with pytest.raises(MismatchError, match="cannot be had for l1"):
        build(store, "ivfpq", metric="l1")


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {}},
        {"settings": {"n_lists": "many"}},
        {"settings": {"n_lists": 10**9}},
        {"settings": {"n_lists": 4, "n_probes": True}},
        {"trained_id": "../../up"},
        {"kind": "hnsw"},
        {"slides": {"A1": 3}},
    ],
    ids=str,
)
def test_a_record_that_does_not_fit_its_kind_is_refused(store, change):
    record = build(store, "ivf", min_recall=0.5).record
    key_of = partial(layout.index_key, "tiny")
    digest = store.put_document(key_of, asdict(replace(record, **change)))
    store.commit(lambda head: head.with_index("tiny", digest), message="strange")
    with pytest.raises(DamagedStoreError, match=r"cannot be read.*spahgc index build"):
        reopen(store)


def test_an_index_that_an_earlier_version_trained_names_the_command(store):
    record = asdict(build(store, "ivf", min_recall=0.5).record)
    del record["trained_id"]
    old = {**record, "arrays": {"centroids": "0" * 64}, "pieces": {"A1": {"lists": "0" * 64}}}
    digest = store.put_document(partial(layout.index_key, "tiny"), old)
    store.commit(lambda head: head.with_index("tiny", digest), message="old")
    with pytest.raises(DamagedStoreError, match=r"earlier version.*spahgc index build"):
        reopen(store)
    assert build(store, "ivf", min_recall=0.5).record.trained_id


def test_codes_have_a_byte_for_every_eight_numbers_where_that_divides():
    assert [trained_kinds.bytes_for(size) for size in (5, 8, 12, 1280)] == [1, 1, 1, 160]
    lists = train_lists("ivfpq", draw_vectors("A1", 400), n_lists=3, metric="l2")
    assert isinstance(lists, faiss.IndexIVFPQ)
    assert lists.pq.M == 2
